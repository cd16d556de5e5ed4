"""Data sets in the words of a model card."""

from __future__ import annotations

import inspect
from contextlib import suppress
from pathlib import Path

from compress.recipe.data_names import split_data_name
from compress.recipe.in_memory import is_in_memory
from compress.recipe.registry import DATA_SOURCES
from compress.runtime.text import safe_line

# Names of the same data sets on Hugging Face's hub.
HUB_IDS = {
    "fashion-mnist": "zalando-datasets/fashion_mnist",
    "mnist": "ylecun/mnist",
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "imagenette": "frgfm/imagenette",
    "imagewoof": "frgfm/imagewoof",
    "imagenet": "ILSVRC/imagenet-1k",
}


def hub_id(data: str) -> str | None:
    """Return the name of a data set on the hub, if it is known.

    Example:
        >>> hub_id("cifar10"), hub_id("hf:beans"), hub_id("folder:photos")
        ('uoft-cs/cifar10', 'beans', None)
    """
    place = split_data_name(data)
    if place is None:
        return HUB_IDS.get(data.removesuffix("-320").removesuffix("-160"))
    prefix, name = place
    is_path = name.startswith((".", "/", "~")) or "\\" in name or _exists(name)
    return name if prefix == "hf" and not is_path and name.count("/") <= 1 else None


def _exists(name: str) -> bool:
    # A name may be too long for a path.
    with suppress(OSError, ValueError):
        return Path(name).exists()
    return False


def name_data(data: str) -> str:
    """Return the name of a data set for others: of a path, only its end.

    Example:
        >>> name_data("folder:/home/me/photos")
        'photos'
    """
    place = split_data_name(data)
    if place is None or hub_id(data):
        return safe_line(place[1] if place else data) or "not named"
    return safe_line(Path(place[1]).name or place[1])


def place_type(data: str) -> str:
    """Return the kind of a data set that the hub does not have."""
    place = split_data_name(data)
    kinds = {"folder": "imagefolder", "csv": "csv"}
    return kinds.get(place[0], "custom") if place else "custom"


def describe_data(data: str) -> str:
    """Return a sentence or two on a data set, without paths of this machine."""
    place = split_data_name(data)
    if not data:
        return "The weights file does not name the data that the network was trained on."
    if place is None and data in DATA_SOURCES.builtin and not is_in_memory(data):
        return inspect.cleandoc(DATA_SOURCES.load(data).__doc__ or data)
    kinds = {
        "folder": "A folder of images",
        "masks": "A folder of images and masks",
        "csv": "Images listed in a table",
        "hf": "A data set of Hugging Face",
    }
    return f"{kinds[place[0]] if place else 'Data'}: `{name_data(data).replace('`', '')}`."
