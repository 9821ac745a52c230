"""NORA: the influence of removing a node, from one forward and one backward pass."""

import math
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.utils import remove_self_loops

from gunlearn.core.modes import evaluating
from gunlearn.errors import GunlearnError, InvalidInputError, UnsupportedMethodError, UnsupportedModelError
from gunlearn.nn.attach.message_layers import message_passing_layers, suspended_caches
from gunlearn.nn.kernels.bag_of_words import sparse_features
from gunlearn.nn.kernels.memo import memo
from gunlearn.nn.kernels.scatter import scatter
from gunlearn.nn.kernels.sparse import SparseMatrix, sparse_matrix
from gunlearn.seed import isolated_rng
from gunlearn.tasks.base import Task
from gunlearn.tasks.graph.link_prediction import LinkPrediction


def nora(
    model: nn.Module,
    data: Data,
    beta: float = 8.0,
    p: float = 1.0,
    k1: float = 1.0,
    k2: tuple[float, float] = (0.5, 0.0),
    k3: float = 1.0,
    task: Task | None = None,
) -> Tensor:
    r"""Estimate the effect of removing each node on all other outputs, `[num_nodes]`, >= 0 (arXiv 2403.08333).

    With `y = softmax(model(G))` and the backward pass `sum(y * stop_gradient(y))`, layer inputs `h_i` and degrees `d`:

    .. math::
        g_i = \|\partial h_i \odot h_i\|_p \frac{d}{d + \beta}, \quad
        a = \sum_i r_i g_i, \quad r_{i-1} = r_i \left(1 - \frac{d}{(N - 1)(\bar d + \beta)}\right)

    plus `k3` times the aggregation term `A ((A w) * delta)`, rescaled to the mean of `a`, where
    `delta = k1 (1/sqrt(d-1) - 1/sqrt(d)) + (1-k1) (1/(d-1) - 1/d)` and `w = k2/sqrt(d) + k2'/d + 1 - k2 - k2'`.

    Works for any depth and any PyG convolution: hooks read the layer inputs. Isolated nodes score what their own layers
    give them; a degree-1 node's infinite `delta` counts as 1, as in the official INPO code. In a directed graph `d` is
    the number of senders and `A` gathers from them; a node without senders has the `w` of degree 1.

    Args:
        model: called as `model(x, edge_index)`, in evaluation mode.
        data: with `x` and `edge_index`; degrees do not count self-loops.
        beta: damping of small degrees.
        p: order of the norm over features.
        k1: share of symmetric against mean normalisation in `delta`.
        k2: shares of `1/sqrt(d)` and `1/d` in `w`.
        k3: weight of the aggregation term.
        task: how the model is called; `None` for link prediction's way.

    Raises:
        UnsupportedModelError: no message passing layer, or no gradient through one.
        InvalidInputError: the scores are not finite.
    """
    num_nodes = data.num_nodes
    adjacency, degree = _adjacency(data.edge_index, num_nodes)
    mean_degree = degree.mean()
    acc = torch.zeros_like(degree)
    rate = torch.ones_like(degree)
    for value, grad, row in reversed(_layer_inputs(model, data, task or LinkPrediction())):
        product = value * grad
        if row is None:
            norm = product.flatten(1).norm(p=p, dim=1)
        elif p == math.inf:  # the stored entries of sparse features; a zero contributes nothing
            norm = scatter(product.abs(), row, dim=0, dim_size=num_nodes, reduce="max")
        else:
            norm = scatter(product.abs().pow(p), row, dim=0, dim_size=num_nodes, reduce="sum").pow(1 / p)
        if norm.numel() != num_nodes:
            raise UnsupportedModelError(
                f"Expected layers that read a row per node, {num_nodes} (got {norm.numel()}): NORA does not know "
                "models whose layers read nodes of one type only"
            )
        norm = norm.to(degree.dtype)
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


