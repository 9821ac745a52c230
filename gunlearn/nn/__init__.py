"""Graph layers, kernels, and the means to attach to anybody's model."""

from gunlearn.nn.attach import after_layer, message_passing_layers, removed_edges, scaled_messages
from gunlearn.nn.backbones import BACKBONES, GCN, backbone
from gunlearn.nn.fast import fast_path, path_of
from gunlearn.nn.hetero import homogeneous
from gunlearn.nn.hetero_wrapper import HeteroWrapper
from gunlearn.nn.influence_conv import InfluenceAwareConv, MessageScale, influence_scale
from gunlearn.nn.linear_head import LinearHead
from gunlearn.nn.sparse import (
    EdgePattern,
    PlainPathWarning,
    SparseMatrix,
    gather_inner_product,
    plain_path,
    sddmm,
    sparse_features,
    sparse_matrix,
)
from gunlearn.nn.subgraph import Subgraph, k_hop_subgraph, propagation_depth

__all__ = [
    "BACKBONES",
    "GCN",
    "EdgePattern",
    "HeteroWrapper",
    "InfluenceAwareConv",
    "LinearHead",
    "MessageScale",
    "PlainPathWarning",
    "SparseMatrix",
    "Subgraph",
    "after_layer",
    "backbone",
    "fast_path",
    "gather_inner_product",
    "homogeneous",
    "influence_scale",
    "k_hop_subgraph",
    "message_passing_layers",
    "path_of",
    "plain_path",
    "propagation_depth",
    "removed_edges",
    "scaled_messages",
    "sddmm",
    "sparse_features",
    "sparse_matrix",
]
