"""What pydantic finds wrong in a TOML file, in the words of such a file. Free of torch."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import pydantic

from compress.recipe.budget import KEYS, examples
from compress.recipe.model_spec import Network
from compress.runtime.errors import nearest

MUST = {  # pydantic's names of what is wrong
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "string_type": "must be text in quotes",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dataclass_type": "must be a table",
    "dict_type": "must be a table",
}


def first_wrong(error: pydantic.ValidationError, owner: Any, stages: Mapping[str, Any]) -> str:
    """The first thing wrong, as `stages.2.epoch: unknown key (did you mean 'epochs'?)`.

    Args:
        owner: the dataclass that the file should be.
        stages: the dataclass of each kind of stage.
    """
    first, *others = error.errors()
    path, given, kind = list(first["loc"]), first["input"], first["type"]
    kinds = f"a stage is one of {', '.join(stages)}"
    if path[0] in ("teacher", "student") and len(path) > 1:
        owner = Network
    elif path[0] == "stages" and len(path) > 2:
        owner = stages[str(path.pop(2))]  # the kind, which the file does not say in this place
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        reason = f"unknown key{nearest(str(path[-1]), [f.name for f in dataclasses.fields(owner)])}"
    elif path[0] in KEYS:  # two errors for one value: neither text nor a number
        path, others = path[:1], others[1:]
        reason = f"write {examples(KEYS[str(path[0])])}, not {_toml(given)}"
    elif path[-2:-1] == ["pretrained"]:  # the same
        path, others = path[:-1], others[1:]
        reason = f"must be true, false or the name of weights in quotes, not {_toml(given)}"
    elif kind == "missing":
        reason = "is missing"
    elif kind == "union_tag_not_found":
        path.append("kind")
        reason = f"is missing: {kinds}"
    elif kind == "union_tag_invalid":
        path.append("kind")
        reason = f"unknown {given['kind']!r}{nearest(str(given['kind']), stages)}; {kinds}"
    elif kind == "literal_error":
        expected = re.sub(r"\b(True|False)\b", lambda word: word[0].lower(), first["ctx"]["expected"])
        near = nearest(given, re.findall("'(.*?)'", expected)) if isinstance(given, str) else ""
        reason = f"must be {expected}, not {_toml(given)}{near}"
    else:
        must = MUST.get(kind) or first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        reason = f"{must}, not {_toml(given)}"
    where = ".".join(str(part + 1) if isinstance(part, int) else str(part) for part in path)
    more = f" (and {len(others)} more)" if others else ""
    return f"{where}: {reason}{more}"


def _toml(given: object) -> str:
    """A value as such a file has it, or the beginning of a long one."""
    if isinstance(given, str):
        return repr(given[:60])
    return str(given).lower() if isinstance(given, bool) else repr(given)[:60]
