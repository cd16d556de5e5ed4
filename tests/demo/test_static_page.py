"""Demo pages in folders: what they hold, what is refused, and what nothing is left of."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from exported_onnx import save_other
from PIL import Image

from compress.cli.main import main
from compress.demo import web_runtime
from compress.demo.static_page import DEMO_MARK, SCRIPTS, check_folder
from compress.deployment.description import parse_description
from compress.deployment.onnx_format import open_session
from compress.runtime.errors import UserError
from compress.runtime.files import PAGE_MARK, require_page

BUILDER = ["--builder", "tinynets:student"]


def demo(*words: object) -> Result:
    return CliRunner().invoke(main, ["demo", *map(str, words)])


def listed(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_page_is_written_again_and_older_files_are_gone(
    networks: tuple[Path, Path], stand_in: Path, tmp_path: Path
) -> None:
    weights, grey = networks
    photo, out = tmp_path / "My Photo.PNG", tmp_path / "page"
    Image.new("RGB", (3, 2)).save(photo)
    words = ["--static", out, "--ort", stand_in]
    first = demo("-w", weights, "-w", grey, *BUILDER, *words, "--sample", photo)
    assert first.exit_code == 0, first.output
    same = {*SCRIPTS, "index.html", "models.json", "ort.js", "ort.wasm", "sample-1.png"}
    assert listed(out) == {*same, "model-1.onnx", "model-2.onnx"}
    assert (out / "sample-1.png").read_bytes() == photo.read_bytes()
    with pytest.raises(UserError, match="not a report"):
        require_page(out / "index.html")
    page = (out / "index.html").read_text()
    assert "http" not in page.replace("http-equiv", "") and "'wasm-unsafe-eval'" in page
    exported, given = json.loads((out / "models.json").read_text())["models"]
    assert exported["background"] == [0x20, 0x80, 0xF0] and exported["crop_ratio"] == 0.875
    assert given["uint8"] and given["input_size"][0] == 1 and given["temperature"] == 2.5
    meta = open_session(out / "model-1.onnx").get_modelmeta().custom_metadata_map
    known = parse_description(meta["compress"])
    assert exported["classes"] == list(known.classes) == ["a", "b", "c", "d"]

    again = demo("-w", grey, *words)
    assert again.exit_code == 0 and listed(out) == {*same, "model-1.onnx"}
    assert (out / "model-1.onnx").read_bytes() == grey.read_bytes()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-w", "GREY", "--static", "mine"], "mine: not empty"),
        (["-w", "GREY", "--static", "page"], "CNAME"),
        (["-w", "GREY", "--static", "report"], "report: not empty"),
        (["-w", "GREY", "--static", "file"], "file: a file"),
        (["-w", "GREY", "--static", "new", "--ort", "mine"], "--ort mine"),
        (["-w", "GREY", "--static", "new", "--sample", "file"], "--sample file"),
        (["-w", "GREY", "--static", "new", "--port", "80"], "--port"),
        (["-w", "GREY", "--static", "new", "--classes", "a,b"], "--classes"),
        (["-w", "GREY", "-w", "GREY", "-w", "GREY", "--static", "new"], "3 networks"),
        (["-w", "GREY", "--sample", "file"], "--static"),
        (["-w", "WEIGHTS", "--static", "new"], "--builder"),
        (["-w", "other.onnx", "--static", "new"], "other.onnx: of another program"),
        (["-w", "model.pt2", "--static", "new"], "compress export"),
        (["-w", "file", "--static", "new"], "file"),
        (["-w", "none.pth", "--static", "new"], "none.pth"),
        (["-w", "MAPS", "--static", "new"], "pixels"),
    ],
)
def test_what_cannot_be_a_page_is_refused_and_nothing_is_left(
    words: list[str],
    said: str,
    networks: tuple[Path, Path],
    maps: Path,
    stand_in: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "page", "report"):
        Path(name).mkdir()
    Path("mine/notes.txt").write_text("mine")
    Path("page/index.html").write_bytes(DEMO_MARK)
    Path("page/CNAME").write_text("mine")
    Path("report/index.html").write_bytes(PAGE_MARK)
    Path("file").write_text("mine")
    Path("model.pt2").write_text("")
    save_other(Path("other.onnx"))
    before = listed(tmp_path)
    files = {"WEIGHTS": networks[0], "GREY": networks[1], "MAPS": maps}
    given = [str(files.get(word, word)) for word in words]
    if "--static" in words and "--ort" not in words:
        given += ["--ort", str(stand_in)]
    done = demo(*given)
    assert done.exit_code == 2 and done.output.startswith("error: ")
    assert said in done.output and done.output.count("\n") == 1
    assert listed(tmp_path) == before


@pytest.mark.parametrize(
    "name", ["model-card.md", "model-src/", "sample-data.csv", "sample-1.png/", "ort.js/"]
)
def test_a_name_like_that_of_a_part_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_bytes(DEMO_MARK)
    other = tmp_path / name
    other.mkdir() if name.endswith("/") else other.write_text("mine")
    with pytest.raises(UserError, match=f"has {other.name}, "):
        check_folder(tmp_path)


def test_a_page_of_an_earlier_version_is_known_by_its_networks(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_bytes(PAGE_MARK)
    for name in ("models.json", "model-2.onnx", "sample-24.jpeg", "sample-1"):
        (tmp_path / name).write_text("")
    check_folder(tmp_path)


def test_a_package_that_is_not_the_published_one_is_refused(
    networks: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without npm, and with a registry that sends something else."""
    package = tmp_path / "onnxruntime-web" / "-" / f"onnxruntime-web-{web_runtime.VERSION}.tgz"
    package.parent.mkdir(parents=True)
    package.write_bytes(b"something else")
    monkeypatch.setattr(web_runtime, "REGISTRY", tmp_path.as_uri())
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setenv("COMPRESS_DATA", str(tmp_path / "cache"))
    done = demo("-w", networks[1], "--static", tmp_path / "new")
    assert done.exit_code == 2 and "SHA-512" in done.output and "--ort" in done.output
    assert not (tmp_path / "new").exists()
    left = [path for path in (tmp_path / "cache").rglob("*") if path.suffix != ".lock"]
    assert left == [tmp_path / "cache" / "onnxruntime-web"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm")
def test_the_reason_of_npm_is_named(
    networks: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")
    # It tries again at once, not after ten seconds.
    monkeypatch.setenv("npm_config_fetch_retry_mintimeout", "1")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm"))
    monkeypatch.setenv("COMPRESS_DATA", str(tmp_path / "cache"))
    done = demo("-w", networks[1], "--static", tmp_path / "new")
    assert done.exit_code == 2 and "127.0.0.1:9" in done.output
    assert done.output.count("\n") == 1
