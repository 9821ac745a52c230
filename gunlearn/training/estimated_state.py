"""What is missing of a training's state, estimated from the trained model: second moments and weight decay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.core.modes import set_training
from gunlearn.tasks.base import Task
from gunlearn.tasks.sampling import BatchOptions
from gunlearn.training.from_scratch import training_step
from gunlearn.training.optimizer_step import summed

POINTS = 5  # gradient passes for second moments
_SCALE, _FLOOR = 0.1, 0.1


class TrainingGradient:
    """Computes gradients of the training loss, the mean negative log-likelihood of all training items or of a batch.

    Args:
        model: whose trained parameters; `at` changes them.
        data: that it is trained on.
        task: what it predicts.
        reading: how much a pass reads.
    """

    def __init__(self, model: nn.Module, data: Any, task: Task, reading: BatchOptions) -> None:
        self.model, self.parameters = model, [p for p in model.parameters() if p.requires_grad]
        _, self.step = training_step(model, data, task, reading)

    def __call__(self, training: bool = True) -> list[Tensor]:
        """Return the gradient of each trained parameter, with dropout and the statistics of the batch, or without."""
        set_training(self.model, training)
        for parameter in self.parameters:
            parameter.grad = None
        summed(self.step(), backward=True)
        out = [torch.zeros_like(p) if p.grad is None else p.grad.detach().clone() for p in self.parameters]
        for parameter in self.parameters:
            parameter.grad = None
        return out

    @torch.no_grad()
    def at(self, values: Sequence[Tensor]) -> TrainingGradient:
        """Set the trained parameters, and return the object."""
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)
        return self


def estimate_second_moments(
    gradient: TrainingGradient, fresh: Sequence[Tensor], trained: Sequence[Tensor], weight_decay: float
) -> list[Tensor]:
    r"""Return an estimate of Adam's second moments at the end of a training, one tensor for each parameter.

    Adam's are an average of :math:`g^2` over the last :math:`1 / (1 - \beta_2)` steps, mostly of early ones, where
    gradients were large. They are estimated from gradients between new weights :math:`\theta_0` and the trained
    :math:`\theta`,

    .. math:: v = 0.1 \, (\bar g^2 + 0.1 \operatorname{mean}(\bar g^2)), \qquad
        \bar g^2 = \tfrac15 \sum_{i=0}^4 g(\theta_0 + \tfrac i5 (\theta - \theta_0))^2,

    with the mean over each tensor: weights whose features moved elsewhere on the way have small gradients on this line.
    The factors were chosen among a few by trial on Cora and CiteSeer; `experiments/nearest` shows where they fail.
    """
    total = [torch.zeros_like(value) for value in trained]
    for point in range(POINTS):
        values = [a + (b - a) * (point / POINTS) for a, b in zip(fresh, trained, strict=True)]
        for sum_, g, value in zip(total, gradient.at(values)(), values, strict=True):
            sum_ += (g + weight_decay * value).square() / POINTS
    return [_SCALE * (square + _FLOOR * square.mean()) for square in total]


def estimate_weight_decay(gradient: TrainingGradient) -> tuple[float, float]:
    r"""Return the L2 penalty that a model was trained with, and how well it explains the gradient, in [-1, 1].

    Where a training with the penalty :math:`\tfrac\lambda2 \lVert\theta\rVert^2` has settled,
    :math:`\nabla L(\theta) = -\lambda\theta` up to the optimiser's noise, which is at right angles to the weights. The
    estimate is the least squares solution, the second value the cosine of the two; most of the data will do. Where
    weights still grew when the training ended, the estimate is the penalty that would have stopped them.
    """
    g = torch.cat([x.flatten() for x in gradient(training=False)]).double()
    theta = torch.cat([p.detach().flatten() for p in gradient.parameters]).double()
    cosine = float(-(g @ theta) / (g.norm() * theta.norm()).clamp_min(1e-30))
    return max(0.0, float(-(g @ theta) / (theta @ theta).clamp_min(1e-30))), cosine


def set_second_moments(optimizer: torch.optim.Optimizer, moments: Sequence[Tensor], step: int = 10_000) -> None:
    """Give a new Adam or AdamW second moments, as after so many steps."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for parameter, square in zip(parameters, moments, strict=True):
        on = parameter.device if optimizer.param_groups[0].get("fused") else "cpu"
        optimizer.state[parameter] = {
            "step": torch.tensor(float(step), device=on),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": square.clone(),
        }
