"""A demo that this machine computes and serves: a page of gradio."""

from __future__ import annotations

import errno
import html
import importlib.util
import math
import os
import socket
import statistics
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from compress.demo.models import DemoModel
from compress.deployment.latency import time_in_turns
from compress.deployment.predict import predict, prepare
from compress.runtime.errors import UserError, one_line

TOP = 5
# Tried in turn, where none is asked for.
PORTS = range(7860, 7960)
SWAP = "swap light and dark"
# Images that are timed, for the time of one.
RUNS = 15
# Runtimes serve one thread at a time, and a time is that of a network alone.
ONE_AT_A_TIME = threading.Lock()
# Smaller squares are enlarged to about this side, in pixels.
SHOWN_SIDE = 168
# Fonts of the system: the theme's own would come from another server.
FONTS = ("system-ui", "sans-serif")
# Read when gradio is imported: it sends no statistics, and keeps no list of what was classified.
SETTINGS = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False"}
# Small images fill their frames; images lie below their labels.
STYLE = """
.demo-image img { object-fit: contain; }
.demo-image .image-container { padding-top: 34px; }
"""


@dataclass(frozen=True)
class Answer:
    """What a network makes of an image.

    Args:
        classes: probabilities by class, of the most likely ones.
        seen: the image as the network sees it.
        seconds: time for one image.
    """

    classes: dict[str, float]
    seen: Image.Image
    seconds: float


def require_gradio() -> None:
    """Check that gradio is installed.

    Raises:
        UserError: it is not; the message names the extra.
    """
    if importlib.util.find_spec("gradio") is None:
        raise UserError("the demo needs gradio, not installed here: pip install 'compress[demo]'")


def serve(
    models: Sequence[DemoModel], host: str, port: int | None, started: Callable[[str], object]
) -> None:
    """Serve a page until the process is stopped.

    Args:
        port: the first free one from 7860 on, if left out.
        started: called with the page's address.

    Raises:
        UserError: gradio is not installed, or the port is taken.
    """
    port = find_port(host, port)
    # Images that visitors send stay until the page ends.
    with TemporaryDirectory(prefix="compress-demo-") as scratch:
        os.environ["GRADIO_TEMP_DIR"] = scratch
        page = build_page(models)
        try:
            address = _launch(page, host, port)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{host}:{port}: cannot be served ({one_line(error)}); choose another --port or"
                " --host"
            ) from error
        try:
            started(address)
            threading.Event().wait()
        finally:
            page.close(verbose=False)


def find_port(host: str, port: int | None = None) -> int:
    """Return a port of this machine at which nothing is served yet.

    Args:
        port: this one, or the first free one from 7860 on, if left out.

    Raises:
        UserError: there is none, or the host is no address of this machine.
    """
    for candidate in [port] if port else PORTS:
        try:
            _bind(host, candidate)
        # Names that no host can have are ValueErrors.
        except (OSError, ValueError) as error:
            number = getattr(error, "errno", None)
            if number == errno.EADDRINUSE:
                continue
            if number in (errno.EACCES, errno.EPERM):
                raise UserError(
                    f"{host}:{candidate}: not permitted; choose another --port"
                ) from error
            reason = getattr(error, "strerror", None) or one_line(error)
            raise UserError(
                f"--host {host}: no address of this machine ({reason}); use 127.0.0.1, or"
                " 0.0.0.0 to serve other machines, too"
            ) from error
        return candidate
    if port:
        raise UserError(f"{host}:{port}: already in use; choose another --port")
    raise UserError(f"{host}: ports {PORTS[0]} to {PORTS[-1]} are in use; choose another --port")


def _bind(host: str, port: int) -> None:
    """Take an address as a server does, and leave it again."""
    family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as tried:
        # A page that has just ended is no hindrance.
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tried.bind(address)


def _launch(page: Any, host: str, port: int) -> str:
    """Serve a page, and return its address."""
    from gradio.themes import Default

    # White text needs a dark button.
    theme = Default(primary_hue="blue", font=FONTS, font_mono=FONTS).set(
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_hover_dark="*primary_700",
    )
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        theme=theme,
        css=STYLE,
        share=False,
        quiet=True,
        inbrowser=False,
        prevent_thread_lock=True,
    )
    return str(address)


