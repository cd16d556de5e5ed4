"""Every export format keeps the same promises: logits, description, batches, bytes, refusals."""

from __future__ import annotations

import importlib.util
import json
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from exported_files import Bessel, Exported, own_network
from tiny import Tiny

import compress
from compress.cli.main import main
from compress.deployment import openvino_format
from compress.deployment.bench import bench_files
from compress.deployment.export import ExportResult, export
from compress.deployment.formats import count_bytes, files_of, open_exported
from compress.deployment.load_model import load_model
from compress.recipe.registry import EXPORT_FORMATS
from compress.reporting.compare import compare_models
from compress.runtime.errors import UserError

WEIGHTS = Path(__file__).parents[2] / "weights" / "sweep" / "fashion-mnist-10k.pth"
BUILDER = "tinynets:student"
FORMATS = [
    name
    for name in EXPORT_FORMATS.builtin
    # ONNX has tests of its own.
    if name != "onnx"
    and all(importlib.util.find_spec(each) for each in EXPORT_FORMATS.load(name).packages)
]


@pytest.fixture(scope="module")
def written(
    exported: Exported, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[ExportResult, ExportResult]]:
    """Files for normalized images and for pixels, of each format."""
    folder = tmp_path_factory.mktemp("formats")
    known = exported.checkpoint

    def write(name: str, uint8: bool) -> ExportResult:
        suffix = EXPORT_FORMATS.load(name).suffix
        return export(known, name, folder / f"{name}{int(uint8)}{suffix}", uint8=uint8)

    return {name: (write(name, False), write(name, True)) for name in FORMATS}


Written = dict[str, tuple[ExportResult, ExportResult]]


@pytest.mark.parametrize("name", FORMATS)
def test_file_gives_the_logits_of_the_network_for_any_batch(
    name: str, written: Written, exported: Exported
) -> None:
    pixels = torch.randint(0, 256, (7, 3, 16, 16), dtype=torch.uint8)
    known = exported.checkpoint
    mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (known.mean, known.std))
    images = (pixels / 255 - mean) / std
    expected = known.model(images).detach().numpy()
    for result, given in zip(written[name], (images, pixels), strict=True):
        assert result.max_difference <= 1e-4 and result.agreement == 1
        runner = open_exported(result.file, 1)
        assert runner.uint8 == (given is pixels) and runner.description is not None
        assert runner.description.classes == known.classes
        for count in (1, 7, 2):
            found = runner.infer(given[:count].numpy())
            np.testing.assert_allclose(found, expected[:count], atol=1e-4)


