"""Registries: known names, suggestions, and plug-ins of other packages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.recipe.data_names import DATA_PLACES, check_data_name, load_data_place
from compress.recipe.model_spec import ModelSpec
from compress.recipe.registry import DATA_SOURCES, IMPORTANCES, METHODS, NETWORKS, Registry
from compress.runtime.errors import UserError
from compress.runtime.files import require_file

REGISTRIES = {
    "methods": METHODS,
    "importances": IMPORTANCES,
    "data": DATA_SOURCES,
    "networks": NETWORKS,
}
each_registry = pytest.mark.parametrize("registry", REGISTRIES.values(), ids=REGISTRIES)


@each_registry
def test_a_known_name_is_accepted_and_a_misspelt_one_suggested(registry: Registry) -> None:
    for name in registry.names():
        assert registry.check_name(name) == name and name in registry
        with pytest.raises(UserError) as refused:
            registry.check_name(f"{name}x")
        assert f"unknown {registry.kind} '{name}x'" in str(refused.value)
        assert f"did you mean {name!r}" in str(refused.value)


@each_registry
@given(name=st.text(max_size=20))
def test_any_other_name_is_refused_in_one_line(registry: Registry, name: str) -> None:
    if name in registry.names():
        return
    assert name not in registry
    with pytest.raises(UserError) as refused:
        registry.check_name(name)
    assert len(str(refused.value).splitlines()) == 1


@each_registry
def test_every_built_in_entry_can_be_loaded(registry: Registry) -> None:
    assert all(registry.load(name) is not None for name in registry.builtin)


def test_a_data_set_is_a_name_or_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_data_name(None) is None and check_data_name("mnist") is None
    assert check_data_name(f"folder:{tmp_path}") == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    assert check_data_name("folder:~") == tmp_path
    with pytest.raises(UserError, match="folder:nowhere"):
        check_data_name("folder:nowhere")
    with pytest.raises(UserError, match=r"'minst'.*'mnist'.*folder:PATH.*csv:FILE.*hf:NAME"):
        check_data_name("minst")


def test_data_of_other_kinds_is_named_by_its_place(tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    with pytest.raises(UserError, match=r"no file .*labels\.csv"):
        check_data_name(f"csv:{table}")
    table.write_text("path,label\n")
    assert check_data_name(f"csv:{table}") == table
    assert check_data_name("hf:owner/name") is None
    assert all(callable(load_data_place(prefix)) for prefix in DATA_PLACES)


@pytest.mark.parametrize(
    ("prefix", "place"), [(key, rest) for key, (rest, _) in DATA_PLACES.items()]
)
def test_a_prefix_needs_a_place(prefix: str, place: str) -> None:
    with pytest.raises(UserError, match=f"^{prefix}: names no place; write {prefix}:{place}$"):
        check_data_name(f"{prefix}:")


def test_a_prefix_that_is_missing_or_wrong_is_suggested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Path("labels.csv").touch()
    for name, meant in (
        ("photos", "folder:photos"),
        ("csv:photos", "folder:photos"),
        ("labels.csv", "csv:labels.csv"),
        ("folder:labels.csv", "csv:labels.csv"),
    ):
        with pytest.raises(UserError, match=f"did you mean {meant}") as error:
            check_data_name(name)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "source"),
    [("resnet18", "torchvision"), ("resnet10", "zoo"), ("mynets:build", "custom")],
)
def test_the_source_of_a_network_follows_from_its_name(name: str, source: str) -> None:
    assert ModelSpec(name).source == source
    assert ModelSpec(name, source=source) == ModelSpec(name)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "source"), [("resnet18", "custom"), ("mynets:build", "zoo")])
def test_a_source_that_does_not_suit_the_name_is_refused(name: str, source: Any) -> None:
    with pytest.raises(ValueError, match=f"{source!r}.*{name!r}"):
        ModelSpec(name, source=source)


ENTRY_POINTS = """
[compress.methods]
my-method = myplugin:METHOD
kd = myplugin:METHOD
broken = myplugin.missing:METHOD
module = myplugin
function = myplugin:read_data
absent = myplugin:NOTHING

[compress.importances]
my-importance = myplugin:IMPORTANCE
module = myplugin

[compress.data]
my-data = myplugin:read_data
nonsense = myplugin:NONSENSE

[compress.networks]
my-network = myplugin:build_network
nonsense = myplugin:NONSENSE
no-classes = myplugin:read_data
"""

PLUGIN = """
NONSENSE = "nonsense"


def __getattr__(name):
    # Loaded when they are asked for: names alone are checked without torch.
    if name == "METHOD":
        from compress.distillation.method import Method

        return Method(alpha=0.25)
    if name == "IMPORTANCE":
        import torch_pruning
        from compress.pruning.importance import Importance

        return Importance(torch_pruning.importance.RandomImportance)
    raise AttributeError(name)


def read_data(): ...


def build_network(num_classes): ...
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """Install a package with entry points, as pip does, and return the folder it is in."""
    installed = tmp_path / "site-packages"
    info = installed / "my_plugin-1.0.dist-info"
    info.mkdir(parents=True)
    (installed / "myplugin.py").write_text(PLUGIN)
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-plugin\nVersion: 1.0\n")
    return installed


