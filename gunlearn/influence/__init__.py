"""Influence estimators: how much a model's outputs depend on an edge or a node."""

from gunlearn.influence.nora import edge_scores, min_max, nora

__all__ = ["edge_scores", "min_max", "nora"]