def _layer_inputs(model: nn.Module, data: Data, task: Task) -> list[tuple[Tensor, Tensor, Tensor | None]]:
    """Return each layer's input, its gradient and, for sparse features, the row of each entry.

    Bag-of-words features stay sparse, and so does their gradient. The model reads NaN in their place: NaN outputs
    reveal code that bypasses our kernels and would lose gradient; the features then become dense.
    """
    features = None if data.x is None else sparse_features(data.x.detach())
    if features is not None and data.x.dtype == next((p.dtype for p in model.parameters()), None):
        crow, col, size = features.matrix.crow_indices(), features.matrix.col_indices(), features.shape
        values = features.matrix.values().detach().requires_grad_()
        nan = torch.full_like(values, math.nan)
        stand_in = torch.sparse_csr_tensor(crow, col, nan, size=size, check_invariants=False)
        memo(stand_in, "sparse_features", lambda: features.with_values(values))
        try:
            found = _captured(model, data, task, stand_in, values, features.rows)
        except (RuntimeError, NotImplementedError, GunlearnError):
            found = None  # the layer takes no sparse features
        if found is not None and all(bool(torch.isfinite(grad).all()) for _, grad, _ in found):
            return found
    x = data.x
    if x is not None and not x.is_floating_point():
        raise UnsupportedMethodError(
            f"Expected floating point features for influence by gradients (got {x.dtype}); pass data.x.float(), or "
            "another influence (influence='exact')"
        )
    if x is not None:
        x = (x if x.layout == torch.strided else x.to_dense()).detach().requires_grad_()
    return _captured(model, data, task, x)


def _captured(
    model: nn.Module,
    data: Data,
    task: Task,
    x: Tensor | None,
    values: Tensor | None = None,
    rows: Tensor | None = None,
) -> list[tuple[Tensor, Tensor, Tensor | None]]:
    captured: list[Tensor] = []

    def capture(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        given = args[0] if args else kwargs.get("x")
        whole, h = given, given[0] if isinstance(given, tuple | list) else given
        if values is not None and (h is x or (isinstance(h, SparseMatrix) and h.values is values)):
            h = values
        elif not isinstance(h, Tensor) or not h.is_floating_point():
            return args, kwargs
        elif not h.requires_grad:  # behind a frozen embedding, for example
            h = h.detach().requires_grad_()
            whole = (h, *whole[1:]) if isinstance(whole, tuple | list) else h
            args, kwargs = ((whole, *args[1:]), kwargs) if args else (args, {**kwargs, "x": whole})
        if all(h is not seen for seen in captured):
            captured.append(h)
        return args, kwargs

    view = Data(**{**data.to_dict(), "num_nodes": data.num_nodes})
    if x is not None:
        view.x = x
    with ExitStack() as hooks, torch.enable_grad(), isolated_rng(), evaluating(model), suspended_caches(model):
        for layer in message_passing_layers(model).values():
            hooks.enter_context(layer.register_forward_pre_hook(capture, with_kwargs=True))
        out = task.encode(model, view).softmax(dim=-1)
        if not captured or not out.requires_grad:
            raise UnsupportedModelError("Expected gradients with respect to layer inputs (got a model without)")
        grads = torch.autograd.grad((out * out.detach()).sum(), captured, materialize_grads=True)
    return [(h.detach(), g, rows if h is values else None) for h, g in zip(captured, grads, strict=True)]


def inpo_edge_scores(influence: Tensor, edge_index: Tensor) -> Tensor:
    """Return INPO's score of each edge, `[num_edges]`: `s_u + s_v` of min-max scaled node influence (arXiv 2510.19479).

    `influence` is `[num_nodes]`. The score combines estimates for nodes: check with `influence_study` how well it ranks
    before you trust it.
    """
    scaled = min_max(influence)
    return scaled[edge_index[0]] + scaled[edge_index[1]]


def min_max(values: Tensor) -> Tensor:
    """Scale values to [0, 1]; constant values become 0, NaN and infinity raise `InvalidInputError`."""
    if not torch.isfinite(values).all():
        raise InvalidInputError("Expected finite influence scores (got NaN or infinity)")
    low, high = values.min(), values.max()
    return torch.zeros_like(values) if low == high else (values - low) / (high - low)
