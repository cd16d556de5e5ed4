"""What a run tells whoever watches it. The library calls these; what is shown is the watcher's business."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class StageResult:
    """A finished stage, as `run.json` keeps it.

    Args:
        name: what it is called in tables, as "prune 2".
        params, macs: torchinfo's count of the model that the stage gave back.
        val, test: top-1 accuracy, 0 to 1; `test` stays None until the run's end.
        seconds: how long it took, interruptions left out.
        checkpoint: its weights file, within the run directory.
        size: the side of the images that it is made for, in pixels; `macs` are for one such image.
        epochs: how many were trained.
        bytes: of its weights file.
    """

    name: str
    kind: str
    network: str
    params: int
    macs: int
    val: float
    seconds: float
    checkpoint: str
    size: int | None = None
    epochs: float = 0
    bytes: int = 0
    test: float | None = None


class Events:
    """A watcher that looks at nothing. The command line's shows progress bars and tables."""

    def begin(self, number: int, total: int, name: str, about: str) -> None:
        """Stage `number` of `total` begins."""

    def track(self, batches: Iterable[T], total: int, label: str) -> Iterable[T]:
        """Hand on `total` batches, one by one."""
        return batches

    def epoch(self, epochs: float, history: list[dict[str, float]]) -> None:
        """Another of `epochs` epochs is over: `epoch`, `loss`, `val` (0 to 1) and `seconds` of each so far.

        `epochs` may end in a part of one: 2.5 are three, the last of them short.
        """

    def end(self, record: StageResult, before: StageResult | None, table: str) -> None:
        """A stage is over; `before` is the one before it, `table` torchinfo's of its result."""

    def note(self, text: str) -> None:
        """Something worth a line: a stage taken from an earlier run, say."""
