"""Events of a run: the start and the end of each stage, besides the events of its training."""

from __future__ import annotations

from compress.pipeline.run_dir import StageResult
from compress.training.events import Events


class RunEvents(Events):
    """Receives the events of a run and ignores them; override what you need."""

    def on_stage_start(self, number: int, total: int, name: str, about: str) -> None:
        """Called when stage `number` of `total` starts; `about` describes it in a few words."""

    def on_stage_end(self, result: StageResult, before: StageResult | None, table: str) -> None:
        """Called when a stage is done.

        Args:
            result: the stage's result.
            before: the result of the stage before it, if there was one.
            table: torchinfo's table of the stage's model.
        """
