"""Files are written completely or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compress.runtime import distributed
from compress.runtime.errors import UserError
from compress.runtime.files import (
    CSV_HEADER,
    PART,
    atomic_write,
    require_file,
    require_folder,
    require_page,
    require_replaceable,
    write_text,
)


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.bin"
    with atomic_write(path) as file:
        file.write(b"half")
        assert not path.exists()
        assert [part.suffix for part in path.parent.iterdir()] == [PART]
        file.write(b" and half")
    assert path.read_bytes() == b"half and half"
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_write_leaves_the_old_file(error: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(error), atomic_write(path) as file:
        file.write(b"new")
        raise error
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_only_the_main_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "is_main", lambda: False)
    write_text(tmp_path / "file.txt", "text")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_refused_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError) as refused:
        write_text(tmp_path / "file" / "inside.txt", "text")
    assert str(tmp_path / "file" / "inside.txt") in str(refused.value)
    assert "choose another path" in str(refused.value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.text(st.characters(codec="utf-8")))
def test_any_text_is_written_as_it_is(tmp_path: Path, text: str) -> None:
    write_text(tmp_path / "file.txt", text)
    assert (tmp_path / "file.txt").read_bytes().decode() == text


def test_a_required_file_is_there(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert require_file(str(tmp_path / "file")) == tmp_path / "file"
    with pytest.raises(UserError, match="not a file"):
        require_file(tmp_path)
    with pytest.raises(UserError, match="missing: no such file"):
        require_file(tmp_path / "missing")


def test_a_link_to_itself_cannot_be_written(tmp_path: Path) -> None:
    link = tmp_path / "loop.html"
    link.symlink_to(link)
    for check in (require_folder, require_page, lambda path: require_replaceable(path, CSV_HEADER)):
        with pytest.raises(UserError, match=r"loop\.html: .*choose"):
            check(link)


@pytest.mark.parametrize("inside", ["", "new", "new/er"])
def test_a_folder_is_made_anywhere_but_below_a_file_or_a_link_to_nothing(
    inside: str, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "file").touch()
    (tmp_path / "dead").symlink_to("nothing")
    for name in ("folder", "link"):
        require_folder(tmp_path / name / inside)
    for name in ("file", "dead"):
        with pytest.raises(UserError, match=f"{name} is not a folder"):
            require_folder(tmp_path / name / inside)
