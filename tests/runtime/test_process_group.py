"""Processes of a run exchange values, and are one process without torchrun."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tiny import Compress, enter
from torchrun import start_both

from compress.runtime import distributed
from compress.runtime.errors import UserError
from compress.runtime.files import write_text


def exchange(out: Path) -> None:
    """Write what this process gets from the others; then fail in each of them."""
    assert distributed.world_size() == 1
    with distributed.process_group():
        rank = distributed.rank()
        found = {
            "world_size": distributed.world_size(),
            "local_rank": distributed.local_rank(),
            "is_main": distributed.is_main(),
            "shard": distributed.shard(),
            "broadcast": distributed.broadcast({"from": rank}),
            "sum": distributed.all_reduce_sum(torch.tensor([1, 10 * rank])).tolist(),
        }
        (out / f"{rank}.json").write_text(json.dumps(found))
        write_text(out / "written-by", str(rank))
        distributed.require_single_process("an experiment")


def exchange_in_process(words: list[str], *place: Any) -> None:
    """Stand in for `command_line`."""
    enter(*place)
    try:
        exchange(Path(words[0]))
    except UserError as error:
        sys.exit(f"error: {error}")


@pytest.mark.slow
def test_processes_exchange_values_and_report_an_error_once(
    start: Compress, tmp_path: Path
) -> None:
    started = start_both(start, tmp_path, target=exchange_in_process)
    codes, err = sorted(each.wait() for each in started), "".join(each.err for each in started)
    # Only the first to fail reports it.
    assert codes == [1, 2], err
    both = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert [found["shard"] for found in both] == [[0, 2], [1, 2]]
    assert [found["local_rank"] for found in both] == [0, 1]
    assert [found["is_main"] for found in both] == [True, False]
    for found in both:
        assert found["world_size"] == 2 and found["broadcast"] == {"from": 0}
        assert found["sum"] == [2, 10]
    assert (tmp_path / "written-by").read_text() == "0"
    assert err.count("error: an experiment runs in one process") == 1


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with distributed.process_group():
        assert (distributed.world_size(), distributed.rank(), distributed.local_rank()) == (1, 0, 0)
        assert distributed.is_main() and distributed.shard() == (0, 1)
        value, tensor = object(), torch.ones(2)
        assert distributed.broadcast(value) is value
        assert distributed.all_reduce_sum(tensor) is tensor
        distributed.require_single_process("an experiment")


def test_an_incomplete_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    for name in ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with (
        pytest.raises(UserError, match=r"not LOCAL_RANK, MASTER_ADDR, MASTER_PORT.*torchrun"),
        distributed.process_group(),
    ):
        pass


@pytest.mark.parametrize(
    ("gpus", "backends"), [(True, {"cpu:gloo", "cuda:nccl"}), (False, {"gloo"})]
)
def test_values_travel_through_cpus_and_gradients_through_gpus(
    monkeypatch: pytest.MonkeyPatch, gpus: bool, backends: set[str]
) -> None:
    for name in distributed.REQUIRED:
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus)
    monkeypatch.setattr(dist, "is_nccl_available", lambda: True)
    monkeypatch.setattr(dist, "rendezvous", lambda *_, **__: iter([(None, 0, 2)]))
    chosen: list[str] = []

    class Chosen(Exception):
        pass

    def choose(backend: str, **_: object) -> None:
        chosen.append(backend)
        raise Chosen

    monkeypatch.setattr(dist, "init_process_group", choose)
    with pytest.raises(Chosen), distributed.process_group():
        pass
    assert set(chosen[0].split(",")) == backends
