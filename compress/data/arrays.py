"""Arrays and tensors of images, in the layouts and ranges in which people have them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compress.data.color import DEEP_WHITES
from compress.data.source import Normalization, fit_channels
from compress.runtime.errors import UserError

# Floats this far outside of 0 to 1 are rounding errors; more, if a normalization is undone.
ROUNDING, UNDONE = 1e-3, 0.05

# Converts floats, (N, C, H, W), to uint8; returns None if their values are not on this scale.
Scale = Callable[[Any], Any]


class ScaleError(UserError):
    """Floats that are on none of the scales."""


def is_array(found: object) -> bool:
    """Return True for NumPy arrays and tensors."""
    return isinstance(found, np.ndarray | Tensor)


def is_single_image(array: Any, channels: int = 1) -> bool:
    """Return True if an array is one image: (H, W), or three dimensions with one of channels.

    Three dimensions without channels, (N, H, W), are grey images.

    Args:
        channels: those that the network takes. For one that takes colours, (4, H, W) may be an
            image with alpha as well.

    Raises:
        UserError: the array may be one image or four grey ones.

    Example:
        >>> [is_single_image(np.zeros(shape)) for shape in ((28, 28), (28, 28, 3), (9, 28, 28))]
        [True, True, False]
    """
    shape = tuple(array.shape)
    if len(shape) != 3:
        return len(shape) == 2
    first, last = shape[0], shape[-1]
    # Two channels are refused later; images of two or four pixels are unlikely.
    if first in (1, 3) or last in (1, 3) or (last in (2, 4) and min(shape[:2]) > 4):
        return True
    if first == 4 and channels > 1:
        raise UserError(
            f"an array of shape {shape}: pass one image as {(1, *shape)}, or grey ones as"
            f" {(*shape, 1)}"
        )
    return False


def is_float(images: Any) -> bool:
    """Return True for arrays and tensors of floats."""
    if isinstance(images, Tensor):
        return images.is_floating_point()
    return isinstance(images, np.ndarray) and images.dtype.kind == "f"


def list_scales(normalization: Normalization | None = None) -> tuple[Scale, ...]:
    """Return the scales that floats may have, the likeliest first.

    They are 0 to 1, whole numbers of 0 to 255, and those of a normalization, which is undone.
    """
    undo = () if normalization is None else (partial(_scale_normalized, normalization),)
    return (_scale_unit, _scale_whole, *undo)


def images_to_pixels(array: Any, scales: Sequence[Scale] | None = None) -> Tensor:
    """Convert many images to uint8 (N, C, H, W), C = 1 or 3.

    Args:
        array: an array or tensor (N, H, W), (N, H, W, C) or (N, C, H, W). Where both orders are
            possible, arrays have their channels last and tensors first. Values are uint8; uint16;
            other integers of 0 to 255; or floats.
        scales: those that floats may have, of which the first that fits all of them is taken;
            `list_scales()` if left out.

    Raises:
        ScaleError: floats are on none of the scales.
        UserError: the shape or the values are others.
    """
    values = _to_numpy(array)
    if values.ndim not in (3, 4) or 0 in values.shape:
        raise UserError(
            f"images of shape {tuple(values.shape)}; expected (N, H, W), (N, H, W, C) or"
            " (N, C, H, W)"
        )
    if values.ndim == 3:
        values = values[:, None]
    elif _has_channels_last(values.shape, isinstance(array, Tensor)):
        values = np.moveaxis(values, -1, 1)
    elif values.shape[1] not in (1, 3):
        raise UserError(
            f"images of shape {tuple(values.shape)}; they must have one channel, or three: convert"
            " them to RGB"
        )
    return torch.from_numpy(np.ascontiguousarray(_to_bytes(values, scales)))


def image_to_pixels(array: Any, scales: Sequence[Scale] | None = None) -> Tensor:
    """Convert one image, (H, W), (H, W, C) or (C, H, W), to uint8 (C, H, W).

    Values are those of `images_to_pixels`.

    Raises:
        UserError: the shape or the values are others.
    """
    if array.ndim not in (2, 3):
        raise UserError(f"an image of shape {tuple(array.shape)}; expected (H, W, C) or (C, H, W)")
    return images_to_pixels(array[None], scales)[0]


def to_one_scale(images: Sequence[Any]) -> list[Any]:
    """Convert the arrays of floats among images to uint8, by the first scale that fits them all.

    They stay as they are if none does.
    """
    found = [is_float(each) and 0 not in each.shape for each in images]
    for scale in list_scales():
        with suppress(ScaleError):
            pairs = zip(images, found, strict=True)
            return [_rescale(each, scale) if floats else each for each, floats in pairs]
    return list(images)


def _rescale(array: Any, scale: Scale) -> Any:
    values = _scale_floats(_to_numpy(array), (scale,))
    return torch.from_numpy(values) if isinstance(array, Tensor) else values


def _to_numpy(array: Any) -> Any:
    if not isinstance(array, Tensor):
        return np.asarray(array)
    array = array.detach().cpu()
    return (array.float() if array.is_floating_point() else array).numpy()


def _has_channels_last(shape: tuple[int, ...], is_tensor: bool) -> bool:
    first, last = shape[1] in (1, 3), shape[-1] in (1, 3)
    return last and not (first and is_tensor)


def _to_bytes(values: Any, scales: Sequence[Scale] | None) -> Any:
    """Scale the values of (N, C, H, W) to 0 to 255."""
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * 255
    if values.dtype == np.uint16:
        return _scale_deep(values)
    if values.dtype.kind == "f":
        return _scale_floats(values, list_scales() if scales is None else scales)
    if values.dtype.kind not in "iu":
        raise UserError(f"images of type {values.dtype}; pass uint8, or floats of 0 to 1")
    low, high = values.min(), values.max()
    if low < 0 or high > 255:
        raise UserError(f"images of {low} to {high}; integers must be 0 to 255")
    return values.astype(np.uint8)


def _scale_deep(values: Any) -> Any:
    """Scale 16 bits to 8, image by image, as `convert_to_rgb` does."""
    brightest = values.reshape(len(values), -1).max(axis=1)
    white = np.where(brightest <= DEEP_WHITES[0], *DEEP_WHITES).astype(np.float32)
    return np.round(values * np.float32(255) / white[:, None, None, None]).astype(np.uint8)


def _scale_floats(values: Any, scales: Sequence[Scale]) -> Any:
    for scale in scales:
        scaled = scale(values)
        if scaled is not None:
            return scaled
    raise ScaleError(
        f"images of {values.min():.3g} to {values.max():.3g}; pass uint8, or floats of 0 to 1:"
        " leave the normalization out, or name it by mean= and std="
    )


def _scale_unit(values: Any) -> Any:
    return _round(values) if _is_within(values, ROUNDING) else None


def _scale_whole(values: Any) -> Any:
    whole = _is_within(values / 255, 0) and bool((values == np.round(values)).all())
    return values.astype(np.uint8) if whole else None


def _scale_normalized(normalization: Normalization, values: Any) -> Any:
    mean, std = (
        np.array(fit_channels(each, values.shape[1]), values.dtype).reshape(1, -1, 1, 1)
        for each in normalization
    )
    undone = values * std + mean
    return _round(undone) if _is_within(undone, UNDONE) else None


def _is_within(values: Any, margin: float) -> bool:
    """Return True if all values are 0 to 1; NaN is not."""
    return bool(values.min() >= -margin and values.max() <= 1 + margin)


def _round(values: Any) -> Any:
    return np.clip(np.round(values * 255), 0, 255).astype(np.uint8)
