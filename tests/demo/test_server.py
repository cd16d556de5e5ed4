"""The page that gradio serves, in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner
from code_blocks import ROOT
from PIL import Image
from tiny import Tiny
from torch import Tensor, nn

from compress.cli.main import main
from compress.demo.models import DemoModel
from compress.demo.server import classify, find_port
from compress.deployment.predict import predict
from compress.models.checkpoint import Checkpoint
from compress.recipe.model_spec import ModelSpec
from compress.runtime.errors import UserError


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.slow
def test_the_page_answers_as_predict_does_and_ends_by_sigterm(
    networks: tuple[Path, Path], tiny: Tiny, tmp_path: Path
) -> None:
    pytest.importorskip("gradio")
    client = pytest.importorskip("gradio_client")
    port, image = free_port(), tiny.data / "test" / "cross" / "001.png"
    scratch, damaged = tmp_path / "scratch", tmp_path / "damaged.png"
    scratch.mkdir()
    damaged.write_bytes(image.read_bytes()[:100])
    words = ["-w", networks[0], "-w", networks[1], "--builder", "tinynets:student"]
    command = [sys.executable, "-m", "compress", "demo", *map(str, words), "--port", str(port)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tiny.root)])}
    env["TMPDIR"] = str(scratch)
    with (tmp_path / "out").open("w+") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=env, cwd=tmp_path)
        try:
            # Start and end are eight seconds of work, on a machine that may have other work.
            until = time.monotonic() + 400
            while "serving at" not in (tmp_path / "out").read_text():
                assert process.poll() is None and time.monotonic() < until
                time.sleep(0.2)
            asked = client.Client(f"http://127.0.0.1:{port}", verbose=False)
            found = asked.predict(client.handle_file(image), False, api_name="/classify")
            assert list(scratch.rglob(image.name))
            with pytest.raises(Exception, match="cannot be used"):
                asked.predict(client.handle_file(damaged), False, api_name="/classify")
            process.send_signal(signal.SIGTERM)
            assert process.wait(200) == 143, (tmp_path / "out").read_text()
        finally:
            process.kill()
    assert "Traceback" not in (tmp_path / "out").read_text()
    assert not list(scratch.rglob("*.png"))
    [expected] = predict(networks[1], image, top=4)
    shown = {each["label"]: each["confidence"] for each in found[3]["confidences"]}
    assert shown == pytest.approx(dict(expected.top), abs=1e-5)
    assert found[0]["label"] in ("a", "b", "c", "d") and re.search(r"\d ms.*KB", found[2])


def test_networks_answer_one_visitor_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    inside, most = 0, 0

    def forward(model: nn.Module, images: Tensor) -> Tensor:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.001)
        inside -= 1
        return images.mean((2, 3))

    monkeypatch.setattr(nn.Identity, "forward", forward)
    half, classes = (0.5,) * 3, ("a", "b", "c")
    spec = ModelSpec("tinynets:student")
    known = Checkpoint(nn.Identity(), spec, classes, (3, 8, 8), half, half, "made up")
    model = DemoModel("a", Path("a.onnx"), known)
    with ThreadPoolExecutor(3) as visitors:
        image = Image.new("RGB", (8, 8))
        answers = list(visitors.map(lambda _: classify(model, image), range(3)))
    assert most == 1 and len(answers) == 3


def test_a_port_in_use_is_refused_and_another_one_found() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf":{port}: already in use.*--port"):
            find_port("127.0.0.1", port)
        assert find_port("127.0.0.1") != port


@pytest.mark.parametrize("host", ["192.0.2.1", "no host", "a.invalid", "x" * 300, "a\0b"])
def test_a_host_that_is_not_this_machine_is_refused(host: str) -> None:
    with pytest.raises(UserError, match="--host"):
        find_port(host)


def test_a_missing_gradio_names_the_extra(
    networks: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = CliRunner().invoke(main, ["demo", "-w", str(networks[1])])
    assert done.exit_code == 2 and "pip install 'compress[demo]'" in done.output
