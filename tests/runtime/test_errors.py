"""Errors for users: one line, with the closest known word."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.runtime.errors import UserError, did_you_mean, is_out_of_memory, one_line


def test_the_closest_known_word_is_suggested() -> None:
    assert did_you_mean("sead", ["seed", "batch_size"]) == " (did you mean 'seed'?)"
    assert did_you_mean("sead", ["optimizer"]) == "" and did_you_mean("sead", []) == ""


@given(st.text(max_size=20), st.lists(st.text(min_size=1, max_size=20), max_size=5))
def test_only_known_words_are_suggested(word: str, known: list[str]) -> None:
    hint = did_you_mean(word, known)
    assert not hint or hint in [f" (did you mean {each!r}?)" for each in known]
    assert hint or word not in known


@given(st.text(max_size=500))
def test_a_message_becomes_one_short_line(text: str) -> None:
    line = one_line(ValueError(text))
    assert line and len(line.splitlines()) == 1 and len(line) <= 200
    assert "".join(line.split()) in ("".join(text.split()), "ValueError") or len(line) == 200


def test_a_longer_limit_keeps_the_remedy_at_the_end() -> None:
    assert one_line(UserError("a" * 300 + "; pass --force"), 800).endswith("--force")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 20 MiB"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_running_out_of_memory_is_recognized(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected
