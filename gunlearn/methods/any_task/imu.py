"""IMU: gradient ascent weighted by each forgotten item's influence (arXiv 2508.01620)."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import reduce
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gunlearn.attribution.training.gradients import last_layer
from gunlearn.core.checks import check_choice
from gunlearn.curvature.fisher import check_probes, fisher_diagonal
from gunlearn.curvature.training_loss import second_order
from gunlearn.errors import InvalidInputError, UnsupportedModelError
from gunlearn.losses import GradientAscent, Objective, Prediction, as_objective
from gunlearn.losses.influence_weights import item_weights
from gunlearn.methods.any_task.l1_sparse import add_l1
from gunlearn.methods.base import BY_MODE, Problem, check_interval, fill_in
from gunlearn.methods.forget_part import forget_losses
from gunlearn.methods.gradient import FrozenStatistics, GradientMethod
from gunlearn.tasks.base import Parts
from gunlearn.training.callbacks import TrainState
from gunlearn.training.optimizers import OptimizerSpec
from gunlearn.training.step import Change

_DEFAULT = {"epochs": 30, "optimizer": "adam", "lr": 2e-3, "weight_decay": 0.0, "top": 1.0, "l1": 0.0}
_PAPER = {
    "epochs": 30, "optimizer": "sgd", "optimizer_options": {"momentum": 0.9}, "lr": 1e-2, "weight_decay": 5e-4,
    "top": 0.1, "l1": 0.2,
}  # fmt: skip
_MODES: dict[str, dict[str, Any]] = {"default": _DEFAULT, "paper": _PAPER}


@dataclass(frozen=True)
class IMU(GradientMethod):
    r"""Gradient ascent on the forget set, items with a larger influence first; the retained data is never read.

    With :math:`g_i` the gradient of a forgotten item's loss with respect to the last layer, its mean :math:`\bar g` and
    :math:`F = \frac1n \sum_i g_i^2 + \lambda` (elementwise), an item has the influence and the weight

    .. math:: I_i = -g_i^T F^{-1} \bar g, \qquad w_i = [I_i < 0] \, \min\big(\sqrt{|I_i|}, q\big)

    with `q` a quantile of all :math:`\sqrt{|I|}` (of those of the items with :math:`I_i < 0`, where most items have no
    influence and that quantile is 0); what is minimised is :math:`-\sum_i w_i \ell_i / \sum_i w_i`. Weights
    are computed once, on the model as it was trained, in evaluation mode, and do not depend on how items are grouped
    into steps. Nothing holds the retained data in place: forgetting random items this way costs more than a class.

    `mode="paper"` adds what the authors' code has besides: the most influential tenth alone, an L1 penalty on the head
    (its subgradient is added to the gradient, the recorded loss is without), and SGD with momentum 0.9, weight decay
    and a larger learning rate. Running statistics of batch normalisation stay in both modes; in their code they drift.

    Args:
        mode: `"default"` or `"paper"`; fills in every option that is `None`.
        scope: what is trained, the `"head"` (the trained module that is defined last) or `"all"`. Weights go by the
            head in both.
        top: share of the items with :math:`I_i < 0` that take part, those of the largest :math:`|I_i|`.
        cap: the quantile that `q` is.
        damping: :math:`\lambda`.
        l1: weight of the L1 penalty on the head.
        probes: random sign vectors that `F` is estimated with, see `importance.fisher_diagonal`; `None` is exact.
    """

    mode: str = "default"
    epochs: int = BY_MODE
    lr: float = BY_MODE
    weight_decay: float = BY_MODE
    optimizer: OptimizerSpec = BY_MODE
    scope: str = "head"
    top: float = BY_MODE
    cap: float = 0.93
    damping: float = 0.01
    l1: float = BY_MODE
    probes: int | None = 64

    name = "imu"
    summary = "gradient ascent on the last layer, forgotten items weighted by their influence"
    paper = "arXiv 2508.01620"
    cost = "`epochs` passes over the forget set"
    variants: ClassVar[dict[str, dict[str, Any]]] = {"default": {}, "paper": {"mode": "paper"}}

    def __post_init__(self) -> None:
        fill_in(self, _MODES)
        check_choice("scope", self.scope, ("head", "all"))
        check_interval(self, "in (0, 1]", "top", "cap")
        check_interval(self, "> 0", "damping")
        check_interval(self, ">= 0", "l1")
        check_probes(self.probes)
        super().__post_init__()

    def objective(self) -> Objective:
        return as_objective(GradientAscent(on="forget"))

    def surroundings(self, problem: Problem) -> Callable[[nn.Module], AbstractContextManager]:
        """Keep running statistics: every step reads the forget set alone."""
        return FrozenStatistics

    def trainable(self, model: nn.Module) -> list[nn.Parameter] | None:
        """Return the parameters of the last layer with `scope="head"`, else `None`."""
        if not any(p.requires_grad for p in model.parameters()):
            raise InvalidInputError("Expected a model with trainable parameters (got none that require grad)")
        return last_layer(model) if self.scope == "head" else None

    def penalty(self, model: nn.Module) -> Callable[[TrainState], None] | None:
        """Return a function that adds the L1 penalty's subgradient on the head; influences are of the plain loss."""
        head = last_layer(model)
        return (lambda state: add_l1(head, self.l1)) if self.l1 else None

    def adapt(self, problem: Problem, parts: Parts) -> tuple[Change, Callable[[], bool] | None]:
        """Weigh the forgotten items, with the mean 1."""
        change, stop = super().adapt(problem, parts)
        model = problem.model.eval()
        pieces = forget_losses(problem.task, model, parts, self.batch_size)
        with second_order(model):
            influence = head_influence(pieces, last_layer(model), self.damping, self.probes)
        weight = item_weights(influence, self.top, self.cap)
        weight = weight / weight.mean()

        def weigh(predictions: dict[str, Prediction], rows: Callable[[Tensor], Tensor]) -> dict[str, Prediction]:
            forget = change(predictions, rows)["forget"]
            own = rows(weight)
            return {
                **predictions,
                "forget": forget.replace(weight=own if forget.weight is None else own * forget.weight),
            }

        return weigh, stop


