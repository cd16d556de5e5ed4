"""A folder with a demo page, opened in a headless Chromium that sends back what it found there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ("--headless", "--no-sandbox", "--disable-background-networking", "--v=0")

# Sends the logits of all networks for all images; then what the page itself shows.
SCRIPT = """
import { classify, openModels } from "./classify.js";
import { decode } from "./decode.js";

const send = (found) => fetch("/found", { method: "POST", body: JSON.stringify(found) });
const models = await openModels();
const answers = {};
for (const name of await (await fetch("images.json")).json()) {
  try {
    const picture = await decode(await (await fetch(`images/${name}`)).blob());
    const found = [];
    for (const model of models) found.push(Array.from((await classify(model, picture)).logits));
    answers[name] = found;
  } catch (error) {
    answers[name] = error.message;
  }
}
const frame = document.createElement("iframe");
frame.src = "index.html";
document.body.append(frame);
const state = () => frame.contentDocument?.body?.dataset.state;
while (!["ready", "failed"].includes(state())) await new Promise((done) => setTimeout(done, 50));
const { body } = frame.contentDocument;
const names = [...body.querySelectorAll(".name")].map((each) => each.textContent);
const canvases = body.querySelectorAll("canvas").length;
await send({ answers, text: body.innerText, state: state(), names, canvases });
"""


@dataclass(frozen=True)
class Visit:
    """What a browser found: logits by image and network, the page's text, errors, and requests."""

    answers: dict[str, Any]
    page: dict[str, Any]
    errors: list[str]
    requests: set[str]


def visit(folder: Path, images: Path, scratch: Path) -> Visit:
    """Serve a folder, open it with all images of another folder, and return what was found."""
    assert CHROMIUM is not None
    shutil.copytree(images, folder / "images")
    (folder / "images.json").write_text(json.dumps(sorted(each.name for each in images.iterdir())))
    (folder / "check.js").write_text(SCRIPT)
    (folder / "check.html").write_text('<body><script type="module" src="check.js"></script>')
    found: Queue[dict[str, Any]] = Queue()

    class Handler(SimpleHTTPRequestHandler):
        def do_POST(self) -> None:
            found.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    log = scratch / "net.json"
    words = [CHROMIUM, *FLAGS, "--enable-logging=stderr", f"--log-net-log={log}"]
    words += [f"--user-data-dir={scratch / 'profile'}", "--remote-debugging-port=0"]
    address = f"http://127.0.0.1:{server.server_port}"
    with (scratch / "stderr").open("w") as stderr:
        browser = subprocess.Popen([*words, f"{address}/check.html"], stderr=stderr)
        try:
            page = found.get(timeout=180)
        except Empty:
            raise AssertionError((scratch / "stderr").read_text()) from None
        finally:
            browser.terminate()
            browser.wait(30)
            server.shutdown()
            server.server_close()
    errors = re.findall(r"CONSOLE.*", (scratch / "stderr").read_text())
    lines = [line for line in log.read_text().splitlines() if '"initiator":' in line]
    asked = [line for line in lines if '"initiator":"not an origin"' not in line]
    urls = set(re.findall(r'"url":"([^"]*)"', "".join(asked)))
    return Visit(page.pop("answers"), page, errors, {u for u in urls if not u.startswith(address)})
