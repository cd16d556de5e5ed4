#!/usr/bin/env bash
# Run the tests against the lowest versions that pyproject.toml allows, in an environment of its own:
#   benchmarks/lowest_versions.sh [FOLDER [ARGUMENTS OF pytest]]
# Downloads several gigabytes. The optional packages have their newest versions that fit.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=${1:-$(mktemp -d)}
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" - > "$folder/lowest.txt" <<'PYTHON'
import re
import tomllib
from pathlib import Path

for package in tomllib.loads(Path("pyproject.toml").read_text())["project"]["dependencies"]:
    print(re.sub(r">=([\d.]+).*", r"==\1", package))
PYTHON
cat "$folder/lowest.txt"
"$folder/venv/bin/pip" install -q -c "$folder/lowest.txt" '.[test]'
"$folder/venv/bin/pytest" -m "not slow" "${@:2}"
