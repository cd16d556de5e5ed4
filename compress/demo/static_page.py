"""A demo as a folder that any web server serves: networks run in the browser that opens it."""

from __future__ import annotations

import json
import math
import re
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jinja2
import PIL
from PIL import ImageColor

from compress.data.decode import read_photo
from compress.demo.models import MOST_MODELS, DemoModel, name_files, open_model
from compress.demo.web_runtime import VERSION, find_runtime
from compress.deployment.export import export
from compress.deployment.formats import find_format, get_format
from compress.deployment.load_model import RuntimeModel, choose_builder
from compress.models.tensor_file import require_weights
from compress.runtime.device import package_versions
from compress.runtime.errors import UserError
from compress.runtime.files import (
    PAGE_MARK,
    PART,
    describe_failure,
    make_folder,
    require_file,
    sync_folder,
)
from compress.runtime.text import safe_block

WEB = Path(__file__).parent / "web"
# Files of the page that are the same for all networks.
SCRIPTS = ("page.js", "classify.js", "decode.js", "prepare.js", "resize.js", "style.css")
PAGE, MODELS = "index.html", "models.json"
# By this, a page is known; those of earlier versions have that of reports.
DEMO_MARK = b'<meta name="generator" content="compress demo">'
SAMPLE = WEB / "sample.png"
MOST_SAMPLES = 24


def write_static(
    files: Sequence[Path],
    out: Path,
    *,
    builders: Sequence[str] = (),
    ort: Path | None = None,
    samples: Sequence[Path] = (),
) -> int:
    """Write a page whose networks run in the browser.

    Args:
        files: one or two weights files, which are exported, or ONNX files of this package.
        out: the folder; missing, empty, or with an older such page.
        builders: functions that build custom networks of weights files.
        ort: folder of onnxruntime-web; fetched into the cache if left out.
        samples: images that the page offers; a picture of a boot if there are none.

    Returns:
        The number of bytes in the folder.

    Raises:
        UserError: a file cannot be used, or the folder has other files; it is as it was then.
    """
    check_folder(out)
    if len(files) > MOST_MODELS:
        raise UserError(f"{len(files)} networks given; a demo shows one, or two side by side")
    for file in files:
        _check_kind(require_file(file))
    pictures = _check_samples(samples)
    runtime = find_runtime(ort)
    with TemporaryDirectory() as scratch:
        models = [
            _open_onnx(file, name, builders, Path(scratch) / f"{number}.onnx")
            for number, (file, name) in enumerate(zip(files, name_files(files), strict=True), 1)
        ]
        contents = runtime | pictures | {name: WEB / name for name in SCRIPTS}
        contents |= {f"model-{number}.onnx": each.file for number, each in enumerate(models, 1)}
        return _write_folder(out, contents, models)


def check_folder(out: Path) -> None:
    """Check that a page can be written to a folder: nothing but an older page is there.

    Raises:
        UserError: there are other files.
    """
    if out.is_symlink() and not out.exists():
        raise UserError(f"{out}: a link to nothing; choose another folder")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: a file; choose another folder")
    if not out.exists() or not (found := list(out.iterdir())):
        return
    if not _has_page(out):
        raise UserError(f"{out}: not empty, and no demo page; choose another folder")
    if others := sorted(path.name for path in found if not _is_ours(path)):
        raise UserError(f"{out}: has {others[0]}, which is no part of a demo; move it, or choose"
                        " another folder")  # fmt: skip


def _has_page(folder: Path) -> bool:
    page = folder / PAGE
    if not page.is_file():
        return False
    begins = page.read_bytes()[:1024]
    return DEMO_MARK in begins or (PAGE_MARK in begins and (folder / MODELS).is_file())


def _is_ours(path: Path) -> bool:
    fixed = {PAGE, MODELS, "ort.js", "ort.wasm", *SCRIPTS}
    numbered = re.fullmatch(r"model-[12]\.onnx|sample-\d{1,2}(\.[^.]+)?", path.name)
    return path.is_file() and (path.name in fixed or numbered is not None)


