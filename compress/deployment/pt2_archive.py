"""Archives of torch.export, made safe: what could run code as a file is loaded is refused.

torch.export.load unpickles parts of a file and evaluates strings in it. So a file is not handed to
it, but a new archive in memory, of the members that a network needs, none of which is a pickle, and
of a graph whose strings are only names. Does not import torch.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from compress.deployment.description import KEY
from compress.runtime.errors import UserError

GRAPH, SAMPLE_INPUTS = "models/model.json", "data/sample_inputs/model.pt"
CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
MEMBERS = re.compile(
    rf"archive_format|archive_version|byteorder|\.data/version|extra/{KEY}|{GRAPH}"
    rf"|{'|'.join(CONFIGS)}|data/weights/weight_\d+|data/constants/tensor_\d+"
)
# Names of tensors, layers and types; they become parts of code.
NAME = re.compile(r"[\w.+-]*", re.ASCII)
# Operators that compute. `from_file` reads and makes files.
TARGET = re.compile(
    r"torch\.ops\.(aten|torchvision)\.(?!from_file)\w+\.\w+|torch\.sym_\w+|math\.(ceil|floor|trunc)"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge|and_|or_|getitem)",
    re.ASCII,
)
# Sizes that depend on the batch size, in sympy's words.
WORDS = (
    "Symbol|Integer|Add|Mul|Pow|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|IntTrueDiv"
    "|FloorToInt|CeilToInt|ToFloat|positive|nonnegative|integer|True|False|int_oo"
)
SIZE = re.compile(rf"(?:(?:{WORDS})\b|'?[su]\d+\b'?|\d+\b|[-+*/(),<>=&|~\s])*", re.ASCII)
# Parts of a graph that hold code or objects; files of `compress export` have none.
FORBIDDEN = ("guards_code", "treespec_namedtuple_fields", "custom_obj_values")


def read_archive(path: Path) -> tuple[bytes, str | None]:
    """Read a file that `torch.export.save` wrote.

    Returns:
        An archive that `torch.export.load` may load, and the text of its description if it has one.

    Raises:
        UserError: it is damaged, or has parts that could run code.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # All members lie in one folder, of any name.
            members = {
                name.partition("/")[2]: archive.read(name)
                for name in archive.namelist()
                if MEMBERS.fullmatch(name.partition("/")[2])
            }
        check_graph(json.loads(members[GRAPH]))
        for name in CONFIGS:
            _check_config(json.loads(members[name]))
    except (zipfile.BadZipFile, NotImplementedError, EOFError, RecursionError) as error:
        raise UserError(f"damaged, or not of torch.export ({error})") from error
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"not an archive of torch.export that is known here ({error})") from error
    description = members.pop(f"extra/{KEY}", None)
    members[SAMPLE_INPUTS] = b""
    return _pack(members), None if description is None else description.decode()


def check_graph(graph: Any) -> None:
    """Check that the strings of a serialized graph are names, operators and sizes.

    Raises:
        UserError: one is something else.
    """
    for key, text in _walk_strings("", graph):
        pattern = {"target": TARGET, "expr_str": SIZE}.get(key, NAME)
        if key in ("in_spec", "out_spec"):
            # A structure of tuples, in JSON.
            check_graph(json.loads(text))
        elif not pattern.fullmatch(text) and (key, text) != ("context", "[]"):
            raise UserError(f"has {key or 'a name'} {text[:80]!r}, which is not loaded from a file")


def _walk_strings(key: str, node: Any) -> Iterator[tuple[str, str]]:
    """Yield the strings of JSON, each with the key that it lies under; keys are strings too."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name in FORBIDDEN and value:
                raise UserError(f"has {name}, which are not loaded from a file")
            if name in ("as_operator", "as_custom_obj"):
                raise UserError(f"has {name}, which is not loaded from a file")
            yield "", name
            yield from _walk_strings(name, value)
    elif isinstance(node, list):
        for value in node:
            yield from _walk_strings(key, value)
    elif isinstance(node, str):
        yield key, node


def _check_config(config: dict[str, Any]) -> None:
    """Check that the tensors of an archive are plain bytes."""
    for name, each in config["config"].items():
        if each["use_pickle"] or not re.fullmatch(r"(weight|tensor)_\d+", each["path_name"]):
            raise UserError(f"has a pickle for {name[:80]!r}, which is not loaded from a file")


def _pack(members: dict[str, bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"archive/{name}", content)
    return target.getvalue()
