"""Data sources: real files in each published format, and errors that name the remedy."""

import shutil
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from dataset_files import (
    mnist_files,
    write_cifar10,
    write_imagenet_archive,
    write_images,
    write_meta,
)
from torchvision import datasets

from compress.data import cache as cache_module
from compress.data.open_dataset import open_dataset
from compress.data.source import Files, Pixels
from compress.data.sources import IMAGENETTE, IMAGEWOOF, open_source
from compress.recipe import registry
from compress.recipe.registry import DATA_SOURCES
from compress.runtime.errors import UserError


def pixels(images: object) -> Pixels:
    assert isinstance(images, Pixels)
    return images


def test_mnist(mnist: Path) -> None:
    source = open_source("mnist")
    train = pixels(source.train)
    assert train.pixels.shape == (200, 1, 28, 28) and train.pixels.dtype == torch.uint8
    assert train.targets.tolist() == [n % 10 for n in range(200)]
    assert train.pixels[7].unique().tolist() == [7]
    assert source.classes == tuple("0123456789") and source.image_size == 28
    assert len(source.test().targets) == 50
    # A mirrored digit is not a digit.
    assert not open_dataset("mnist").mirrors


def test_fashion_mnist(cache: Path) -> None:
    raw = cache / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in mnist_files().items():
        (raw / name).write_bytes(content)
    source = open_source("fashion-mnist")
    assert pixels(source.train).pixels.shape == (200, 1, 28, 28) and source.mirrors
    assert source.classes[0] == "T-shirt/top" and len(source.classes) == 10


