"""A whole run on a GPU, and its network on a CPU. Skipped where there is no GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import FILES, Interrupted, InterruptIn, Tiny, weights

import compress
from compress.models import checkpoint
from compress.pipeline.run_dir import read_results

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


@pytest.fixture(scope="module")
def run_on_gpu(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gpu") / "run"
    compress.run(str(tiny.recipe), out=out, device="cuda")
    return out


def test_a_run_lands_on_its_budget_and_learns(run_on_gpu: Path) -> None:
    manifest, results = read_results(run_on_gpu)
    assert manifest["device"] == torch.cuda.get_device_name()
    assert results[-1].params <= 3000 and results[-1].test is not None
    assert max(result.val for result in results) > 0.6


def test_its_network_gives_the_same_answers_on_both_devices(run_on_gpu: Path) -> None:
    model = checkpoint.load(run_on_gpu / "model.pth").model.eval()
    images = torch.randn(32, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), torch.backends.cudnn.flags(allow_tf32=False):
        cpu = model(images)
        gpu = model.cuda()(images.cuda()).cpu()
    assert torch.allclose(cpu, gpu, atol=1e-3)


def test_a_killed_run_goes_on_and_keeps_what_was_done(tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        compress.run(str(tiny.recipe), out=out, device="cuda", events=InterruptIn("finetune 1", 2))
    before = weights(out / FILES[2])
    results = compress.run(str(tiny.recipe), out=out, device="cuda").results
    assert [result.params for result in results][-1] <= 3000
    assert all(torch.equal(before[key], each) for key, each in weights(out / FILES[2]).items())


def test_a_stage_compiles(tiny: Tiny, tmp_path: Path) -> None:
    recipe = tiny.variant("compiled.toml", ("ema = 0.9", "ema = 0.9\ncompile = true"))
    results = compress.run(str(recipe), out=tmp_path / "run", device="cuda").results
    assert results[-1].params <= 3000
