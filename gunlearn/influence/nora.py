"""NORA: influence of removing a node, from one forward and one backward pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.utils import remove_self_loops

from gunlearn._scatter import scatter
from gunlearn.errors import InvalidInputError, UnsupportedModelError
from gunlearn.nn.attach import message_passing_layers, suspended_caches
from gunlearn.nn.memo import memo
from gunlearn.nn.sparse import SparseMatrix, sparse_matrix
from gunlearn.seed import isolated_rng
from gunlearn.tasks import LinkPrediction


def nora(
    model: nn.Module,
    data: Data,
    beta: float = 8.0,
    p: float = 1.0,
    k1: float = 1.0,
    k2: tuple[float, float] = (0.5, 0.0),
    k3: float = 1.0,
) -> Tensor:
    r"""Estimated effect of removing each node on all other outputs, the model fixed (arXiv 2403.08333).

    With `y = softmax(model(G))` and the backward pass `sum(y * stop_gradient(y))`, layer inputs `h_i` and degrees `d`:

    .. math::
        g_i = \|\partial h_i \odot h_i\|_p \frac{d}{d + \beta}, \quad
        a = \sum_i r_i g_i, \quad r_{i-1} = r_i \left(1 - \frac{d}{(N - 1)(\bar d + \beta)}\right)

    plus `k3` times the aggregation term `A ((A w) * delta)`, rescaled to the mean of `a`, where
    `delta = k1 (1/sqrt(d-1) - 1/sqrt(d)) + (1-k1) (1/(d-1) - 1/d)` and `w = k2/sqrt(d) + k2'/d + 1 - k2 - k2'`.

    Any depth, any PyG convolution: the layer inputs are read by hooks. Isolated nodes score what their own layers give
    them; a degree-1 node's infinite `delta` counts as 1, as in the official INPO code. In a directed graph `d` is the
    number of senders and `A` gathers from them; a node without any has `w` of degree 1.

    Args:
        model: called as `model(x, edge_index)`; its random layers are switched off.
        data: with `x` and `edge_index`; degrees leave self-loops out.
        beta: damping of small degrees.
        p: norm over features.
        k1: share of symmetric against mean normalisation in `delta`.
        k2: shares of `1/sqrt(d)` and `1/d` in `w`.
        k3: weight of the aggregation term.

    Returns:
        One score per node, not negative, `[num_nodes]`.

    Raises:
        UnsupportedModelError: no message passing layer, or no gradient through one.
        InvalidInputError: the scores are not finite.
    """
    num_nodes = data.num_nodes
    adjacency, degree = _adjacency(data.edge_index, num_nodes)
    mean_degree = degree.mean()
    acc = torch.zeros_like(degree)
    rate = torch.ones_like(degree)
    for value, grad in reversed(_layer_inputs(model, data)):
        norm = (value * grad).flatten(1).norm(p=p, dim=1).to(degree.dtype)
        acc += rate * norm * degree / (degree + beta)
        rate *= 1 - degree / (max(num_nodes - 1, 1) * (mean_degree + beta))

    positive = degree.clamp(min=1)
    less = degree - 1
    delta = k1 * (less.rsqrt() - positive.rsqrt()) + (1 - k1) * (less.reciprocal() - positive.reciprocal())
    delta = torch.where(degree > 1, delta, torch.where(degree == 1, 1.0, 0.0))
    weight = k2[0] * positive.rsqrt() + k2[1] / positive + (1 - k2[0] - k2[1])
    gather = (adjacency @ ((adjacency @ weight.view(-1, 1)) * delta.view(-1, 1))).view(-1)
    if gather.mean() != 0:
        acc = acc + k3 * gather / gather.mean() * acc.mean()
    score = acc.abs()
    if not torch.isfinite(score).all():
        raise InvalidInputError("Expected finite node influence (got NaN or infinity from the model's gradients)")
    return score


def _adjacency(edge_index: Tensor, num_nodes: int) -> tuple[SparseMatrix, Tensor]:
    def build() -> tuple[SparseMatrix, Tensor]:
        (source, target), _ = remove_self_loops(edge_index)
        one = torch.ones(source.numel(), device=edge_index.device)
        degree = scatter(one, target, dim=0, dim_size=num_nodes, reduce="sum")
        return sparse_matrix(target, source, one, (num_nodes, num_nodes)), degree

    return memo(edge_index, ("nora", num_nodes), build)


def _layer_inputs(model: nn.Module, data: Data) -> list[tuple[Tensor, Tensor]]:
    """Each layer's input and the gradient with respect to it, first layer first."""
    captured: list[Tensor] = []

    def capture(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        x = args[0] if args else kwargs.get("x")
        whole, x = x, x[0] if isinstance(x, tuple | list) else x
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return args, kwargs
        if not x.requires_grad:  # behind a frozen embedding, say
            x = x.detach().requires_grad_()
            whole = (x, *whole[1:]) if isinstance(whole, tuple | list) else x
            args, kwargs = ((whole, *args[1:]), kwargs) if args else (args, {**kwargs, "x": whole})
        if all(x is not seen for seen in captured):
            captured.append(x)
        return args, kwargs

    layers = message_passing_layers(model)
    handles = [layer.register_forward_pre_hook(capture, with_kwargs=True) for layer in layers.values()]
    training = {m: m.training for m in model.modules()}
    try:
        model.eval()
        view = Data(**{**data.to_dict(), "num_nodes": data.num_nodes})
        if data.x is not None:
            x = data.x.to_dense() if data.x.layout != torch.strided else data.x
            view.x = x.detach().clone().requires_grad_()
        with torch.enable_grad(), isolated_rng(), suspended_caches(model):
            out = LinkPrediction().encode(model, view).softmax(dim=-1)
            if not captured or not out.requires_grad:
                raise UnsupportedModelError("Expected gradients with respect to layer inputs (got a model without)")
            grads = torch.autograd.grad((out * out.detach()).sum(), captured, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in training.items():
            module.training = mode
    return [(x.detach(), torch.zeros_like(x) if g is None else g) for x, g in zip(captured, grads, strict=True)]


def edge_scores(influence: Tensor, edge_index: Tensor) -> Tensor:
    """INPO's score of an edge, `s_u + s_v` of the min-max scaled node influence (arXiv 2510.19479).

    It is an estimate for edges made of estimates for nodes; a study of how well it ranks edge removals is needed before
    it is trusted.

    Args:
        influence: `[num_nodes]`.
        edge_index: `[2, num_edges]`.
    """
    scaled = min_max(influence)
    return scaled[edge_index[0]] + scaled[edge_index[1]]


def min_max(values: Tensor) -> Tensor:
    """Scale to [0, 1]; constant values become 0.

    Raises:
        InvalidInputError: NaN or infinity among the values (one would spoil all).
    """
    if not torch.isfinite(values).all():
        raise InvalidInputError("Expected finite influence scores (got NaN or infinity)")
    low, high = values.min(), values.max()
    return torch.zeros_like(values) if low == high else (values - low) / (high - low)
