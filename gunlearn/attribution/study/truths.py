"""What estimates are held against: truths of both questions, in one table."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from gunlearn.attribution.base import Estimator, InfluenceProblem
from gunlearn.attribution.training.datamodels import lds, random_subsets
from gunlearn.attribution.training.pbrf import pbrf
from gunlearn.attribution.training.retraining_influence import retraining_influence
from gunlearn.core.registry import Registry
from gunlearn.errors import InvalidInputError, UnsupportedMethodError

Train = Callable[[Data, int], nn.Module]


@dataclass
class TrueValues:
    """True influence of items, or of groups of them.

    Attributes:
        values: one per item, or per group `[num_values]`.
        groups: the items of each group; `None` where each value is an item's. An estimate of a group is the sum of its
            members' scores.
        notes: remarks, such as the noise floor.
    """

    values: Tensor
    groups: list[Tensor] | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    def of(self, scores: Tensor) -> Tensor:
        """What scores of items `[num_items]` say about the values, `[num_values]`."""
        if self.groups is None:
            return scores
        return torch.stack([scores[group].sum() for group in self.groups])


@dataclass(frozen=True)
class Truth:
    """A way to know.

    Args:
        name: for tables.
        question: `"removal"` or `"training"`.
        summary: what it is, in a sentence.
        compute: of a problem, a training function (or `None`) and options.
        estimator: the estimator that it is, where it is one.
        defaults: its options that must agree with the estimators': those that have such an option take its value.
    """

    name: str
    question: str
    summary: str
    compute: Callable[[InfluenceProblem, Train | None, dict[str, Any]], TrueValues]
    estimator: Estimator | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)


def truth_named(name: str, estimators: Registry, options: dict[str, Any]) -> Truth:
    """A truth from its name in `TRUTHS`, or of an estimator that is taken for one.

    Raises:
        InvalidInputError: an unknown name, or options that the estimator does not have.
    """
    if name in TRUTHS:
        return TRUTHS[name]
    if name != "removal" and name not in estimators:
        known = ["removal", *TRUTHS]
        raise InvalidInputError(f"Expected a truth among {known} or an estimator's name (got {name!r})")
    estimator = estimators.build(truth_estimator(name), options)

    def compute(problem: InfluenceProblem, train: Train | None, options: dict[str, Any]) -> TrueValues:
        return TrueValues(estimator(problem), notes=problem.notes)

    return Truth(name, estimator.question, f"{estimator.name}: {estimator.summary}", compute, estimator)


def truth_estimator(name: str) -> str:
    """Name of the estimator that a truth is; of a truth that is none, its own name."""
    return "exact" if name == "removal" else name


def _pbrf(problem: InfluenceProblem, train: Train | None, options: dict[str, Any]) -> TrueValues:
    _check(problem, "pbrf", pbrf, ("problem",), options)
    return TrueValues(pbrf(problem, **options).detach(), notes=problem.notes)


def _retraining(problem: InfluenceProblem, train: Train | None, options: dict[str, Any]) -> TrueValues:
    drawn = {"alpha": 0.05, "count": 20, **{name: options.pop(name) for name in ("alpha", "count") if name in options}}
    _check(problem, "retraining", retraining_influence, _GIVEN, options, train)
    subsets = random_subsets(problem.items.num_items, **drawn, seed=problem.seed)
    groups = [subset.nonzero().view(-1) for subset in subsets]
    found = retraining_influence(train, problem.data, problem.items, groups, problem.target, problem.task, **options)
    notes = {"noise_floor": found.noise_floor, "groups_below_floor": int(found.below_floor.sum()), **drawn}
    return TrueValues(found.mean, found.groups, notes)


def _lds(problem: InfluenceProblem, train: Train | None, options: dict[str, Any]) -> TrueValues:
    _check(problem, "lds", lds, (*_GIVEN, "seed"), options, train)
    found = lds(train, problem.data, problem.items, problem.target, problem.task, seed=problem.seed, **options)
    groups = [subset.nonzero().view(-1) for subset in found.subsets]
    return TrueValues(found.outcomes, groups, {"standard_error": found.noise})


_GIVEN = ("train", "data", "items", "groups", "target", "task")


def _check(
    problem: InfluenceProblem,
    name: str,
    function: Callable[..., Any],
    given: tuple[str, ...],
    options: dict[str, Any],
    train: Train | bool | None = True,
) -> None:
    if problem.target.kind != "value":
        raise UnsupportedMethodError(
            f"Expected a target of kind value with truth '{name}', such as 'loss' (got '{problem.target.name}', "
            f"a {problem.target.kind})"
        )
    if train is None:
        raise InvalidInputError(f"Expected a training function 'train(data, seed)' with truth '{name}' (got none)")
    known = sorted(set(inspect.signature(function).parameters) - set(given))
    known += ["alpha", "count"] if name == "retraining" else []
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise InvalidInputError(f"Expected options of truth '{name}' among {known} (got {unknown})")


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
"""Truths that are no estimators, by name."""