@pytest.mark.parametrize("name", FORMATS)
def test_file_is_used_as_a_weights_file_is(
    name: str, written: Written, exported: Exported, tiny: Tiny
) -> None:
    images = sorted((tiny.data / "test").rglob("*.png"))[:20]
    expected = [dict(each.top) for each in compress.predict(exported.checkpoint, images, top=4)]
    for result in written[name]:
        found = [dict(each.top) for each in compress.predict(result.file, images, top=4)]
        for ours, theirs in zip(expected, found, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-4)
    weights, file = compare_models([exported.weights, written[name][1].file], builder=BUILDER)
    assert (file.test, file.cost) == (weights.test, replace(weights.cost, bytes=0))
    assert file.file_bytes == sum(each.stat().st_size for each in files_of(file.file))


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_file_is_refused_in_one_line(name: str, written: Written, tmp_path: Path) -> None:
    whole = written[name][0].file
    content = whole.read_bytes()
    for damaged in (b"", b"nothing", content[: len(content) // 2], content[:-200]):
        path = tmp_path / whole.name
        for each in files_of(whole):
            shutil.copy(each, tmp_path)
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=f"{whole.name}: ") as refused:
            load_model(path)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", FORMATS)
def test_no_changed_bit_of_a_file_is_used(name: str, written: Written, tmp_path: Path) -> None:
    whole, random = written[name][0].file, np.random.default_rng(0)
    files = [Path(shutil.copy(each, tmp_path)) for each in files_of(whole)]
    for each in files:
        content = each.read_bytes()
        size = len(content)
        for place in {0, *range(size - 64, size), *random.integers(0, size, 30).tolist()}:
            changed = bytearray(content)
            changed[place] ^= 1 << place % 8
            each.write_bytes(changed)
            with pytest.raises(UserError, match=f"{files[0].name}: damaged"):
                open_exported(files[0])
        each.write_bytes(content)
    assert open_exported(files[0]).description


@pytest.mark.slow
def test_every_format_is_timed(written: Written) -> None:
    files = [pixels.file for _, pixels in written.values()]
    assert [each.file for each in bench_files(files, rounds=1)] == files


@pytest.mark.slow
def test_several_formats_at_once(tmp_path: Path) -> None:
    weights = shutil.copy(WEIGHTS, tmp_path / "model.pth")
    names = ["onnx", *FORMATS]
    words = ["export", "-w", str(weights), "--to", ",".join(names), "--uint8"]
    done = CliRunner().invoke(main, words)
    lines = done.stdout.splitlines()
    assert len(lines) == len(names)
    for name, line in zip(names, lines, strict=True):
        file = weights.with_suffix(EXPORT_FORMATS.load(name).suffix)
        assert line.startswith(f"{file}: {count_bytes(file):,} bytes; ")
        assert "100.00% same classes on 1,000 validation images" in line
        # One channel, since the data is grey.
        known = open_exported(file).description
        assert known is not None and known.input_size == (1, 28, 28)
        assert known.origin["weights"] == "model.pth"


@pytest.fixture
def full_disk() -> Iterator[None]:
    """A limit on the size of files stands in for a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


# The converters of the others write temporary files of their own.
@pytest.mark.parametrize("name", sorted({"onnx", *FORMATS} - {"executorch", "litert"}))
def test_full_disk_leaves_nothing(
    name: str, exported: Exported, tmp_path: Path, full_disk: None
) -> None:
    out = tmp_path / "out" / f"model{EXPORT_FORMATS.load(name).suffix}"
    with pytest.raises(UserError, match=rf"{out.name}: cannot be written") as refused:
        export(exported.checkpoint, name, out)
    assert "\n" not in str(refused.value) and list(out.parent.iterdir()) == []


def test_folder_that_cannot_be_written_is_refused(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"model\.pt2: cannot be written"):
        export(exported.checkpoint, "pt2", tmp_path / "file" / "model.pt2")


def test_suffix_of_another_format_is_refused(exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.onnx: .*'pt2'.*\.pt2"):
        export(exported.checkpoint, "pt2", tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [each for each in FORMATS if each != "pt2"])
def test_operator_that_a_format_lacks_is_named_with_its_layer(name: str, tmp_path: Path) -> None:
    out = tmp_path / f"model{EXPORT_FORMATS.load(name).suffix}"
    with pytest.raises(UserError, match=r"bessel_j0.*'odd'") as refused:
        export(own_network(Bessel()), name, out)
    assert "\n" not in str(refused.value) and list(tmp_path.iterdir()) == []


@pytest.mark.skipif("openvino" not in FORMATS, reason="OpenVINO is not installed")
def test_weights_of_openvino_lie_beside_the_graph(written: Written, tmp_path: Path) -> None:
    graph, weights = files_of(written["openvino"][0].file)
    assert count_bytes(graph) == graph.stat().st_size + weights.stat().st_size
    shutil.copy(graph, tmp_path)
    with pytest.raises(UserError, match=rf"weights are missing.*{weights.name}"):
        open_exported(tmp_path / graph.name)
    (tmp_path / "model.bin").touch()
    words = ["export", "-w", str(WEIGHTS), "--to", "openvino"]
    taken = CliRunner().invoke(main, [*words, "--out", str(tmp_path / "model.xml")])
    assert taken.exit_code == 2 and "model.bin: already exists" in taken.stderr


@pytest.mark.skipif("openvino" not in FORMATS, reason="OpenVINO is not installed")
def test_openvino_file_of_another_program_is_refused(tmp_path: Path) -> None:
    openvino = openvino_format.import_openvino()
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),))
    openvino.save_model(openvino.convert_model(program), tmp_path / "other.xml")
    with pytest.raises(UserError, match=r"other\.xml: has no description"):
        load_model(tmp_path / "other.xml")


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = replace(openvino_format.FORMAT, packages=("no_such_package",))
    monkeypatch.setattr(openvino_format, "FORMAT", lacking)
    with pytest.raises(UserError, match=r"no_such_package.*compress\[openvino\]"):
        compress.export(WEIGHTS, "openvino")


def test_description_is_json_that_other_programs_read(written: Written) -> None:
    content: dict[str, str] = {"compress": ""}
    torch.export.load(written["pt2"][1].file, extra_files=content)
    about = json.loads(content["compress"])
    assert about["uint8"] and about["input_size"] == [3, 16, 16]


SIGNALS = """
import faulthandler, signal, subprocess, sys
from compress.deployment.load_model import load_model

faulthandler.enable()
signal.signal(signal.SIGCHLD, lambda *_: None)
first = load_model(sys.argv[1])
second = load_model(sys.argv[1])
del first
del second
subprocess.run(["true"], check=True)
print("alive")
"""


@pytest.mark.slow
@pytest.mark.skipif("openvino" not in FORMATS, reason="OpenVINO is not installed")
def test_openvino_leaves_a_process_able_to_receive_signals(written: Written) -> None:
    """It replaces the stack of signal handlers, and may leave one behind that is gone."""
    file = written["openvino"][0].file
    done = subprocess.run(
        [sys.executable, "-c", SIGNALS, str(file)], capture_output=True, text=True, check=False
    )
    assert done.stdout == "alive\n", done.stderr
