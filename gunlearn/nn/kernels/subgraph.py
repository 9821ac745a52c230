"""Extract the part of a graph that some nodes' outputs depend on, at a cost proportional to its size."""

import copy
import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import MessagePassing

from gunlearn.core.sorting import argsort, sort
from gunlearn.errors import GunlearnError, InvalidInputError
from gunlearn.nn.attach.message_layers import suspended_caches
from gunlearn.nn.attach.overrides import Override, installed
from gunlearn.nn.kernels.memo import memo
from gunlearn.nn.kernels.sparse import csr_tensor
from gunlearn.requests.list_names import beside_the_edges

# Lists of edges other than the graph itself, and their attributes: their ids are wrong on a part of the graph.
_OTHER_EDGES = re.compile(r"^edge_label|^adj(_t)?$")
_SIZES = ("num_nodes", "num_edges")


@dataclass(frozen=True, eq=False)
class Subgraph:
    """A part of a graph with its nodes renumbered.

    Args:
        data: the part, with its node and edge attributes and without held-out edges.
        n_id: original id of each node, `[num_nodes]`.
        e_id: original column of each edge, `[num_edges]`.
        ids: sorted original ids of the nodes that `relabel` knows, `[num_ids]`.
        place: their new ids, `[num_ids]`.
    """

    data: Data
    n_id: Tensor
    e_id: Tensor
    ids: Tensor
    place: Tensor

    def relabel(self, index: Tensor) -> Tensor:
        """Return new ids of nodes, in the shape of `index`; `InvalidInputError` for nodes outside or on the rim."""
        slot = torch.searchsorted(self.ids, index.contiguous()).clamp_(max=max(self.ids.numel() - 1, 0))
        if index.numel() and (self.ids.numel() == 0 or not torch.equal(self.ids[slot], index)):
            raise InvalidInputError("Expected nodes of the subgraph (got others)")
        return self.place[slot]


@dataclass(eq=False)
class _InEdges:
    """Columns of `edge_index` grouped by target, and a node map that is -1 everywhere between two calls."""

    pointer: Tensor  # [num_nodes + 1]
    column: Tensor  # [num_edges]
    slot: Tensor  # [num_nodes]
    lock: Lock = field(default_factory=Lock)  # one call at a time uses the map


def _in_edges(edge_index: Tensor, num_nodes: int) -> _InEdges:
    def build() -> _InEdges:
        target = edge_index[1]
        column = argsort(target, stable=True)
        pointer = torch._convert_indices_from_coo_to_csr(target[column], num_nodes)
        return _InEdges(pointer, column, torch.full((num_nodes,), -1, device=target.device))

    return memo(edge_index, ("in_edges", num_nodes), build)


def _ranges(start: Tensor, count: Tensor) -> Tensor:
    """Concatenate `start[i], ..., start[i] + count[i] - 1` over all `i`."""
    offset = torch.repeat_interleave(start - count.cumsum(0) + count, count)
    return offset + torch.arange(offset.numel(), device=offset.device)


