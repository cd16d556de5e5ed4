"""Validation messages: pydantic's errors in the words of a TOML file. Does not import torch."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pydantic

from compress.recipe.budget import BUDGET_KEYS, budget_examples
from compress.recipe.model_spec import ModelSpec
from compress.recipe.schema import STAGE_TYPES
from compress.runtime.errors import did_you_mean

# pydantic's error types, in our words.
MESSAGES = {
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "string_type": "must be text in quotes",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dataclass_type": "must be a table",
    "dict_type": "must be a table",
}


def describe_first_error(error: pydantic.ValidationError, owner: Any) -> str:
    """Describe the first error, as ``stages.2.epoch: unknown key (did you mean 'epochs'?)``.

    Args:
        owner: the dataclass that was validated.
    """
    first, *others = error.errors()
    path, value, kind = list(first["loc"]), first["input"], first["type"]
    kinds = f"a stage is one of {', '.join(STAGE_TYPES)}"
    if path[0] in ("teacher", "student") and len(path) > 1:
        owner = ModelSpec
    elif path[0] == "stages" and len(path) > 2:
        # pydantic puts the stage's kind, which is no key of the file, into the path.
        owner = STAGE_TYPES[str(path.pop(2))]
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        reason = (
            f"unknown key{did_you_mean(str(path[-1]), [f.name for f in dataclasses.fields(owner)])}"
        )
    elif path[0] in BUDGET_KEYS:  # two errors for one value: neither text nor a number
        path, others = path[:1], others[1:]
        reason = f"write {budget_examples(BUDGET_KEYS[str(path[0])])}, not {_as_toml(value)}"
    elif path[-2:-1] == ["pretrained"]:  # two errors for one value as well
        path, others = path[:-1], others[1:]
        reason = f"must be true, false or the name of weights in quotes, not {_as_toml(value)}"
    elif kind == "missing":
        reason = "is missing"
    elif kind == "union_tag_not_found":
        path.append("kind")
        reason = f"is missing: {kinds}"
    elif kind == "union_tag_invalid":
        path.append("kind")
        reason = (
            f"unknown {value['kind']!r}{did_you_mean(str(value['kind']), STAGE_TYPES)}; {kinds}"
        )
    elif kind == "literal_error":
        expected = re.sub(
            r"\b(True|False)\b", lambda word: word[0].lower(), first["ctx"]["expected"]
        )
        hint = (
            did_you_mean(value, re.findall("'(.*?)'", expected)) if isinstance(value, str) else ""
        )
        reason = f"must be {expected}, not {_as_toml(value)}{hint}"
    elif first["msg"].startswith("Value error, unknown "):  # a registry's
        reason = first["msg"].removeprefix("Value error, ")
    else:
        text = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        reason = f"{MESSAGES.get(kind) or text}, not {_as_toml(value)}"
    where = ".".join(str(part + 1) if isinstance(part, int) else str(part) for part in path)
    more = f" (and {len(others)} more)" if others else ""
    return f"{where}: {reason}{more}"


def _as_toml(value: object) -> str:
    """Return a value as TOML writes it, shortened to 60 characters."""
    if isinstance(value, str):
        return repr(value[:60])
    return str(value).lower() if isinstance(value, bool) else repr(value)[:60]
