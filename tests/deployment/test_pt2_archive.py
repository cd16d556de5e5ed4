"""Archives of torch.export run no code as they are loaded, whatever is in them."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from exported_files import Exported, own_network
from torch import nn

from compress.deployment.export import export
from compress.deployment.load_model import load_model
from compress.deployment.pt2_archive import GRAPH, SAMPLE_INPUTS, TARGET
from compress.runtime.errors import UserError


@pytest.fixture(scope="module")
def archive(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pt2") / "model.pt2"
    return export(exported.checkpoint, "pt2", path).file


def rewrite(source: Path, target: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """Write an archive with changed members, by their names without the first folder."""
    with zipfile.ZipFile(source) as given:
        members = {name.partition("/")[2]: given.read(name) for name in given.namelist()}
    change(members)
    with zipfile.ZipFile(target, "w") as changed:
        for name, content in members.items():
            changed.writestr(f"model/{name}", content)
    return target


class Touch:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_pickles_are_never_opened(archive: Path, tmp_path: Path) -> None:
    evil = pickle.dumps(Touch(tmp_path / "ran"))

    def add(members: dict[str, bytes]) -> None:
        members[SAMPLE_INPUTS] = evil
        members["data/weights/model.pt"] = members["data/constants/model.pt"] = evil
        members["data/constants/custom_obj_0"] = evil

    assert load_model(rewrite(archive, tmp_path / "a.pt2", add)).classes
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("key", ["weights", "constants"])
@pytest.mark.parametrize("path", ["weight_0", "custom_obj_0", "opaque_obj_0", "../weight_0"])
def test_pickled_tensors_are_refused(archive: Path, tmp_path: Path, key: str, path: str) -> None:
    config = f"data/{key}/model_{key}_config.json"

    def add(members: dict[str, bytes]) -> None:
        content = json.loads(members[config])
        meta = {"path_name": path, "use_pickle": True, "is_param": False, "tensor_meta": None}
        content["config"]["evil"] = meta
        members[config] = json.dumps(content).encode()
        members[f"data/{key}/{path}"] = pickle.dumps(Touch(tmp_path / "ran"))

    with pytest.raises(UserError, match=r"a\.pt2: .*pickle") as refused:
        load_model(rewrite(archive, tmp_path / "a.pt2", add))
    assert "\n" not in str(refused.value) and not (tmp_path / "ran").exists()


def replace_strings(node: Any, key: str, evil: str) -> Any:
    """Return JSON in which every string under a key is another."""
    if isinstance(node, dict):
        return {
            name: evil
            if name == key and isinstance(value, str)
            else replace_strings(value, key, evil)
            for name, value in node.items()
        }
    return [replace_strings(each, key, evil) for each in node] if isinstance(node, list) else node


@pytest.mark.parametrize("key", ["expr_str", "name", "target", "parameter_name", "in_spec", "fqn"])
@pytest.mark.parametrize(
    "evil",
    [
        "__import__('pathlib').Path('ran').touch()",
        "x): __import__('os').mkdir('ran'); (y",
        "exec(chr(112))",
        "x\n    import os",
        "os.system",
    ],
)
def test_strings_that_are_code_are_refused(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, evil: str
) -> None:
    monkeypatch.chdir(tmp_path)

    def change(members: dict[str, bytes]) -> None:
        changed = replace_strings(json.loads(members[GRAPH]), key, evil)
        assert evil in str(changed) or json.dumps(evil)[1:-1] in json.dumps(changed)
        members[GRAPH] = json.dumps(changed).encode()

    with pytest.raises(UserError, match=r"a\.pt2: ") as refused:
        load_model(rewrite(archive, tmp_path / "a.pt2", change))
    assert "\n" not in str(refused.value) and not (tmp_path / "ran").exists()


@pytest.mark.parametrize("target", ["torch.hub.load", "_operator.methodcaller", "builtins.eval"])
def test_targets_only_compute(target: str) -> None:
    assert not TARGET.fullmatch(target)
    assert not TARGET.fullmatch("torch.ops.aten.from_file.default")
    assert TARGET.fullmatch("torch.ops.aten.conv2d.default")


def test_guards_are_refused(archive: Path, tmp_path: Path) -> None:
    def change(members: dict[str, bytes]) -> None:
        graph = json.loads(members[GRAPH])
        graph["guards_code"] = ["L"]
        members[GRAPH] = json.dumps(graph).encode()

    with pytest.raises(UserError, match="guards_code"):
        load_model(rewrite(archive, tmp_path / "a.pt2", change))


def test_archive_says_nothing_about_the_machine(archive: Path) -> None:
    with zipfile.ZipFile(archive) as members:
        (graph,) = [members.read(name) for name in members.namelist() if name.endswith(GRAPH)]
    assert b".py" not in graph and b"site-packages" not in graph


def test_archive_of_another_program_is_refused(tmp_path: Path) -> None:
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),))
    torch.export.save(program, tmp_path / "other.pt2")
    with pytest.raises(UserError, match=r"other\.pt2: .*"):
        load_model(tmp_path / "other.pt2")
    with zipfile.ZipFile(tmp_path / "zip.pt2", "w") as members:
        members.writestr("a/b", "c")
    with pytest.raises(UserError, match=r"zip\.pt2: .*torch\.export"):
        load_model(tmp_path / "zip.pt2")


def test_layer_whose_name_could_be_code_is_refused_before_anything_is_left(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pt2 .*'odd name\.weight'") as refused:
        export(own_network(nn.Conv2d(3, 3, 1), "odd name"), "pt2", tmp_path / "model.pt2")
    assert "\n" not in str(refused.value) and list(tmp_path.iterdir()) == []
