"""Choose and build the estimators of a study."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from gunlearn.attribution import ESTIMATORS
from gunlearn.attribution.base import Estimator
from gunlearn.attribution.study.measured import Setting
from gunlearn.attribution.study.truths import Truth, truth_estimator
from gunlearn.errors import InvalidInputError, UnsupportedMethodError

#: Estimators that every other one must beat.
CONTROLS = ("random", "degree")


def choose_estimators(
    estimators: Sequence[str | Estimator] | None,
    options: dict[str, dict[str, Any]],
    setting: Setting,
    truth: Truth,
    shared: dict[str, Any],
) -> dict[str, Estimator]:
    """Return estimators by label: their name, with options where a name comes more than once.

    Args:
        estimators: names or objects; `None` for all that fit.
        options: options by name.
        setting: the problem.
        truth: the truth that they are compared with; by default only those that answer its question are chosen.
        shared: options that take the truth's value, unless `options` sets them.

    Raises:
        InvalidInputError: unknown names or options, or nothing chosen.
    """

    def build(entry: str | Estimator) -> Estimator:
        if not isinstance(entry, str) or entry not in ESTIMATORS:
            return ESTIMATORS.build(entry, {})
        cls = ESTIMATORS[entry]
        taken = {name: value for name, value in shared.items() if name in cls.options()}
        if (
            getattr(cls, "curvature", None) == "hessian"
        ):  # its damping has another meaning: to make it positive definite
            taken.pop("damping", None)
        return ESTIMATORS.build(entry, {**taken, **options.get(entry, {})})

    if estimators is None:
        problem, estimators = setting.problem(), []
        for name, cls in ESTIMATORS.items():
            if name in CONTROLS or (cls.question == truth.question and name != "brute"):
                with suppress(UnsupportedMethodError):
                    estimator = build(name)
                    estimator.supports(problem)
                    estimators.append(estimator)
    if not estimators or isinstance(estimators, str):
        raise InvalidInputError(f"Expected a list of estimators, at least one (got {estimators!r})")
    built = [build(entry) for entry in estimators]
    unknown = sorted(set(options) - {estimator.name for estimator in built} - {truth_estimator(truth.name)})
    if unknown:
        raise InvalidInputError(f"Expected options of the chosen estimators (got some of {unknown})")
    names = [estimator.name for estimator in built]
    return {e.name if names.count(e.name) == 1 else _with_options(e): e for e in built}


def _with_options(estimator: Estimator) -> str:
    plain = type(estimator)()
    told = {name: getattr(estimator, name) for name in estimator.options()}
    told = {name: value for name, value in told.items() if value != getattr(plain, name)}
    return estimator.name + (f" ({', '.join(f'{k}={v}' for k, v in told.items())})" if told else "")
