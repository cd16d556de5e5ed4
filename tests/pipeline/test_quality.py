"""Warnings about stages that learn nothing, and cuts from which a network does not recover."""

from __future__ import annotations

from dataclasses import replace

import torch

from compress.pipeline.quality import compare_with_uncut, find_warning, list_warnings
from compress.pipeline.run_dir import StageResult

# Four classes: 40, 20, 20 and 20 % of 500 images.
TARGETS = torch.tensor([0, 0, 1, 2, 3] * 100)


def stages(*vals: tuple[str, float]) -> list[StageResult]:
    results = [
        StageResult(f"{kind} {n}", kind, "net", 1000 // n, 9, val, 1.0, f"{n}.pth")
        for n, (kind, val) in enumerate(vals, start=1)
    ]
    return [replace(result, test=result.val) for result in results]


def test_the_largest_class_is_no_achievement() -> None:
    warning = find_warning(stages(("teach", 0.41)), TARGETS)
    assert warning is not None and "teach 1" in warning and "40.0%" in warning
    assert find_warning(stages(("teach", 0.5)), TARGETS) is None


def test_a_higher_accuracy_on_few_images_is_not_called_lower() -> None:
    few = torch.tensor([0, 0, 1, 1])
    higher, equal = (find_warning(stages(("teach", val)), few) for val in (1.0, 0.5))
    assert higher is not None and "not clearly better" in higher and "of the 4 " in higher
    assert equal is not None and "no better" in equal


def test_a_cut_without_recovery_is_found() -> None:
    broken = stages(("distill", 0.9), ("prune", 0.5), ("finetune", 0.6))
    warning = find_warning(broken, TARGETS)
    assert warning is not None and "finetune 3" in warning and "distill 1 had 90.0%" in warning
    assert (
        find_warning(stages(("distill", 0.9), ("prune", 0.5), ("finetune", 0.85)), TARGETS) is None
    )


def test_the_final_network_is_compared_with_the_student_before_its_cuts() -> None:
    line = compare_with_uncut(stages(("distill", 0.9), ("prune", 0.5), ("finetune", 0.85)))
    assert line == "333 of 1,000 parameters: 85.00% of the test images, 90.00% before the cuts"
    assert compare_with_uncut(stages(("distill", 0.9))) is None


def test_a_cut_that_a_later_stage_makes_good_is_not_mentioned_at_the_end() -> None:
    done = (("distill", 0.9), ("prune", 0.5), ("finetune", 0.6), ("finetune", 0.85))
    assert find_warning(stages(*done[:3]), TARGETS) is not None
    assert list_warnings(stages(*done), TARGETS) == ()
    # Nothing follows a cut at the end.
    assert len(list_warnings(stages(*done[:2]), TARGETS)) == 1
    broken = list_warnings(stages(("teach", 0.4), *done[:3]), TARGETS)
    assert [line.split(":")[0] for line in broken] == ["teach 1", "finetune 4"]