def run_python(code: str, installed: Path) -> Any:
    """Run `code` in a fresh process with `installed` on its path; return the JSON it prints."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(installed), *sys.path])}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


USE = """
import json, sys
from compress.recipe.load import load_recipe, recipe_from_dict
from compress.recipe.registry import DATA_SOURCES, IMPORTANCES, METHODS, NETWORKS
from compress.runtime.errors import UserError
from compress.runtime.files import require_file

found = {}
registries = [METHODS, IMPORTANCES, DATA_SOURCES, NETWORKS]
names = ["my-method", "my-importance", "my-data", "my-network"]
found["known"] = [name in registry.names() for registry, name in zip(registries, names)]


def make(method, importance, data, network):
    stages = [
        {"kind": "distill", "epochs": 1, "method": method},
        {"kind": "prune", "importance": importance},
    ]
    networks = {"teacher": {"name": "resnet18"}, "student": {"name": network}}
    return recipe_from_dict({"budget": "1k", "data": data, "stages": stages} | networks)


recipe = make(*names)
found["source"] = recipe.student.source
found["recipe"] = [
    recipe.stages[0].method, recipe.stages[1].importance, recipe.data, recipe.student.name
]
found["messages"] = []
for place, (registry, name) in enumerate(zip(registries, names)):
    wrong = names[:place] + [name[:-1]] + names[place + 1 :]
    try:
        make(*wrong) if registry is not NETWORKS else registry.check_name(wrong[place])
    except UserError as error:
        found["messages"].append(str(error))
found["torch"] = "torch" in sys.modules
found["loaded"] = [str(registry.load(name)) for registry, name in zip(registries, names)]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_plugins_are_known_by_recipes_and_suggested(plugin: Path) -> None:
    found = run_python(USE, plugin)
    assert "alpha=0.25" in found["loaded"][0] and "RandomImportance" in found["loaded"][1]
    assert "read_data" in found["loaded"][2] and "build_network" in found["loaded"][3]
    assert all(found["known"])
    assert found["recipe"] == ["my-method", "my-importance", "my-data", "my-network"]
    assert found["source"] == "zoo"
    for name, message in zip(found["recipe"], found["messages"], strict=True):
        assert f"{name[:-1]!r} (did you mean {name!r}?)" in message
    assert not found["torch"]


CHECK = """
import json
from pydantic import TypeAdapter
from compress.recipe.registry import METHODS, Registry
from compress.recipe.schema import Recipe
from compress.runtime.errors import UserError
from compress.runtime.files import require_file

schema = TypeAdapter(Recipe).json_schema()
found = {
    "methods": schema["$defs"]["Train"]["properties"]["method"]["enum"],
    "data": schema["properties"]["data"]["anyOf"][0]["enum"],
    "kd": METHODS.names().count("kd"),
}
try:
    METHODS.load("broken")
except UserError as error:
    found["broken"] = str(error)
found["taken"] = Registry("method", "compress.methods", {"kd": "json:__name__"}).load("kd")
print(json.dumps(found))
"""


def test_plugins_are_in_the_json_schema_and_replace_nothing(plugin: Path) -> None:
    found = run_python(CHECK, plugin)
    assert "my-method" in found["methods"] and "my-data" in found["data"]
    assert found["kd"] == 1 and found["taken"] == "json"


def test_a_plugin_that_cannot_be_imported_is_named_in_one_line(plugin: Path) -> None:
    message = run_python(CHECK, plugin)["broken"]
    assert "'broken'" in message and "myplugin.missing:METHOD" in message
    assert len(message.splitlines()) == 1


REFUSE = """
import json
from compress.data.sources import open_source
from compress.recipe.registry import DATA_SOURCES, IMPORTANCES, METHODS, NETWORKS
from compress.runtime.errors import UserError
from compress.runtime.files import require_file

found = {}
cases = [(METHODS, "module"), (METHODS, "function"), (METHODS, "absent"), (IMPORTANCES, "module")]
cases += [(DATA_SOURCES, "nonsense"), (NETWORKS, "nonsense"), (NETWORKS, "no-classes")]
for registry, name in cases:
    try:
        registry.load(name)
    except UserError as error:
        found[f"{registry.kind} {name}"] = str(error)
try:
    open_source("my-data")
except UserError as error:
    found["no source"] = str(error)
print(json.dumps(found))
"""


@pytest.mark.slow
def test_an_entry_point_to_something_else_is_refused_in_one_line(plugin: Path) -> None:
    found = run_python(REFUSE, plugin)
    assert len(found) == 8
    assert "'my-data'" in found.pop("no source")
    for case, message in found.items():
        name = case.split()[-1]
        assert repr(name) in message and "my-plugin" in message and "myplugin" in message
        assert len(message.splitlines()) == 1
    assert "Method" in found["method module"] and "module" in found["method module"]
    assert "num_classes" in found["network no-classes"]


@pytest.mark.parametrize("data", ["folder:{}", "masks:{}", "csv:{}", "{}"])
def test_a_name_that_is_too_long_is_one_line(data: str) -> None:
    with pytest.raises(UserError, match="too long") as caught:
        check_data_name(data.format("x" * 5000))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="too long"):
        require_file("x" * 5000)


def test_the_home_of_an_unknown_user_is_no_folder() -> None:
    with pytest.raises(UserError, match="there is no folder ~nobody-of-that-name"):
        check_data_name("folder:~nobody-of-that-name/photos")
