"""Pages of the site beside those in docs: home, commands and Python functions (mkdocs.yml's hook).

Nothing is written: the pages are made of README.md and its like, of the commands' options and of
the public functions whenever the site is built. torch is not imported.
"""

from __future__ import annotations

import inspect
import posixpath
import re
from collections.abc import Iterator
from typing import Any

import click
from code_blocks import ROOT, find_pages, join_lines, read_blocks, read_commands
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import compress
from compress.cli.main import main

# Pages outside of docs, with their names in the site.
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "weights/README.md": "weights.md",
}
COMMANDS, API = "commands", "api.md"
LINK = re.compile(r"(?<=\]\()([^)#\s:]+)(?=[)#])")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put a page for each command into the navigation, where it says ``commands``."""
    pages = [{name: f"{COMMANDS}/{name}.md"} for name in main.commands]
    config.nav = [
        {title: pages if entry == COMMANDS else entry for title, entry in section.items()}
        for section in config.nav or []
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that do not lie in docs."""
    made = {name: (ROOT / path).read_text(encoding="utf-8") for path, name in OUTSIDE.items()}
    made |= {
        f"{COMMANDS}/{name}.md": write_command(name, main.commands[name]) for name in main.commands
    }
    made[API] = write_api()
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(text: str, page: Page, **_: Any) -> str:
    """Lead links to where the site has their targets."""
    paths = {name: path for path, name in OUTSIDE.items()}
    name = page.file.src_uri
    folder = posixpath.dirname(paths.get(name, f"docs/{name}"))
    return LINK.sub(lambda found: translate_link(found[0], folder), text)


def translate_link(target: str, folder: str) -> str:
    """Translate a link between files of the repository to one between pages of the site.

    Args:
        target: path relative to `folder`, without anchor.
        folder: of the page that has the link, relative to the repository.
    """
    path = posixpath.normpath(posixpath.join(folder, target))
    return OUTSIDE.get(path, path.removeprefix("docs/"))


def write_command(name: str, command: click.Command) -> str:
    """Write the page of a command, in Markdown: what ``--help`` says, and examples in the docs."""
    ctx = click.Context(command, info_name=f"compress {name}", **command.context_settings)
    usage = " ".join([ctx.command_path, *command.collect_usage_pieces(ctx)])
    options = [each for each in command.get_params(ctx) if isinstance(each, click.Option)]
    records = [record for option in options if (record := option.get_help_record(ctx))]
    parts = [f"# compress {name}", f"```text\n{usage}\n```", inspect.cleandoc(command.help or "")]
    rows = [f"| <code>{escape(words)}</code> | {escape(text)} |" for words, text in records]
    parts += ["\n".join(["## Options", "", "| option | |", "|---|---|", *rows])]
    if examples := "\n".join(find_examples(name)):
        parts += ["## Examples", f"```sh\n{examples}\n```"]
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Escape what is not text in a cell of a table."""
    return re.sub(r"[|<>*_\[\]`]", lambda found: f"&#{ord(found[0])};", text)


def find_examples(name: str) -> Iterator[str]:
    """Yield the lines of README and docs that call a command, each once."""
    seen = set()
    blocks = (block for page in find_pages() for block in read_blocks(page) if block.is_shell)
    for line in (line for block in blocks for line in join_lines(block.text)):
        for words in read_commands(line):
            if words[:2] == ["compress", name] and tuple(words) not in seen:
                seen.add(tuple(words))
                yield line


def write_api() -> str:
    """Write the page of the public functions, in Markdown for mkdocstrings."""
    parts = ["# Python functions", "[From Python](python.md) shows them at work."]
    for name, place in sorted(compress._DEFINITIONS.items()):
        options = f"    options: {{heading: compress.{name}, toc_label: {name}}}"
        parts.append(f"::: {place.replace(':', '.')}\n{options}")
    return "\n\n".join(parts) + "\n"
