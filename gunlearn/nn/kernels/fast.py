"""Run PyG's linear layers as CSR products and bag-of-words features as sparse ones, layer by layer."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch_geometric.nn import MessagePassing

from gunlearn.nn.attach.overrides import Override, installed
from gunlearn.nn.kernels.attention import ATTENTION, AttentionForward, AttentionPropagate
from gunlearn.nn.kernels.fused import LINEAR, FusedForward, FusedPropagate
from gunlearn.nn.kernels.paths import PATHS, Paths, Watched
from gunlearn.nn.kernels.sparse_linear import LINEAR_MAPS, SparseLinear
from gunlearn.nn.kernels.switch import kernels_enabled
from gunlearn.nn.layers.influence_conv import InfluenceAwareConv


@contextmanager
def fast_path(model: nn.Module) -> Iterator[nn.Module]:
    """Inside the block the model's PyG layers run as CSR products where their messages allow it; yield the model.

    A layer is one sparse product if its messages are the senders' rows, times a weight at most, and are added up or
    averaged; GAT's and GATv2's are one product per head, with its attention coefficients. Scaled messages of linear
    layers are folded into the values; other attachments (an explainer, hooks on messages, removed
    edges) and low precision keep the layer's own gather-scatter; `path_of(model)` says which. Results equal those
    outside up to rounding, gradients included. Normalisation and CSR matrices are remembered with the `edge_index`
    tensor. A model without PyG layers runs as it is.
    """
    paths = PATHS[model] = Paths()
    overrides: list[Override] = []
    native: dict[str, InfluenceAwareConv] = {}  # these fuse by themselves, and record it
    if not hasattr(model, "_orig_mod"):  # a compiled model runs its own kernels
        for name, module in model.named_modules():
            if type(module) in LINEAR_MAPS and kernels_enabled():
                overrides.append(SparseLinear(module, name, paths))
            elif type(module) in LINEAR and kernels_enabled():
                propagate = FusedPropagate(module, name, paths)
                overrides += [propagate, FusedForward(module, name, paths, propagate)]
            elif type(module) in ATTENTION and kernels_enabled():
                attend = AttentionPropagate(module, name, paths)
                overrides += [attend, AttentionForward(module, name, paths, attend)]
            elif isinstance(module, InfluenceAwareConv):
                native[name], module.ran = module, None
            elif isinstance(module, MessagePassing):
                overrides.append(Watched(module, name, paths))
    try:
        with installed(overrides):
            yield model
    finally:
        for name, layer in native.items():
            if layer.ran is not None:
                (paths.plain if layer.ran == "plain" else paths.fused)[name] = type(layer).__name__
                paths.sparse_features |= layer.ran == "csr sparse"
