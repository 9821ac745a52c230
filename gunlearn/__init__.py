"""gunlearn: unlearning in graph neural networks, for anybody's trained model.

The public names load on first use, so that a part (`gunlearn.losses`) can be had without the rest.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "gunlearn.api": ("Evaluation", "evaluate", "influence", "train", "unlearn"),
    "gunlearn.datasets": ("load",),
    "gunlearn.influence.study": ("influence_study",),
    "gunlearn.methods": ("METHODS", "Callback", "EarlyStopping", "Method", "Result"),
    "gunlearn.nn": (
        "GCN",
        "InfluenceAwareConv",
        "after_layer",
        "backbone",
        "homogeneous",
        "removed_edges",
        "scaled_messages",
    ),
    "gunlearn.requests": (
        "ForgetEdges",
        "ForgetFeatures",
        "ForgetGraphs",
        "ForgetItems",
        "ForgetNodes",
        "ForgetSubgraph",
        "Partition",
        "Request",
    ),
    "gunlearn.tasks": (
        "GraphClassification",
        "ImageClassification",
        "LinkPrediction",
        "NodeClassification",
        "Task",
        "link_split",
        "node_split",
    ),
}
_PARTS = ("bench", "datasets", "losses", "methods", "metrics", "nn", "report", "requests", "tasks")
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted([*_HOME_OF, "__version__"])


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        value = getattr(import_module(_HOME_OF[name]), name)
        return globals().setdefault(name, value)  # "influence" is a package as well, and callable: never hide it
    if name in _PARTS:
        return import_module(f"gunlearn.{name}")
    raise AttributeError(f"module 'gunlearn' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOME_OF))
