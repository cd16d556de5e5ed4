import hashlib
import shutil
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from dataset_files import (
    mnist_files,
    write_cifar10,
    write_imagenet_archive,
    write_images,
    write_packed,
)
from torchvision import datasets

from compress.data import cache as cache_module
from compress.data.dataset import open_dataset
from compress.data.sources import IMAGENETTE, IMAGEWOOF, SOURCES, Files, Pixels, open_source
from compress.recipe.registry import DATA_SETS
from compress.runtime.errors import UserError


def system_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    files = mnist_files()
    write_packed(tmp_path / "system", files)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(cache_module, "SYSTEM_FASHION_MNIST", tmp_path / "system")
    monkeypatch.setattr(cache_module, "FASHION_MNIST_SHA256", digests)
    return files


def test_fashion_mnist_is_unpacked_from_the_systems_copy(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = system_copy(tmp_path, monkeypatch)
    source = open_source("fashion-mnist")
    assert isinstance(source.train, Pixels)
    assert (
        source.train.pixels.shape == (200, 1, 28, 28) and source.train.pixels.dtype == torch.uint8
    )
    assert source.train.targets.tolist() == [n % 10 for n in range(200)]
    assert source.train.pixels[7].unique().tolist() == [7]
    assert len(source.test().targets) == 50
    assert source.size == 28 and source.classes[0] == "T-shirt/top" and len(source.classes) == 10
    raw = cache / "FashionMNIST" / "raw"
    assert {path.name: path.read_bytes() for path in raw.iterdir()} == files
    assert sorted(path.name for path in cache.iterdir() if not path.name.endswith(".lock")) == [
        "FashionMNIST"
    ]


def test_the_cached_copy_comes_first(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system_copy(tmp_path, monkeypatch)
    open_source("fashion-mnist")
    monkeypatch.setattr(cache_module, "SYSTEM_FASHION_MNIST", tmp_path / "gone")
    assert len(open_source("fashion-mnist").train.targets) == 200


def test_an_opened_data_set_holds_no_image_twice(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system_copy(tmp_path, monkeypatch)
    sources = [open_source("fashion-mnist")]
    pixels = weakref.ref(sources[0].train.pixels)  # type: ignore[union-attr]
    monkeypatch.setattr("compress.data.dataset.open_source", lambda name: sources.pop())
    data = open_dataset("fashion-mnist")
    assert pixels() is None and len(data.test()) == 50


def test_a_damaged_system_copy_is_named_and_nothing_is_left(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system_copy(tmp_path, monkeypatch)
    bad = tmp_path / "system" / "t10k-labels-idx1-ubyte.gz"
    bad.write_bytes(bad.read_bytes()[:-9] + b"123456789")
    with pytest.raises(UserError, match=r"no fashion-mnist data.*apt-get install") as error:
        open_source("fashion-mnist")
    assert "\n" not in str(error.value)
    assert not (cache / "FashionMNIST").exists()


def test_two_processes_unpack_at_once(cache: Path, tmp_path: Path) -> None:
    write_packed(tmp_path / "system", mnist_files())
    program = (
        "import hashlib, sys; from pathlib import Path; sys.path.insert(0, sys.argv[2]);"
        "from dataset_files import mnist_files; from compress.data import cache;"
        "cache.SYSTEM_FASHION_MNIST = Path(sys.argv[1]);"
        "cache.FASHION_MNIST_SHA256 = {n: hashlib.sha256(c).hexdigest() for n, c in mnist_files().items()};"
        "from compress.data.sources import open_source;"
        "print(len(open_source('fashion-mnist').train.targets))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "system"), str(Path(__file__).parent)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in both] == ["200", "200"]


@pytest.mark.parametrize(
    "name", ["fashion-mnist", "mnist", "cifar10", "imagenette-160", "imagewoof-160"]
)
def test_a_dataset_that_cannot_be_had_is_one_line_that_says_what_to_do(
    cache: Path, name: str
) -> None:
    with pytest.raises(
        UserError, match=f"no {name} data.*the network is unreachable.*COMPRESS_DATA"
    ) as error:
        open_source(name)
    assert "\n" not in str(error.value) and str(cache) in str(error.value)


def test_mnist_is_read_from_the_cache(cache: Path) -> None:
    raw = cache / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in mnist_files().items():
        (raw / name).write_bytes(content)
    source = open_source("mnist")
    assert source.classes == tuple("0123456789") and len(source.train.targets) == 200
    assert not open_dataset("mnist").mirrors  # a mirrored digit is none


def test_a_broken_cached_copy_is_named(cache: Path) -> None:
    (cache / "MNIST" / "raw").mkdir(parents=True)
    with pytest.raises(UserError, match=r"cannot read mnist under .*remove it"):
        open_source("mnist")


def test_cifar10_keeps_its_colours(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar10(cache, monkeypatch)
    source = open_source("cifar10")
    assert isinstance(source.train, Pixels)
    assert source.train.pixels.shape == (100, 3, 32, 32) and source.classes[1] == "kind 1"
    original = datasets.CIFAR10(cache)[3][0]
    assert torch.equal(
        source.train.pixels[3], torch.tensor(original.getdata()).T.reshape(3, 32, 32)
    )
    assert len(source.test().targets) == 20


@pytest.mark.parametrize(
    ("name", "words"), [("imagenette2-160", IMAGENETTE), ("imagewoof2-160", IMAGEWOOF)]
)
def test_imagenette_trees_have_classes_in_words(
    cache: Path, name: str, words: dict[str, str]
) -> None:
    write_images(cache / name / "train", list(words), 2, ".JPEG")
    write_images(cache / name / "val", list(words), 1, ".JPEG")
    source = open_source(name.replace("2", ""))
    assert source.classes == tuple(words.values()) and source.size == 128
    assert isinstance(source.train, Files)
    assert len(source.train.names) == 20 and len(source.test().targets) == 10


def test_a_folder_with_its_own_splits(tmp_path: Path) -> None:
    for part, count in (("train", 6), ("val", 3), ("test", 2)):
        write_images(tmp_path / part, ["cat", "dog"], count)
    data = open_dataset(f"folder:{tmp_path}", size=16)
    assert (len(data.train), len(data.val), len(data.test())) == (12, 6, 4)
    assert data.classes == ("cat", "dog") and data.size == 16


def test_a_folder_with_only_val_keeps_it_for_the_test(tmp_path: Path) -> None:
    write_images(tmp_path / "train", ["cat", "dog"], 10)
    write_images(tmp_path / "val", ["cat", "dog"], 3)
    data = open_dataset(f"folder:{tmp_path}", size=16)
    assert (len(data.train), len(data.val), len(data.test())) == (18, 2, 6)


def test_a_plain_folder_is_split_the_same_way_every_time(tmp_path: Path) -> None:
    write_images(tmp_path / "images", ["cat", "dog"], 10)
    first, again = (open_source(f"folder:{tmp_path}/images") for _ in range(2))
    assert isinstance(first.train, Files) and isinstance(again.train, Files)
    held = first.test()
    assert isinstance(held, Files)
    assert first.train.names == again.train.names
    assert not set(first.train.names) & set(held.names)
    assert held.targets.bincount().tolist() == [2, 2]


def test_splits_of_a_folder_must_agree_on_classes(tmp_path: Path) -> None:
    write_images(tmp_path / "train", ["cat", "dog"], 5)
    write_images(tmp_path / "test", ["cat", "cow"], 2)
    data = open_dataset(f"folder:{tmp_path}", size=16)  # the test split is not looked at here
    with pytest.raises(UserError, match="'cow' is in only one"):
        data.test()


def test_mistakes_are_named(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'fashion-mnist'"):
        open_source("fashon-mnist")
    with pytest.raises(UserError, match="there is no directory"):
        open_source(f"folder:{tmp_path}/nowhere")
    with pytest.raises(UserError, match="neither val/ nor test/"):
        write_images(tmp_path / "train", ["cat"], 3)
        open_source(f"folder:{tmp_path}")
    with pytest.raises(UserError, match="has 1 class; a classifier needs"):
        open_dataset(f"folder:{tmp_path}/train")
    with pytest.raises(UserError, match="ILSVRC2012_img_train"):
        open_source("imagenet")


def test_imagenet_is_unpacked_whole_even_after_a_kill(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, names = cache / "imagenet", ["n01", "n02", "n03"]
    root.mkdir(parents=True)
    write_imagenet_archive(root, names, monkeypatch)
    unpack, done = datasets.imagenet.extract_archive, []

    def killed(file: str, to: str, **options: Any) -> Any:
        done.append(file)
        if len(done) == 3:  # in the middle of the classes
            raise KeyboardInterrupt
        return unpack(file, to, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(datasets.imagenet, "extract_archive", killed)
        open_source("imagenet")
    assert not (root / "train").exists()
    source = open_source("imagenet")
    assert source.classes == ("kind n01", "kind n02", "kind n03")
    assert isinstance(source.train, Files) and source.train.targets.tolist() == [
        0,
        0,
        0,
        1,
        1,
        1,
        2,
        2,
        2,
    ]
    assert {entry.name for entry in (root / "train").iterdir()} == set(names)

    with pytest.raises(UserError, match=r"ILSVRC2012_img_val\.tar is not present"):
        source.test()
    write_images(root / "val", names, 1, ".JPEG")  # unpacked by hand
    assert len(source.test().targets) == 3 and not list(root.glob(".*.part"))
    shutil.rmtree(root / "val" / names[0])
    with pytest.raises(UserError, match="'kind n01' is in only one"):
        source.test()


@pytest.mark.skipif(
    not cache_module.SYSTEM_FASHION_MNIST.is_dir(), reason="Fashion-MNIST is not installed"
)
def test_the_real_fashion_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPRESS_DATA", str(tmp_path))
    source = open_source("fashion-mnist")
    assert isinstance(source.train, Pixels) and source.mean and source.std and source.mirrors
    assert source.train.targets.bincount().tolist() == [6000] * 10
    values = source.train.pixels.float() / 255
    assert values.mean().item() == pytest.approx(source.mean[0], abs=1e-4)
    assert values.std().item() == pytest.approx(source.std[0], abs=1e-4)
    assert source.test().targets.bincount().tolist() == [1000] * 10


def test_every_data_set_can_be_named_before_torch_is_there() -> None:
    assert set(SOURCES) == set(DATA_SETS)
