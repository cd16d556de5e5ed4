"""`doctor` and `--version`: what is here, what would be slow, and what is cleared."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import pytest
import torch
import torchvision
from click.testing import CliRunner, Result
from commands import ROOT

from compress.cli.main import main
from compress.data.cache import DATA_FOLDERS, REMADE
from compress.recipe.registry import DATA_SOURCES
from compress.reporting.doctor import extras_table, find_problems
from compress.runtime import device


def run(*words: str) -> Result:
    done = CliRunner().invoke(main, list(words))
    assert done.exit_code == 0, done.output
    return done


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with a data set, and one of everything that is made again."""
    # A long path would be folded.
    monkeypatch.chdir(tmp_path)
    root = Path("cache")
    (root / "FashionMNIST" / "raw").mkdir(parents=True)
    (root / "FashionMNIST" / "raw" / "images").write_bytes(bytes(3_000_000))
    (root / "latency").mkdir()
    (root / "latency" / "onnx-1.jsonl").write_bytes(bytes(5_000))
    (root / "verified-images.sqlite3").write_bytes(bytes(7_000))
    (root / "hugging-face" / "key").mkdir(parents=True)
    monkeypatch.setenv("COMPRESS_DATA", str(root))
    return root


def test_doctor_shows_versions_data_and_caches(cache: Path) -> None:
    shown = run("doctor").stdout
    for name in ("torch", "torchvision"):
        assert re.search(rf"│ {name} +│ {re.escape(metadata.version(name))} +│", shown)
    assert re.search(r"│ fashion-mnist +│ cache/FashionMNIST +│ +3 MB │", shown)
    assert re.search(r"│ cache/latency +│ +5 KB │ +yes │", shown)
    assert str(torch.get_num_threads()) in shown
    assert all(name in shown for name in DATA_SOURCES.names())


def test_clear_cache_leaves_data_sets_and_what_links_lead_to(cache: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine.txt").write_text("mine")
    (cache / "hugging-face" / "key").rmdir()
    (cache / "hugging-face").rmdir()
    (cache / "hugging-face").symlink_to(elsewhere)
    (cache / "notes.txt").write_text("mine")
    shown = run("doctor", "--clear-cache").stdout
    assert "5 KB" in shown and "7 KB" in shown
    assert {each.name for each in cache.iterdir()} == {"FashionMNIST", "hugging-face", "notes.txt"}
    assert (elsewhere / "mine.txt").is_file()
    assert (cache / "FashionMNIST" / "raw" / "images").stat().st_size == 3_000_000
    assert "nothing" in run("doctor", "--clear-cache").stdout


def test_every_data_set_has_its_folder() -> None:
    assert set(DATA_FOLDERS) == set(DATA_SOURCES.builtin)
    assert not set(DATA_FOLDERS.values()) & set(REMADE)
    # Those that torchvision unpacks itself.
    assert DATA_FOLDERS["cifar10"] == torchvision.datasets.CIFAR10.base_folder
    assert DATA_FOLDERS["cifar100"] == torchvision.datasets.CIFAR100.base_folder


def test_problems_name_a_remedy(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("compress.reporting.doctor.count_usable_cores", lambda: 8)
    monkeypatch.setattr("compress.reporting.doctor.can_compile", lambda device: False)
    monkeypatch.setattr("compress.reporting.doctor.free_memory", lambda: 10**9)
    problems = find_problems()
    for words in ("OMP_NUM_THREADS", r"g\+\+", r"1,?000 MB.*--max-images", "--quick"):
        assert any(re.search(words, problem) for problem in problems), words
    monkeypatch.setattr("compress.reporting.doctor.count_usable_cores", lambda: 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert any("OMP_NUM_THREADS=8" in problem for problem in find_problems())
    # Without the variable, torch has chosen well.
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert not any("OMP_NUM_THREADS" in problem for problem in find_problems())


def test_extras_say_what_is_missing() -> None:
    table = extras_table(
        [
            "torch>=2",
            'numpy>=1 ; extra == "here"',
            "no-such-thing; extra == 'gone'",
            "numpy; extra == 'gone'",
            "compress[here]; extra == 'test'",
        ]
    )
    assert table is not None and [row[0] for row in table.rows] == ["here", "gone"]
    states = dict(table.rows)
    assert states["here"] == "installed"
    assert "no-such-thing" in states["gone"] and "compress[gone]" in states["gone"]
    assert "numpy" not in states["gone"] and extras_table([]) is None


def test_version_names_torch() -> None:
    shown = run("--version").stdout
    assert shown.count("\n") == 1 and f"torch {metadata.version('torch')}" in shown
    assert shown.startswith("compress ")


def test_usable_cores_are_those_of_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "count_cores", lambda: 16)
    real = Path.read_text
    for text, cores in (("200000 100000", 2), ("max 100000", 16), ("50000 100000", 1)):
        limits = {"/sys/fs/cgroup/cpu.max": text}
        monkeypatch.setattr(
            Path, "read_text", lambda path, limits=limits: limits.get(str(path)) or real(path)
        )
        assert device.count_usable_cores() == cores


@pytest.mark.parametrize(
    ("words", "index", "expected"),
    [("compress ev", 1, "eval"), ("compress eval --cal", 2, "--calibrate")],
)
def test_the_shell_completes_commands_and_options(words: str, index: int, expected: str) -> None:
    env = {"_COMPRESS_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(index)}
    done = CliRunner().invoke(main, env=env, prog_name="compress")
    assert f"plain,{expected}" in done.output.splitlines()


def test_the_documented_lines_load_a_completion() -> None:
    page = (ROOT / "docs" / "machine.md").read_text(encoding="utf-8")
    for shell in re.findall(r"_COMPRESS_COMPLETE=(\w+)_source", page):
        env = {"_COMPRESS_COMPLETE": f"{shell}_source"}
        done = CliRunner().invoke(main, env=env, prog_name="compress")
        assert f"_COMPRESS_COMPLETE={shell}_complete" in done.output
