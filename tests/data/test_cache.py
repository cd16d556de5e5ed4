"""The cache: a data set is complete or missing, even after a process was killed."""

import hashlib
import multiprocessing
import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest
from dataset_files import mnist_files, write_packed

from compress.data import cache as cache_module
from compress.data.cache import cache_root, create_folder, ensure_folder
from compress.data.sources import open_source
from compress.runtime.errors import UserError


@pytest.fixture
def system_copy(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small system copy of Fashion-MNIST, whose checksums are the published ones."""
    files = mnist_files()
    write_packed(tmp_path / "system", files)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(cache_module, "SYSTEM_FASHION_MNIST", tmp_path / "system")
    monkeypatch.setattr(cache_module, "FASHION_MNIST_SHA256", digests)
    return tmp_path / "system"


def fill(staging: Path) -> None:
    (staging / "set").mkdir()
    (staging / "set" / "images").write_text("all of them")


def test_the_root_is_the_environments_or_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPRESS_DATA", str(tmp_path / "mine"))
    assert cache_root() == tmp_path / "mine"
    monkeypatch.setenv("COMPRESS_DATA", "")
    assert cache_root() == Path(platformdirs.user_cache_dir("compress"))


def test_a_missing_folder_is_created_once(cache: Path) -> None:
    calls: list[Path] = []
    for _ in range(2):
        root = ensure_folder("any", "set", lambda staging: (calls.append(staging), fill(staging)))
        assert root == cache and (cache / "set" / "images").read_text() == "all of them"
    assert len(calls) == 1 and not calls[0].exists()


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError])
def test_an_interrupted_folder_is_not_there_and_created_the_next_time(
    tmp_path: Path, interruption: type[BaseException]
) -> None:
    def interrupt(staging: Path) -> None:
        fill(staging)
        raise interruption

    with pytest.raises(interruption):
        create_folder(tmp_path / "set", interrupt)
    assert not any(path.is_dir() for path in tmp_path.iterdir())
    create_folder(tmp_path / "set", fill)
    assert (tmp_path / "set" / "images").is_file()


def test_remains_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    killed = (
        "import os, sys; from pathlib import Path; from compress.data.cache import create_folder;"
    )
    killed += "create_folder(Path(sys.argv[1]), lambda s: ((s / 'torn').touch(), os._exit(9)))"
    process = subprocess.run([sys.executable, "-c", killed, str(tmp_path / "set")])
    assert process.returncode == 9 and list(tmp_path.glob(".set.*/torn"))
    create_folder(tmp_path / "set", fill)
    assert (tmp_path / "set" / "images").is_file() and not list(tmp_path.glob(".set.*/torn"))


def test_fashion_mnist_is_unpacked_from_the_system_copy(cache: Path, system_copy: Path) -> None:
    open_source("fashion-mnist")
    raw = cache / "FashionMNIST" / "raw"
    assert {path.name: path.read_bytes() for path in raw.iterdir()} == mnist_files()
    visible = [path.name for path in cache.iterdir() if not path.name.endswith(".lock")]
    assert visible == ["FashionMNIST"]


def test_the_cached_copy_comes_before_the_system_copy(cache: Path, system_copy: Path) -> None:
    open_source("fashion-mnist")
    system_copy.rename(system_copy.with_name("gone"))
    assert len(open_source("fashion-mnist").train.targets) == 200


def test_a_damaged_system_copy_is_refused_and_leaves_nothing(
    cache: Path, system_copy: Path
) -> None:
    bad = system_copy / "t10k-labels-idx1-ubyte.gz"
    bad.write_bytes(bad.read_bytes()[:-9] + b"123456789")
    with pytest.raises(UserError, match=r"no fashion-mnist data.*apt-get install") as error:
        open_source("fashion-mnist")
    assert "\n" not in str(error.value) and not (cache / "FashionMNIST").exists()


def test_an_unpublished_system_copy_is_refused(cache: Path, system_copy: Path) -> None:
    labels = (system_copy / "train-labels-idx1-ubyte.gz").read_bytes()
    (system_copy / "t10k-labels-idx1-ubyte.gz").write_bytes(labels)
    with pytest.raises(UserError, match=r"t10k-labels-idx1-ubyte\.gz is not the published file"):
        open_source("fashion-mnist")
    assert not any(path.is_dir() for path in cache.iterdir())


def unpack() -> None:
    assert len(open_source("fashion-mnist").train.targets) == 200


@pytest.mark.usefixtures("system_copy")
def test_two_processes_unpack_a_data_set_at_once() -> None:
    both = [multiprocessing.get_context("fork").Process(target=unpack) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    unpack()
