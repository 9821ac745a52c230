"""LiRA against unlearning: per-example thresholds from shadow models (arXiv 2112.03570, 2302.09880, 2403.01218)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_curve
from torch import Tensor, nn

from gunlearn.core.checks import check_choice, check_integer
from gunlearn.errors import InvalidInputError, InvalidTypeError
from gunlearn.metrics.item_membership import log_odds
from gunlearn.metrics.problem import Evaluator, evaluator
from gunlearn.metrics.ranking import separation
from gunlearn.requests.items import ForgetItems
from gunlearn.seed import isolated_rng
from gunlearn.tasks.base import Task

#: Makes a shadow model: trains on `data` under `seed`, then unlearns `request`.
Shadow = Callable[[Any, ForgetItems, int], nn.Module]
_LEAST = 1e-6  # standard deviation


@dataclass(frozen=True)
class UnlearningLiRA:
    r"""What an attacker who can train shadow models tells of items that a model learned and was made to forget.

    With :math:`\phi = \log p_y - \log(1 - p_y)` of an item under shadow models that learned and unlearned it ("in") and
    under others that never saw it ("out"), its score under a model is

    .. math:: \log N(\phi; \mu_{in}, \sigma_{in}) - \log N(\phi; \mu_{out}, \sigma_{out})

    Each shadow is attacked by all others in turn, so every figure is over `num_shadows * num_items` cases, half of them
    "in".

    Attributes:
        odds: :math:`\phi` of each item under each shadow, `[num_shadows, num_items]`.
        seen: which shadow learned and unlearned which item, boolean `[num_shadows, num_items]`.
        variance: `"item"`, or `"shared"`: one for all items, for few shadows.
        problem: the items.
    """

    odds: Tensor
    seen: Tensor
    variance: str
    problem: Evaluator

    @cached_property
    def cases(self) -> Tensor:
        """Return the score of each item under each shadow, by the others' `[num_shadows, num_items]`."""
        rows = torch.arange(len(self.odds))
        return torch.stack([self._scores(self.odds[k], rows != k) for k in rows])

    @property
    def auc(self) -> float:
        """Area under the ROC curve; one half is no attack."""
        return _auc(self.cases, self.seen)

    @property
    def global_auc(self) -> float:
        """The same of one threshold on the likelihood for all items, the weaker attack."""
        return _auc(self.odds, self.seen)

    @property
    def accuracy(self) -> float:
        """Share of right answers where half of the items were learned: "in" above a score of 0."""
        return float(((self.cases > 0) == self.seen).double().mean())

    def true_positive_rate(self, false_positive_rate: float = 0.05) -> float:
        """Return the share of learned items that are found when this share of the others is accused."""
        if not 0 <= false_positive_rate <= 1:
            raise InvalidInputError(f"Expected a rate in [0, 1] (got {false_positive_rate})")
        false, true, _ = roc_curve(self.seen.flatten().numpy(), self.cases.flatten().numpy())
        return float(np.interp(false_positive_rate, false, true))

    def scores(self, model: nn.Module) -> Tensor:
        """Return the score of each item under a model that is no shadow `[num_items]`: above 0, it looks learned."""
        return self._scores(_odds(self.problem, model), torch.ones(len(self.odds), dtype=torch.bool))

    def _scores(self, odds: Tensor, use: Tensor) -> Tensor:
        return self._log_density(odds, self.seen & use[:, None]) - self._log_density(odds, ~self.seen & use[:, None])

    def _log_density(self, odds: Tensor, chosen: Tensor) -> Tensor:
        number = chosen.sum(0)
        mean = (self.odds * chosen).sum(0) / number
        squares = ((self.odds - mean).square() * chosen).sum(0)
        variance = squares / (number - 1) if self.variance == "item" else squares.sum() / (number - 1).sum()
        deviation = variance.sqrt().clamp(min=_LEAST).expand_as(mean)
        return torch.distributions.Normal(mean, deviation).log_prob(odds)


def unlearning_lira(
    shadow: Shadow,
    data: Any,
    items: Tensor,
    task: Task,
    num_shadows: int = 32,
    seed: int = 0,
    variance: str = "item",
) -> UnlearningLiRA:
    """Train shadow models, of which half learn and unlearn each item, and half never see it; return the attack.

    Args:
        shadow: `shadow(data, request, seed) -> model` trains on the training items of `data`, then unlearns `request`.
            It gets the data without the items that its model must not see; `request` names those that it is to forget.
        data: independent items, see `ForgetItems`; it does not change.
        items: row numbers of the training items to attack `[num_items]`, at least two.
        task: the models'; `gunlearn.ImageClassification()`.
        num_shadows: an even number of at least 6; from some 16 on `variance="item"` has enough of each kind.
        seed: of which items a shadow sees, and of the shadows, which get `seed + 1, ...`.
        variance: see `UnlearningLiRA`.

    Raises:
        InvalidInputError: too few shadows or items, or an odd number of shadows.
        InvalidTypeError: `shadow` returns no module.
    """
    check_integer("num_shadows", num_shadows, minimum=6)
    check_choice("variance", variance, ("item", "shared"))
    if num_shadows % 2:
        raise InvalidInputError(f"Expected an even number of shadows (got {num_shadows})")
    partition = ForgetItems(items).resolve(task.check_data(data))
    rows = partition.forget_mask.nonzero().view(-1).cpu()
    if len(rows) < 2:
        raise InvalidInputError(f"Expected at least two items to attack (got {len(rows)})")
    problem = evaluator(task, partition)
    generator = torch.Generator().manual_seed(seed)
    seen, odds = torch.zeros(num_shadows, len(rows), dtype=torch.bool), []
    for k in range(0, num_shadows, 2):  # in pairs, so that each item is in half of them
        seen[k, torch.randperm(len(rows), generator=generator)[: len(rows) // 2]] = True
        seen[k + 1] = ~seen[k]
    for k in range(num_shadows):
        left_out = ForgetItems(rows[~seen[k]]).resolve(partition.data)
        forget = torch.zeros(len(left_out.forget_mask), dtype=torch.bool).index_fill(0, rows[seen[k]], True)
        request = ForgetItems(mask=forget[~left_out.forget_mask.cpu()])  # rows of the data that are left
        with isolated_rng(seed + 1 + k):
            model = shadow(left_out.retain_data, request, seed + 1 + k)
        if not isinstance(model, nn.Module):
            raise InvalidTypeError(f"Expected 'shadow' to return a torch module (got {type(model).__name__})")
        odds.append(_odds(problem, model))
    return UnlearningLiRA(torch.stack(odds), seen, variance, problem)


def _odds(problem: Evaluator, model: nn.Module) -> Tensor:
    found = log_odds(problem.view(model), "forget")
    if found is None:
        raise InvalidInputError("Expected a task of classes for 'unlearning_lira' (got one without)")
    return found.cpu()


def _auc(scores: Tensor, seen: Tensor) -> float:
    found, _ = separation(scores[seen], scores[~seen])
    return 0.5 if found is None else found
