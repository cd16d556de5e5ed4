"""Values and files that nobody means well with, for tests and for `benchmarks/fuzz.py`."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

# What stands in the place of any value.
VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        3,
        2**31,
        2**63,
        10**30,
        0.5,
        -0.0,
        1e308,
        "",
        "a",
        "../x",
        "/x",
    ),
    *("\x1b[2J", "\n", "=1+1", "a" * 1000, [], [1], [[]], ["a", "a"], {}, {"a": 1}, {"kind": 3}),
    *(float("nan"), float("inf")),
)


def replaced(table: Any, draw: random.Random) -> Any:
    """Return a copy of plain data in which one value is replaced, left out, or doubled."""
    found: Any = json.loads(json.dumps(table))
    places = list(_places(found))
    if not places:
        return draw.choice(VALUES)
    outer, key = draw.choice(places)
    action = draw.randrange(10)
    if action == 0:
        del outer[key]
    elif action == 1 and isinstance(outer, dict):
        outer[draw.choice(["", "x", "kind", "name", "\x1b", "__class__"])] = outer[key]
    elif action == 2 and isinstance(outer, list):
        outer.append(outer[key])
    else:
        outer[key] = draw.choice(VALUES)
    return found


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every dictionary or list in plain data, with each of its keys."""
    if not isinstance(value, dict | list):
        return
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        yield from _places(value[key])
