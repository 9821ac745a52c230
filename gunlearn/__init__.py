"""gunlearn: unlearning in any trained graph neural network or language model. Public names load on first use."""

from gunlearn.core.lazy import lazy
from gunlearn.core.moved import install as _install

__version__ = "0.1.0"

_install()

_HOMES = {
    "gunlearn.errors": ("GunlearnError",),
    "gunlearn.api": ("Evaluation", "evaluate", "influence", "train", "unlearn"),
    "gunlearn.datasets": ("load",),
    "gunlearn.attribution": ("influence_study",),
    "gunlearn.connectivity": ("connect",),
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
    "gunlearn.training.keep_state": ("KeepState",),
    "gunlearn.training.training_state": ("TrainingState",),
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
        "item_split",
        "item_table",
        "link_split",
        "node_split",
        "prepare",
    ),
}

__all__ = sorted(["__version__", *(name for names in _HOMES.values() for name in names)])
__getattr__, __dir__ = lazy(__name__, _HOMES)
