"""What a request resolves to: the graph split into a part to forget and a part to retain."""

from __future__ import annotations

import copy
import hashlib
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from gunlearn.errors import InvalidRequestError
from gunlearn.requests.graph import TrainingGraph, pair_tensor
from gunlearn.requests.regions import k_hop_mask

# Attributes that list edges of their own: as long as edge_index by accident at most, so never masked with it.
_OTHER_EDGES = re.compile(r"^(train|val|test)_.*edge|edge_index$|edge_label_index$")
# Training edges listed again as supervision, and what goes with each of their columns.
_SUPERVISION = {"train_pos_edge_index": (), "edge_label_index": ("edge_label",)}


@dataclass(frozen=True, eq=False)
class Partition:
    """A training graph of `E` columns, split by a request.

    Args:
        data: the original, the caller's own object; never changed.
        kind: the kind of the request.
        forget_mask: boolean `[E]` over the columns of `data.edge_index`, both directions and every copy.
        forget_edge_index: `[2, num_forget]`, one column per forgotten edge in order of first occurrence;
            row <= col if undirected.
        retain_edge_index: `[2, num_retain]`, the other edges, likewise.
        retain_data: shallow copy of `data` without the forgotten edges and their attributes; node attributes are
            shared, held-out edges stay.
        is_undirected: an edge stands for both directions, and both are forgotten.
        request_hash: 16 hex digits of the content: kind, number of nodes, set of forgotten edges.
    """

    data: Data
    kind: str
    forget_mask: Tensor
    forget_edge_index: Tensor
    retain_edge_index: Tensor
    retain_data: Data
    is_undirected: bool
    request_hash: str

    @classmethod
    def from_mask(cls, kind: str, graph: TrainingGraph, forget_mask: Tensor) -> Partition:
        """Split `graph` by a mask `[E]` that treats all columns of an edge alike."""
        pairs, chosen = graph.pairs, forget_mask[graph.first_column]
        order = graph.first_column.argsort()
        in_order, chosen_in_order = pairs[:, order], chosen[order]
        return cls(
            data=graph.data,
            kind=kind,
            forget_mask=forget_mask,
            forget_edge_index=in_order[:, chosen_in_order],
            retain_edge_index=in_order[:, ~chosen_in_order],
            retain_data=_without(graph, forget_mask),
            is_undirected=graph.is_undirected,
            request_hash=_content_hash(kind, graph.num_nodes, pairs[:, chosen]),
        )

    @property
    def num_forget(self) -> int:
        """Forgotten edges; an undirected edge counts once."""
        return self.forget_edge_index.size(1)

    @property
    def num_retain(self) -> int:
        """Remaining edges; an undirected edge counts once."""
        return self.retain_edge_index.size(1)

    def affected_nodes(self, num_hops: int) -> Tensor:
        """Nodes whose output a model of `num_hops` message passing layers may change: boolean `[num_nodes]`.

        These are the nodes within `num_hops` of an end point of a forgotten edge, on the original graph. Hops take
        directed edges both ways, so that the set covers models of either flow.
        """
        if isinstance(num_hops, bool) or not isinstance(num_hops, int) or num_hops < 0:
            raise InvalidRequestError(f"Expected 'num_hops' to be an integer >= 0 (got {num_hops!r})")
        edge_index = self.data.edge_index
        start = torch.zeros(int(self.retain_data.num_nodes), dtype=torch.bool, device=edge_index.device)
        start[self.forget_edge_index.flatten()] = True
        return k_hop_mask(edge_index, start, num_hops)

    def describe(self) -> str:
        """One line for logs and reports."""
        noun = "edge" if self.num_forget == 1 else "edges"
        sort = f"undirected {noun} (both directions removed)" if self.is_undirected else f"directed {noun}"
        return f"{self.num_forget} {sort} of {self.num_forget + self.num_retain} training edges"

    def __repr__(self) -> str:
        """The short text instead of all the tensors."""
        return f"Partition({self.describe()}, request_hash={self.request_hash!r})"


def _content_hash(kind: str, num_nodes: int, sorted_pairs: Tensor) -> str:
    digest = hashlib.sha256(f"{kind}:{num_nodes}:".encode())
    digest.update(np.ascontiguousarray(sorted_pairs.cpu().numpy(), dtype="<i8").tobytes())
    return digest.hexdigest()[:16]


def _without(graph: TrainingGraph, forget_mask: Tensor) -> Data:
    """Copy of the data without the masked columns, wherever they are listed."""
    data = graph.data
    for name in ("adj", "adj_t"):
        if name in data:
            raise InvalidRequestError(
                f"Expected the edges in 'data.edge_index' alone (got '{name}' too, which would keep the forgotten "
                f"edges; delete it, or rebuild it from 'retain_data.edge_index')"
            )
    # `is_edge_attr` caches its answers on the object it is asked on: ask a copy, whose cache is new.
    retain, probe = copy.copy(data), copy.copy(data)
    # Where PyG infers the number of nodes from edge_index, it would shrink with the edges.
    retain.num_nodes = probe.num_nodes = graph.num_nodes
    for name in _per_edge(probe, graph.num_columns):
        retain[name] = select_entries(data[name], ~forget_mask, data.__cat_dim__(name, data[name]))
    retain.edge_index = graph.edge_index[:, ~forget_mask]

    # After the loop above: an edge_label as long as edge_index goes with edge_label_index all the same.
    for name, partners in _SUPERVISION.items():
        if name not in data:
            continue
        edges = graph.find(pair_tensor(data, name))
        kept = (edges < 0) | ~forget_mask[graph.first_column[edges.clamp(min=0)]]
        retain[name] = select_entries(data[name], kept, 1)
        for partner in partners:
            if partner in data:
                retain[partner] = select_entries(data[partner], kept, 0)

    if "num_edges" in data:
        retain["num_edges"] = retain.edge_index.size(1)
    return retain


def _per_edge(data: Data, num_columns: int) -> list[str]:
    """Names of the attributes that run along the columns of edge_index, by PyG's own rule."""
    # As many nodes as edges: PyG then goes by the name, but for lists it does not.
    by_name = data.num_nodes == num_columns
    return [
        name
        for name in data.keys()  # noqa: SIM118 - iterating a Data yields pairs
        if name != "edge_index"
        and not _OTHER_EDGES.search(name)
        and data.is_edge_attr(name)
        and (not by_name or "edge" in name)
    ]


def select_entries(value: Any, keep: Tensor, dim: int) -> Any:
    """Entries of a tensor, array or list where `keep` is true."""
    if isinstance(value, Tensor):
        return value.index_select(dim, keep.nonzero().flatten().to(value.device))
    if isinstance(value, np.ndarray):
        return np.compress(keep.cpu().numpy(), value, axis=dim)
    if isinstance(value, (list, tuple)):
        return type(value)(entry for entry, kept in zip(value, keep.tolist(), strict=True) if kept)
    return value[keep]
