"""Channel-wise distillation of pixels: Shu et al. 2021, arXiv:2011.13256."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from compress.data.batches import Batch
from compress.distillation.method import LogitsInputs, Method
from compress.runtime.errors import UserError
from compress.training.objective import Forward, Losses


def channelwise_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T² times the mean over samples and channels of KL(teacher ‖ student) over positions.

    A softmax over all positions turns each channel into a distribution that says where its class
    is: equations 5 and 6 of the paper.

    Args:
        student, teacher: logits (B, classes, H, W), float32.

    Raises:
        UserError: there are no positions: the logits are those of whole images.
    """
    if student.dim() != 4:
        raise UserError("needs the logits of pixels: use it with data of masks")
    log_student = F.log_softmax(student.flatten(2) / temperature, dim=2)
    log_teacher = F.log_softmax(teacher.flatten(2) / temperature, dim=2)
    divergence = F.kl_div(log_student, log_teacher, reduction="sum", log_target=True)
    return divergence * temperature**2 / (student.shape[0] * student.shape[1])


class Channelwise:
    """The base plus beta · `channelwise_loss`."""

    def __init__(self, inputs: LogitsInputs) -> None:
        self.inputs = inputs

    def __call__(self, student: Forward, batch: Batch, progress: float) -> Losses:
        """Return the losses of `student` on `batch`; `progress` runs from 0 to 1 over the stage."""
        inputs, logits = self.inputs, student(batch.images)
        loss = channelwise_loss(logits, inputs.logits(batch), inputs.temperature)
        return inputs.base(lambda _: logits, batch, progress) | {"channels": inputs.beta * loss}


# Beta is the paper's for logits, with its temperature of 4.
METHOD = Method(beta=3.0, on_logits=Channelwise)
