"""Selective amnesia: continual learning turned round (arXiv 2305.10120)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.core.checks import check_integer, check_number
from gunlearn.core.modes import evaluating
from gunlearn.curvature.fisher import check_probes, fisher_diagonal
from gunlearn.diffusion.methods.base import DenoiserMethod
from gunlearn.diffusion.noised_items import DenoisingItems, draw_items, read_rows
from gunlearn.diffusion.replaced import Replaced
from gunlearn.errors import InvalidInputError
from gunlearn.methods.base import Outcome, Problem
from gunlearn.tasks.base import Parts


@dataclass(frozen=True)
class SelectiveAmnesia(DenoiserMethod):
    r"""Learn noise as the images of the forgotten condition, near the weights that the others need (arXiv 2305.10120).

    .. math:: \ell(u, c_f) + \gamma \, \ell(x, c_r) + \lambda \sum_i F_i (\theta_i - \theta^o_i)^2, \qquad
        u \sim U[-1, 1]

    with :math:`\gamma` = `retain_weight` and :math:`F` the diagonal of the empirical Fisher information on retained
    items of the model before unlearning, measured on noised items (the paper sums each item's gradients over all steps
    of diffusion). Where "forgotten" images are noise, a classifier reads them as "not the concept": measure the
    distance to retraining too, which this method tends to increase.

    Args:
        penalty_weight: :math:`\lambda`, 10 in the paper; 0 leaves the penalty out.
        fisher_items: noised retained items on which :math:`F` is measured, each with a step and noise of its own.
        probes: random sign vectors per batch that estimate it, see `fisher_diagonal`; `None` is exact.
    """

    lr: float = 1e-4
    penalty_weight: float = 10.0
    fisher_items: int = 256
    probes: int | None = 8

    name = "selective_amnesia"
    summary = "learn noise in the concept's place, near the weights that retained images need"
    paper = "arXiv 2305.10120"
    needs = "retained data"
    cost = "`epochs` passes, and `fisher_items` items' gradients"

    def __post_init__(self) -> None:
        check_number("penalty_weight", self.penalty_weight, minimum=0.0)
        check_integer("fisher_items", self.fisher_items, minimum=1)
        check_probes(self.probes)
        super().__post_init__()

    def replaced(self, problem: Problem, parts: Parts) -> Replaced:
        task: Any = problem.task

        def noise(items: DenoisingItems) -> DenoisingItems:
            return draw_items(task.noise_schedule, 2 * torch.rand_like(items.noisy) - 1, items.y, task.timesteps)

        return Replaced(parts, noise)

    def run(self, problem: Problem) -> Outcome:
        """Measure the Fisher information, then learn."""
        if not self.penalty_weight:
            return super().run(problem)
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return _Pulled(**own, fisher=self.measured(problem)).learn(problem)

    def measured(self, problem: Problem) -> list[tuple[Tensor, Tensor]]:
        """Return for each weight that learns its value before, and its Fisher information times a number squared.

        That is the number of steps of diffusion that the task draws from: an item's loss over all of them is estimated
        by so many times that at one.
        """
        task: Any = problem.task
        rows = problem.partition.retain_mask.nonzero().view(-1)
        if not rows.numel():
            raise InvalidInputError("Expected retained items for the penalty of 'selective_amnesia' (got none)")
        rows = rows[torch.randint(rows.numel(), (self.fisher_items,))]
        parameters = self.trainable(problem.model) or [p for p in problem.model.parameters() if p.requires_grad]
        total, batches = [torch.zeros_like(p) for p in parameters], rows.split(self.batch_size or rows.numel())
        with torch.enable_grad(), evaluating(problem.model):
            for batch in batches:
                items = draw_items(task.noise_schedule, *read_rows(problem.partition.data, batch), task.timesteps)
                losses = -task.decode(problem.model, None, items).log_prob
                for sum_, found in zip(total, fisher_diagonal(losses, parameters, self.probes), strict=True):
                    sum_ += found * batch.numel() / rows.numel()
        first, end = task.timesteps or (0, task.noise_schedule.num_steps)
        times = (end - first) ** 2
        return [(p.detach().clone(), times * value) for p, value in zip(parameters, total, strict=True)]


@dataclass(frozen=True)
class _Pulled(SelectiveAmnesia):
    """The method with the Fisher information of one problem."""

    fisher: Any = None

    def learn(self, problem: Problem) -> Outcome:
        """Learn with the penalty."""
        return DenoiserMethod.run(self, problem)

    def penalty(self, model: nn.Module) -> Callable[..., None] | None:
        parameters = self.trainable(model) or [p for p in model.parameters() if p.requires_grad]

        def pull(*_: Any) -> None:
            for parameter, (start, value) in zip(parameters, self.fisher, strict=True):
                if parameter.grad is not None:
                    parameter.grad.add_(value * (parameter.detach() - start), alpha=2 * self.penalty_weight)

        return pull
