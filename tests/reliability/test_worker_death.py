"""If a process of a run dies, the line that matters comes last, once. The processes are real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny import NETWORKS, Tiny, wait_for

from compress.cli.main import main
from compress.runtime import launch as launching
from compress.runtime.distributed import RESUME_HINT
from compress.runtime.launch import launch

# Waits in a training step of rank 0 until it is killed, once a file says so.
GATE = """
import os
import pathlib
import time


class Gate(nn.Module):
    def forward(self, images):
        if self.training and pathlib.Path("gate").exists():
            pathlib.Path("at-gate-" + os.environ["RANK"]).write_text(str(os.getpid()))
            while os.environ["RANK"] == "0" and pathlib.Path("gate").exists():
                time.sleep(0.01)
        return images
"""


@pytest.fixture
def gated(tiny: Tiny, tmp_path: Path) -> Iterator[Path]:
    """A folder with a recipe whose networks wait at the gate."""
    networks = NETWORKS.replace("        _block(3,", "        Gate(),\n        _block(3,")
    (tmp_path / "gatednets.py").write_text(networks.replace("nn\n", f"nn\n{GATE}", 1))
    recipe = tiny.recipe.read_text().replace("tinynets", "gatednets")
    (tmp_path / "gated.toml").write_text(recipe)
    (tmp_path / "gate").touch()
    yield tmp_path
    (tmp_path / "gate").unlink(missing_ok=True)


@contextmanager
def starting(folder: Path) -> Iterator[subprocess.Popen[str]]:
    path = os.pathsep.join([str(folder), *sys.path])
    words = ("-m", "compress", "run", "gated.toml", "--out", "run", "--processes", "2")
    started = subprocess.Popen(
        [sys.executable, *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield started
    finally:
        # Which ends those that it has started.
        started.terminate()
        started.wait()


def is_gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{process}/stat").read_text().split()[2] == "Z"


@pytest.mark.slow
def test_the_last_line_says_which_process_died(gated: Path) -> None:
    files = [gated / f"at-gate-{rank}" for rank in (0, 1)]
    with starting(gated) as started:
        wait_for(lambda: all(file.exists() and file.read_text() for file in files), seconds=240)
        workers = [int(file.read_text()) for file in files]
        os.kill(workers[1], signal.SIGKILL)
        _, err = started.communicate(timeout=240)
    last = err.splitlines()[-1]
    assert started.returncode == 2
    assert "process 1" in last and "SIGKILL" in last and last.endswith(RESUME_HINT)
    assert err.count("error: ") == 1 and "Traceback" not in err
    assert all(map(is_gone, workers))


# A process of a run: the others wait until they are told to end, and report that.
WORKER = """
import os, signal, sys, time

def end(*_):
    sys.exit("error: another process is gone")

signal.signal(signal.SIGTERM, end)
os.write(2, b"a warning\\n")
if os.environ["RANK"] == "1":
    {death}
while {waits}:
    time.sleep(0.01)
"""


@pytest.mark.parametrize(
    ("death", "code", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", 2, "process 1 was ended by SIGKILL"),
        ('sys.exit("error: the cause")', 1, "error: the cause"),
        ("sys.exit(3)", 3, "error: "),
    ],
)
def test_the_cause_is_the_last_line(death: str, code: int, words: str) -> None:
    lines: list[str] = []
    script = WORKER.format(death=death, waits=True)
    found, last = launch(["-c", script], 3, lines.append)
    assert found == code and words in last and last.startswith("error: ")
    assert set(lines) == {"a warning"}


def test_processes_that_end_well_say_nothing() -> None:
    lines: list[str] = []
    script = WORKER.format(death="pass", waits=False)
    assert launch(["-c", script], 3, lines.append) == (0, "")
    assert lines == ["a warning"] * 3


def test_interrupting_the_launch_ends_its_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[str]] = []

    def interrupt(workers: list[launching._Worker]) -> None:
        started.extend(worker.process for worker in workers)
        raise KeyboardInterrupt

    monkeypatch.setattr(launching, "_wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        launch(["-c", WORKER.format(death="pass", waits=True)], 2, lambda line: None)
    assert len(started) == 2 and all(process.poll() is not None for process in started)


def test_a_mistake_is_found_before_processes_start() -> None:
    refused = CliRunner().invoke(main, ["run", "no-recipe", "--processes", "2"])
    assert refused.exit_code == 2 and refused.stderr.count("\n") == 1


def test_processes_do_not_start_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused = CliRunner().invoke(main, ["run", "--budget", "100k", "--processes", "2"])
    assert refused.exit_code == 2 and "torchrun" in refused.stderr
