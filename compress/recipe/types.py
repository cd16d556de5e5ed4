"""Types of recipe keys: numbers in their ranges, and names that exist. Does not import torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from compress.recipe.color import parse_color
from compress.recipe.data_names import DATA_PLACES, check_data_name, split_data_name
from compress.recipe.registry import DATA_SOURCES, IMPORTANCES, METHODS, RUNTIMES, Registry
from compress.runtime.files import is_file_name


def _check_crop(crop: tuple[float, float]) -> tuple[float, float]:
    if crop[0] > crop[1]:
        raise ValueError("must name the smaller fraction first")
    return crop


def _refuse_number(choice: object) -> object:
    # pydantic accepts 1 for true in a Literal
    if isinstance(choice, int | float) and not isinstance(choice, bool):
        raise ValueError("must be 'auto', true or false")
    return choice


def _refuse_number_or_true(choice: object) -> object:
    # pydantic accepts 0 for false in a Literal
    if choice is not False and not isinstance(choice, str):
        raise ValueError("must be 'auto', 'loss', 'sampler' or false")
    return choice


def _check_batch_size(choice: object) -> object:
    if choice != "auto" and (isinstance(choice, bool) or not isinstance(choice, int) or choice < 1):
        raise ValueError("must be 'auto' or a whole number above 0")
    return choice


def _to_int(number: float) -> float:
    return int(number) if number.is_integer() else number


def _check_data(name: str) -> str:
    # A place is looked for when the data is opened: a run's recipe must load without it.
    if split_data_name(name) is None:
        check_data_name(name)
    return name


def _suggest(registry: Registry) -> Callable[[dict[str, Any]], None]:
    """Return what adds a registry's names, those of plug-ins too, to a key's JSON Schema."""
    return lambda schema: schema.update(enum=list(registry.names()))


def _suggest_data(schema: dict[str, Any]) -> None:
    places = f"^({'|'.join(DATA_PLACES)}):"
    schema["anyOf"] = [{"enum": list(DATA_SOURCES.names())}, {"pattern": places}]


Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
NumberOrZero = Annotated[int, Field(ge=0)]
Magnitude = Annotated[int, Field(ge=0, le=30)]
Area = Annotated[float, Field(gt=0, le=1)]
Crop = Annotated[tuple[Area, Area], AfterValidator(_check_crop)]
Color = Annotated[str, AfterValidator(parse_color)]
Auto = Annotated[Literal["auto", True, False], BeforeValidator(_refuse_number)]
# Whole numbers stay whole in files.
Epochs = Annotated[float, Field(gt=0, le=1_000_000), AfterValidator(_to_int)]
Balance = Annotated[
    Literal["auto", "loss", "sampler", False], BeforeValidator(_refuse_number_or_true)
]
BatchSize = Annotated[int | Literal["auto"], BeforeValidator(_check_batch_size)]
DataName = Annotated[str, AfterValidator(_check_data), Field(json_schema_extra=_suggest_data)]
MethodName = Annotated[
    str, AfterValidator(METHODS.check_name), Field(json_schema_extra=_suggest(METHODS))
]
ImportanceName = Annotated[
    str, AfterValidator(IMPORTANCES.check_name), Field(json_schema_extra=_suggest(IMPORTANCES))
]
RuntimeName = Annotated[
    str, AfterValidator(RUNTIMES.check_name), Field(json_schema_extra=_suggest(RUNTIMES))
]


def _check_stage_file(name: str) -> str:
    folder, _, file = name.partition("/")
    if folder != STAGES or not is_file_name(file) or not file.endswith(".pth"):
        raise ValueError(f"must be a file in {STAGES}/, as {STAGES}/01-teach.pth")
    return name


# The folder of the stages' files in a run directory.
STAGES = "stages"
# Ending of the int8 file of a stage, beside its weights file.
INT8 = ".int8.onnx"
# The name of a stage's weights file in its run directory, which cannot lie outside of it.
StageFile = Annotated[str, AfterValidator(_check_stage_file)]