def head_influence(
    pieces: Sequence[Callable[[], Tensor]], head: list[nn.Parameter], damping: float, probes: int | None = None
) -> Tensor:
    r"""Return the influence :math:`-g_i^T F^{-1} \bar g` of each item on the mean loss of all, `[num_items]`.

    One backward pass through a backward pass gives all products of a piece, whatever the number of its items.

    Args:
        pieces: functions that return the losses of some of the items `[k]`, on the graph of computations. They are
            called twice where there are several, so that one piece is in memory at a time.
        head: the parameters that gradients are taken of.
        damping: added to the mean squared gradients, positive.
        probes: see `importance.fisher_diagonal`.
    """
    kept = [_Pulled(losses(), head) for losses in pieces] if len(pieces) == 1 else None

    def pulled() -> Iterable[_Pulled]:
        return kept or (_Pulled(losses(), head) for losses in pieces)

    moments = [one.moments(probes) for one in pulled()]
    count = sum(size for size, _, _ in moments)
    sums = [reduce(torch.add, [s[k] for _, s, _ in moments]) for k in range(len(head))]
    squares = [reduce(torch.add, [f[k] * (size / count) for size, _, f in moments]) for k in range(len(head))]
    direction = [s / count / (f + damping) for s, f in zip(sums, squares, strict=True)]
    return torch.cat([one.products(direction) for one in pulled()])


class _Pulled:
    """The gradient of the sum of weighted losses, still a function of the weights, which are one each."""

    def __init__(self, losses: Tensor, head: list[nn.Parameter]) -> None:
        self.losses, self.head, self.dummy = losses, head, torch.ones_like(losses, requires_grad=True)
        pull: Sequence[Tensor | None] = [None]
        if losses.requires_grad:
            pull = torch.autograd.grad(losses, head, self.dummy, create_graph=True, allow_unused=True)
        if all(g is None for g in pull):
            raise UnsupportedModelError(
                "Expected a loss that depends on the module defined last, whose weights IMU reads (got one that does "
                "not); define the output layer last in the model's __init__"
            )
        self.pull = [torch.zeros_like(p) if g is None else g for g, p in zip(pull, head, strict=True)]

    def moments(self, probes: int | None) -> tuple[int, list[Tensor], list[Tensor]]:
        """Return the number of items, the sum of their gradients and the mean of the squared ones."""
        squares = fisher_diagonal(self.losses, self.head, probes)
        return self.losses.numel(), [g.detach() for g in self.pull], squares

    def products(self, direction: list[Tensor]) -> Tensor:
        """Return minus the product of each item's gradient with `direction`, `[k]`."""
        terms = [(g * d).sum() for g, d in zip(self.pull, direction, strict=True) if g.requires_grad]
        if not terms:
            return torch.zeros_like(self.dummy).detach()
        return -torch.autograd.grad(reduce(torch.add, terms), self.dummy)[0]
