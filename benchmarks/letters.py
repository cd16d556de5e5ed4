"""Render a small data set: capital letters in many fonts, for `few_images.py`.

    python benchmarks/letters.py letters

It writes letters/train and letters/test, with a folder for each letter. Fonts are those that
matplotlib brings; every fourth is held out for the test split. Letters that look the same in a
mirror are left out, so that mirroring images turns them into something else.
"""

from __future__ import annotations

import random
from pathlib import Path

import click
import matplotlib as mpl
from PIL import Image, ImageDraw, ImageFont

LETTERS = "ABDEFGJKLNPRSZ"
FAMILIES = ("DejaVu", "STIXGen")
# These have no letters.
WITHOUT_LETTERS = "Display"
SIDE, IMAGES, SPECKS, HELD_OUT = 48, 8, 250, 4


def render(letter: str, font: Path, rng: random.Random) -> Image.Image:
    """Draw a dark letter on a light ground, moved, turned and speckled."""
    ground = tuple(rng.randint(120, 255) for _ in range(3))
    ink = tuple(rng.randint(0, 110) for _ in range(3))
    image = Image.new("RGB", (SIDE, SIDE), ground)
    draw = ImageDraw.Draw(image)
    sized = ImageFont.truetype(str(font), rng.randint(22, 36))
    middle = [SIDE / 2 + rng.uniform(-5, 5) for _ in range(2)]
    draw.text((middle[0], middle[1]), letter, font=sized, fill=ink, anchor="mm")
    image = image.rotate(rng.uniform(-20, 20), Image.Resampling.BICUBIC, fillcolor=ground)
    for _ in range(SPECKS):
        speck = tuple(rng.randint(0, 255) for _ in range(3))
        image.putpixel((rng.randrange(SIDE), rng.randrange(SIDE)), speck)
    return image


@click.command(help=(__doc__ or "").splitlines()[0])
@click.argument("out", type=click.Path(path_type=Path))
def main(out: Path) -> None:
    """Write the images of both splits."""
    rng = random.Random(0)
    files = sorted(Path(mpl.get_data_path(), "fonts", "ttf").glob("*.ttf"))
    fonts = [f for f in files if f.name.startswith(FAMILIES) and WITHOUT_LETTERS not in f.name]
    for i, font in enumerate(fonts):
        split = "test" if i % HELD_OUT == 0 else "train"
        for letter in LETTERS:
            folder = out / split / letter
            folder.mkdir(parents=True, exist_ok=True)
            for n in range(IMAGES):
                render(letter, font, rng).save(folder / f"{font.stem}-{n}.png")


if __name__ == "__main__":
    main()
