"""Task-vector subtraction: learn the forgotten items further, then take that change away (arXiv 2212.04089)."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gunlearn.core.checks import check_number
from gunlearn.errors import InvalidInputError
from gunlearn.losses import NLL, Objective, as_objective
from gunlearn.methods.any_task.shrunk import scaling_of
from gunlearn.methods.base import Outcome, Problem
from gunlearn.methods.gradient import GradientMethod


@dataclass(frozen=True)
class TaskVector(GradientMethod):
    r"""Fine-tune on the forgotten items, and go as far the other way: :math:`\theta - \lambda(\theta_F - \theta)`.

    Negation of "Editing models with task arithmetic" (arXiv 2212.04089), where :math:`\theta_F` is the model fine-tuned
    on what it is to forget. The paper chooses :math:`\lambda` on validation data: the largest that keeps 95 % of the
    accuracy elsewhere. A model that knows the items by heart hardly moves while it is fine-tuned, so little is taken
    away. Retained items are not read. Of a model with an adapter of peft, which has to be a new one, the product of its
    factors is subtracted.

    Args:
        scale: :math:`\lambda`.
    """

    epochs: int = 5
    scale: float = 1.0

    name = "task_vector"
    summary = "learn the forgotten items further, then subtract that change of the weights"
    paper = "arXiv 2212.04089"
    cost = "`epochs` passes over the forget set"

    def __post_init__(self) -> None:
        check_number("scale", self.scale, positive=True)
        super().__post_init__()

    def objective(self) -> Objective:
        return as_objective(NLL(on="forget"))

    def run(self, problem: Problem) -> Outcome:
        if hasattr(problem.model, "peft_config"):
            return self._run_adapter(problem)
        before = {name: p.detach().clone() for name, p in problem.model.named_parameters()}
        outcome = super().run(problem)
        with torch.no_grad():
            for name, parameter in outcome.model.named_parameters():
                parameter.copy_(before[name] - self.scale * (parameter - before[name]))
        return outcome

    def _run_adapter(self, problem: Problem) -> Outcome:
        """Train an adapter that changes nothing yet, and turn its product round; factors are not subtracted."""
        _check_new(problem)
        outcome = super().run(problem)
        _scaling(problem, outcome.model)(-self.scale)
        return outcome


def _check_new(problem: Problem) -> None:
    """Refuse an adapter that changes the model already: without the change the model would be another one."""
    without = copy.deepcopy(problem.model)
    _scaling(problem, without)(0.0)
    if not all(map(torch.equal, problem.model.parameters(), without.parameters())):
        raise InvalidInputError(
            "Expected a new adapter for 'task_vector' (got one that changes the model already); merge it first "
            "(merge_and_unload), and give peft='lora'"
        )


def _scaling(problem: Problem, model: nn.Module) -> Callable[[float], Any]:
    return scaling_of(model, problem.task, "'task_vector'", "merge the adapter")