def _check_kind(file: Path) -> None:
    """Check, before time is spent, that a file is one that a browser can run."""
    form = find_format(file)
    if form is not None and form.name != "onnx":
        raise UserError(
            f"{file}: of format {form.name!r}, which browsers do not run; name the weights file, or"
            " export that with `compress export --to onnx`"
        )
    get_format("onnx")
    if form is None:
        require_weights(file)


def _check_samples(samples: Sequence[Path]) -> dict[str, Path]:
    """Return the images of a page by their names there."""
    if len(samples) > MOST_SAMPLES:
        raise UserError(f"{len(samples)} samples given; a page has at most {MOST_SAMPLES}")
    for sample in samples:
        try:
            read_photo(sample)
        except UserError as error:
            raise UserError(f"--sample {sample}: {error}") from error
    chosen = samples or [SAMPLE]
    return {f"sample-{n}{path.suffix.lower()}": path for n, path in enumerate(chosen, 1)}


def _open_onnx(file: Path, name: str, builders: Sequence[str], out: Path) -> DemoModel:
    """Open an ONNX file; a weights file is exported to `out` first."""
    if find_format(file) is not None:
        model = open_model(file, name)
        _require_own(file, model)
        return model
    # Masks are refused before the export.
    open_model(file, name, builders)
    export(file, "onnx", out, builder=choose_builder(file, builders))
    return open_model(out, name)


def _require_own(file: Path, model: DemoModel) -> None:
    """Check that this package wrote an ONNX file: others may take images in any form."""
    runner = get_format("onnx").open(file, 1)
    if runner.description is None:
        raise UserError(
            f"{file}: of another program; --static takes what `compress export` or"
            " `compress quantize` wrote"
        )


def _write_folder(out: Path, contents: dict[str, Path], models: Sequence[DemoModel]) -> int:
    """Write all files beside the folder, then move them into it, the page last."""
    out = out.resolve()
    staging = out.with_name(f".{out.name}.{secrets.token_hex(4)}{PART}")
    try:
        make_folder(out.parent)
        staging.mkdir()
        for name, source in contents.items():
            shutil.copyfile(source, staging / name)
        (staging / MODELS).write_text(_describe(models), encoding="utf-8")
        size = sum(file.stat().st_size for file in staging.iterdir())
        page = _render(models, [name for name in contents if name.startswith("sample-")], size)
        (staging / PAGE).write_text(page, encoding="utf-8")
        names = {file.name for file in staging.iterdir()}
        if not out.exists():
            staging.rename(out)
        else:
            for name in sorted(names, key=lambda name: name == PAGE):
                (staging / name).replace(out / name)
            for file in out.iterdir():
                if file.name not in names and _is_ours(file):
                    file.unlink()
        sync_folder(out.parent)
    except OSError as error:
        raise UserError(describe_failure(out, error)) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return size


def _describe(models: Sequence[DemoModel]) -> str:
    described = [_describe_model(each, number) for number, each in enumerate(models, 1)]
    return json.dumps({"models": described}, indent=1)


def _describe_model(model: DemoModel, number: int) -> dict[str, Any]:
    """Return what the page needs to know of a network; nothing of where it was trained."""
    network = model.checkpoint.model
    assert isinstance(network, RuntimeModel)
    known = network.description
    return {
        "name": model.name,
        "file": f"model-{number}.onnx",
        "bytes": model.bytes,
        "classes": list(known.classes),
        "input_size": list(known.input_size),
        "crop_ratio": known.crop_ratio,
        "mean": list(known.mean),
        "std": list(known.std),
        "uint8": known.uint8,
        "background": list(ImageColor.getrgb(known.background)[:3]),
        "temperature": known.temperature,
        "params": known.params,
        # Its version decides in which order an image is resized.
        "pillow": int(PIL.__version__.split(".")[0]),
    }


def _render(models: Sequence[DemoModel], samples: Sequence[str], size: int) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(WEB),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    page = environment.get_template(PAGE).render(
        title="Two networks, side by side" if len(models) > 1 else "What is in the picture?",
        count=len(models),
        samples=samples,
        megabytes=math.ceil(size / 1e6),
        version=package_versions()["compress"],
        runtime=VERSION,
    )
    return safe_block(page)
