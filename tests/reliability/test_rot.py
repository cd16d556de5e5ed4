"""Rot: a single changed byte, or a missing end, is noticed by whatever reads the file."""

from __future__ import annotations

import io
import json
import random
import shutil
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import FILES, NAMES, Tiny, assert_same, contents
from torchvision.datasets.utils import extract_archive

import compress
from compress.data.source import Pixels, Source
from compress.data.sources import open_source
from compress.models.tensor_file import read_tensors, write_tensors
from compress.pipeline.events import RunEvents
from compress.pipeline.manifest import read_results
from compress.recipe.load import load_recipe
from compress.recipe.registry import DATA_SOURCES
from compress.runtime.checksum import check_file, seal_file, seal_table
from compress.runtime.errors import UserError
from compress.training.mirror import MirrorTest

CONTENT = {"a": torch.arange(40.0), "names": ["x", "y"], "b": torch.ones(3, 5)}
damages = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None
)


def flip(path: Path, place: int, bit: int = 0) -> None:
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


@damages
@given(st.data())
def test_no_changed_byte_of_a_tensor_file_is_used(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "file.state"
    if not path.is_file():
        write_tensors(CONTENT, tmp_path / "whole.state")
    shutil.copy(tmp_path / "whole.state", path)
    size = path.stat().st_size
    if data.draw(st.booleans()):
        flip(path, data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, 7)))
    else:
        path.write_bytes(path.read_bytes()[: data.draw(st.integers(0, size - 1))])
    with pytest.raises(UserError, match=str(path)) as refused:
        read_tensors(path)
    assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_a_bit_that_is_changed_anywhere_in_a_tensor_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "file.state"
    write_tensors(CONTENT, path)
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content)
        flip(path, place, place % 8)
        with pytest.raises(UserError, match=str(path)):
            read_tensors(path)


def test_files_without_a_seal_are_read_and_their_content_is_verified(
    tmp_path: Path, weights: Path
) -> None:
    """Those of older releases, and of other programs."""
    path = tmp_path / "old.pth"
    torch.save(torch.load(weights, weights_only=True), path)
    assert len(compress.load(path).classes) == 4
    with zipfile.ZipFile(path) as archive:
        stored = max(archive.infolist(), key=lambda member: member.file_size)
    flip(path, stored.header_offset + random.Random(0).randrange(500, stored.file_size))
    with pytest.raises(UserError, match="checksum"):
        compress.load(path)


def test_other_programs_read_the_files(weights: Path) -> None:
    assert torch.load(weights, weights_only=True, mmap=True)["format"] == "compress.weights"
    with zipfile.ZipFile(weights) as archive:
        assert archive.testzip() is None


