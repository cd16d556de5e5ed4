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
SIDE, IMAGES, HELD_OUT = 48, 8, 4
CONTRAST, BARS, SPECKS = 250, 1, 250


def render(letter: str, font: Path, rng: random.Random) -> Image.Image:
    """Draw a letter on a ground of another brightness, moved, turned, crossed out and speckled."""
    ground, ink = draw_color(rng), draw_color(rng)
    while abs(sum(ground) - sum(ink)) < CONTRAST:
        ink = draw_color(rng)
    image = Image.new("RGB", (SIDE, SIDE), ground)
    draw = ImageDraw.Draw(image)
    sized = ImageFont.truetype(str(font), rng.randint(20, 36))
    middle = (SIDE / 2 + rng.uniform(-6, 6), SIDE / 2 + rng.uniform(-6, 6))
    draw.text(middle, letter, font=sized, fill=ink, anchor="mm")
    image = image.rotate(rng.uniform(-25, 25), Image.Resampling.BICUBIC, fillcolor=ground)
    draw = ImageDraw.Draw(image)
    for _ in range(BARS):
        ends = [rng.uniform(0, SIDE) for _ in range(4)]
        draw.line(ends, fill=draw_color(rng), width=rng.randint(1, 3))
    for _ in range(SPECKS):
        image.putpixel((rng.randrange(SIDE), rng.randrange(SIDE)), draw_color(rng))
    return image


def draw_color(rng: random.Random) -> tuple[int, int, int]:
    """Return a random colour."""
    return rng.randint(0, 255), rng.randint(0, 255), rng.randint(0, 255)


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
