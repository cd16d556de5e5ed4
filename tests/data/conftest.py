from pathlib import Path

import pytest
from dataset_files import mnist_files


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, without a system copy or a network to fill it from."""
    root = tmp_path / "cache"
    monkeypatch.setenv("COMPRESS_DATA", str(root))
    monkeypatch.setattr("compress.data.cache.SYSTEM_FASHION_MNIST", tmp_path / "missing")

    def refuse(*_: object, **__: object) -> None:
        raise OSError("the network is unreachable")

    monkeypatch.setattr("torchvision.datasets.utils._get_redirect_url", refuse)
    return root


@pytest.fixture
def mnist(cache: Path) -> Path:
    """A cache folder with 200 + 50 images of MNIST, each of a single grey value."""
    raw = cache / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in mnist_files().items():
        (raw / name).write_bytes(content)
    return cache
