"""Reports in a real browser: no error, no request, the right numbers, and no scrolling aside."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

import compress
from compress.models.build import import_builder

BUILDERS = ["tinynets:teacher", "tinynets:student"]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")

# Waits for what a page loads, then says how wide it is.
MEASURE = """<script>addEventListener("load", () => {
  document.title = `${document.documentElement.scrollWidth} of ${innerWidth}`;
})</script>"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's package chromium"),
]


@dataclass(frozen=True)
class Visit:
    """What a browser did with a page: its elements then, errors on its console, and requests."""

    dom: str
    errors: list[str]
    requests: list[str]

    @property
    def text(self) -> str:
        body = re.sub(r"<style>.*?</style>", "", self.dom, flags=re.DOTALL)
        return html.unescape(re.sub(r"<[^>]*>", " ", body))


def browse(page: Path, folder: Path, *flags: str) -> Visit:
    assert CHROMIUM is not None
    log = folder / f"{page.stem}.json"
    words = ["--enable-logging=stderr", "--v=0", f"--log-net-log={log}", "--dump-dom"]
    words += [f"--user-data-dir={folder / page.stem}", *FLAGS, *flags, page.as_uri()]
    done = subprocess.run(
        [CHROMIUM, *words], capture_output=True, text=True, timeout=120, check=True
    )
    # The browser itself asks for updates; such requests are of no origin.
    lines = [line for line in log.read_text().splitlines() if '"initiator":' in line]
    asked = [line for line in lines if '"initiator":"not an origin"' not in line]
    requests = re.findall(r'"url":"([^"]*)"', "".join(asked))
    errors = re.findall(r"CONSOLE.*", done.stderr)
    return Visit(done.stdout, errors, requests)


@pytest.fixture(scope="module")
def page(finished: Path, mislabelled: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run, with everything that one can have."""
    run = Path(shutil.copytree(finished, tmp_path_factory.mktemp("browsed") / "run"))
    found = compress.analyze(run / "model.pth", builder=import_builder(BUILDERS[1]))
    (run / "analysis.json").write_text(found.as_json())
    return compress.report(run, run / "report.html", data=mislabelled, builders=BUILDERS)


def test_no_error_no_request_and_the_right_numbers(page: Path, tmp_path: Path) -> None:
    visit = browse(page, tmp_path)
    assert visit.errors == [] and visit.requests == []
    for stage in json.loads((page.parent / "run.json").read_text())["stages"]:
        assert f"{stage['params']:,}" in visit.text and f"{100 * stage['test']:.2f}" in visit.text
    # Figures are parsed as such, and their text is text.
    assert visit.dom.count('<svg class="plot"') == 8 and "validation accuracy, %" in visit.text


def test_errors_and_requests_would_be_noticed(page: Path, tmp_path: Path) -> None:
    intruder = '<img src="http://127.0.0.1:9/a.png"><script>throw "bad"</script></body>'
    broken = tmp_path / "broken.html"
    broken.write_text(page.read_text().replace("</body>", intruder))
    # The page's own policy forbids both.
    assert len(browse(broken, tmp_path).errors) >= 2
    policy = re.compile(r"<meta http-equiv=[^>]*>")
    open_page = tmp_path / "open.html"
    open_page.write_text(policy.sub("", broken.read_text()))
    visit = browse(open_page, tmp_path)
    assert visit.requests == ["http://127.0.0.1:9/a.png"] and "bad" in visit.errors[0]


@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_is_wider_than_the_window(width: int, page: Path, tmp_path: Path) -> None:
    measured = tmp_path / "measured.html"
    text = re.sub(r"<meta http-equiv=[^>]*>", "", page.read_text())
    measured.write_text(text.replace("</body>", f"{MEASURE}</body>"))
    visit = browse(measured, tmp_path, f"--window-size={width},900", "--hide-scrollbars")
    [(found, window)] = re.findall(r"<title>(\d+) of (\d+)</title>", visit.dom)
    assert int(found) == int(window) <= max(width, 500)
