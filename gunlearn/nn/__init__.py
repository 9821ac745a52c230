"""Graph layers, kernels, and the means to attach to anybody's model."""

from gunlearn.nn.attach import after_layer, message_passing_layers, removed_edges, scaled_messages
from gunlearn.nn.backbones import GCN
from gunlearn.nn.influence_conv import InfluenceAwareConv, MessageScale, influence_scale
from gunlearn.nn.sparse import EdgePattern, SparseMatrix, gather_inner_product, sparse_features, sparse_matrix
from gunlearn.nn.subgraph import Subgraph, k_hop_subgraph, propagation_depth

__all__ = [
    "GCN",
    "EdgePattern",
    "InfluenceAwareConv",
    "MessageScale",
    "SparseMatrix",
    "Subgraph",
    "after_layer",
    "gather_inner_product",
    "influence_scale",
    "k_hop_subgraph",
    "message_passing_layers",
    "propagation_depth",
    "removed_edges",
    "scaled_messages",
    "sparse_features",
    "sparse_matrix",
]
