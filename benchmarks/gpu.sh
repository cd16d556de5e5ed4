#!/usr/bin/env bash
# What one GPU brings, in about 12 minutes: tests, speed, the best network of 6 minutes, latency.
#
#   bash benchmarks/gpu.sh OUT           # on one GPU
#   bash benchmarks/gpu.sh OUT toy       # the same commands on the CPU, minutes, at toy size
#
# It writes OUT/gpu.md as it goes, and the log of every step beside it; a step that fails or takes
# too long does not stop the next. Nothing is downloaded: torch and torchvision are there, other
# packages lie as wheels in the folder $WHEELS (torch-pruning and torchinfo at least), and
# Fashion-MNIST's four files in $COMPRESS_DATA/FashionMNIST/raw.
set -uo pipefail
out=$(realpath -m "${1:?"the folder to write to"}") toy=${2:-}
cd "$(dirname "$0")/.."
mkdir -p "$out"
export PYTHONPATH=$PWD

device=cuda speed=(--steps 40 --repeats 3 --workers 8) best=(docs/experiments/recipes/fashion-mnist-best.toml --minutes 6)
if [ -n "$toy" ]; then
  device=cpu speed=(--quick --no-compile) best=(small --max-images 600 --steps 30)
fi
if [ -n "${WHEELS:-}" ]; then
  pip install -q --no-index --no-deps --find-links "$WHEELS" "$WHEELS"/*.whl 2>&1 | tail -3
fi

# step NAME SECONDS COMMAND...: a section of gpu.md with what the command prints at its end.
step() {
  local name=$1 seconds=$2
  shift 2
  printf '\n## %s\n\n    %s\n\n' "$name" "$*" >> "$out/gpu.md"
  local started=$SECONDS code=0
  timeout "$seconds" "$@" > "$out/$name.log" 2>&1 || code=$?
  grep -v Warning "$out/$name.log" | tail -n 40 | sed 's/^/    /' >> "$out/gpu.md"
  printf '\nExit code %s after %s s.\n' "$code" "$((SECONDS - started))" >> "$out/gpu.md"
}

python - > "$out/gpu.md" <<'PYTHON'
import torch
from compress.runtime.device import device_name, package_versions, pick_device

versions = ", ".join(f"{name} {version}" for name, version in package_versions().items())
print(f"{device_name(pick_device('auto'))}; {versions}; CUDA {torch.version.cuda}")
PYTHON
step commit 10 git log --oneline -1
step tests 120 python -m pytest -q -n 0 -m gpu tests
step speed 200 python benchmarks/speed.py --device "$device" --rows 1,2,3,4,5,8 "${speed[@]}"
step best 460 python -m compress run "${best[@]}" --budget 100k --device "$device" --out "$out/run"
step export 60 python -m compress export -w "$out/run/model.pth" --to pt2 --out "$out/run/model.pt2"
step latency 60 python -m compress bench "$out/run/model.pth" "$out/run/model.pt2" --batch 1,32
