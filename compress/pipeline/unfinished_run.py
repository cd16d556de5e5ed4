"""The stages of a run that are left: each takes a model by file, and leaves one with its result."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from torch import nn

from compress.data.batches import plain_batches
from compress.data.near_duplicates import note_near_duplicates
from compress.deployment.load_model import load_model
from compress.distillation.method import Teacher
from compress.models import checkpoint
from compress.models.cost import measure_cost, summary_table
from compress.models.modules import published_spec
from compress.pipeline.context import StageContext
from compress.pipeline.events import RunEvents
from compress.pipeline.least_time import StageSeconds, measure_stage_seconds
from compress.pipeline.plan import Plan
from compress.pipeline.pretrained import load_checkpoint
from compress.pipeline.provenance import build_checkpoint, describe_origin
from compress.pipeline.quality import find_warning
from compress.pipeline.run_dir import RunDirectory, StageResult
from compress.pipeline.run_start import RunStart
from compress.pipeline.stages import run_stage
from compress.pipeline.step import Step
from compress.pipeline.time_budget import StageTime, stage_seconds
from compress.runtime import distributed
from compress.runtime.device import device_name, package_versions
from compress.runtime.errors import UserError
from compress.runtime.files import atomic_write
from compress.training.evaluate import measure_scores
from compress.training.state import remove_state


@dataclass(frozen=True)
class UnfinishedRun:
    """A run whose stages are not all done."""

    plan: Plan
    run_dir: RunDirectory
    logits_dir: Path
    events: RunEvents

    def resume(self) -> None:
        """Run the remaining stages, score every stage on the test split, save the final model."""
        plan, run_dir = self.plan, self.run_dir
        self._describe_machine()
        run_dir.write()
        done = tuple(run_dir.results)
        self.events.on_run_start(RunStart(plan, run_dir.path, done, run_dir.seconds))
        for note in plan.data.notes:
            self.events.log(f"{plan.data.name}: {note}")
        for note in plan.notes:
            self.events.log(note)
        for note in run_dir.notes:
            self.events.log(note)
        for result in run_dir.results:
            self.events.log(
                f"{result.name}: done, restored from {run_dir.path / result.checkpoint}"
            )
        for step in plan.steps[len(run_dir.results) :]:
            self._run_step(step)
        self._score_test_split()
        last = load_checkpoint(run_dir.path / plan.steps[-1].file, plan.steps[-1].network)
        network = published_spec(last.network)
        checkpoint.save(replace(last, network=network, origin=self._origin()), run_dir.model)
        if plan.steps[-1].quantize:
            with atomic_write(run_dir.int8_model) as file:
                file.write((run_dir.path / plan.steps[-1].int8_file).read_bytes())
        run_dir.write("done")
        run_dir.tidy(run_dir.logits_dir)
        self.events.on_run_end(run_dir.results, run_dir.manifest["seconds"])

    def _describe_machine(self) -> None:
        plan, manifest = self.plan, self.run_dir.manifest
        budget = plan.limits.as_dict()
        if plan.max_file_bytes is not None:
            budget["bytes"] = plan.max_file_bytes
        written = {("nanoseconds" if axis == "latency" else axis): n for axis, n in budget.items()}
        device, compiled = device_name(plan.device), manifest.get("compiled", {})
        if manifest.get("device", device) != device:
            # On another device, compiling may not pay: decide again, except for finished stages.
            done = {result.name for result in self.run_dir.results}
            compiled = {name: choice for name, choice in compiled.items() if name in done}
        manifest |= {
            "device": device,
            "versions": package_versions(),
            "budget": written,
            "compiled": compiled,
        }

    def _run_step(self, step: Step) -> None:
        """Run one stage: a model in, a model and a result out."""
        plan, run_dir = self.plan, self.run_dir
        about = step.describe(plan.recipe.minutes)
        self.events.on_stage_start(step.index + 1, len(plan.steps) + 1, step.name, about)
        # Models are always loaded from the files of earlier stages, even just after they were
        # written, so that a resumed run computes what an uninterrupted one computes.
        model = self._load_model(plan.steps[step.index - 1]) if step.index else None
        ctx = self._context(step)
        started = time.monotonic()
        if step.train:
            seconds = self._stage_seconds(step)
            ctx = replace(ctx, time=StageTime(plan, step, run_dir, self.events, started, seconds))
        try:
            output = run_stage(model, ctx)
        except UserError as error:
            if ctx.clock:
                # What was too slow may be fast enough once the machine is less busy.
                ctx.clock.kept.clear()
            raise UserError(f"{step.name}: {error}") from error
        cost = measure_cost(output.model, step.input_size, step.sparse)
        scores = ctx.score(output.delivered or output.model)
        result = StageResult(
            name=step.name,
            kind=step.kind,
            network=step.network.name,
            params=cost.params,
            macs=cost.macs,
            val=scores.main,
            val_balanced=scores.second if plan.uneven else None,
            seconds=round(max(time.monotonic() - started, output.seconds), 1),
            checkpoint=step.file,
            image_size=step.image_size,
            epochs=output.epochs,
            milliseconds=_milliseconds(output.model, ctx),
            metric=plan.task.metric,
        )
        # An earlier call has spent some of a resumed stage's time.
        run_dir.add_seconds(max(result.seconds - (time.monotonic() - started), 0.0))
        before = run_dir.results[-1] if run_dir.results else None
        self._save_result(step, output.model, result)
        if distributed.is_main():
            # The result is on the disk, so the stage will not be resumed any more.
            remove_state(ctx.state)
            if ctx.clock:
                ctx.clock.kept.clear()
        width = self.events.width
        table = summary_table(
            output.model, step.input_size, sparse=step.sparse, width=width, cost=cost
        )
        self.events.on_stage_end(run_dir.results[-1], before, table)
        final = step is plan.steps[-1]
        labels = plan.data.val_labels
        if warning := find_warning(run_dir.results, labels, final, plan.task):
            self.events.log(f"  warning: {warning}")

    def _stage_seconds(self, step: Step) -> float | None:
        """Return a stage's part of the time that is left, if the run has a time budget."""
        minutes = self.plan.recipe.minutes
        if minutes is None:
            return None
        left = 60 * minutes - sum(result.seconds for result in self.run_dir.results)
        seconds = self._estimated_seconds
        return stage_seconds(left, seconds.whole[step.index :], seconds.least[step.index :])

    @cached_property
    def _estimated_seconds(self) -> StageSeconds:
        manifest = self.run_dir.manifest
        if "stage_seconds" not in manifest:
            # The run was begun by an earlier version, or does stages again.
            expected = measure_stage_seconds(self.plan)
            manifest |= {"stage_seconds": expected.whole, "least_seconds": expected.least}
        return StageSeconds(manifest["stage_seconds"], manifest["least_seconds"])

    def _save_result(self, step: Step, model: nn.Module, result: StageResult) -> None:
        """Write a stage's weights file, then its result."""
        run_dir, file = self.run_dir, self.run_dir.path / step.file
        run_dir.results.append(result)
        checkpoint.save(build_checkpoint(model, step, self.plan.data, self._origin()), file)
        if distributed.is_main():
            delivered = run_dir.path / step.int8_file if step.quantize else file
            run_dir.results[-1] = replace(result, bytes=delivered.stat().st_size)
        run_dir.results = distributed.broadcast(run_dir.results)
        run_dir.write()

    def _context(self, step: Step) -> StageContext:
        """Return the context of a step's stage."""
        return StageContext(
            self.plan,
            step,
            state=(self.run_dir.path / step.file).with_suffix(".state"),
            logits_dir=self.logits_dir,
            events=self.events,
            teacher=self._load_teacher(step),
            original=self._original if step.prune else None,
            mirrors=self._decide_mirroring(step),
        )

    @cached_property
    def _original(self) -> nn.Module:
        """The student before its first cut. No stage changes it."""
        return self._load_model(self.plan.original)

    def _decide_mirroring(self, step: Step) -> bool:
        """Decide if `step` mirrors its images where the recipe leaves that to the data.

        The first network that knows enough decides, by what it makes of the mirror images of the
        validation split. Until then, nothing is mirrored.
        """
        manifest, decided = self.run_dir.manifest, self.plan.data.mirrors
        if decided is None and step.index > manifest.get("mirrors_by", 1):
            decided = manifest.get("mirrors")
        last = max((i for i in range(step.index) if not self.plan.steps[i].prune), default=None)
        if decided is not None or last is None or not self._leaves_flip_open(step):
            return bool(decided)
        before = self.plan.steps[last]
        ctx = StageContext(self.plan, before, self.run_dir.path, self.logits_dir, self.events)
        found = ctx.measure_mirroring(self._load_model(before))
        if found.mirrors is None:
            return False
        manifest |= {"mirrors": found.mirrors, "mirrors_by": last}
        self.run_dir.write()
        self.events.log(
            f"  images are {'mirrored' if found.mirrors else 'not mirrored'} from here on:"
            f" {before.name} has {found.plain:.1%} on the validation images and"
            f" {found.mirrored:.1%} on their mirror images"
        )
        return found.mirrors

    def _leaves_flip_open(self, step: Step) -> bool:
        return step.prune is not None or (step.train is not None and step.train.flip == "auto")

    def _load_teacher(self, step: Step) -> Teacher | None:
        """Load the network that a step distills from, if there is one.

        With `stop_at_teacher`, there is none if the student was already better when last trained.
        """
        teacher = self.plan.teacher_of(step)
        if teacher is None or step.train is None:
            return None
        val = self.run_dir.results[teacher.index].val
        if step.train.stop_at_teacher and _student_accuracy(self.run_dir.results) > val:
            self.events.log(
                f"  student already beats its teacher ({teacher.name}): training on labels only"
            )
            return None
        return Teacher(self._load_model(teacher), teacher.image_size, val)

    def _load_model(self, step: Step) -> nn.Module:
        """Load the model of a finished step."""
        kept = load_checkpoint(self.run_dir.path / step.file, step.network)
        return self.plan.place(kept.model, step)

    def _load_delivered(self, step: Step) -> nn.Module:
        """Load what a finished step delivers: its model, or the int8 file that it wrote."""
        if not step.quantize:
            return self._load_model(step)
        return load_model(self.run_dir.path / step.int8_file).model

    def _origin(self) -> dict[str, object]:
        plan = self.plan
        return describe_origin(plan.recipe, plan.data.checksum, plan.device, self.run_dir.results)

    def _score_test_split(self) -> None:
        """Read the test split, once, and score every stage's model on it."""
        plan, run_dir = self.plan, self.run_dir
        total = len(plan.steps) + 1
        about = "every stage's model on the test split, read once"
        self.events.on_stage_start(total, total, "test", about)
        pool = plan.data.test().to(plan.device)
        for note in note_near_duplicates(plan.data, pool):
            self.events.log(note)
        scored = []
        pairs = list(zip(plan.steps, run_dir.results, strict=True))
        for step, result in self.events.progress(pairs, len(pairs), "scoring"):
            batches = plain_batches(
                plan.data,
                pool,
                batch_size=plan.scored_at_once(step),
                shard=distributed.shard(),
            )
            scores = measure_scores(
                self._load_delivered(step),
                batches,
                plan.task,
                image_size=step.image_size,
                # The final model is scored in float32, as it will be used.
                exact=all(later.quantize for later in plan.steps[step.index + 1 :]),
            )
            balanced = scores.second if plan.uneven else None
            scored.append(replace(result, test=scores.main, test_balanced=balanced))
        run_dir.results = scored


def _milliseconds(model: nn.Module, ctx: StageContext) -> float | None:
    """Return the time of one image; None for teachers, and if the recipe does not limit time."""
    if ctx.clock is None or ctx.step.kind == "teach" or not distributed.is_main():
        return None
    return round(ctx.clock.measure(model)[0] / 1e6, 4)


def _student_accuracy(results: list[StageResult]) -> float:
    """Return the student's latest validation accuracy, 0 to 1; 0 if it was never trained."""
    trained = (r.val for r in reversed(results) if r.kind in ("distill", "finetune"))
    return next(trained, 0.0)