def test_an_open_data_set_holds_no_image_twice(
    mnist: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [open_source("mnist")]
    held = weakref.ref(pixels(sources[0].train).pixels)
    monkeypatch.setattr("compress.data.open_dataset.open_source", lambda name: sources.pop())
    data = open_dataset("mnist")
    assert held() is None and len(data.test()) == 50


@pytest.mark.parametrize(
    "name", ["fashion-mnist", "mnist", "cifar10", "imagenette-160", "imagewoof-160"]
)
def test_a_data_set_that_cannot_be_downloaded_is_one_line_with_a_remedy(
    cache: Path, name: str
) -> None:
    with pytest.raises(
        UserError, match=f"no {name} data.*the network is unreachable.*COMPRESS_DATA"
    ) as error:
        open_source(name)
    assert "\n" not in str(error.value) and str(cache) in str(error.value)


def test_a_damaged_cached_copy_is_named(cache: Path) -> None:
    (cache / "MNIST" / "raw").mkdir(parents=True)
    with pytest.raises(UserError, match=f"cannot read mnist under {cache}.*remove it"):
        open_source("mnist")


def test_cifar10(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar10(cache, monkeypatch)
    source = open_source("cifar10")
    train = pixels(source.train)
    assert train.pixels.shape == (100, 3, 32, 32) and source.classes[1] == "kind 1"
    original = datasets.CIFAR10(cache)[3][0]
    assert torch.equal(train.pixels[3], torch.tensor(original.getdata()).T.reshape(3, 32, 32))
    assert len(source.test().targets) == 20


@pytest.mark.parametrize(("data", "words"), [("imagenette", IMAGENETTE), ("imagewoof", IMAGEWOOF)])
@pytest.mark.parametrize(("suffix", "image_size"), [("", 224), ("-320", 224), ("-160", 128)])
def test_imagenette_and_imagewoof(
    cache: Path, data: str, words: dict[str, str], suffix: str, image_size: int
) -> None:
    write_images(cache / f"{data}2{suffix}" / "train", list(words), 2, ".JPEG")
    write_images(cache / f"{data}2{suffix}" / "val", list(words), 1, ".JPEG")
    source = open_source(data + suffix)
    assert (source.name, source.classes) == (data + suffix, tuple(words.values()))
    assert isinstance(source.train, Files) and source.image_size == image_size
    assert len(source.train.names) == 20 and len(source.test().targets) == 10


def test_imagenet_without_a_copy_says_which_files_to_put_where(cache: Path) -> None:
    with pytest.raises(UserError, match=rf"ILSVRC2012_img_train.*at {cache}/imagenet"):
        open_source("imagenet")


@pytest.fixture
def imagenet(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The archives of ImageNet's training images, of three classes."""
    root = cache / "imagenet"
    root.mkdir(parents=True)
    write_imagenet_archive(root, ["n01", "n02", "n03"], monkeypatch)
    return root


def test_imagenet_is_unpacked_completely_even_after_a_kill(
    imagenet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpack, unpacked = datasets.imagenet.extract_archive, []

    def interrupt(file: str, to: str, **options: Any) -> Any:
        unpacked.append(file)
        # The first is the archive of the classes' archives.
        if len(unpacked) == 3:
            raise KeyboardInterrupt
        return unpack(file, to, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(datasets.imagenet, "extract_archive", interrupt)
        open_source("imagenet")
    assert not (imagenet / "train").exists()
    source = open_source("imagenet")
    assert source.classes == ("kind n01", "kind n02", "kind n03")
    assert source.train.targets.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert {entry.name for entry in (imagenet / "train").glob("n*")} == {"n01", "n02", "n03"}
    assert not list(imagenet.glob(".*.part"))


def test_imagenets_test_split_is_read_when_it_is_opened(imagenet: Path) -> None:
    source = open_source("imagenet")
    with pytest.raises(UserError, match=r"ILSVRC2012_img_val\.tar is not present"):
        source.test()
    # Unpacked by hand.
    write_images(imagenet / "val", ["n01", "n02", "n03"], 1, ".JPEG")
    assert len(source.test().targets) == 3
    shutil.rmtree(imagenet / "val" / "n01")
    with pytest.raises(UserError, match="'kind n01' is in only one"):
        source.test()


def test_classes_of_imagenet_with_the_same_name_get_their_id(imagenet: Path) -> None:
    write_meta(imagenet, {"n01": "crane", "n02": "maillot", "n03": "crane"})
    assert open_source("imagenet").classes == ("crane (n01)", "maillot", "crane (n03)")


@pytest.mark.skipif(
    not cache_module.SYSTEM_FASHION_MNIST.is_dir(), reason="Fashion-MNIST is not installed"
)
def test_published_statistics_of_fashion_mnist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPRESS_DATA", str(tmp_path))
    source = open_source("fashion-mnist")
    assert source.normalization and source.mirrors
    assert source.train.targets.bincount().tolist() == [6000] * 10
    values = pixels(source.train).pixels.float() / 255
    mean, std = source.normalization
    assert values.mean().item() == pytest.approx(mean[0], abs=1e-4)
    assert values.std().item() == pytest.approx(std[0], abs=1e-4)
    assert source.test().targets.bincount().tolist() == [1000] * 10


def test_an_unknown_source_is_refused_with_the_closest_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'fashon-mnist'.*did you mean 'fashion-mnist'"):
        open_source("fashon-mnist")
    with pytest.raises(UserError, match=f"{tmp_path}/nowhere"):
        open_source(f"folder:{tmp_path}/nowhere")


def test_every_registered_name_has_a_function() -> None:
    for name in DATA_SOURCES.builtin:
        assert callable(DATA_SOURCES.load(name)), name


PLUGIN = """
import torch
from compress.data.source import Pixels, Source

def stripes():
    pixels = torch.arange(40, dtype=torch.uint8).reshape(40, 1, 1, 1).expand(40, 1, 8, 8)
    images = Pixels(pixels.contiguous(), torch.arange(40) % 2)
    return Source("stripes", ("even", "odd"), 8, images, lambda: images)
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed package with a data source."""
    (tmp_path / "stripes_plugin.py").write_text(PLUGIN)
    metadata = tmp_path / "stripes_plugin-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: stripes-plugin\nVersion: 1.0\n"
    )
    (metadata / "entry_points.txt").write_text(
        "[compress.data]\nstripes = stripes_plugin:stripes\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    registry._plugins.cache_clear()
    yield
    registry._plugins.cache_clear()
    sys.modules.pop("stripes_plugin", None)


def test_a_plugin_adds_a_data_source(plugin: None) -> None:
    data = open_dataset("stripes")
    assert (data.name, data.classes, data.image_size) == ("stripes", ("even", "odd"), 8)
    assert data.train_count == 36 and len(data.test()) == 40
    assert data.mean[0] == data.mean[2] == pytest.approx(19.5 / 255, abs=0.01)
