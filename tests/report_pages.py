"""Reading the pages of reports as a browser would, without one."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from compress.runtime.checksum import seal_table

# Elements that have no end.
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """A page: its elements, and its text. Elements that are not closed in order are refused."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += f"{data} "

    def find(self, tag: str) -> list[dict[str, str | None]]:
        """Return the attributes of all elements of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]

    def links(self) -> list[str]:
        """Return all that the page refers to, other than parts of itself and data in it."""
        keys = ("src", "href", "xlink:href", "srcset", "action", "data")
        found = [attributes.get(key) or "" for _, attributes in self.elements for key in keys]
        return [link for link in found if link and not link.startswith(("#", "data:"))]


def read_page(path: Path) -> Page:
    """Read a page, and check what holds for all of them."""
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert len(html) < 2_000_000 and page.links() == []
    assert {tag for tag, _ in page.elements}.isdisjoint(("script", "iframe", "object", "form"))
    assert not any(key.startswith("on") for _, attributes in page.elements for key in attributes)
    assert "default-src 'none'" in html and "prefers-color-scheme: dark" in html
    return page


def change_manifest(run: Path, **changes: Any) -> None:
    """Change keys of a run's manifest, as a stranger could: its checksum fits."""
    file = run / "run.json"
    file.write_text(json.dumps(seal_table(json.loads(file.read_text()) | changes)))
