"""Write the tables of keys in docs/recipes.md, from the schema of recipes.

python docs/generate_recipe_keys.py            # rewrite the tables
python docs/generate_recipe_keys.py --check    # exit with 1 if they are stale
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from compress.recipe.data_names import DATA_PLACES
from compress.recipe.registry import DATA_SOURCES, IMPORTANCES, METHODS, RUNTIMES
from compress.recipe.schema import Recipe

PAGE = Path(__file__).with_name("recipes.md")
BEGIN, END = "<!-- keys: begin (python docs/generate_recipe_keys.py) -->", "<!-- keys: end -->"
HEADINGS = {
    "Recipe": "### The recipe",
    "SmallData": "### Few images: `[small_data]`",
    "ModelSpec": "### Networks: `[teacher]` and `[student]`",
    "Train": "### Stages that train: `teach`, `distill`, `finetune`",
    "Prune": "### Stages that prune: `prune`",
    "Quantize": "### The last stage, if the network is quantized: `quantize`",
}

# Keys whose values are names; plug-ins on this machine do not belong into the documentation.
NAMES = {"data": DATA_SOURCES, "method": METHODS, "importance": IMPORTANCES, "runtime": RUNTIMES}
TYPES = {"string": "text", "integer": "whole number", "number": "number"}

Schema = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("page", nargs="?", type=Path, default=PAGE)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if stale")
    arguments = parser.parse_args()
    text = arguments.page.read_text(encoding="utf-8")
    tables = f"{BEGIN}\n\n{write_tables()}\n\n{END}"
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    new, found = pattern.subn(lambda _: tables, text)
    if found != 1:
        sys.exit(f"{arguments.page}: the marker comments {BEGIN} and {END} must occur once")
    if arguments.check and new != text:
        sys.exit(f"{arguments.page}: stale keys; run python docs/generate_recipe_keys.py")
    if new != text:
        arguments.page.write_text(new, encoding="utf-8")


def write_tables() -> str:
    """Return a Markdown table of the keys of each part of a recipe."""
    schema = TypeAdapter(Recipe).json_schema()
    parts: dict[str, Schema] = {"Recipe": schema} | schema["$defs"]
    if missing := parts.keys() - HEADINGS.keys():
        sys.exit(f"{__file__}: no heading for {', '.join(sorted(missing))}; add it to HEADINGS")
    return "\n\n".join(
        "\n".join([heading, "", *write_rows(parts[part])]) for part, heading in HEADINGS.items()
    )


def write_rows(part: Schema) -> Iterator[str]:
    yield "| key | values | default | meaning |"
    yield "|---|---|---|---|"
    for key, schema in part["properties"].items():
        default = "required" if key in part.get("required", ()) else format_value(schema["default"])
        meaning = " ".join(schema["description"].split())
        cells = (f"`{key}`", describe_values(key, schema), default, meaning)
        yield f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def describe_values(key: str, schema: Schema) -> str:
    """Describe the values that a key accepts, as ``number, above 0 and at most 4``."""
    if key in NAMES:
        places = [f"`{name}:{rest}`" for name, (rest, _) in DATA_PLACES.items()]
        also = "".join(f", {each}" for each in places) if key == "data" else ""
        return format_choices(NAMES[key].builtin) + also
    if "anyOf" in schema:
        kinds = [kind for kind in schema["anyOf"] if kind.get("type") != "null"]
        return " or ".join(dict.fromkeys(describe_values(key, kind) for kind in kinds))
    if "$ref" in schema:
        return "table"
    if "enum" in schema or "const" in schema:
        return format_choices(schema.get("enum") or [schema["const"]])
    if schema["type"] == "boolean":
        return format_choices([True, False])
    if schema["type"] == "array":
        return describe_list(key, schema)
    return TYPES[schema["type"]] + describe_range(schema)


def describe_list(key: str, schema: Schema) -> str:
    if "prefixItems" in schema:
        items = schema["prefixItems"]
        return f"list of {len(items)}: {describe_values(key, items[0])}"
    items = schema["items"]
    return "list of tables" if "oneOf" in items else f"list: {describe_values(key, items)}"


def describe_range(schema: Schema) -> str:
    words = {
        "exclusiveMinimum": "above {}",
        "minimum": "at least {}",
        "exclusiveMaximum": "below {}",
        "maximum": "at most {}",
    }
    bounds = [text.format(f"{schema[word]:,}") for word, text in words.items() if word in schema]
    return f", {' and '.join(bounds)}" if bounds else ""


def format_choices(choices: Any) -> str:
    return ", ".join(format_value(choice, quote=False) for choice in choices)


def format_value(value: Any, quote: bool = True) -> str:
    """Format a value as TOML writes it; TOML has no null, so that None is a key left out."""
    if value is None:
        return "–"
    return f"`{value}`" if isinstance(value, str) and not quote else f"`{json.dumps(value)}`"


if __name__ == "__main__":
    main()
