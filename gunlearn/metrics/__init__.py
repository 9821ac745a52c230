"""Figures that are measured of a model. Names load on first use, so figures need neither PyG nor transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gunlearn.core.lazy import lazy
from gunlearn.core.registry import Registry

if TYPE_CHECKING:
    from gunlearn.metrics.base import Figure
    from gunlearn.metrics.problem import Evaluator

_HERE = "gunlearn.metrics"
_FIGURES = {
    "retain_auc": f"{_HERE}.ranking:RetainAUC",
    "retain_ap": f"{_HERE}.ranking:RetainAP",
    "forget_auc": f"{_HERE}.ranking:ForgetAUC",
    "forget_ap": f"{_HERE}.ranking:ForgetAP",
    "forget_prob": f"{_HERE}.own_labels:ForgetProbability",
    "retain_prob": f"{_HERE}.own_labels:RetainProbability",
    "test_acc": f"{_HERE}.own_labels:HeldOutAccuracy",
    "test_r2": f"{_HERE}.numbers:HeldOutR2",
    "test_mse": f"{_HERE}.numbers:HeldOutError",
    "test_roc_auc": f"{_HERE}.yes_or_no:HeldOutAUC",
    "test_f1": f"{_HERE}.yes_or_no:HeldOutF1",
    "retain_acc": f"{_HERE}.own_labels:RetainAccuracy",
    "forget_acc": f"{_HERE}.own_labels:ForgetAccuracy",
    "nearest_acc": f"{_HERE}.class_damage:NearestAccuracy",
    "rest_acc": f"{_HERE}.class_damage:RestAccuracy",
    "mia_auc": f"{_HERE}.ranking:MembershipAUC",
    "mia_acc": f"{_HERE}.basic_attack:BasicAttack",
    "mia_item_auc": f"{_HERE}.item_membership:ItemMembershipAUC",
    "ic_err": f"{_HERE}.confusion:ConfusionError",
    "ic_err_retain": f"{_HERE}.confusion:RetainConfusionError",
    "fgt_err": f"{_HERE}.confusion:ConfusedItems",
    "fgt_err_retain": f"{_HERE}.confusion:RetainConfusedItems",
    "relearn_steps": f"{_HERE}.relearning:RelearnSteps",
    "js_forget": f"{_HERE}.divergence:ForgetDivergence",
    "js_test": f"{_HERE}.divergence:HeldOutDivergence",
    "js_retain": f"{_HERE}.divergence:RetainDivergence",
    "js_floor_forget": f"{_HERE}.divergence:ForgetFloor",
    "js_floor_test": f"{_HERE}.divergence:HeldOutFloor",
    "js_floor_retain": f"{_HERE}.divergence:RetainFloor",
    "utility_floor": f"{_HERE}.utility:UtilityFloor",
    "alignment_forget": f"{_HERE}.prediction_alignment:ForgetAlignment",
    "alignment_test": f"{_HERE}.prediction_alignment:HeldOutAlignment",
    "alignment_retain": f"{_HERE}.prediction_alignment:RetainAlignment",
    "alignment_floor_forget": f"{_HERE}.prediction_alignment:ForgetAlignmentFloor",
    "alignment_floor_test": f"{_HERE}.prediction_alignment:HeldOutAlignmentFloor",
    "alignment_floor_retain": f"{_HERE}.prediction_alignment:RetainAlignmentFloor",
    "gain_forget": f"{_HERE}.prediction_alignment:ForgetGain",
    "gain_low_forget": f"{_HERE}.prediction_alignment:ForgetGainLow",
    "gain_high_forget": f"{_HERE}.prediction_alignment:ForgetGainHigh",
    "gain_test": f"{_HERE}.prediction_alignment:HeldOutGain",
    "gain_retain": f"{_HERE}.prediction_alignment:RetainGain",
    "seconds": f"{_HERE}.run_cost:Seconds",
    "seconds_per_epoch": f"{_HERE}.run_cost:SecondsPerEpoch",
    "epochs": f"{_HERE}.run_cost:Epochs",
    "peak_memory_mb": f"{_HERE}.run_cost:PeakMemoryMB",
    "prob": f"{_HERE}.texts:AnswerProbability",
    "nll": f"{_HERE}.texts:TokenNLL",
    "exact_memorization": f"{_HERE}.texts:ExactMemorization",
    "extraction_strength": f"{_HERE}.texts:ExtractionStrength",
    "drma": f"{_HERE}.texts:DRMA",
    "drma_per_token": f"{_HERE}.texts:DRMAPerToken",
    "rougeL": f"{_HERE}.texts:RougeL",
    "fluency": f"{_HERE}.texts:Fluency",
    "truth_ratio": f"{_HERE}.texts:TruthRatio",
}
_EVALUATORS = {
    "link_prediction": f"{_HERE}.graph_evaluators:LinkEvaluator",
    "node_classification": f"{_HERE}.graph_evaluators:ClassEvaluator",
    "graph_classification": f"{_HERE}.graph_evaluators:ClassEvaluator",
    "node_regression": f"{_HERE}.numbers:NumberEvaluator",
    "graph_regression": f"{_HERE}.numbers:NumberEvaluator",
    "node_multilabel": f"{_HERE}.yes_or_no:LabelEvaluator",
    "graph_multilabel": f"{_HERE}.yes_or_no:LabelEvaluator",
    "image_classification": f"{_HERE}.item_evaluators:ItemEvaluator",
}
#: Figures by name, in the order of rows and columns.
FIGURES: Registry[Figure] = Registry("figure", _FIGURES, group="gunlearn.figures", base=f"{_HERE}.base:Figure")
#: Names of the figures of functional alignment, which are measured where `metrics` names them.
ALIGNMENT = tuple(name for name, home in _FIGURES.items() if ".prediction_alignment:" in home)
#: Evaluators by the name of the task.
EVALUATORS: Registry[Evaluator] = Registry("task to evaluate", _EVALUATORS)

_HOMES = {
    "gunlearn.metrics.alignment": (
        "Alignment",
        "Sampler",
        "StepTerms",
        "Supplier",
        "align",
        "bernoulli_alignment",
        "bernoulli_kl",
        "categorical_alignment",
        "categorical_kl",
    ),
    "gunlearn.metrics.base": ("Figure", "figures_of"),
    "gunlearn.metrics.lira": ("UnlearningLiRA", "unlearning_lira"),
    "gunlearn.metrics.frechet": ("frechet_distance", "gaussian_frechet_distance"),
    "gunlearn.metrics.judged": (
        "JudgedScores",
        "mean_confusion",
        "feature_closeness",
        "judged_scores",
        "nearest_classes",
    ),
    "gunlearn.metrics.class_damage": ("near_classes",),
    "gunlearn.metrics.prediction_alignment": ("prediction_standing",),
    "gunlearn.metrics.problem": ("Evaluator", "evaluator", "headline", "row_names"),
    "gunlearn.metrics.ranking": ("forget_separation", "separation"),
    "gunlearn.metrics.standing": ("Standing", "standings"),
    "gunlearn.metrics.texts": ("TokenScores", "drma", "exact_memorization", "extraction_strength", "fluency"),
    "gunlearn.metrics.view": ("ModelView", "histogram"),
}
for _home in (*_FIGURES.values(), *_EVALUATORS.values()):
    _module, _, _name = _home.partition(":")
    if _name not in _HOMES.get(_module, ()):
        _HOMES[_module] = (*_HOMES.get(_module, ()), _name)

__all__ = sorted(["ALIGNMENT", "EVALUATORS", "FIGURES", *(name for names in _HOMES.values() for name in names)])
__getattr__, __dir__ = lazy(__name__, _HOMES)
