"""Find the code in Markdown pages: fenced blocks, indented blocks, and commands between backticks.

The site shows examples with each command, the notebook is made of it, and tests run what it finds.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# A block is of the shell if each of its lines starts with one of these.
PROGRAMS = ("compress", "predict", "python", "pip", "pytest", "ruff", "apt-get", "tensorboard")


@dataclass(frozen=True)
class Block:
    """A block of code.

    Args:
        line: number of its first line of code, from 1.
        language: the word after a fence; empty for an indented block.
        text: its lines, without indentation, each with its end.
    """

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def is_shell(self) -> bool:
        """Whether all lines are commands."""
        lines = [line for line in join_lines(self.text) if line.strip()]
        return bool(lines) and all(line.split()[0] in PROGRAMS for line in lines)


def find_pages() -> list[Path]:
    """Return README.md, CONTRIBUTING.md and the pages in docs, without the changelog."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "weights/README.md"]
    return [*pages, *sorted((ROOT / "docs").glob("*.md"))]


def read_blocks(page: Path, language: str | None = None) -> list[Block]:
    """Return the blocks of a page, in order; of one language only, if it is named."""
    blocks = list(_split_blocks(page))
    return [block for block in blocks if language in (None, block.language)]


def _split_blocks(page: Path) -> Iterator[Block]:
    lines = page.read_text(encoding="utf-8").splitlines()
    number, blank = 0, True
    while number < len(lines):
        start = number
        if fence := re.match(r"```(\w*)", lines[number]):
            while not lines[number + 1].startswith("```"):
                number += 1
            yield _make_block(page, start + 2, fence[1], lines[start + 1 : number + 1])
            number += 1
        elif blank and lines[number].startswith("    "):
            while number + 1 < len(lines) and re.match(" {4}|$", lines[number + 1]):
                number += 1
            yield _make_block(page, start + 1, "", [line[4:] for line in lines[start : number + 1]])
        blank = not lines[number].strip()
        number += 1


def _make_block(page: Path, line: int, language: str, lines: list[str]) -> Block:
    return Block(page, line, language, "\n".join(lines).rstrip("\n") + "\n")


def join_lines(text: str) -> list[str]:
    """Return the lines of a text, those that end in a backslash joined with the next."""
    return text.replace("\\\n", " ").splitlines()


def read_commands(line: str) -> list[list[str]]:
    """Return the words of each command in a line of the shell.

    Comments, redirections and marks of omission are left out.

    Example:
        >>> read_commands("pip install . && compress eval -w model.pth > out  # comment")
        [['pip', 'install', '.'], ['compress', 'eval', '-w', 'model.pth']]
    """
    words = shlex.shlex(line, posix=True, punctuation_chars="&|;>")
    words.whitespace_split = True
    commands: list[list[str]] = [[]]
    is_target = False
    for word in words:
        if is_target or word == "…":
            is_target = False
        elif word == ">":
            is_target = True
        elif set(word) <= set("&|;"):
            commands.append([])
        else:
            commands[-1].append(word)
    return [command for command in commands if command]


def read_spans(page: Path) -> list[str]:
    """Return the commands that stand between backticks in a page's text, with arguments."""
    text = page.read_text(encoding="utf-8")
    for block in read_blocks(page):
        if block.language:
            text = text.replace(block.text, "")
    text = re.sub(r"^(```| {4}).*$", "", text, flags=re.MULTILINE)
    spans = (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text))
    return [span for span in spans if re.match(r"(compress|predict|python) ", span)]
