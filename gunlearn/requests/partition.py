"""The result of resolving a request: the graph split into a part to forget and a part to retain."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from gunlearn.core.owner_key import keyed_hash
from gunlearn.errors import InvalidRequestError
from gunlearn.requests.apply import data_without
from gunlearn.requests.selection import Selection, k_hop_mask
from gunlearn.requests.training_graph import TrainingGraph

if TYPE_CHECKING:
    from torch_geometric.data import Data


@dataclass(frozen=True, eq=False)
class Partition:
    """A training graph of `E` columns, split by a request.

    Args:
        data: the caller's own object; never changed.
        kind: the kind of the request.
        forgets: kinds of things that the request names, among `"edges"`, `"nodes"`, `"features"`, `"graphs"`.
        forget_columns: columns of `data.edge_index` that go, ascending `[k]`: both directions and every copy, those of
            forgotten nodes included.
        forget_edge_index: `[2, num_forget]`, one column per forgotten edge in order of first occurrence; row <= col if
            undirected.
        forget_nodes: sorted ids `[k]` of forgotten nodes, those of forgotten graphs included.
        forget_features: forgotten blocks of feature entries: node ids `[k]`, and columns `[c]` or `None` for all.
        forget_graphs: sorted ids `[k]` of forgotten graphs of a batch.
        retain_data: shallow copy of `data` without all that; node numbers stay. See `gunlearn.requests.apply`.
        is_undirected: an edge stands for both directions, and both are forgotten.
        request_hash: 16 hex digits of the content (kind, number of nodes, all that is forgotten) under the owner's key,
            see `gunlearn.core.owner_key`: nobody else can try out what was forgotten.
        skipped: named things that were skipped, in words; see `missing` of the requests.
        graph: the edges of `data`.
    """

    data: Data
    kind: str
    forgets: tuple[str, ...]
    forget_columns: Tensor
    forget_edge_index: Tensor
    forget_nodes: Tensor
    forget_features: tuple[tuple[Tensor, Tensor | None], ...]
    forget_graphs: Tensor
    retain_data: Data
    is_undirected: bool
    request_hash: str
    skipped: str = ""
    graph: TrainingGraph = field(kw_only=True)

    @classmethod
    def of(cls, kind: str, graph: TrainingGraph, selection: Selection, forgets: tuple[str, ...]) -> Partition:
        """Split `graph` by a closed selection (`Selection.closed`)."""
        columns = selection.columns
        relation = None if graph.edge_type is None else graph.edge_type[columns]
        keys, number = graph.edge_key(graph.edge_index[:, columns], relation).unique(return_inverse=True)
        first = torch.full_like(keys, graph.num_columns).scatter_reduce_(0, number, columns, "amin")
        retain_data = data_without(graph, selection)
        graph.hand_on(retain_data, columns, torch.cat([selection.nodes, *(ids for ids, _ in selection.features)]))
        return cls(
            data=graph.data,
            kind=kind,
            forgets=forgets,
            forget_columns=columns,
            forget_edge_index=graph.ends(keys)[:, first.argsort()],
            forget_nodes=selection.nodes,
            forget_features=selection.features,
            forget_graphs=selection.graphs,
            retain_data=retain_data,
            is_undirected=graph.is_undirected,
            request_hash=_hash(kind, graph, selection, keys),
            skipped=selection.skipped,
            graph=graph,
        )

    @cached_property
    def forget_mask(self) -> Tensor:
        """Mask `[E]` of `forget_columns`."""
        return self.graph.mask_of(self.forget_columns)

    @cached_property
    def retain_edge_index(self) -> Tensor:
        """The edges that stay, as `forget_edge_index`: `[2, num_retain]`."""
        graph = self.graph
        stays = ~self.forget_mask[graph.first_column]
        return graph.pairs[:, stays][:, graph.first_column[stays].argsort()]

    @property
    def num_forget(self) -> int:
        """Number of forgotten graphs, nodes, nodes that lose features, and edges.

        An undirected edge counts once; the edges of a forgotten node do not count.
        """
        count = self.forget_graphs.numel() + self.feature_nodes.numel()
        if "nodes" in self.forgets:
            count += self.forget_nodes.numel()
        if "edges" in self.forgets:
            count += int((~self.is_forgotten_node[self.forget_edge_index].any(dim=0)).sum())
        return count

    @property
    def is_forgotten_node(self) -> Tensor:
        """Mask `[num_nodes]` of `forget_nodes`."""
        none = torch.zeros(int(self.retain_data.num_nodes), dtype=torch.bool, device=self.forget_nodes.device)
        return none.index_fill_(0, self.forget_nodes, True)

    @property
    def feature_nodes(self) -> Tensor:
        """Nodes that lose some or all of their features, sorted ids `[k]`."""
        return torch.cat([self.forget_nodes[:0], *(ids for ids, _ in self.forget_features)]).unique()

    @property
    def touched_nodes(self) -> Tensor:
        """End points of forgotten edges, forgotten nodes, nodes that lose features: sorted ids `[k]`."""
        return torch.cat([self.forget_edge_index.flatten(), self.forget_nodes, self.feature_nodes]).unique()

    @property
    def num_retain(self) -> int:
        """Remaining edges; an undirected edge counts once."""
        return self.retain_edge_index.size(1)

    def affected_nodes(self, num_hops: int) -> Tensor:
        """Return the nodes whose outputs may change in a model of `num_hops` layers: boolean `[num_nodes]`.

        These are the nodes within `num_hops` of a touched node, on the original graph, along edges in either direction,
        so that the set is right for models of either flow.
        """
        if isinstance(num_hops, bool) or not isinstance(num_hops, int) or num_hops < 0:
            raise InvalidRequestError(f"Expected 'num_hops' to be an integer >= 0 (got {num_hops!r})")
        return k_hop_mask(self.data.edge_index, self.touched_nodes, int(self.retain_data.num_nodes), num_hops)

    def describe(self) -> str:
        """Return one line for logs and reports."""
        if self.forgets == ("edges",):
            noun = "edge" if self.num_forget == 1 else "edges"
            sort = f"undirected {noun} (both directions removed)" if self.is_undirected else f"directed {noun}"
            return f"{self.num_forget} {sort} of {self.num_forget + self.num_retain} training edges"
        gone = {
            ("graph", "graphs"): self.forget_graphs.numel(),
            ("node", "nodes"): self.forget_nodes.numel(),
            ("node's features", "nodes' features"): self.feature_nodes.numel(),
        }
        words = [f"{count} {nouns[count > 1]}" for nouns, count in gone.items() if count]
        edges = self.forget_edge_index.size(1)
        return f"{', '.join(words)}, and with them {edges} of {edges + self.num_retain} training edges"

    def __repr__(self) -> str:
        return f"Partition({self.describe()}, request_hash={self.request_hash!r})"


def ids_hash(kind: str, size: int, sorted_ids: Tensor, more: bytes = b"") -> str:
    """Return 16 hex digits from a kind of thing, the number of all things and the chosen ids, under the owner's key."""
    ids = np.ascontiguousarray(sorted_ids.cpu().numpy(), dtype="<i8").tobytes()
    return keyed_hash(f"{kind}:{size}:{sorted_ids.numel()}:".encode() + ids + more, "request")


def _hash(kind: str, graph: TrainingGraph, selection: Selection, keys: Tensor) -> str:
    """Hash the pairs of forgotten edges (sorted keys) and, where there are any, nodes, graphs, features, relations."""
    more = b""
    if graph.edge_type is not None:
        more += ids_hash("edge_type", graph.num_relations, keys % graph.num_relations).encode()
    if more or selection.nodes.numel() or selection.features:
        for ids in (selection.nodes, selection.graphs, *(ids for block in selection.features for ids in block)):
            more += b"|all" if ids is None else f"|{ids.numel()}:".encode() + ids.cpu().numpy().astype("<i8").tobytes()
    return ids_hash(kind, graph.num_nodes, graph.ends(keys), more)
