"""What a result is worth. Names load on first use: metrics of texts need no graph library."""

from __future__ import annotations

from gunlearn.core.lazy import lazy

_HOMES = {
    "gunlearn.metrics.alignment": (
        "Alignment",
        "Sampler",
        "StepTerms",
        "Supplier",
        "align",
        "categorical_alignment",
        "categorical_kl",
    ),
    "gunlearn.metrics.base": ("Evaluator",),
    "gunlearn.metrics.classes": ("ClassEvaluator", "ClassProbabilities"),
    "gunlearn.metrics.link": ("EdgeProbabilities", "LinkEvaluator"),
    "gunlearn.metrics.named": ("EVALUATORS", "evaluator"),
    "gunlearn.metrics.ranking": ("forget_separation", "separation"),
    "gunlearn.metrics.standing": ("Standing", "standings"),
}

__all__ = sorted(name for names in _HOMES.values() for name in names)
__getattr__, __dir__ = lazy(__name__, _HOMES)
