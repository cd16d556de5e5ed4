"""Files of photo-like images: power falls with frequency, as in photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def draw_photo(height: int, width: int, seed: int = 0) -> Image.Image:
    """Draw an image whose amplitudes fall with the frequency."""
    random = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    frequency[0, 0] = 1
    noise = random.normal(size=(3, height, width))
    values = np.fft.ifft2(np.fft.fft2(noise) / frequency).real
    values += values.mean(0, keepdims=True)
    values = (values - values.mean()) / values.std() * 55 + 120
    return Image.fromarray(values.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


def write_photos(root: Path, sizes: list[tuple[int, int]]) -> tuple[str, ...]:
    """Write photos of these heights and widths, in turns as JPEG and PNG; return their names."""
    root.mkdir(parents=True, exist_ok=True)
    names = []
    for number, (height, width) in enumerate(sizes):
        name = f"{number}.{('jpg', 'png')[number % 2]}"
        draw_photo(height, width, number).save(root / name, quality=92)
        names.append(name)
    return tuple(names)