def spans(ptr: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Return the entries of the groups `index`, group by group, and each group's size."""
    start, count = ptr[index], ptr[index + 1] - ptr[index]
    return _ranges(start, count), count


@overload
def k_hop_subgraph(data: Data, seeds: Tensor, num_hops: int, max_edges: None = None) -> Subgraph: ...
@overload
def k_hop_subgraph(data: Data, seeds: Tensor, num_hops: int, max_edges: int | None) -> Subgraph | None: ...


def k_hop_subgraph(data: Data, seeds: Tensor, num_hops: int, max_edges: int | None = None) -> Subgraph | None:
    """Return exactly what `num_hops` message passing layers read to compute the outputs of `seeds`.

    All edges into nodes within `num_hops` of a seed are kept, so that these nodes keep their full degree, which
    symmetric normalisation reads. The last node stands for all senders one hop further out: only their number matters,
    so that this rim needs no features and no outputs.

    Exact for layers of `flow="source_to_target"` whose normalisation reads in-degrees (all of PyG's that use
    `gcn_norm`), in models that mix nodes only through messages. Attributes that list other edges are dropped.
    `propagation_depth` finds `num_hops`; `seeds` are node ids `[num_seeds]`. A part of more than `max_edges` edges
    gives `None`, before any edge is gathered.
    """
    edge_index, num_nodes = data.edge_index, int(data.num_nodes)
    graph = _in_edges(edge_index, num_nodes)
    slot = graph.slot
    touched: list[Tensor] = []

    def new(nodes: Tensor) -> Tensor:
        nodes = nodes[slot[nodes] < 0]
        number = torch.arange(nodes.numel(), device=nodes.device)
        slot[nodes] = number  # one of several copies stays
        nodes = nodes[slot[nodes] == number]
        touched.append(nodes)
        return nodes

    graph.lock.acquire()
    try:
        frontier, total = new(seeds), 0
        for _ in range(num_hops + 1):
            start = graph.pointer[frontier]
            count = graph.pointer[frontier + 1] - start
            total += int(count.sum())
            if max_edges is not None and total > max_edges:
                return None  # before any edge is gathered
            frontier = new(edge_index[0][graph.column[_ranges(start, count)]])
        inner, rim = sort(torch.cat(touched[:-1])), frontier
        slot[inner] = torch.arange(inner.numel(), device=inner.device)
        slot[rim] = inner.numel()
        place, count = spans(graph.pointer, inner)
        e_id = graph.column[place]
        target = torch.repeat_interleave(slot[inner], count)
        local = torch.stack([slot[edge_index[0][e_id]], target])
    finally:
        for nodes in touched:
            slot[nodes] = -1
        graph.lock.release()
    n_id = torch.cat([inner, rim[:1]])
    place = torch.arange(inner.numel(), device=inner.device)
    return Subgraph(gather(data, n_id, e_id, local), n_id, e_id, inner, place)


def part_of(data: Data, n_id: Tensor, e_id: Tensor, edge_index: Tensor) -> Subgraph:
    """Return a given part of a graph: nodes `n_id` and columns `e_id`, renumbered as `edge_index`."""
    order = argsort(n_id)
    return Subgraph(gather(data, n_id, e_id, edge_index), n_id, e_id, n_id[order], order)


def gather(data: Data, n_id: Tensor, e_id: Tensor, edge_index: Tensor) -> Data:
    """Return data of the given nodes and edges with their attributes, without other lists of edges."""
    probe = copy.copy(data)  # `is_node_attr` caches its answers on its object
    out = Data(edge_index=edge_index, num_nodes=n_id.numel())
    for key in data.keys():  # noqa: SIM118 - iterating a Data yields pairs
        value = data[key]
        if key in _SIZES or beside_the_edges(key) or _OTHER_EDGES.search(key):
            continue
        if probe.is_node_attr(key):
            value = _select(value, n_id, data.__cat_dim__(key, value))
        elif probe.is_edge_attr(key):
            value = _select(value, e_id, data.__cat_dim__(key, value))
        out[key] = value
    return out


def _select(value: Any, index: Tensor, dim: int) -> Any:
    if isinstance(value, Tensor):
        if value.layout == torch.sparse_csr and dim == 0:
            return csr_rows(value, index)
        return value.index_select(dim, index.to(value.device))
    if isinstance(value, np.ndarray):
        return np.take(value, index.cpu().numpy(), axis=dim)
    return type(value)(value[i] for i in index.tolist())


def csr_rows(matrix: Tensor, index: Tensor) -> Tensor:
    """Return rows of a CSR matrix, in the order of `index`, as a CSR matrix `[num_index, num_cols]`."""
    pointer, index = matrix.crow_indices(), index.to(matrix.device)
    entry, count = spans(pointer, index)
    crow = torch.cat([pointer.new_zeros(1), count.cumsum(0)])
    size = (index.numel(), matrix.size(1))
    return csr_tensor(crow, matrix.col_indices()[entry], matrix.values()[entry], size)


class _Count(Override):
    """Counts calls; a layer's `forward` counts as one step if it made no counted `propagate` calls."""

    def __init__(self, layer: MessagePassing, method: str, counter: list[int]) -> None:
        super().__init__(layer, "")
        self.method, self.counter = method, counter

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        before = self.counter[0]
        out = self.original(*args, **kwargs)
        if self.method == "propagate" or self.counter[0] == before:
            self.counter[0] += 1
        return out


def _unchanged(h: Tensor) -> Tensor:
    return h


@torch.no_grad()
def propagation_depth(model: nn.Module, data: Data, encode: Callable[[nn.Module, Data], Any] | None = None) -> int:
    """Return how many times one pass sends messages: no output depends on a node further away.

    Counted in a run on a few nodes of the graph: a layer used twice counts twice, `APPNP(K=10)` ten times. Parallel
    branches add up, which is safe. Modules with a true attribute `by_node` read rows as nodes of the whole graph and
    send no messages; they are skipped. `encode(model, data)` is `model(data.x, data.edge_index)` by default; the model
    is unchanged afterwards.
    """
    few = k_hop_subgraph(data, data.edge_index.new_zeros(1), 1)
    model = getattr(model, "_orig_mod", model)  # the wrapper of torch.compile
    mode, counter = {module: module.training for module in model.modules()}, [0]
    try:
        with ExitStack() as stack:
            for module in mode:
                if getattr(module, "by_node", False):
                    module.__dict__["forward"] = _unchanged
                    stack.callback(module.__dict__.pop, "forward")
            stack.enter_context(suspended_caches(model))
            layers = [m for m in model.modules() if isinstance(m, MessagePassing)]
            counts = [_Count(layer, method, counter) for layer in layers for method in ("forward", "propagate")]
            stack.enter_context(installed(counts))
            model.eval()
            run = encode or (lambda model, part: model(part.x, part.edge_index))
            try:
                run(model, few.data)
            except (GunlearnError, RuntimeError, IndexError):  # a model made for the nodes of one graph
                counter[0] = 0
                run(model, data)
    finally:
        for module, training in mode.items():
            module.training = training
    return counter[0]
