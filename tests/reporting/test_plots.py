"""Plots: everything lies inside the picture, and texts do not cover one another."""

from __future__ import annotations

import io
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compress.pipeline.run_dir import StageResult
from compress.reporting.plots import plot_rows, plot_sweep, save_figure, scatter_text
from compress.reporting.published import PUBLISHED, Published


def make_result(params: int, macs: int, test: float) -> StageResult:
    return StageResult(
        "finetune 5",
        "finetune",
        "resnet18",
        params,
        macs,
        val=test,
        seconds=1.0,
        checkpoint="",
        test=test,
    )


def test_texts_of_a_sweep_are_inside_the_picture_and_off_each_other() -> None:
    results = [
        # The network below this one is better.
        make_result(999_572, 114_148_628, 0.9409),
        make_result(99_922, 11_332_834, 0.9446),
        make_result(29_956, 3_125_212, 0.9365),
        make_result(9_888, 2_481_240, 0.9271),
    ]
    figure = plot_sweep(results, PUBLISHED["fashion-mnist"])
    figure.savefig(io.BytesIO(), format="png")
    by_params, by_macs = figure.axes
    assert len(by_params.texts) == 4 + len(PUBLISHED["fashion-mnist"]) and len(by_macs.texts) == 4
    for axes in figure.axes:
        line = axes.transData.transform_path(axes.lines[0].get_path()).interpolated(100).vertices
        frame = axes.get_window_extent()
        boxes = [text.get_window_extent() for text in axes.texts]
        for box in boxes:
            assert frame.x0 <= box.x0 and box.x1 <= frame.x1
            assert frame.y0 <= box.y0 and box.y1 <= frame.y1
            assert box.count_contains(line) == 0
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_a_sweep_names_its_score() -> None:
    results = [replace(make_result(10, 10, test), metric="mIoU") for test in (0.5, 0.4)]
    assert plot_sweep(results).axes[0].get_ylabel() == "test mIoU, %"


def test_rows_are_drawn_with_mean_and_deviation() -> None:
    rows = [
        (["vgg11", "0.0"], [0.90, 0.92]),
        (["vgg11", "0.9"], [0.95]),
        (["vgg13", "0.0"], []),
    ]
    figure = plot_rows(["student", "alpha"], rows)
    [axes] = figure.axes
    first, second, unfinished = axes.containers
    assert first.lines[0].get_xdata() == pytest.approx([91])
    [bar] = first.lines[2][0].get_segments()
    assert bar[:, 0] == pytest.approx([91 - np.sqrt(2), 91 + np.sqrt(2)])
    assert second.lines[0].get_xdata() == pytest.approx([95]) and not second.lines[2]
    assert len(unfinished.lines[0].get_xdata()) == 0
    assert [label.get_text() for label in axes.get_yticklabels()] == ["vgg11", "vgg13"]
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["alpha 0.0", "alpha 0.9"]
    assert first.lines[0].get_color() != second.lines[0].get_color()


def test_rows_without_keys_are_one_point() -> None:
    figure = plot_rows([], [([], [0.5, 0.7])])
    [point] = figure.axes[0].containers
    assert point.lines[0].get_xdata() == pytest.approx([60]) and not figure.legends


@pytest.mark.parametrize("columns", [["name"], ["name", "alpha"], ["alpha", "name"]])
def test_names_of_rows_are_drawn_as_they_are(columns: list[str], tmp_path: Path) -> None:
    name = "$a_$\n"
    row = [name if column == "name" else "0.9" for column in columns]
    figure = plot_rows(columns, [(row, [0.5])])
    save_figure(figure, tmp_path / "plot.png")
    labels = figure.axes[0].get_yticklabels()
    labels += [text for legend in figure.legends for text in legend.get_texts()]
    assert any(r"$a_$\n" in label.get_text() for label in labels)


def test_a_figure_is_saved_as_png(tmp_path: Path) -> None:
    save_figure(plot_rows(["alpha"], [(["0.0"], [0.5])]), tmp_path / "new" / "plot.png")
    with Image.open(tmp_path / "new" / "plot.png") as picture:
        assert picture.format == "PNG"


def test_points_in_a_terminal_are_where_they_should_be() -> None:
    points = [(10.0, 0.5, "a"), (100.0, 0.7, "b"), (1000.0, 0.9, "c")]
    lines = scatter_text(points, "parameters", width=21, height=5).splitlines()
    places = {
        line[i + 2]: (row, i - line.index("│") - 1)
        for row, line in enumerate(lines)
        if (i := line.find("●")) > 0
    }
    assert places == {"c": (0, 20), "b": (2, 10), "a": (4, 0)}
    assert lines[0].startswith(" 90.00 %") and lines[4].startswith(" 50.00 %")
    assert "parameters" in lines[-1] and "×" not in lines[-1]


def test_a_long_name_is_not_cut_in_a_terminal() -> None:
    assert "● one of a very long name" in scatter_text(
        [(10, 0.5, "one of a very long name")], "parameters", width=5
    )


def test_published_results_are_crosses_in_a_terminal() -> None:
    published = [Published("CNN", 1000, 0.9), Published("MLP", 100, 0.7)]
    text = scatter_text([(10, 0.5, "a")], "parameters", published, width=21, height=5)
    lines = text.splitlines()
    assert [line.find("×") - line.find("│") - 1 for line in lines[:3:2]] == [20, 10]
    assert "×" in lines[-1] and "CNN" not in text
