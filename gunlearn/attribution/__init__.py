"""Influence of an edge, a node or a feature on a trained model's outputs: estimators, and studies that compare them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gunlearn.core.lazy import lazy
from gunlearn.core.registry import Registry

if TYPE_CHECKING:
    from gunlearn.attribution.base import Estimator

_HERE = "gunlearn.attribution"
_ESTIMATORS = {
    "brute": f"{_HERE}.removal.exact:Brute",
    "exact": f"{_HERE}.removal.exact:Exact",
    "local": f"{_HERE}.removal.local:Local",
    "calibrated": f"{_HERE}.removal.calibrated:Calibrated",
    "first_order": f"{_HERE}.removal.first_order:FirstOrder",
    "nora": f"{_HERE}.removal.heuristics:Nora",
    "degree": f"{_HERE}.removal.heuristics:Degree",
    "random": f"{_HERE}.removal.heuristics:Random",
    "tracin": f"{_HERE}.training.gradients:TracIn",
    "gradient_similarity": f"{_HERE}.training.gradients:GradientSimilarity",
    "if": f"{_HERE}.training.inverse_hessian:InverseHessian",
    "edge_edit": f"{_HERE}.training.edge_edit:EdgeEdit",
    "gif": f"{_HERE}.training.edge_edit:GIFInfluence",
}
#: Every estimator by its name.
ESTIMATORS: Registry[Estimator] = Registry("estimator", _ESTIMATORS)

_HOMES = {
    "gunlearn.attribution.base": ("Estimator", "Influence", "InfluenceProblem", "estimate"),
    "gunlearn.attribution.distinct_items": ("Items",),
    "gunlearn.attribution.read_items": ("resolve_items",),
    "gunlearn.attribution.removal.exact": ("SlowEstimatorWarning",),
    "gunlearn.attribution.removal.nora": ("inpo_edge_scores", "min_max", "nora"),
    "gunlearn.attribution.study.study": ("influence_study",),
    "gunlearn.attribution.targets": (
        "INFLUENCE_TARGETS", "Embeddings", "Function", "ItemLoss", "Probabilities", "Target",
    ),
    "gunlearn.attribution.training.datamodels": ("lds", "linear_datamodelling_score", "random_subsets"),
    "gunlearn.attribution.training.pbrf": ("pbrf",),
    "gunlearn.attribution.training.retraining_influence": ("retraining_influence",),
}  # fmt: skip
for _home in _ESTIMATORS.values():
    _module, _, _name = _home.partition(":")
    _HOMES[_module] = (*_HOMES.get(_module, ()), _name)

__all__ = sorted(["ESTIMATORS", *(name for names in _HOMES.values() for name in names)])
__getattr__, __dir__ = lazy(__name__, _HOMES)
