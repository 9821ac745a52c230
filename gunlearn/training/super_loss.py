"""SuperLoss: a curriculum that weighs each item by how hard it is, over any loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.special import lambertw
from torch import Tensor

from gunlearn.core.checks import check_number
from gunlearn.errors import InvalidInputError, InvalidTypeError
from gunlearn.losses import NLL, Loss, Objective, Prediction, as_objective
from gunlearn.losses.base import POSITIVE, checked
from gunlearn.training.callbacks import StatefulCallback, TrainControl, TrainState


def super_loss_weights(values: Tensor, threshold: float, strength: float) -> Tensor:
    r"""Weights of items by their losses :math:`l_i`, without gradient: above 1 for easy ones, below for hard ones.

    .. math:: \sigma_i = \exp\Big(-W\Big(\tfrac12 \max\big(-\tfrac2e, \tfrac{l_i - \tau}{\lambda}\big)\Big)\Big)

    with Lambert's :math:`W` (Castells et al., "SuperLoss: A Generic Loss for Robust Curriculum Learning", NeurIPS
    2020). They lie between 0 and :math:`e`, and are 1 at :math:`l_i = \tau`.

    Args:
        values: losses of items, of any shape.
        threshold: :math:`\tau`, which parts easy from hard items.
        strength: :math:`\lambda`, positive; the larger, the nearer all weights are to 1.

    Example:
        >>> super_loss_weights(torch.tensor([1.0, 1.0 + 2 * math.e]), threshold=1.0, strength=1.0)
        tensor([1.0000, 0.3679])
    """
    check_number("threshold", threshold)
    check_number("strength", strength, positive=True)
    scaled = (values.detach().double().cpu().numpy() - threshold) / strength / 2
    inside = np.maximum(scaled, -1 / math.e + 1e-15)  # the branch point itself is rounded out of the domain
    weights = np.where(scaled <= -1 / math.e, math.e, np.exp(-lambertw(inside).real))
    return torch.as_tensor(np.where(np.isnan(scaled), np.nan, weights)).to(values)


class RunningMean:
    """The mean of all values so far."""

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def update(self, values: Tensor) -> None:
        """Take in values; those that are not finite are left out, since the loop refuses them anyway."""
        known = values.detach()[torch.isfinite(values.detach())].double()
        self.total, self.count = self.total + float(known.sum()), self.count + known.numel()

    @property
    def value(self) -> float:
        """The mean; 0 before any value."""
        return self.total / self.count if self.count else 0.0


@dataclass(frozen=True, repr=False)
class SuperLoss(Loss):
    r"""Another loss, whose items are weighted by `super_loss_weights`; of sequences, by the mean over their tokens.

    As in Cheng and Amiri's "Understanding Machine Unlearning Through the Lens of Mode Connectivity"
    (arXiv 2504.06407) the used value is :math:`\sigma_i l_i`, without the term :math:`\lambda \log^2 \sigma_i`, and
    :math:`\tau` is the mean of all losses so far. A run of the package's own loop begins with an empty mean (in a
    Trainer of transformers it goes on); losses that are evaluated without gradients do not enter it.

    Args:
        loss: the loss; `on` and `reduction` are taken from it.
        strength: :math:`\lambda`.
        threshold: a constant :math:`\tau`; `None` is the running mean.

    Raises:
        InvalidInputError: a number out of range, or a loss that is a `SuperLoss` already.
        InvalidTypeError: no loss.

    Example:
        >>> SuperLoss(NLL(on="retain"), threshold=1.0)(Prediction(log_prob=torch.tensor([-1.0, -1.0])))
        tensor(1.)
    """

    name = "super_loss"
    summary = "another loss, items weighted by how hard they are"
    paper = "SuperLoss: A Generic Loss for Robust Curriculum Learning"
    checks = checked(strength=POSITIVE)

    loss: Loss = field(default_factory=NLL)
    strength: float = 10.0
    threshold: float | None = None
    seen: RunningMean = field(default_factory=RunningMean, compare=False)
    on: str = field(default="", kw_only=True)
    reduction: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.loss, Loss):
            raise InvalidTypeError(f"Expected a Loss to weigh (got {type(self.loss).__name__})")
        if isinstance(self.loss, SuperLoss):
            raise InvalidInputError(f"Expected a loss without a curriculum to weigh (got {self.loss!r})")
        for name in ("on", "reduction"):
            own, given = getattr(self.loss, name), getattr(self, name)
            if given not in ("", own):
                raise InvalidInputError(f"Expected '{name}' to be that of the loss, {own!r} (got {given!r})")
            object.__setattr__(self, name, own)
        object.__setattr__(self, "needs_reference", self.loss.needs_reference)
        super().__post_init__()
        if self.threshold is not None:
            check_number("threshold", self.threshold)

    @property
    def reads(self) -> tuple[str, ...]:
        return self.loss.reads

    @property
    def on_parts(self) -> tuple[str, ...]:
        return self.loss.on_parts

    @property
    def aligned_parts(self) -> tuple[str, ...]:
        return self.loss.aligned_parts

    @property
    def whole_items(self) -> bool:
        return self.loss.whole_items

    @property
    def label(self) -> str:
        return f"super_{self.loss.label}"

    def keep(self, mask: Tensor) -> Tensor:
        return self.loss.keep(mask)

    def values(self, current: Prediction, *others: Any) -> Tensor:
        values = self.loss.values(current, *others)
        mask = current.mask
        mask = torch.ones_like(values, dtype=torch.bool) if mask is None else mask
        if mask.dim() > values.dim():
            mask = mask.flatten(1).any(1)
        each = values.detach() * mask
        if values.dim() > 1:  # a sequence is one item
            tokens = mask.flatten(1).sum(1)
            each, kept = each.flatten(1).sum(1) / tokens.clamp_min(1), tokens > 0
        else:
            kept = mask
        if self.threshold is None and torch.is_grad_enabled():
            self.seen.update(each[kept])
        threshold = self.seen.value if self.threshold is None else self.threshold
        weights = super_loss_weights(each, threshold, self.strength)
        return values * weights.reshape(weights.shape + (1,) * (values.dim() - weights.dim()))

    def __repr__(self) -> str:
        more = "" if self.threshold is None else f", threshold={self.threshold!r}"
        return f"SuperLoss({self.loss!r}, strength={self.strength!r}{more})"


def with_curriculum(objective: Loss | Objective, strength: float = 10.0) -> Objective:
    """Return an objective with SuperLoss's weights on each of its losses.

    Example:
        >>> with_curriculum(0.5 * NLL(on="retain"))
        0.5 * SuperLoss(NLL(on='retain'), strength=10.0)
    """
    return Objective(tuple((weight, SuperLoss(loss, strength)) for weight, loss in as_objective(objective).terms))


class CurriculumState(StatefulCallback):
    """Empties the running means of an objective's `SuperLoss` terms when a run begins, and checkpoints them."""

    draws_nothing = True

    def __init__(self, objective: Objective) -> None:
        self.means = [loss.seen for _, loss in objective.terms if isinstance(loss, SuperLoss)]

    def on_train_begin(self, args: Any, state: TrainState, control: TrainControl, **kwargs: Any) -> None:
        if state.step == 0:
            for mean in self.means:
                mean.total, mean.count = 0.0, 0

    def state_dict(self) -> dict[str, Any]:
        return {"means": [(mean.total, mean.count) for mean in self.means]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for mean, (total, count) in zip(self.means, state["means"], strict=True):
            mean.total, mean.count = total, count


def curriculum_of(objective: Objective) -> list[CurriculumState]:
    """Return what a run of the loop must hear of, for an objective with `SuperLoss` terms; nothing for others."""
    state = CurriculumState(objective)
    return [state] if state.means else []
