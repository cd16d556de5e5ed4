"""Fine-tuning of a network for int8: it learns to give its own logits in spite of the rounding.

The float32 network is the teacher; labels are not read. Batch norms are fused before.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from itertools import count, islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.v2.functional import resize

from compress.data.batches import training_batches
from compress.data.dataset import Dataset
from compress.deployment.prepare import prepare_network
from compress.models.checkpoint import Checkpoint
from compress.quantization.fake_quantize import fake_quantize, set_measuring
from compress.quantization.static import multiplies_unsigned_exactly
from compress.recipe.stages import Augment
from compress.training.schedule import learning_rate

# Images in a batch, batches on which ranges are measured before the first step, and steps of Adam.
BATCH_SIZE, MEASURED_BATCHES, STEPS = 32, 16, 200
# Learning rate of Adam at its highest, and the fraction of the steps in which it rises.
RATE, WARMUP = 2e-4, 0.1


def finetune_for_int8(
    checkpoint: Checkpoint, student: Checkpoint, dataset: Dataset, *, steps: int = STEPS, seed: int
) -> Checkpoint:
    """Return a checkpoint whose network is close to `checkpoint`'s when it is quantized.

    Minimizes the divergence of Kullback and Leibler between the classes' probabilities of both, on
    augmented training images.

    Args:
        checkpoint: the float32 network.
        student: the network to start from, `checkpoint` or what this function returned before.
        dataset: its data.
        seed: seed of the views of the images.
    """
    teacher, description = prepare_network(checkpoint)
    network = copy.deepcopy(prepare_network(student)[0])
    largest = 127 if multiplies_unsigned_exactly() else 64
    rounded = fake_quantize(network, description, largest).to(dataset.device)
    teacher.to(dataset.device)
    images = _images(checkpoint, dataset, seed)
    with torch.no_grad():
        for batch in islice(images, MEASURED_BATCHES):
            rounded(batch)
    set_measuring(rounded, False)
    parameters = [each.requires_grad_() for each in rounded.parameters()]
    optimizer = torch.optim.Adam(parameters, RATE)
    for step, batch in enumerate(islice(images, steps)):
        optimizer.param_groups[0]["lr"] = learning_rate(RATE, WARMUP, (step + 0.5) / steps)
        torch.autograd.backward(_divergence(rounded(batch), teacher, batch))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    trained = dict(rounded.named_parameters())
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(trained[name].cpu())
    return replace(checkpoint, model=network.requires_grad_(False))


def _divergence(logits: Tensor, teacher: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        expected = teacher(images).log_softmax(1)
    return F.kl_div(logits.log_softmax(1), expected, reduction="batchmean", log_target=True)


def _images(checkpoint: Checkpoint, dataset: Dataset, seed: int) -> Iterator[Tensor]:
    """Yield batches of training images, normalized for a network, without end."""
    channels, *side = checkpoint.input_size
    dataset = dataset.normalized(checkpoint.mean, checkpoint.std)
    for view in count():
        for batch in training_batches(
            dataset,
            Augment(),
            encode_targets=lambda targets: targets,
            seed=seed,
            view=view,
            batch_size=BATCH_SIZE,
        ):
            images = batch.images[:, :channels].expand(-1, channels, -1, -1)
            yield resize(images, side, antialias=True).contiguous()
