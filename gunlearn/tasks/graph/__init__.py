"""Tasks whose model reads a graph."""

from __future__ import annotations

from gunlearn.core.lazy import lazy

_HOMES = {
    "gunlearn.tasks.graph.base": ("GraphTask",),
    "gunlearn.tasks.graph.graph_classification": ("GraphClassification",),
    "gunlearn.tasks.graph.link_prediction": ("LinkPrediction",),
    "gunlearn.tasks.graph.node_classification": ("NodeClassification",),
}

__all__ = sorted(name for names in _HOMES.values() for name in names)
__getattr__, __dir__ = lazy(__name__, _HOMES)