def build_page(models: Sequence[DemoModel]) -> Any:
    """Return gradio's page: an image or a drawing goes in, and every network answers beside it."""
    require_gradio()
    os.environ.update(SETTINGS)
    import gradio

    def show(source: str | Image.Image | None, invert: bool) -> list[Any]:
        if source is None:
            return [None] * (3 * len(models))
        try:
            answers = [classify(model, source, invert) for model in models]
        except UserError as error:
            message = f"the image cannot be used: {error}"
            raise gradio.Error(message, print_exception=False) from error
        return [
            part
            for model, each in zip(models, answers, strict=True)
            for part in (each.classes, each.seen, describe(model, each.seconds))
        ]

    def show_drawing(drawing: dict[str, Any] | None, invert: bool) -> list[Any]:
        drawn = (drawing or {}).get("composite")
        return show(None if drawn is None else _on_white(drawn), invert)

    title = "Two networks, side by side" if len(models) > 1 else "What is in the picture?"
    with gradio.Blocks(title=title, analytics_enabled=False) as page:
        gradio.Markdown(f"# {title}")
        with gradio.Row():
            with gradio.Column():
                with gradio.Tab("Image"):
                    # As it is in the file: predict decodes it.
                    image = gradio.Image(
                        type="filepath",
                        image_mode=None,
                        sources=["upload", "clipboard"],
                        label="Image",
                        height=340,
                        buttons=["fullscreen"],
                        elem_classes="demo-image",
                    )
                    swap = gradio.Checkbox(label=SWAP)
                with gradio.Tab("Drawing"):
                    drawing = gradio.Sketchpad(
                        type="pil", label="Drawing", height=420, layers=False, buttons=[]
                    )
                    swap_drawn = gradio.Checkbox(label=SWAP)
                    drawn = gradio.Button("Classify the drawing", variant="primary")
            results = [part for model in models for part in _add_panel(gradio, model)]
        image.change(show, [image, swap], results, api_name="classify")
        swap.change(show, [image, swap], results, api_name=False)
        for happens in (drawn.click, swap_drawn.change):
            happens(show_drawing, [drawing, swap_drawn], results, api_name=False)
    return page


def _add_panel(gradio: Any, model: DemoModel) -> list[Any]:
    """Add a network's column, and return its parts that an answer fills."""
    with gradio.Column():
        gradio.HTML(f"<h2>{html.escape(model.name)}</h2>", padding=False)
        return [
            gradio.Label(num_top_classes=TOP, label="Classes"),
            gradio.Image(
                label="As the network sees it",
                height=220,
                format="png",
                interactive=False,
                # Not the one that sends it to Hugging Face.
                buttons=["download", "fullscreen"],
                elem_classes="demo-image",
            ),
            gradio.HTML(padding=False),
        ]


def _on_white(drawing: Image.Image) -> Image.Image:
    """Lay a drawing over white, as it is seen while it is drawn."""
    layer = drawing.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def classify(model: DemoModel, source: str | Path | Image.Image, invert: bool = False) -> Answer:
    """Classify an image, and measure how long the network takes for it.

    Raises:
        UserError: the image cannot be read.
    """
    checkpoint = model.checkpoint
    prepared = prepare(source, checkpoint, invert=invert)
    with ONE_AT_A_TIME:
        [found] = predict(checkpoint, [source], top=TOP, invert=invert, device="cpu")
        network = checkpoint.model.cpu().eval()
        with torch.inference_mode():
            [times] = time_in_turns([lambda: network(prepared)], RUNS)
    seen = _as_picture(prepared, checkpoint.mean, checkpoint.std)
    return Answer(dict(found.top), seen, statistics.median(times))


def _as_picture(prepared: Tensor, mean: Sequence[float], std: Sequence[float]) -> Image.Image:
    """Return a prepared image (1, C, H, W) as a picture."""
    means, stds = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))
    pixels = ((prepared[0] * stds + means) * 255).round().clamp(0, 255).to(torch.uint8)
    values = pixels.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
    picture = Image.fromarray(values)
    times = max(1, SHOWN_SIDE // max(picture.size))
    return picture.resize((times * picture.width, times * picture.height), Image.Resampling.NEAREST)


def describe(model: DemoModel, seconds: float) -> str:
    """Return a line of HTML: time, and size of the file."""
    kilobytes = math.ceil(model.bytes / 1000)
    size = f"{kilobytes / 1000:.1f} MB" if kilobytes >= 1000 else f"{kilobytes} KB"
    return f"<p><b>{1000 * seconds:.2f} ms</b> per image, file of <b>{size}</b></p>"
