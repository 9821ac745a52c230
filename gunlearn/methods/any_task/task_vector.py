"""Task-vector subtraction: learn the forgotten items further, then take that change away (arXiv 2212.04089)."""

from dataclasses import dataclass

import torch

from gunlearn.core.checks import check_number
from gunlearn.errors import InvalidInputError
from gunlearn.losses import NLL, Objective, as_objective
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
        from gunlearn.llm.model.arithmetic import adapter_delta, adapter_scaling  # loads peft

        if any(change.any() for change in adapter_delta(problem.model, problem.model.active_adapter).values()):
            raise InvalidInputError(
                "Expected a new adapter for 'task_vector' (got one that changes the model already); merge it first "
                "(merge_and_unload), and give peft='lora'"
            )
        adapter_scaling(problem.model)  # refuses one that cannot be scaled, before it is trained
        outcome = super().run(problem)
        adapter_scaling(outcome.model)(-self.scale)
        return outcome
