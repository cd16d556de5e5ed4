"""What a weights file holds, in plain types: its fields, checked before a network is built."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, Literal

import pydantic.dataclasses
import torch
from pydantic import AfterValidator, ConfigDict, Field

from compress.recipe.messages import describe_first_error
from compress.runtime.errors import UserError

# Version 2 had neither crop_ratio nor background: whole images were seen, on black.
FORMAT, VERSION, READ_VERSIONS = "compress.weights", 3, (2, 3)
VERSION_2 = {"crop_ratio": 1.0, "background": "#000000"}

# What has a class: a whole image, or each of its pixels.
Labels = Literal["images", "pixels"]


def _check_distinct(values: list[str]) -> list[str]:
    if len(set(values)) < len(values):
        raise ValueError("must be distinct")
    return values


def _check_channels(size: list[int]) -> list[int]:
    if size[0] not in (1, 3):
        raise ValueError("must have three channels, or one")
    return size


Triple = Field(min_length=3, max_length=3)
ByChannel = Field(min_length=1, max_length=3)
Classes = Field(min_length=1, max_length=100_000)
Side = Annotated[int, Field(ge=1, le=1024)]


@pydantic.dataclasses.dataclass(
    frozen=True, config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
)
class Content:
    """The content of a weights file, after ``format`` and ``version``."""

    network: dict[str, Any]
    widths: dict[str, dict[str, Any]]
    state_dict: dict[str, Any]
    classes: Annotated[list[str], Classes, AfterValidator(_check_distinct)]
    input_size: Annotated[list[Side], Triple, AfterValidator(_check_channels)]
    mean: Annotated[list[float], ByChannel]
    std: Annotated[list[Annotated[float, Field(gt=0)]], ByChannel]
    data: str
    origin: dict[str, Any]
    sparse: bool
    crop_ratio: Annotated[float, Field(ge=0.1, le=1)]
    background: Annotated[str, Field(pattern="^#[0-9a-f]{6}$")]
    temperature: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    labels: Labels = "images"
    removed: list[str] = field(default_factory=list)


def validate_content(plain: Any) -> Content:
    """Check the types and ranges of everything that does not depend on the network.

    Raises:
        UserError: the data is not that of a weights file; the message names what is wrong.
    """
    known = plain.get("format") if isinstance(plain, dict) else None
    if not isinstance(known, str) or known != FORMAT:
        raise UserError("not a weights file of compress; make one of it by `compress adopt`")
    version = plain.get("version")
    if type(version) is not int or version not in READ_VERSIONS:
        readable = " and ".join(map(str, READ_VERSIONS))
        raise UserError(f"weights file version {version!r}; this release reads {readable}")
    fields = {key: value for key, value in plain.items() if key not in ("format", "version")}
    if version == 2:
        fields = VERSION_2 | fields
    try:
        content = Content(**fields)
    except pydantic.ValidationError as error:
        raise UserError(describe_first_error(error, Content)) from error
    for name, values in (("mean", content.mean), ("std", content.std)):
        if len(values) != content.input_size[0]:
            raise UserError(
                f"{name}: must have a value for each of {content.input_size[0]} channels"
            )
    return content


def check_bytes(tensors: dict[str, Any]) -> None:
    """Refuse tensors that share values: their copies may take thousands of times as much.

    Raises:
        UserError: two tensors share values.
    """
    plain = [tensor for tensor in tensors.values() if _has_values(tensor)]
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage() for each in plain}
    if sum(each.nbytes for each in plain) > sum(each.nbytes() for each in storages.values()):
        raise UserError("the tensors are larger than their data in the file")


def _has_values(tensor: Any) -> bool:
    """Return True for a plain tensor whose values lie in the file; others are refused by name."""
    strided = isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided
    return strided and not tensor.is_meta and tensor.nbytes <= tensor.untyped_storage().nbytes()
