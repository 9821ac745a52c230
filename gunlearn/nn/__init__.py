"""Attachments to any model, kernels, layers, models."""

from gunlearn.core.lazy import lazy

_HOMES = {
    "gunlearn.nn.attach.contexts": ("after_layer", "removed_edges", "scaled_messages"),
    "gunlearn.nn.attach.message_layers": ("message_passing_layers",),
    "gunlearn.nn.image_models": ("IMAGE_BACKBONES", "SmallCNN", "SmallResNet"),
    "gunlearn.nn.zoo": ("BACKBONES", "GCN", "backbone"),
    "gunlearn.nn.kernels.bag_of_words": ("sparse_features",),
    "gunlearn.nn.kernels.edge_scores": ("EdgePattern", "gather_inner_product"),
    "gunlearn.nn.kernels.fast": ("fast_path",),
    "gunlearn.nn.kernels.paths": ("path_of",),
    "gunlearn.nn.hetero.conversion": ("homogeneous",),
    "gunlearn.nn.hetero.wrapper": ("HeteroWrapper",),
    "gunlearn.nn.layers.influence_conv": ("InfluenceAwareConv", "MessageScale", "influence_scale"),
    "gunlearn.nn.layers.linear_head": ("LinearHead",),
    "gunlearn.nn.kernels.sparse": ("SparseMatrix", "sddmm", "sparse_matrix"),
    "gunlearn.nn.kernels.subgraph": ("Subgraph", "k_hop_subgraph", "propagation_depth"),
    "gunlearn.nn.kernels.switch": ("PlainPathWarning", "plain_path"),
}

__all__ = sorted(name for names in _HOMES.values() for name in names)
__getattr__, __dir__ = lazy(__name__, _HOMES)
