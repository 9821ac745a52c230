"""Losses of embeddings read as distributions."""

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

    Keeps the local structure around what is forgotten: on the end points of forgotten edges it asks for embeddings that
    stay, as distributions over features, where they were. INPO weighs it with 0.5 to 0.8. Its minimum is the entropy of
    the reference's embeddings, not 0.

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

    @property
    def reads(self) -> tuple[str, ...]:
        """Embeddings alone."""
        return ("embeddings",)

    def values(self, current: Prediction, reference: Prediction) -> Tensor:
        """See `functional.topological_entropy`."""
        return functional.topological_entropy(current.embeddings, reference.embeddings, current.item_dims("embeddings"))
