"""Tasks: what a model predicts, item by item. Names load on first use: a text task needs no graph library."""

from __future__ import annotations

from gunlearn._lazy import lazy

_HOMES = {
    "gunlearn.tasks.base": ("Parts", "Task"),
    "gunlearn.tasks.classification": ("ArrayParts", "ImageClassification"),
    "gunlearn.tasks.graph": ("GraphTask",),
    "gunlearn.tasks.graph_classification": ("GraphClassification",),
    "gunlearn.tasks.link_prediction": ("EdgeParts", "LinkPrediction"),
    "gunlearn.tasks.named": ("TASKS", "as_task"),
    "gunlearn.tasks.negatives": ("NegativeSampler",),
    "gunlearn.tasks.node_classification": ("NodeClassification", "NodeItems", "NodeParts"),
    "gunlearn.tasks.random_nodes": ("RandomNodeParts",),
    "gunlearn.tasks.sampling": ("ShuffledBatches", "StratifiedSampler"),
    "gunlearn.tasks.splits": ("link_split", "node_split"),
}

__all__ = sorted(name for names in _HOMES.values() for name in names)
__getattr__, __dir__ = lazy(__name__, _HOMES)
