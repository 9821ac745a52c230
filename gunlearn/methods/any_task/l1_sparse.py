"""Fine-tuning on the retained data under an L1 penalty that fades (arXiv 2304.04934)."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from gunlearn.losses import NLL, Objective, as_objective
from gunlearn.methods.base import BY_MODE, check_interval, fill_in
from gunlearn.methods.gradient import GradientMethod
from gunlearn.training.callbacks import TrainState
from gunlearn.training.optimizers import OptimizerSpec

_DEFAULT = {"epochs": 50, "optimizer": "adam", "lr": 1e-3, "weight_decay": 0.0, "l1": 5e-4}
_PAPER = {
    "epochs": 10, "optimizer": "sgd", "optimizer_options": {"momentum": 0.9}, "lr": 1e-2, "weight_decay": 5e-4,
    "l1": 5e-4,
}  # fmt: skip
_MODES: dict[str, dict[str, Any]] = {"default": _DEFAULT, "paper": _PAPER}


@dataclass(frozen=True)
class L1Sparse(GradientMethod):
    r"""Train on the retained data alone under an L1 penalty on all weights, which takes away what these do not need.

    .. math:: NLL_{retain} + \lambda \Big(1 - \tfrac{e}{E}\Big) \|\theta\|_1 \quad \text{in pass } e \text{ of } E

    The penalty's subgradient is added to the gradient; recorded losses are without it. It fades to almost nothing, so
    that the last passes repair what it took too much of.

    Args:
        mode: `"default"` (Adam) or `"paper"`, the authors' SGD with momentum 0.9 and weight decay; fills in every
            option that is `None`.
        l1: :math:`\lambda`.
    """

    mode: str = "default"
    epochs: int = BY_MODE
    lr: float = BY_MODE
    weight_decay: float = BY_MODE
    optimizer: OptimizerSpec = BY_MODE
    l1: float = BY_MODE

    name = "l1_sparse"
    summary = "go on training on the retained data, all weights drawn to zero by a penalty that fades"
    paper = "arXiv 2304.04934"
    needs = "retained data"
    cost = "`epochs` passes"
    variants: ClassVar[dict[str, dict[str, Any]]] = {"default": {}, "paper": {"mode": "paper"}}

    def __post_init__(self) -> None:
        fill_in(self, _MODES)
        check_interval(self, ">= 0", "l1")
        super().__post_init__()

    def objective(self) -> Objective:
        return as_objective(NLL(on="retain"))

    def penalty(self, model: nn.Module) -> Callable[[TrainState], None] | None:
        """Return a function that adds the penalty's subgradient, smaller from pass to pass."""
        learning = [p for p in model.parameters() if p.requires_grad]
        return lambda state: add_l1(learning, self.l1 * (1 - state.epoch / state.max_epochs))


def add_l1(parameters: Iterable[nn.Parameter], weight: float) -> None:
    """Add the subgradient of the weighted L1 norm of parameters to their gradients, where they have one."""
    with torch.no_grad():
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.add_(parameter.sign(), alpha=weight)
