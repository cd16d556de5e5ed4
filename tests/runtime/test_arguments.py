"""Arguments of the wrong kind are refused in one line that names them and says what to pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from compress.runtime.arguments import (
    read_channel_values,
    read_normalization,
    require_input_size,
    require_name,
    require_path,
    require_side,
    require_threads,
)
from compress.runtime.errors import UserError


def test_what_is_right_is_returned() -> None:
    assert require_path("a.pth") == require_path(Path("a.pth")) == Path("a.pth")
    assert require_name("resnet18", "network", "'resnet18'") == "resnet18"
    assert require_side(32) == 32
    assert require_input_size([3, 32, 24]) == (3, 32, 24)
    assert read_channel_values(0.5, "mean") == read_channel_values("0.5", "mean") == (0.5,)
    assert read_channel_values([1, 2, 3], "mean") == (1, 2, 3)


@pytest.mark.parametrize("found", [None, 3, Path, {"a": 1}])
def test_what_is_no_path_is_refused(found: Any) -> None:
    with pytest.raises(UserError, match=r"file: .*compress\.save"):
        require_path(found)


def test_what_is_no_name_is_refused() -> None:
    with pytest.raises(UserError, match=r"network: an object of type list .*'resnet18'"):
        require_name(["resnet18"], "network", "'resnet18'")


@pytest.mark.parametrize("found", [(32, 32), 32.0, "32", True, 0, None])
def test_what_is_no_side_is_refused(found: Any) -> None:
    with pytest.raises(UserError, match="image_size = "):
        require_side(found)


@pytest.mark.parametrize("found", [0, 4000, 1.0, "1", True, None])
def test_what_is_no_number_of_threads_here_is_refused(found: Any) -> None:
    assert require_threads(1) == 1
    with pytest.raises(UserError, match=r"threads: .* from 1 to "):
        require_threads(found)


@pytest.mark.parametrize("found", [(32, 32), (1, 3, 32, 32), (3, 0, 32), (3.0, 32, 32), 32, None])
def test_what_is_no_input_size_is_refused(found: Any) -> None:
    with pytest.raises(UserError, match=r"input_size.*\(C, H, W\)"):
        require_input_size(found)


@pytest.mark.parametrize("std", [0, -1.0, (0.5, 0, 0.5)])
def test_a_standard_deviation_is_above_0(std: Any) -> None:
    assert read_normalization(0, [1, 2, 3]) == ((0,), (1, 2, 3))
    with pytest.raises(UserError, match=r"std = .* above 0"):
        read_normalization(0, std)


@pytest.mark.parametrize(
    "found",
    [
        "0.5, 0.5, 0.5",
        "a",
        [0.5, 0.5],
        [],
        None,
        ["a"],
        [[1], [2]],
        float("nan"),
        [1, 1, float("inf")],
    ],
)
def test_what_are_no_channel_values_is_refused(found: Any) -> None:
    with pytest.raises(UserError, match=r"mean = .*one value, or three"):
        read_channel_values(found, "mean")
