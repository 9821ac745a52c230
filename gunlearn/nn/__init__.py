"""Attaching to anybody's model, kernels, layers, models of our own. Names load on first use."""

from __future__ import annotations

from gunlearn.core.lazy import lazy

_HOMES = {
    "gunlearn.nn.attach.contexts": (
        "after_layer",
        "message_passing_layers",
        "removed_edges",
        "scaled_messages",
    ),
    "gunlearn.nn.zoo": (
        "BACKBONES",
        "GCN",
        "backbone",
    ),
    "gunlearn.nn.kernels.fast": (
        "fast_path",
        "path_of",
    ),
    "gunlearn.nn.hetero.homogeneous": ("homogeneous",),
    "gunlearn.nn.hetero.wrapper": ("HeteroWrapper",),
    "gunlearn.nn.layers.influence_conv": (
        "InfluenceAwareConv",
        "MessageScale",
        "influence_scale",
    ),
    "gunlearn.nn.layers.linear_head": ("LinearHead",),
    "gunlearn.nn.kernels.sparse": (
        "EdgePattern",
        "PlainPathWarning",
        "SparseMatrix",
        "gather_inner_product",
        "plain_path",
        "sddmm",
        "sparse_features",
        "sparse_matrix",
    ),
    "gunlearn.nn.kernels.subgraph": (
        "Subgraph",
        "k_hop_subgraph",
        "propagation_depth",
    ),
}

__all__ = sorted(name for names in _HOMES.values() for name in names)
__getattr__, __dir__ = lazy(__name__, _HOMES)
