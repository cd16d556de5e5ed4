"""The description in an exported file: everything that a program needs to use it.

It is JSON under the key `KEY` of the file's metadata. Does not import torch.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any, Literal

import pydantic
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from compress.recipe.messages import describe_first_error
from compress.runtime.errors import UserError
from compress.runtime.plain_files import check_plain

# The key of the description in the metadata of a file, where its format has keys.
KEY = "compress"

Side = Annotated[int, Field(ge=1, le=4096)]
ByChannel = Annotated[tuple[float, ...], Field(min_length=1, max_length=3)]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Description:
    """What an exported file takes and gives.

    Args:
        classes: names of the classes, in the order of the logits.
        input_size: (C, H, W) of the images that the file takes, in batches of any size.
        mean, std: by channel, for pixels scaled to 0..1. With `uint8` the file has normalization
            in it, and they only say which.
        background: colour behind transparent parts of an image.
        crop_ratio: part of an image that the network sees, as in a weights file.
        uint8: True if the file takes pixels as they are, 0 to 255.
        int8: True if the network computes with 8-bit integers.
        temperature: probabilities are of the logits divided by it.
        labels: what has a class: ``images``, or ``pixels``.
        data: name of the data set that the network was trained on.
        network: name of the network that it was pruned from.
        params, macs: torchinfo's count of the network.
        origin: where the file comes from: weights file, its SHA-256, versions of packages.
    """

    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    input_size: tuple[Literal[1, 3], Side, Side]
    mean: ByChannel
    std: ByChannel
    background: str = "black"
    crop_ratio: Annotated[float, Field(ge=0.1, le=1)] = 1.0
    uint8: bool = False
    int8: bool = False
    temperature: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    labels: Literal["images", "pixels"] = "images"
    data: str = ""
    network: str = ""
    params: int = 0
    macs: int = 0
    origin: dict[str, Any] = Field(default_factory=dict)

    @property
    def logits_shape(self) -> tuple[int, ...]:
        """Shape of the logits of one image: (classes,) or (classes, H, W)."""
        return (len(self.classes), *(self.input_size[1:] if self.labels == "pixels" else ()))

    def to_json(self) -> str:
        """Return the description as JSON in one line."""
        content = asdict(self)
        # Releases without calibration read files that are not calibrated.
        if self.temperature == 1:
            del content["temperature"]
        if self.labels == "images":
            del content["labels"]
        return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def make_description(**fields: Any) -> Description:
    """Return a description of validated fields.

    Raises:
        UserError: a field is wrong; the message names it.
    """
    try:
        return Description(**fields)
    except pydantic.ValidationError as error:
        raise UserError(describe_first_error(error, Description)) from error


def parse_description(text: str | None) -> Description:
    """Parse and validate the JSON of `Description.to_json`; None is a file without any.

    Raises:
        UserError: it is something else, or there is none.
    """
    if text is None:
        raise UserError("has no description; only files that `compress export` wrote are used")
    try:
        content = json.loads(text)
        check_plain(content)
        return make_description(**content)
    except UserError as error:
        raise UserError(f"its description is wrong: {error}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError("its description is not that of an exported file") from error
