"""Two processes that torchrun starts, or that have the variables which it sets."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tiny import Command, Compress
from torch.distributed import TCPStore

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")

# What processes agree by; as that of torchrun, it outlasts them.
STORES: list[TCPStore] = []


def start(folder: Path, *words: object) -> subprocess.Popen[str]:
    """Start two processes with torchrun, in `folder`, where the networks are."""
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(folder), *sys.path]),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        [*TORCHRUN, *map(str, words)],
        env=env,
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def finish(started: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    """Wait for the processes and return what they printed, and their errors."""
    try:
        out, err = started.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, signal.SIGKILL)
        raise
    assert started.returncode == code, out + err
    return out, err


def start_both(start: Compress, *arguments: object, **options: Any) -> list[Command]:
    """Do what torchrun does with `compress ARGUMENTS…`, sooner, with the fixture `start`."""
    STORES.append(TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False))
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(STORES[-1].port), "WORLD_SIZE": "2"}
    shared |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    own = [{"RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
    return [start(*arguments, env=shared | each, **options) for each in own]


def finish_both(both: list[Command], code: int = 0) -> tuple[str, str]:
    """Wait for the processes and return what they printed, and their errors."""
    codes = [each.wait() for each in both]
    out, err = "".join(each.out for each in both), "".join(each.err for each in both)
    assert codes == [code, code], out + err
    return out, err


def find_process(torchrun: int, rank: int) -> int:
    """Return the id of the process that torchrun started as this rank."""
    for process in map(int, Path(f"/proc/{torchrun}/task/{torchrun}/children").read_text().split()):
        if f"\0RANK={rank}\0".encode() in Path(f"/proc/{process}/environ").read_bytes():
            return process
    raise ProcessLookupError(rank)
