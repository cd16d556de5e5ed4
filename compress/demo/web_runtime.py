"""onnxruntime-web, which runs networks in a browser: fetched once, or given. No torch here.

It comes from the npm registry that npm's settings name, or from the public one without npm.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
import tarfile
import urllib.request
from pathlib import Path

from compress.data.cache import WEB_RUNTIME, cache_root, create_folder
from compress.runtime.errors import UserError, one_line

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
# SHA-512 of the package's archive, in base64.
INTEGRITY = (
    "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
)
REGISTRY = "https://registry.npmjs.org"
# Files in the package's folder `dist`, with their names on a page: some servers do not know .mjs.
FILES = {"ort.wasm.bundle.min.mjs": "ort.js", "ort-wasm-simd-threaded.wasm": "ort.wasm"}
FETCH_SECONDS = 600


def find_runtime(given: Path | None = None) -> dict[str, Path]:
    """Return the files of onnxruntime-web, by their names on a page.

    Args:
        given: the package's folder, or its `dist`; fetched into the cache if left out.

    Raises:
        UserError: a file is not there, or the package cannot be fetched.
    """
    folder = _check_given(given) if given is not None else _cached()
    return {name: folder / file for file, name in FILES.items()}


def _check_given(given: Path) -> Path:
    folders = (given, given / "dist", given / "node_modules" / PACKAGE / "dist")
    for folder in folders:
        if all((folder / file).is_file() for file in FILES):
            return folder
    raise UserError(f"--ort {given}: has no {' and '.join(FILES)}; name {PACKAGE}'s folder dist")


def _cached() -> Path:
    folder = cache_root() / WEB_RUNTIME / VERSION
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        create_folder(folder, _fetch)
    # Downloads fail in many ways.
    except Exception as error:
        raise UserError(
            f"{PACKAGE} {VERSION} could not be fetched ({one_line(error)}); try again later, or"
            f" name a folder that has {' and '.join(FILES)} with --ort"
        ) from error
    return folder


def _fetch(staging: Path) -> None:
    """Fetch the package, and keep the files that a page needs."""
    archive = _pack(staging) if shutil.which("npm") else _download(staging)
    check_integrity(archive)
    folder = staging / VERSION
    folder.mkdir()
    with tarfile.open(archive) as package:
        for file in FILES:
            member = package.extractfile(f"package/dist/{file}")
            if member is None:
                raise UserError(f"{file} is not in the package")
            (folder / file).write_bytes(member.read())


def check_integrity(archive: Path) -> None:
    """Check that a file is the published package.

    Raises:
        UserError: it is not.
    """
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if digest != INTEGRITY:
        raise UserError(f"what the registry sent is not {PACKAGE} {VERSION}: its SHA-512 differs")


def _pack(folder: Path) -> Path:
    """Fetch the package by npm, from the registry of its settings."""
    words = ["npm", "pack", f"{PACKAGE}@{VERSION}", "--ignore-scripts", "--loglevel=error"]
    # Npm tries three times, and then a minute has passed.
    words += ["--fetch-retries=1"]
    done = subprocess.run(
        [*words, "--pack-destination", str(folder)],
        capture_output=True,
        text=True,
        timeout=FETCH_SECONDS,
        check=False,
    )
    found = list(folder.glob("*.tgz"))
    if done.returncode or len(found) != 1:
        reason = find_reason(done.stderr)
        raise UserError(reason or f"npm pack ended with code {done.returncode}")
    return found[0]


def find_reason(printed: str) -> str:
    """Return the line that says most among the errors that npm printed; empty if there is none.

    Example:
        >>> find_reason("npm error code E404\\nnpm error 404 Not Found - GET https://npm.example/x")
        '404 Not Found - GET https://npm.example/x'
    """
    lines = [re.sub(r"^npm (error|ERR!)", "", line).strip() for line in printed.splitlines()]
    telling = [line for line in lines if line and not re.match(r"(code|syscall|errno) ", line)]
    reasons = [line for line in telling if "reason:" in line] or telling
    return reasons[0] if reasons else ""


def _download(folder: Path) -> Path:
    """Fetch the package from the public registry."""
    target = folder / f"{PACKAGE}-{VERSION}.tgz"
    url = f"{REGISTRY}/{PACKAGE}/-/{target.name}"
    with urllib.request.urlopen(url, timeout=60) as response, target.open("wb") as file:
        shutil.copyfileobj(response, file)
    return target
