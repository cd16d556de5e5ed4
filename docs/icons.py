"""Make a small data set of colour images: freedesktop icons in seven classes.

    python docs/icons.py icons      # on Debian or Ubuntu; installs nothing

It writes icons/train and icons/test, with a folder for each class. The images come from the icon
themes that Debian packages: PNG files of 48 to 256 pixels, most of them with transparency. An icon
of one name looks alike in all themes, so all icons of a name are in the same split.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

PACKAGES = ("elementary-xfce", "faenza", "gnome", "mate", "oxygen", "tango")
CLASSES = ("actions", "apps", "devices", "emblems", "mimetypes", "places", "status")
SIDES = ("48", "64", "128", "256")
# Most images of a class to choose from; and one name in so many is held out for test images, of
# which all are taken: the more there are, the less their accuracy depends on chance.
MOST, HELD_OUT = 300, 5


def unpack_themes(folder: Path) -> Path:
    """Download the packages into `folder`, and return the folder of their icon themes."""
    for name in PACKAGES:
        package = f"{name}-icon-theme"
        subprocess.run(
            ["apt-get", "download", package], cwd=folder, check=True, stdout=subprocess.DEVNULL
        )
    for archive in folder.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", archive, folder / "unpacked"], check=True)
    return folder / "unpacked" / "usr" / "share" / "icons"


def find_icons(themes: Path) -> dict[str, dict[bytes, Path]]:
    """Return for each class the icons, by a number that puts them into a lasting random order."""
    found: dict[str, dict[bytes, Path]] = {label: {} for label in CLASSES}
    for file in sorted(themes.rglob("*.png")):
        parts = file.relative_to(themes).parts[1:-1]
        label = next((part for part in parts if part in CLASSES), None)
        sized = any(part.split("x")[0] in SIDES for part in parts)
        if label and sized and not file.is_symlink() and "symbolic" not in file.name:
            # Equal files count once.
            found[label].setdefault(hashlib.sha256(file.read_bytes()).digest(), file)
    return found


def write_icons(themes: Path, out: Path) -> None:
    """Copy the icons of all classes to `out`."""
    for label, icons in find_icons(themes).items():
        for place, (number, file) in enumerate(sorted(icons.items())):
            name = int(hashlib.sha256(file.stem.encode()).hexdigest(), 16)
            test = name % HELD_OUT == 0
            if place >= MOST and not test:
                continue
            folder = out / ("test" if test else "train") / label
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / f"{file.stem}-{number.hex()[:6]}.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder that is written")
    arguments = parser.parse_args()
    with TemporaryDirectory() as download:
        write_icons(unpack_themes(Path(download)), arguments.out)
