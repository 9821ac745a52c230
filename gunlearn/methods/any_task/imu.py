"""IMU: gradient ascent weighted by each forgotten item's influence (arXiv 2508.01620)."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor, nn

from gunlearn.attribution.training.gradients import last_layer
from gunlearn.core.checks import check_choice, check_integer
from gunlearn.curvature.fisher import check_probes
from gunlearn.errors import InvalidInputError
from gunlearn.losses import GradientAscent, Objective, Prediction, as_objective
from gunlearn.losses.influence_weights import item_weights
from gunlearn.methods.any_task.head_influence import forgotten_influence
from gunlearn.methods.any_task.l1_sparse import add_l1
from gunlearn.methods.base import BY_MODE, Outcome, Problem, check_interval, fill_in
from gunlearn.methods.gradient import FrozenStatistics, GradientMethod
from gunlearn.tasks.base import Parts
from gunlearn.training.callbacks import StatefulCallback, TrainState
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
    are computed in evaluation mode, once, on the model as it was trained (see `refresh`), and do not depend on how
    items are grouped into steps. Nothing holds the retained data in place: forgetting random items this way costs more
    than a class. Of a data set no retained item is read, not even to see whether it is still known.

    `mode="paper"` adds what the authors' code has besides: the most influential tenth alone, an L1 penalty on the head
    (its subgradient is added to the gradient, the recorded loss is without), and SGD with momentum 0.9, weight decay
    and a larger learning rate. Running statistics of batch normalisation stay in both modes; in their code they drift.

    Args:
        mode: `"default"` or `"paper"`; fills in every option that is `None`.
        scope: what is trained, the `"head"` (the trained module that is defined last) or `"all"`. Weights go by the
            head in both.
        refresh: when weights are computed: `"once"`, on the trained model, at the beginning of each `"epoch"`, or every
            so many steps.
        top: share of the items with :math:`I_i < 0` that take part, those of the largest :math:`|I_i|`.
        cap: the quantile that `q` is.
        damping: :math:`\lambda`.
        l1: weight of the L1 penalty on the head.
        probes: random sign vectors that `F` is estimated with where it has no closed form, see `fisher_diagonal`;
            `None` is exact. It has one where the head is an `nn.Linear` whose outputs are the items' logits.
    """

    mode: str = "default"
    epochs: int = BY_MODE
    lr: float = BY_MODE
    weight_decay: float = BY_MODE
    optimizer: OptimizerSpec = BY_MODE
    scope: str = "head"
    refresh: str | int = "once"
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
        if self.refresh not in ("once", "epoch"):
            check_refresh(self.refresh)
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

    def kept(self) -> "KeptWeights | None":
        """Return what says when weights are computed anew; `None` for never."""
        return None

    def run(self, problem: Problem) -> Outcome:
        if self.refresh == "once":
            return super().run(problem)
        keeper = KeptWeights(self.refresh)
        own = _Run(**vars(self), keeper=keeper)
        return super(IMU, own).run(replace(problem, callbacks=[*problem.callbacks, keeper]))

    def penalty(self, model: nn.Module) -> Callable[[TrainState], None] | None:
        """Return a function that adds the L1 penalty's subgradient on the head; influences are of the plain loss."""
        head = last_layer(model)
        return (lambda state: add_l1(head, self.l1)) if self.l1 else None

    def adapt(self, problem: Problem, parts: Parts) -> tuple[Change, Callable[[], bool] | None]:
        """Weigh the forgotten items, with the mean 1."""
        change, stop = super().adapt(problem, parts)
        kept, whole = self.kept(), self.parts(problem, ("forget",))  # steps may read some items at a time

        def weights() -> Tensor:
            head = last_layer(problem.model)
            influence = forgotten_influence(problem, whole, head, self.batch_size, self.damping, self.probes)
            weight = item_weights(influence, self.top, self.cap)
            return weight / weight.mean()

        if kept is None:
            first = weights()

        def weigh(predictions: dict[str, Prediction], rows: Callable[[Tensor], Tensor]) -> dict[str, Prediction]:
            forget = change(predictions, rows)["forget"]
            own = rows(first if kept is None else kept.updated(weights))
            return {
                **predictions,
                "forget": forget.replace(weight=own if forget.weight is None else own * forget.weight),
            }

        return weigh, stop


@dataclass(frozen=True)
class _Run(IMU):
    """One run, with what says when its weights are computed anew."""

    keeper: Any = None

    def kept(self) -> "KeptWeights | None":
        return self.keeper

    def config(self) -> dict[str, Any]:
        return {name: value for name, value in super().config().items() if name != "keeper"}


class KeptWeights(StatefulCallback):
    """The weights of the forgotten items, computed anew where they are due.

    Args:
        refresh: `"epoch"`, or a number of steps.
    """

    draws_nothing = True

    def __init__(self, refresh: str | int) -> None:
        self.refresh, self.due = refresh, True
        self.weight: Tensor | None = None

    def on_epoch_begin(self, args: Any, state: TrainState, control: Any, **kwargs: Any) -> None:
        self.due |= self.refresh == "epoch"

    def on_step_begin(self, args: Any, state: TrainState, control: Any, **kwargs: Any) -> None:
        self.due |= not isinstance(self.refresh, str) and state.step % self.refresh == 0

    def updated(self, compute: Callable[[], Tensor]) -> Tensor:
        """Return the weights, computed now if they are due."""
        if self.due or self.weight is None:
            self.weight, self.due = compute(), False
        return self.weight

    def state_dict(self) -> dict[str, Any]:
        return {"weight": self.weight}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.weight, self.due = state["weight"], False


def check_refresh(value: Any) -> None:
    """Refuse what is no number of steps."""
    if isinstance(value, str | bool):
        raise InvalidInputError(f"Expected 'refresh' to be 'once', 'epoch' or a number of steps (got {value!r})")
    check_integer("refresh", value, minimum=1)
