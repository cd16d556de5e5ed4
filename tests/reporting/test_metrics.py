"""Metrics of logits, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics
from torch import Tensor

from compress.data.source import Files, Pixels
from compress.reporting.metrics import SplitLogits, evaluate_logits
from compress.runtime.errors import UserError

CLASSES = tuple("abcdefg")


def split_logits(logits: Tensor, targets: Tensor) -> SplitLogits:
    pixels = Pixels(torch.zeros(len(targets), 1, 1, 1, dtype=torch.uint8), targets)
    classes = CLASSES[: logits.shape[1]]
    return SplitLogits("made up", "test", classes, logits, targets, pixels)


def draw_logits(seed: int, classes: int, images: int, missing: int = 0) -> SplitLogits:
    """Logits that are right more often than not; the last classes have no images."""
    random = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, classes - missing, (images,), generator=random)
    logits = 2 * torch.randn(images, classes, generator=random)
    logits[torch.arange(images), targets] += 2
    return split_logits(logits, targets)


def expected_calibration_error(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Guo et al. 2017, equation 3, with 15 bins."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == targets
    bins = np.minimum((confidence * 15).astype(int), 14)
    chosen = [bins == number for number in range(15) if (bins == number).any()]
    gaps = [abs(right[each].mean() - confidence[each].mean()) * each.mean() for each in chosen]
    return float(sum(gaps))


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 10**6), st.integers(2, 7), st.integers(1, 200), st.sampled_from([1.0, 0.5, 3.0])
)
def test_metrics_are_those_of_scikit_learn(
    seed: int, classes: int, images: int, temperature: float
) -> None:
    found = draw_logits(seed, classes, images, missing=int(classes > 2))
    ours = evaluate_logits(found, temperature=temperature)
    logits, targets = found.logits.numpy().astype(float), found.targets.numpy()
    predicted, numbers = logits.argmax(1), list(range(classes))
    likely = np.exp(logits / temperature)
    likely /= likely.sum(1, keepdims=True)

    assert ours.images == images and ours.classes == found.classes
    assert ours.top1 == metrics.accuracy_score(targets, predicted)
    if classes > 5:
        top5 = metrics.top_k_accuracy_score(targets, logits, k=5, labels=numbers)
        assert ours.top5 == pytest.approx(top5, abs=1e-9)
    else:
        assert ours.top5 is None
    recalls = metrics.recall_score(
        targets, predicted, labels=np.unique(targets), average="macro", zero_division=0
    )
    assert ours.balanced == pytest.approx(recalls, abs=1e-9)
    f1 = metrics.f1_score(targets, predicted, average="macro", zero_division=0)
    assert ours.macro_f1 == pytest.approx(f1, abs=2e-6)
    matrix = metrics.confusion_matrix(targets, predicted, labels=numbers)
    assert [list(row) for row in ours.confusion] == matrix.tolist()
    assert ours.log_loss == pytest.approx(
        metrics.log_loss(targets, likely, labels=numbers), abs=2e-6
    )
    assert ours.calibration_error == pytest.approx(
        expected_calibration_error(likely, targets), abs=1e-5
    )
    scores = metrics.precision_recall_fscore_support(
        targets, predicted, labels=numbers, zero_division=0
    )
    for row, *expected in zip(ours.per_class, *scores, strict=True):
        assert (row.precision, row.recall, row.f1) == pytest.approx(expected[:3], abs=2e-6)
        assert row.images == expected[3]


def test_worst_images_are_wrong_ones_with_the_least_likely_label_first(tmp_path) -> None:
    # Image 0 is right; 3 is as sure as 1 in float32, and more so in its logits.
    logits = torch.tensor([[5.0, 0, 0], [-200, 0, -300], [1, 2, 0], [-300, 0, -400]])
    found = split_logits(logits, torch.tensor([0, 0, 0, 0]))
    worst = evaluate_logits(found).worst
    assert [image.index for image in worst] == [3, 1, 2]
    assert [image.name for image in worst] == ["image 3", "image 1", "image 2"]
    assert {(image.label, image.predicted) for image in worst} == {("a", "b")}
    likely = logits[2].softmax(0)
    assert worst[2].probability == pytest.approx(float(likely[1]), abs=1e-6)
    assert worst[2].label_probability == pytest.approx(float(likely[0]), abs=1e-6)
    assert [image.index for image in evaluate_logits(found, worst=1).worst] == [3]

    names = tuple(f"a/{row}.png" for row in range(4))
    files = SplitLogits(
        "x", "val", found.classes, logits, found.targets, Files(tmp_path, names, found.targets)
    )
    assert [image.path for image in evaluate_logits(files, worst=2).worst] == [
        str(tmp_path / "a" / "3.png"),
        str(tmp_path / "a" / "1.png"),
    ]


def test_logits_that_are_no_numbers_are_refused() -> None:
    logits = torch.tensor([[0.0, float("nan")], [float("inf"), 0.0], [1.0, 0.0]])
    with pytest.raises(UserError, match="2 images"):
        evaluate_logits(split_logits(logits, torch.tensor([0, 1, 0])))
