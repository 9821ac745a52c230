"""Influence: what an edge, a node or a feature does to a trained model's outputs, and whom to trust about it."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from gunlearn.influence.base import Estimator, Influence, InfluenceProblem
from gunlearn.influence.brute import Brute
from gunlearn.influence.calibrated import Calibrated
from gunlearn.influence.datamodels import lds, linear_datamodelling_score, random_subsets
from gunlearn.influence.exact import Exact, SlowEstimatorWarning
from gunlearn.influence.first_order import FirstOrder
from gunlearn.influence.gradients import GradientSimilarity, TracIn
from gunlearn.influence.heuristics import Degree, Nora, Random
from gunlearn.influence.inverse_hessian import GIF, EdgeEdit, InverseHessian
from gunlearn.influence.items import Items, resolve_items
from gunlearn.influence.local import Local
from gunlearn.influence.nora import edge_scores, min_max, nora
from gunlearn.influence.pbrf import pbrf
from gunlearn.influence.retraining import retraining_influence
from gunlearn.influence.targets import TARGETS, Embeddings, Function, Loss, Probabilities, Target

ESTIMATORS: dict[str, type[Estimator]] = {
    cls.name: cls
    for cls in (
        Brute,
        Exact,
        Local,
        Calibrated,
        FirstOrder,
        Nora,
        Degree,
        Random,
        TracIn,
        GradientSimilarity,
        InverseHessian,
        EdgeEdit,
        GIF,
    )
}
"""Every estimator by name."""

__all__ = [
    "ESTIMATORS",
    "GIF",
    "TARGETS",
    "EdgeEdit",
    "Embeddings",
    "Estimator",
    "Function",
    "Influence",
    "InfluenceProblem",
    "InverseHessian",
    "Items",
    "Loss",
    "Probabilities",
    "SlowEstimatorWarning",
    "Target",
    "edge_scores",
    "estimate",
    "lds",
    "linear_datamodelling_score",
    "min_max",
    "nora",
    "pbrf",
    "random_subsets",
    "resolve_items",
    "retraining_influence",
]


def estimate(*args: Any, **kwargs: Any) -> Influence:
    """See `gunlearn.api.estimate_influence`."""
    from gunlearn.api import estimate_influence

    return estimate_influence(*args, **kwargs)


class _CallableModule(ModuleType):
    """Importing it binds `gunlearn.influence` to this package, so that the package must also be `api.influence`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """See `gunlearn.api.influence`."""
        from gunlearn.api import influence

        return influence(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule
