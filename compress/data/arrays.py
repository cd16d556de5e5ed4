"""Arrays and tensors of images, in the layouts and ranges in which people have them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from compress.data.source import Normalization, fit_channels
from compress.runtime.errors import UserError

# Floats this far outside of 0 to 1 are rounding errors; more, if a normalization is undone.
ROUNDING, UNDONE = 1e-3, 0.05


def is_array(found: object) -> bool:
    """Return True for NumPy arrays and tensors."""
    return isinstance(found, np.ndarray | Tensor)


def is_single_image(array: Any) -> bool:
    """Return True if an array is one image: (H, W), or three dimensions with one of channels.

    Three dimensions without channels, (N, H, W), are grey images.

    Example:
        >>> [is_single_image(np.zeros(shape)) for shape in ((28, 28), (28, 28, 3), (9, 28, 28))]
        [True, True, False]
    """
    shape = tuple(array.shape)
    return len(shape) == 2 or (len(shape) == 3 and (shape[0] in (1, 3) or shape[-1] in (1, 3)))


def images_to_pixels(array: Any, normalization: Normalization | None = None) -> Tensor:
    """Convert many images to uint8 (N, C, H, W), C = 1 or 3.

    Args:
        array: an array or tensor (N, H, W), (N, H, W, C) or (N, C, H, W). Where both orders are
            possible, arrays have their channels last and tensors first. Values are uint8; uint16;
            other integers of 0 to 255; or floats of 0 to 1, or whole numbers of 0 to 255.
        normalization: undone in floats that are neither: mean and standard deviation by channel.

    Raises:
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
    return torch.from_numpy(np.ascontiguousarray(_to_bytes(values, normalization)))


def image_to_pixels(array: Any, normalization: Normalization | None = None) -> Tensor:
    """Convert one image, (H, W), (H, W, C) or (C, H, W), to uint8 (C, H, W).

    Values are those of `images_to_pixels`.

    Raises:
        UserError: the shape or the values are others.
    """
    if array.ndim not in (2, 3):
        raise UserError(f"an image of shape {tuple(array.shape)}; expected (H, W, C) or (C, H, W)")
    return images_to_pixels(array[None], normalization)[0]


def _to_numpy(array: Any) -> Any:
    if not isinstance(array, Tensor):
        return np.asarray(array)
    array = array.detach().cpu()
    return (array.float() if array.is_floating_point() else array).numpy()


def _has_channels_last(shape: tuple[int, ...], is_tensor: bool) -> bool:
    first, last = shape[1] in (1, 3), shape[-1] in (1, 3)
    return last and not (first and is_tensor)


def _to_bytes(values: Any, normalization: Normalization | None) -> Any:
    """Scale the values of (N, C, H, W) to 0 to 255."""
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * 255
    if values.dtype == np.uint16:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if values.dtype.kind not in "iuf":
        raise UserError(f"images of type {values.dtype}; pass uint8, or floats of 0 to 1")
    low, high = float(values.min()), float(values.max())
    if values.dtype.kind in "iu":
        if low < 0 or high > 255:
            raise UserError(f"images of {low:g} to {high:g}; integers must be 0 to 255")
        return values.astype(np.uint8)
    if low >= -ROUNDING and high <= 1 + ROUNDING:
        return _round(values)
    if low >= 0 and high <= 255 and bool((values == np.round(values)).all()):
        return values.astype(np.uint8)
    if normalization is not None:
        mean, std = (
            np.array(fit_channels(each, values.shape[1]), values.dtype).reshape(1, -1, 1, 1)
            for each in normalization
        )
        undone = values * std + mean
        if float(undone.min()) >= -UNDONE and float(undone.max()) <= 1 + UNDONE:
            return _round(undone)
    raise UserError(
        f"images of {low:.3g} to {high:.3g}; pass uint8, or floats of 0 to 1: leave the"
        " normalization out, or name it by mean= and std="
    )


def _round(values: Any) -> Any:
    return np.clip(np.round(values * 255), 0, 255).astype(np.uint8)
