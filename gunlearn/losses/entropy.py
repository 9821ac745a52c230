"""A loss that reads embeddings as distributions."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gunlearn.losses import functional
from gunlearn.losses.base import Loss
from gunlearn.losses.prediction import Prediction


@dataclass(frozen=True, repr=False, kw_only=True)
class TopologicalEntropy(Loss):
    r"""Cross-entropy with the reference's embeddings, L_TE of `"INPO" <https://arxiv.org/abs/2510.19479>`_.

    .. math:: -\sum_d \mathrm{softmax}(z^{ref})_d \, \log \mathrm{softmax}(z)_d

    Keeps the local structure around forgotten edges: the embeddings of their end points, read as distributions over
    features, stay as they were. INPO weighs it with 0.5 to 0.8. Its minimum is the entropy of the reference's
    embeddings, not 0.

    Example:
        >>> TopologicalEntropy(on="retain").parts
        ('retain',)
    """

    name = "topological_entropy"
    summary = "cross-entropy of the softmax of embeddings with the reference's"
    paper = "Graph Unlearning Meets Influence-aware Negative Preference Optimization"
    arxiv = "2510.19479"
    needs_reference = True
    level = ("embedding",)
    reads = ("embeddings",)

    def values(self, current: Prediction, reference: Prediction) -> Tensor:
        embeddings, before = current.require("embeddings"), reference.require("embeddings")
        return functional.topological_entropy(embeddings, before, current.item_dims("embeddings"))
