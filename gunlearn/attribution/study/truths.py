"""The truths that estimates are compared with, for both questions."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gunlearn.attribution import ESTIMATORS
from gunlearn.attribution.base import Estimator, InfluenceProblem
from gunlearn.attribution.targets import as_value
from gunlearn.attribution.training.datamodels import lds, random_subsets
from gunlearn.attribution.training.pbrf import pbrf
from gunlearn.attribution.training.retraining_influence import Train, retraining_influence
from gunlearn.errors import InvalidInputError


@dataclass
class TrueValues:
    """True influence of items, or of groups of them.

    Attributes:
        values: one per item or group `[num_values]`.
        groups: the items of each group, whose scores an estimate sums; `None` for single items.
        notes: remarks, such as the noise floor.
    """

    values: Tensor
    groups: list[Tensor] | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    def of(self, scores: Tensor) -> Tensor:
        """Return the estimated values, `[num_values]`, for item scores `[num_items]`."""
        if self.groups is None:
            return scores
        return torch.stack([scores[group].sum() for group in self.groups])


@dataclass(frozen=True)
class Truth:
    """A way to compute true influence.

    Args:
        question: `"removal"` or `"training"`.
        summary: a sentence for reports.
        compute: function of a problem, a training function (or `None`) and options.
        estimator: the estimator that computes it, if one does.
        defaults: options whose values estimators with such options must share.
    """

    name: str
    question: str
    summary: str
    compute: Callable[[InfluenceProblem, Train | None, dict[str, Any]], TrueValues]
    estimator: Estimator | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)


def truth_named(name: str, options: dict[str, Any]) -> Truth:
    """Return the truth of this name: one of `TRUTHS`, or an estimator used as the truth."""
    if name in TRUTHS:
        return TRUTHS[name]
    if name != "removal" and name not in ESTIMATORS:
        known = ["removal", *TRUTHS]
        raise InvalidInputError(f"Expected a truth among {known} or an estimator's name (got {name!r})")
    estimator = ESTIMATORS.build(truth_estimator(name), options)

    def compute(problem: InfluenceProblem, train: Train | None, options: dict[str, Any]) -> TrueValues:
        return TrueValues(estimator(problem), notes=problem.notes)

    return Truth(name, estimator.question, f"{estimator.name}: {estimator.summary}", compute, estimator)


def truth_estimator(name: str) -> str:
    """Return the name of the estimator that computes a truth, or the truth's own name."""
    return "exact" if name == "removal" else name


def _pbrf(problem: InfluenceProblem, train: Train | None, options: dict[str, Any]) -> TrueValues:
    _check("pbrf", problem, options, pbrf)
    return TrueValues(pbrf(problem, **options).detach(), notes=problem.notes)


def _retraining(problem: InfluenceProblem, train: Train | None, options: dict[str, Any]) -> TrueValues:
    _check("retraining", problem, options, retraining_influence, "alpha", "count")
    alpha, count = options.pop("alpha", 0.05), options.pop("count", 20)
    train, subsets = _given(train, "retraining"), random_subsets(problem.items.num_items, alpha, count, problem.seed)
    groups = [subset.nonzero().view(-1) for subset in subsets]
    found = retraining_influence(train, problem.data, problem.items, groups, problem.target, problem.task, **options)
    notes = {"noise_floor": found.noise_floor, "groups_below_floor": int(found.below_floor.sum())}
    return TrueValues(found.mean, found.groups, {**notes, "alpha": alpha, "count": count})


def _lds(problem: InfluenceProblem, train: Train | None, options: dict[str, Any]) -> TrueValues:
    _check("lds", problem, options, lds)
    train, seed = _given(train, "lds"), problem.seed
    found = lds(train, problem.data, problem.items, problem.target, problem.task, seed=seed, **options)
    groups = [subset.nonzero().view(-1) for subset in found.subsets]
    return TrueValues(found.outcomes, groups, {"standard_error": found.noise})


def _given(train: Train | None, name: str) -> Train:
    if train is None:
        raise InvalidInputError(f"Expected a training function 'train(data, seed)' with truth '{name}' (got none)")
    return train


def _check(name: str, problem: InfluenceProblem, options: dict[str, Any], function: Any, *more: str) -> None:
    """Raise for targets that are no value, and for options that are neither in `more` nor the function's own."""
    as_value(problem.target, f"truth '{name}'")
    of_the_problem = {"problem", "train", "data", "items", "groups", "target", "task", "seed"}
    known = sorted({*inspect.signature(function).parameters, *more} - of_the_problem)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise InvalidInputError(f"Expected options of truth '{name}' among {known} (got {unknown})")


#: Truths that are no estimators, by name.
TRUTHS: dict[str, Truth] = {
    truth.name: truth
    for truth in (
        Truth(
            "pbrf",
            "training",
            "proximal Bregman response: the graph without the item, and the parameters that training without it "
            "moves to, kept near the trained ones",
            _pbrf,
            defaults={"damping": 0.01},
        ),
        Truth("retraining", "training", "mean change over seeds when groups of items are left out", _retraining),
        Truth("lds", "training", "linear datamodelling: models trained without random subsets of the items", _lds),
    )
}
