"""Tasks: what a model predicts, item by item. Names load on first use: a text task needs no graph library."""

from gunlearn.core.lazy import lazy

_HOMES = {
    "gunlearn.tasks.base": ("Parts", "Task"),
    "gunlearn.tasks.items.array_parts": ("ArrayParts",),
    "gunlearn.tasks.items.arrays": ("ImageClassification",),
    "gunlearn.tasks.items.item_splits": ("item_split",),
    "gunlearn.tasks.items.tables": ("item_table",),
    "gunlearn.tasks.graph.base": ("GraphTask",),
    "gunlearn.tasks.graph.graph_classification": ("GraphClassification",),
    "gunlearn.tasks.graph.regression": ("GraphRegression", "NodeRegression"),
    "gunlearn.tasks.graph.multilabel": ("GraphMultilabel", "NodeMultilabel"),
    "gunlearn.tasks.graph.link_prediction": ("EdgeParts", "LinkPrediction"),
    "gunlearn.tasks.named": ("TASKS", "as_task"),
    "gunlearn.tasks.graph.negatives": ("NegativeSampler",),
    "gunlearn.tasks.graph.node_classification": ("NodeClassification", "NodeItems", "NodeParts"),
    "gunlearn.tasks.graph.prepare": ("prepare",),
    "gunlearn.tasks.graph.random_nodes": ("RandomNodeParts",),
    "gunlearn.tasks.sampling": ("ShuffledBatches", "StratifiedSampler"),
    "gunlearn.tasks.graph.splits": ("graph_split", "link_split", "node_split"),
}

__all__ = sorted(name for names in _HOMES.values() for name in names)
__getattr__, __dir__ = lazy(__name__, _HOMES)
