"""Broken image files: all are found before training, and are refused or left out."""

import shutil
from pathlib import Path

import pytest
from dataset_files import write_images
from tiny import Compress, Tiny

from compress.data import verify
from compress.data.open_dataset import open_dataset
from compress.data.source import Files
from compress.data.verify import NAMED, find_broken
from compress.runtime.errors import UserError


def break_files(folder: Path, count: int) -> list[Path]:
    """Replace or cut the first files below `folder`."""
    files = sorted(folder.rglob("*.*"))[:count]
    for number, file in enumerate(files):
        content = file.read_bytes()
        file.write_bytes((b"<html>404</html>", content[: len(content) // 2], b"")[number % 3])
    return files


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for split in ("train", "val", "test"):
        write_images(tmp_path / "photos" / split, ["cat", "dog"], 8)
    return tmp_path / "photos"


def test_broken_files_of_all_splits_are_named_in_one_line(photos: Path) -> None:
    bad = [path for split in ("train", "val", "test") for path in break_files(photos / split, 1)]
    with pytest.raises(UserError, match=r"3 of 48 image files.*--skip-broken") as error:
        open_dataset(f"folder:{photos}", image_size=8, verify=True)
    message = str(error.value)
    assert all(str(path) in message for path in bad) and "\n" not in message


def test_the_list_of_broken_files_is_bounded(photos: Path) -> None:
    break_files(photos / "train" / "cat", NAMED + 2)
    with pytest.raises(UserError, match=f"{NAMED + 2} of 48.* and 2 more") as error:
        open_dataset(f"folder:{photos}", verify=True)
    assert str(error.value).count("photos/train/cat/") == NAMED


def test_broken_files_are_left_out_and_counted(photos: Path) -> None:
    for split in ("train", "val", "test"):
        break_files(photos / split, 3)
    data = open_dataset(f"folder:{photos}", image_size=8, skip_broken=True)
    (note,) = data.notes
    assert "9 of 48" in note and "skip_broken" in note
    assert (len(data.train), len(data.val), len(data.test())) == (13, 13, 13)


def test_the_held_out_images_stay_the_same_without_broken_ones(tmp_path: Path) -> None:
    write_images(tmp_path, ["cat", "dog"], 10)
    before = open_dataset(f"folder:{tmp_path}").test_images()
    assert isinstance(before, Files)
    bad = {file.relative_to(tmp_path).as_posix() for file in break_files(tmp_path / "cat", 5)}
    after = open_dataset(f"folder:{tmp_path}", skip_broken=True).test_images()
    assert isinstance(after, Files) and set(after.names) == set(before.names) - bad


def test_a_class_without_readable_images_is_refused(photos: Path) -> None:
    break_files(photos / "train" / "dog", 8)
    with pytest.raises(UserError, match="'dog'"):
        open_dataset(f"folder:{photos}", skip_broken=True)


def test_good_files_are_remembered_until_they_change(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPRESS_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(verify, "REMEMBERED_FROM", 1)
    monkeypatch.setattr(verify, "SAID_FROM", 1)
    source = open_dataset(f"folder:{photos}").train_images
    assert isinstance(source, Files)
    (bad,) = break_files(photos / "train" / "cat", 1)
    lines: list[str] = []
    assert [each.path for each in find_broken([source], lines.append)] == [bad]
    assert "16 image files" in lines[0]
    # Broken ones are looked at again.
    assert [each.path for each in find_broken([source], lines.append)] == [bad]
    assert "1 image files" in lines[1]
    (other,) = break_files(photos / "train" / "dog", 1)
    found = {each.path for each in find_broken([source], lines.append)}
    assert found == {bad, other} and "2 image files" in lines[2]


def test_a_missing_file_and_a_cache_that_cannot_be_written_are_no_traceback(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("COMPRESS_DATA", str(tmp_path / "file"))
    monkeypatch.setattr(verify, "REMEMBERED_FROM", 1)
    source = open_dataset(f"folder:{photos}").train_images
    assert isinstance(source, Files)
    (photos / "train" / source.names[0]).unlink()
    (missing,) = find_broken([source], print)
    assert missing.reason == "no such file"


@pytest.mark.slow
def test_runs_refuse_broken_files_or_leave_them_out(
    tiny: Tiny, tmp_path: Path, run: Compress
) -> None:
    shutil.copytree(tiny.data, tmp_path / "images")
    break_files(tmp_path / "images", 2)
    words = ("run", tiny.recipe, "--quick", "--data", f"folder:{tmp_path}/images")
    refused = run(*words, "--out", tmp_path / "run", code=2)
    assert "2 of" in refused.err and "--skip-broken" in refused.err
    assert not (tmp_path / "run").exists()
    done = run(*words, "--out", tmp_path / "run", "--skip-broken")
    assert "left out" in done.out + done.err
