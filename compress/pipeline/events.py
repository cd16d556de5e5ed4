"""Events of a run and of its stages, besides the events of their training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from compress.pipeline.run_dir import StageResult
from compress.runtime.errors import UserError, did_you_mean
from compress.training.events import Events

if TYPE_CHECKING:
    from compress.pipeline.run_start import RunStart

T = TypeVar("T")


class RunEvents(Events):
    """Receives the events of a run and ignores them; override what you need."""

    @property
    def width(self) -> int | None:
        """Most characters in a line of the table of `on_stage_end`; None if any will do."""
        return None

    def on_run_start(self, run: RunStart) -> None:
        """Called before the stages that are left, if any are."""

    def on_run_end(self, results: Sequence[StageResult], seconds: float) -> None:
        """Called when all is done and saved.

        Args:
            results: the results of all stages, with their accuracy on the test split.
            seconds: wall time of the run, in all calls together.
        """

    def on_stage_start(self, number: int, total: int, name: str, about: str) -> None:
        """Called when stage `number` of `total` starts; `about` describes it in a few words."""

    def on_stage_end(self, result: StageResult, before: StageResult | None, table: str) -> None:
        """Called when a stage is done.

        Args:
            result: the stage's result.
            before: the result of the stage before it, if there was one.
            table: torchinfo's table of the stage's model.
        """


# The names of all events.
EVENTS = (
    *("on_run_start", "on_run_end", "on_stage_start", "on_stage_end"),
    *("on_train_start", "on_epoch_end", "log", "progress"),
)


class Callbacks(RunEvents):
    """Passes events on to several receivers, in order.

    Args:
        receivers: objects with some of the methods of `RunEvents`, or mappings from the methods'
            names to functions.

    Raises:
        UserError: a receiver has none of the methods, or a mapping has another name.

    Example:
        >>> Callbacks([{"log": print}]).log("hello")
        hello
    """

    def __init__(self, receivers: Sequence[Any]) -> None:
        self._functions: dict[str, list[Callable[..., Any]]] = {name: [] for name in EVENTS}
        for receiver in receivers:
            for name, function in _find_functions(receiver).items():
                self._functions[name].append(function)
        widths = [getattr(receiver, "width", None) for receiver in receivers]
        self._width = min((width for width in widths if isinstance(width, int)), default=None)

    @property
    def width(self) -> int | None:
        return self._width

    def on_run_start(self, run: RunStart) -> None:
        for each in self._functions["on_run_start"]:
            each(run)

    def on_run_end(self, results: Sequence[StageResult], seconds: float) -> None:
        for each in self._functions["on_run_end"]:
            each(results, seconds)

    def on_stage_start(self, number: int, total: int, name: str, about: str) -> None:
        for each in self._functions["on_stage_start"]:
            each(number, total, name, about)

    def on_stage_end(self, result: StageResult, before: StageResult | None, table: str) -> None:
        for each in self._functions["on_stage_end"]:
            each(result, before, table)

    def on_train_start(self, epochs: float, steps: int, done: int) -> None:
        for each in self._functions["on_train_start"]:
            each(epochs, steps, done)

    def on_epoch_end(self, epochs: float, history: list[dict[str, float]]) -> None:
        for each in self._functions["on_epoch_end"]:
            each(epochs, history)

    def log(self, text: str) -> None:
        for each in self._functions["log"]:
            each(text)

    def progress(self, items: Iterable[T], total: int, label: str) -> Iterable[T]:
        for each in self._functions["progress"]:
            items = each(items, total, label)
        return items


def to_events(events: RunEvents | None, callbacks: Any) -> RunEvents | None:
    """Return what receives the events of a run: `events`, the callbacks, or both.

    Args:
        callbacks: one receiver of `Callbacks`, or a list of them.
    """
    if callbacks is None:
        return events
    receivers = callbacks if isinstance(callbacks, list | tuple) else [callbacks]
    return Callbacks([*([] if events is None else [events]), *receivers])


def _find_functions(receiver: Any) -> dict[str, Callable[..., Any]]:
    known = ", ".join(EVENTS)
    if isinstance(receiver, Mapping):
        for name, function in receiver.items():
            if name not in EVENTS or not callable(function):
                hint = did_you_mean(str(name), EVENTS)
                raise UserError(f"callbacks: {name!r} is no event{hint}; functions for {known}")
        return dict(receiver)
    found = {name: getattr(receiver, name, None) for name in EVENTS}
    functions = {name: each for name, each in found.items() if callable(each)}
    if not functions or isinstance(receiver, type):
        kind = receiver.__name__ if isinstance(receiver, type) else type(receiver).__name__
        what = "is a class, not an object" if isinstance(receiver, type) else "has no event"
        raise UserError(f"callbacks: {kind} {what}; it needs some of the methods {known}")
    return functions