class Lines(RunEvents):
    """Keeps the lines of the log."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, text: str) -> None:
        self.lines.append(text)


@pytest.mark.parametrize("how", ["flipped", "cut"])
def test_a_finished_run_makes_a_damaged_model_again(
    tiny: Tiny, finished: Path, tmp_path: Path, how: str
) -> None:
    shutil.copytree(finished, out := tmp_path / "run")
    content, events = (out / "model.pth").read_bytes(), Lines()
    if how == "flipped":
        flip(out / "model.pth", len(content) // 2)
    else:
        (out / "model.pth").write_bytes(content[:1000])
    compress.run(str(tiny.recipe), out=out, events=events)
    assert str(out / "model.pth") in events.lines[0] and "made again" in events.lines[0]
    assert (out / "model.pth").read_bytes() == content
    assert_same(out, finished)


def test_a_damaged_stage_is_done_again(tiny: Tiny, finished: Path, tmp_path: Path) -> None:
    """It falls back to the stage before, and says so."""
    shutil.copytree(finished, out := tmp_path / "run")
    (out / "model.pth").unlink()
    flip(out / FILES[4], 3000)
    events = Lines()
    compress.run(str(tiny.recipe), out=out, events=events)
    assert str(out / FILES[4]) in events.lines[0] and "prune 2 is done again" in events.lines[0]
    assert f"{NAMES[3]}: done" in "\n".join(events.lines)
    assert_same(out, finished)


@pytest.mark.slow
def test_a_stage_that_ran_before_images_were_mirrored_is_not_mirrored_when_it_is_done_again(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = MirrorTest(100, 0.9, 0.9, gap=0.0, error=0.0, known=1.0, entropy=1.0)
    monkeypatch.setattr("compress.pipeline.context.measure_mirroring", lambda *a, **k: known)
    recipe = tiny.variant("mirrored.toml", ("epochs = 3", "epochs = 1"))
    compress.run(recipe, out=tmp_path / "whole")
    assert read_results(tmp_path / "whole")[0]["mirrors"] is True
    shutil.copytree(tmp_path / "whole", out := tmp_path / "run")
    (out / "model.pth").unlink()
    flip(out / FILES[0], 3000)
    compress.run(recipe, out=out)
    assert_same(out, tmp_path / "whole")


@damages
@given(st.data())
def test_no_changed_manifest_is_used(finished: Path, tmp_path: Path, data: st.DataObject) -> None:
    before = read_results(finished)
    shutil.copy(finished / "run.json", tmp_path / "run.json")
    size = (tmp_path / "run.json").stat().st_size
    flip(tmp_path / "run.json", data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, 7)))
    try:
        after = read_results(tmp_path)
    except UserError as error:
        assert str(tmp_path / "run.json") in str(error) and "\n" not in str(error)
    else:
        # White space.
        assert after == before


def test_an_edit_by_hand_is_accepted_when_it_is_meant(finished: Path, tmp_path: Path) -> None:
    manifest = json.loads((finished / "run.json").read_text())
    file = tmp_path / "run.json"
    file.write_text(json.dumps(manifest | {"seed": 5}))
    with pytest.raises(UserError, match='set "checksum" in it to ""'):
        read_results(tmp_path)
    file.write_text(json.dumps(manifest | {"seed": 5, "checksum": ""}))
    assert read_results(tmp_path)[0]["seed"] == 5


@pytest.mark.parametrize(
    "name",
    [
        "../victim.pth",
        "/victim.pth",
        "stages/../../victim.pth",
        "stages/sub/victim.pth",
        "run.json",
    ],
)
def test_a_manifest_names_no_file_elsewhere(
    tiny: Tiny, finished: Path, tmp_path: Path, name: str
) -> None:
    shutil.copytree(finished, out := tmp_path / "run")
    victim = tmp_path / "victim.state"
    victim.write_text("mine")
    (tmp_path / "victim.pth").write_text("mine")
    manifest = json.loads((out / "run.json").read_text())
    manifest["stages"][0]["checkpoint"] = (
        name.replace("/victim", f"{tmp_path}/victim", 1) if (name.startswith("/")) else name
    )
    (out / "run.json").write_text(json.dumps(seal_table(manifest)))
    before = contents(tmp_path)
    with pytest.raises(UserError, match="checkpoint: must be a file in stages/"):
        compress.run(str(tiny.recipe), out=out)
    with pytest.raises(UserError, match="checkpoint: must be a file in stages/"):
        load_recipe(str(out / "run.json"))
    assert contents(tmp_path) == before


def test_the_folder_of_the_stages_is_no_link(tiny: Tiny, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, out := tmp_path / "run")
    (out / "stages").rename(elsewhere := tmp_path / "elsewhere")
    (elsewhere / "mine.state").touch()
    (out / "stages").symlink_to(elsewhere)
    with pytest.raises(UserError, match="is a link"):
        compress.run(str(tiny.recipe), out=out, fresh=True)
    assert (elsewhere / "mine.state").exists()


def add(archive: tarfile.TarFile, name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    content = b"" if link else b"mine"
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize(
    "member",
    [
        ("../../../victim",),
        ("imagewoof2-160/link", tarfile.SYMTYPE, "/etc/passwd"),
        ("imagewoof2-160/link", tarfile.SYMTYPE, "../../../victim"),
        ("imagewoof2-160/link", tarfile.LNKTYPE, "../../victim"),
        ("imagewoof2-160/device", tarfile.CHRTYPE),
        ("imagewoof2-160/fifo", tarfile.FIFOTYPE),
    ],
    ids=lambda member: f"{member[0]} {member[1:]}",
)
def test_an_archive_is_unpacked_in_its_folder_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, member: tuple[str, ...]
) -> None:
    cache = tmp_path / "deep" / "cache"
    monkeypatch.setenv("COMPRESS_DATA", str(cache))
    (tmp_path / "victim").write_text("whole")
    with tarfile.open(tmp_path / "set.tgz", "w:gz") as archive:
        add(archive, "imagewoof2-160/train/n1/a.png")
        add(archive, *member)  # type: ignore[arg-type]

    def download(address: str, root: Path) -> None:
        extract_archive(str(tmp_path / "set.tgz"), str(root))

    monkeypatch.setattr("compress.data.sources.download_and_extract_archive", download)
    with pytest.raises(UserError, match="could not be made"):
        open_source("imagewoof-160")
    assert (tmp_path / "victim").read_text() == "whole"
    assert {path.name for path in tmp_path.iterdir()} == {"deep", "victim", "set.tgz"}
    assert not (cache / "imagewoof2-160").exists()


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_label_of_no_class_stops_the_run(split: str, monkeypatch: pytest.MonkeyPatch) -> None:
    good = Pixels(torch.zeros(8, 1, 4, 4, dtype=torch.uint8), torch.arange(8) % 2)
    bad = replace(good, targets=torch.tensor([0, 1, 0, 1, 0, 1, 0, 200]))
    train, test = (bad, good) if split == "train" else (good, bad)
    source = Source("grey", ("a", "b"), 4, train, lambda: test)
    monkeypatch.setitem(DATA_SOURCES.builtin, "grey", "x:y")
    monkeypatch.setattr(type(DATA_SOURCES), "load", lambda self, name: lambda: source)
    with pytest.raises(UserError, match=f"grey: 1 labels of {split}.* 200.*damaged"):
        open_source("grey").test()


def test_no_changed_byte_of_an_exported_file_is_used(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])],
        "net",
        [value("x", 1, [1])],
        [value("y", 1, [1])],
    )
    path = tmp_path / "model.onnx"
    onnx.save(onnx.helper.make_model(graph), path)
    check_file(path)
    seal_file(path)
    content = path.read_bytes()
    onnx.checker.check_model(onnx.load(path))
    (entry,) = onnx.load(path).metadata_props
    assert entry.key == "compress.crc32"
    check_file(path)
    for place in range(len(content)):
        flip(path, place, place % 8)
        with pytest.raises(UserError, match="checksum"):
            check_file(path)
        path.write_bytes(content)
