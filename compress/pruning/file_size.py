"""How to land on the size of a file, of which only a part is the network's tensors: by looking at the file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor, nn

from compress.models.cost import measure_cost
from compress.pruning.importance import Loss
from compress.pruning.pruner import prune
from compress.recipe.budget import Limits


def prune_to(
    model: nn.Module,
    example: Tensor,
    limits: Limits,
    *,
    room: Callable[[nn.Module], int] | None = None,
    importance: str = "magnitude",
    losses: Sequence[Loss] | None = None,
    whole: nn.Module | None = None,
    round_to: int = 1,
    note: Callable[[str], None] = lambda text: None,
) -> nn.Module:
    """A copy of `model`, pruned by whole channels to `limits`; or `model` itself, if its file has room for it as it is.

    Args:
        room: the bytes that the budget of a file leaves with a network; below 0, it is too large. The limit of bytes
            reckons with the most that what is not tensors can take: the tensors get the rest of it.
        importance, losses, whole, multiple, note: as for `compress.pruning.pruner.prune`.

    Raises:
        UserError: the budget is out of the model's reach, or the model cannot be pruned.
    """
    full = measure_cost(model, (example.shape[1], example.shape[2], example.shape[3]))
    if room is not None and room(model) >= 0 and replace(limits, bytes=None).fits(full):
        return model

    def cut(bytes: int | None) -> tuple[nn.Module, list[str]]:
        said: list[str] = []
        pruned = prune(
            model,
            example,
            limits.params,
            macs=limits.macs,
            bytes=bytes,
            importance=importance,
            losses=losses,
            whole=whole,
            round_to=round_to,
            note=said.append,
        )
        return pruned, said

    done, said = cut(limits.bytes)
    if limits.bytes is not None and room is not None:
        most, left = limits.bytes, room(done)
        for attempt in range(
            8
        ):  # a wider network's file tells of more than tensors: what is over then is taken back
            more = max(min(most + left, full.bytes - 1), limits.bytes)
            if more == most:
                break
            most, wider = more, cut(more)
            left = room(wider[0])
            if left >= 0:
                done, said = wider
                break
            left *= 2**attempt  # widths go in steps: as much again may be over the next time
    for line in said:
        note(line)
    return done
