from pathlib import Path

import pytest


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache directory of the test's own, and no system copy and no network to fill it from."""
    root = tmp_path / "cache"
    monkeypatch.setenv("COMPRESS_DATA", str(root))
    monkeypatch.setattr("compress.data.cache.SYSTEM_FASHION_MNIST", tmp_path / "nothing")

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("the network is unreachable")

    monkeypatch.setattr("torchvision.datasets.utils._get_redirect_url", unreachable)
    return root
