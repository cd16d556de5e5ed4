"""If a process of a run dies, the line that matters comes last, once. The processes are real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny import NETWORKS, Tiny, wait_for

from compress.cli.main import main
from compress.runtime.distributed import RESUME_HINT

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


def start(folder: Path) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(folder), *sys.path])
    words = ("-m", "compress", "run", "gated.toml", "--out", "run", "--processes", "2")
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def is_gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{process}/stat").read_text().split()[2] == "Z"


@pytest.mark.slow
def test_the_last_line_says_which_process_died(gated: Path) -> None:
    started = start(gated)
    files = [gated / f"at-gate-{rank}" for rank in (0, 1)]
    wait_for(lambda: all(file.exists() and file.read_text() for file in files), seconds=240)
    workers = [int(file.read_text()) for file in files]
    os.kill(workers[1], signal.SIGKILL)
    _, err = started.communicate(timeout=240)
    last = err.splitlines()[-1]
    assert started.returncode == 2
    assert "process 1" in last and "SIGKILL" in last and last.endswith(RESUME_HINT)
    assert err.count("error: ") == 1 and "Traceback" not in err
    assert all(map(is_gone, workers))


def test_a_mistake_is_found_before_processes_start() -> None:
    refused = CliRunner().invoke(main, ["run", "no-recipe", "--processes", "2"])
    assert refused.exit_code == 2 and refused.stderr.count("\n") == 1


def test_processes_do_not_start_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused = CliRunner().invoke(main, ["run", "--budget", "100k", "--processes", "2"])
    assert refused.exit_code == 2 and "torchrun" in refused.stderr
