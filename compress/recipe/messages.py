"""Validation messages: pydantic's errors in the words of a TOML file. Does not import torch."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import pydantic

from compress.recipe.budget import BUDGET_KEYS, budget_examples
from compress.recipe.model_spec import ModelSpec
from compress.recipe.schema import Recipe
from compress.recipe.stages import STAGE_TYPES
from compress.runtime.errors import UserError, did_you_mean, quote
from compress.runtime.text import safe_line

KINDS = f"a stage is one of {', '.join(STAGE_TYPES)}"

# pydantic's error types, in the words of TOML.
TYPES = {
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "string_type": "must be text in quotes",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dataclass_type": "must be a table",
    "dict_type": "must be a table",
}

# Keys that accept values of several types: pydantic reports an error for each type.
UNIONS = {
    **{key: f"write {budget_examples(key)}" for key in BUDGET_KEYS},
    "balance": "must be 'auto', 'loss', 'sampler' or false",
    "batch_size": "must be 'auto' or a whole number above 0",
    "pretrained": "must be true, false or the name of weights in quotes",
}


def describe_first_error(error: pydantic.ValidationError, owner: Any) -> str:
    """Describe the first error, as ``stages.2.epoch: unknown key (did you mean 'epochs'?)``.

    Args:
        owner: the dataclass that was validated.
    """
    # A misspelt key is missing, too, under its right name.
    first, *others = sorted(error.errors(), key=lambda each: each["type"] == "missing")
    path = list(first["loc"])
    if path[:1] in (["teacher"], ["student"]) and len(path) > 1:
        owner = ModelSpec
    elif owner is Recipe and path[:1] == ["stages"] and len(path) > 2:
        # pydantic puts the stage's kind, which is no key of the file, into the path.
        owner = STAGE_TYPES[str(path.pop(2))]
    if len(path) > 1 and path[-2] in UNIONS:
        path, others = path[:-1], [o for o in others if o["loc"][:-1] != first["loc"][:-1]]
        reason = f"{UNIONS[str(path[-1])]}, not {_as_toml(first['input'])}"
    elif first["type"] in ("union_tag_not_found", "union_tag_invalid"):
        path.append("kind")
        reason = _describe_kind(first["input"])
    else:
        reason = _describe(first, [field.name for field in dataclasses.fields(owner)])
    parts = (str(part + 1 if isinstance(part, int) else part)[:60] for part in path)
    where = safe_line(".".join(parts))
    more = f" (and {len(others)} more)" if others else ""
    return f"{where}: {reason}{more}" if where else f"{reason}{more}"


def _describe_kind(stage: Mapping[str, Any]) -> str:
    if "kind" not in stage:
        return f"is missing: {KINDS}"
    kind = stage["kind"]
    return f"unknown {_as_toml(kind)}{did_you_mean(str(kind), STAGE_TYPES)}; {KINDS}"


def _describe(error: Any, keys: list[str]) -> str:
    """Describe one of pydantic's errors; `keys` are those of the table that it is in."""
    kind, value, text = error["type"], error["input"], error["msg"]
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"unknown key{did_you_mean(str(error['loc'][-1]), keys)}"
    if kind == "missing":
        return "is missing"
    if kind == "literal_error":
        expected = error["ctx"]["expected"].replace("True", "true").replace("False", "false")
        choices = re.findall("'(.*?)'", expected)
        hint = did_you_mean(value, choices) if isinstance(value, str) else ""
        return f"must be {expected}, not {_as_toml(value)}{hint}"
    if kind == "value_error" and isinstance(error["ctx"]["error"], UserError):
        # Complete as it is: a registry's, which names the value and the closest known one.
        return str(error["ctx"]["error"])
    text = text.removeprefix("Value error, ").replace("Input should be", "must be")
    return f"{TYPES.get(kind, text)}, not {_as_toml(value)}"


def _as_toml(value: object) -> str:
    """Return a value as TOML writes it, shortened to 60 characters."""
    return str(value).lower() if isinstance(value, bool) else quote(value, 60)
