"""Compare decoders of JPEGs: torchvision.io and Pillow, from a file's bytes to a training crop.

python benchmarks/decoding.py        # a minute on two cores; the table of docs/scaling.md
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import decode_jpeg
from torchvision.transforms.v2 import functional as F

sys.path.append(str(Path(__file__).parents[1] / "tests" / "data"))
from photo_files import draw_photo

PHOTOS, SIDE, PROCESSES = 40, 224, 2
BOX = (30, 60, 320, 380)  # top, left, height, width


def by_torchvision(data: bytes) -> Tensor:
    pixels: Tensor = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    return pixels


def by_pillow(data: bytes) -> Tensor:
    return torch.from_numpy(np.array(Image.open(io.BytesIO(data)))).permute(2, 0, 1)


def crop_by_torchvision(data: bytes) -> Tensor:
    crop: Tensor = F.resized_crop(by_torchvision(data), *BOX, [SIDE, SIDE], antialias=True)
    return crop


def crop_of_pillow(data: bytes) -> Tensor:
    crop: Tensor = F.resized_crop(by_pillow(data), *BOX, [SIDE, SIDE], antialias=True)
    return crop


def crop_by_pillow(data: bytes) -> Tensor:
    top, left, height, width = BOX
    image = Image.open(io.BytesIO(data)).crop((left, top, left + width, top + height))
    crop: Tensor = F.pil_to_tensor(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    return crop


WAYS: dict[str, tuple[Callable[[bytes], Tensor], Callable[[bytes], Tensor]]] = {
    "torchvision.io, crop by torchvision": (by_torchvision, crop_by_torchvision),
    "Pillow, crop by torchvision": (by_pillow, crop_of_pillow),
    "Pillow, crop by Pillow": (by_pillow, crop_by_pillow),
}


def rate(work: tuple[Callable[[bytes], Tensor], list[bytes]]) -> float:
    """Return the images a second of this process, at best of five."""
    torch.set_num_threads(1)
    function, files = work
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        for data in files:
            function(data)
        seconds.append(time.perf_counter() - began)
    return len(files) / min(seconds)


def main() -> None:
    files = []
    for seed in range(PHOTOS):
        file = io.BytesIO()
        draw_photo(375, 500, seed).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    print(f"| 500×375 JPEGs, images/s of {PROCESSES} processes | decode | decode, crop to {SIDE} |")
    print("| --- | --: | --: |")
    with Pool(PROCESSES) as pool:
        for name, functions in WAYS.items():
            rates = [sum(pool.map(rate, [(each, files)] * PROCESSES)) for each in functions]
            print(f"| {name} | {rates[0]:,.0f} | {rates[1]:,.0f} |")


if __name__ == "__main__":
    main()
