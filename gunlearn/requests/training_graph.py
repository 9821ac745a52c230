"""The distinct edges of a training graph, numbered so that they can be looked up."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from gunlearn.core.detached import detached
from gunlearn.core.large_pages import large_copy
from gunlearn.core.shared_pages import can_share
from gunlearn.core.sorting import places, unique_inverse
from gunlearn.errors import InvalidRequestError, InvalidTypeError
from gunlearn.requests.graph_tensors import check_node_ids, pair_tensor, relation_tensor
from gunlearn.requests.no_graph import graph_instead
from gunlearn.requests.pair_index import PairIndex
from gunlearn.requests.pair_keys import MAX_NUM_NODES, is_among, pair_key
from gunlearn.requests.prepared import facts_of, hand_on, memory_of
from gunlearn.requests.relations import DIRECTED, REVERSE, SYMMETRIC, relations_and_reverses
from gunlearn.requests.shared_features import SharedFeatures

if TYPE_CHECKING:
    from torch_geometric.data import Data


class TrainingGraph:
    """Distinct edges of `data.edge_index`, numbered by their sorted end points.

    In an undirected graph an edge is one pair with all its columns (both directions, every copy), in a directed graph
    one direction with its copies. A self-loop is one edge. Where the data has an integer `edge_type` `[E]`, the same
    pair under another relation is another edge, unless that is the reverse relation: `(u, v)` of a relation and
    `(v, u)` of its reverse are one edge, in the direction of the relation with the smaller number. See
    `reverse_relations`.

    What takes a sort is computed when it is first asked for, and kept with prepared data (`gunlearn.prepare`).

    Args:
        data: a PyG `Data` whose `edge_index` (`[2, E]`) is the message graph of the training edges.

    Attributes:
        num_columns: columns of `data.edge_index`.
        index: where columns are, by their ends; `None` with relations, or with too many nodes for a key per pair.
        forward: the number under which each relation's edges stand, `[num_relations]`: its own, or its reverse's.
        is_undirected: every relation is symmetric or has a reverse.

    Raises:
        InvalidTypeError: `data` is no `Data`.
        InvalidRequestError: no edges, or an invalid edge_index.
        ChangedDataError: `data` was prepared and has changed since.
    """

    def __init__(self, data: Data) -> None:
        # Checked on the class, without importing PyG; a HeteroData has no `is_edge_attr`.
        if not hasattr(type(data), "is_edge_attr"):
            got = "independent items, which ForgetItems names" if isinstance(data, dict) else type(data).__name__
            raise InvalidTypeError(
                f"Expected a graph, a torch_geometric.data.Data, for this request (got {got}){graph_instead(data)}"
            )
        self._memory: dict[str, Any] = memory_of(data)
        self.data = detached(data)
        self.edge_index = pair_tensor(data, "edge_index")
        if self.edge_index.size(1) == 0:
            raise InvalidRequestError("Expected 'data.edge_index' to hold training edges (got none)")
        self.num_nodes, self.num_columns = int(data.num_nodes), self.edge_index.size(1)
        self._once("checked", lambda: check_node_ids(self.edge_index, self.num_nodes, "data.edge_index"))

        self._nodes = self._once("nodes", self.edge_index.unique) if self.num_nodes > MAX_NUM_NODES else None
        self.num_local = self.num_nodes if self._nodes is None else self._nodes.numel()
        self.edge_type = relation_tensor(data, self.num_columns)
        self.num_relations = 1 if self.edge_type is None else int(self.edge_type.max()) + 1
        if self.num_local**2 * self.num_relations >= 2**63:
            raise InvalidRequestError(
                f"Expected nodes^2 x relations below 2^63, so that a number names an edge (got {self.num_local} and "
                f"{self.num_relations}); keep the part of the graph that the request can reach, with fewer nodes "
                "(torch_geometric.utils.k_hop_subgraph), or join relations"
            )
        indexed = self.edge_type is None and self._nodes is None
        build = lambda: PairIndex.of(self.edge_index, self.num_nodes)  # noqa: E731
        self.index: PairIndex | None = self._once("index", build) if indexed else None
        self.forward, self.turn = self._once("relations", lambda: relations_and_reverses(self))
        self.is_undirected = bool((self.turn != DIRECTED).all())

    def _once(self, name: str, build: Callable[[], Any]) -> Any:
        if name not in self._memory:
            self._memory[name] = build()
        return self._memory[name]

    @property
    def _sorted(self) -> tuple[Tensor, Tensor]:
        """Return the key of each edge, ascending, and the number of the edge of each column."""
        return self._once("edges", lambda: unique_inverse(self.edge_key(self.edge_index, self.edge_type)))

    @property
    def _keys(self) -> Tensor:
        return self._sorted[0]

    @property
    def num_edges(self) -> int:
        """Number of distinct edges."""
        return self._keys.numel()

    @property
    def edge_of_column(self) -> Tensor:
        """Number of the edge that each column belongs to, `[E]`."""
        return self._sorted[1]

    @property
    def first_column(self) -> Tensor:
        """First column of each edge, `[num_edges]`."""
        columns = torch.arange(self.num_columns, device=self.edge_index.device)
        first = torch.full_like(self._keys, self.num_columns)
        return self._once("first", lambda: first.scatter_reduce_(0, self.edge_of_column, columns, "amin"))

    def ordered_key(self, edge_index: Tensor) -> Tensor:
        """Return one integer per ordered pair of nodes, `[n]`; -1 where one is out of range."""
        edge_index = edge_index.to(self.edge_index.device)
        return pair_key(edge_index if self._nodes is None else self.local(edge_index), self.num_local)

    def edge_key(self, edge_index: Tensor, relation: Tensor | int | None) -> Tensor:
        """Return one integer per edge, the same for both of its directions."""
        index = 0 if relation is None else torch.as_tensor(relation).clamp(0, self.num_relations - 1)
        forward, turn = self.forward[index], self.turn[index]
        ahead, back = self.ordered_key(edge_index), self.ordered_key(edge_index.flip(0))
        pair = torch.where(turn == SYMMETRIC, torch.minimum(ahead, back), torch.where(turn == REVERSE, back, ahead))
        return pair * self.num_relations + forward

    @property
    def pairs(self) -> Tensor:
        """End points of each edge, `[2, num_edges]`, sorted; row <= col where a relation is its own reverse."""
        return self.ends(self._keys)

    def ends(self, key: Tensor) -> Tensor:
        """Return the end points of edges by their keys `[k]`, `[2, k]`."""
        pair = key // self.num_relations
        pairs = torch.stack([pair // self.num_local, pair % self.num_local])
        return pairs if self._nodes is None else self._nodes[pairs]

    @property
    def distinct_pairs(self) -> Tensor:
        """The node pairs that edges join, each once whatever the relations: `[2, k]`, sorted.

        A pair stands in one direction: row <= col in an undirected graph without relations or with symmetric ones, else
        that of the edge.
        """
        pairs = self.pairs
        return pairs if self.edge_type is None else pairs[:, first_of_pairs(pairs, self.is_undirected)]

    @property
    def relation(self) -> Tensor:
        """Relation of each edge, `[num_edges]`: of two that are each other's reverse the smaller number."""
        return self._keys % self.num_relations

    def is_of(self, relation: int) -> Tensor:
        """Return the mask `[num_edges]` of the edges of a relation, or of its reverse."""
        known = 0 <= relation < self.num_relations
        return self.relation == (self.forward[relation] if known else -1)

    def local(self, nodes: Tensor) -> Tensor:
        """Return local numbers of nodes, in `[0, num_local)`, which index masks; -1 for nodes out of range."""
        if self._nodes is None:
            return torch.where((nodes >= 0) & (nodes < self.num_nodes), nodes, -1)
        position = torch.searchsorted(self._nodes, nodes.contiguous()).clamp_(max=self.num_local - 1)
        return torch.where(self._nodes[position] == nodes, position, -1)

    def find(self, edge_index: Tensor, relation: Tensor | int | None = None) -> Tensor:
        """Return the edge number of each column of `edge_index` (`[2, n]`), -1 where there is none: `[n]`.

        `relation` (one, or `[n]`) is needed in a graph of several relations.
        """
        edge_index = edge_index.to(self.edge_index.device)
        inside = (self.local(edge_index) >= 0).all(dim=0)
        if relation is not None:
            relation = torch.as_tensor(relation, device=edge_index.device)
            inside = inside & (relation >= 0) & (relation < self.num_relations)
        keys = self.edge_key(edge_index, relation)
        position = torch.searchsorted(self._keys, keys.contiguous()).clamp_(max=self.num_edges - 1)
        return torch.where(inside & (self._keys[position] == keys), position, -1)

    def pair_key(self, edge_index: Tensor) -> Tensor:
        """Return one integer per pair of nodes, the same for all relations, `[n]`; -1 where a node is out of range."""
        key = self.ordered_key(edge_index)
        return torch.minimum(key, self.ordered_key(edge_index.flip(0))) if self.is_undirected else key

    def mask_of(self, columns: Tensor) -> Tensor:
        """Return the mask `[E]` of some columns `[k]`."""
        none = torch.zeros(self.num_columns, dtype=torch.bool, device=self.edge_index.device)
        return none.index_fill_(0, columns, True)

    def columns_of(self, edges: Tensor) -> Tensor:
        """Return the mask `[E]` of all columns of the `edges` (numbers, `[n]`)."""
        none = torch.zeros(self.num_edges, dtype=torch.bool, device=self.edge_index.device)
        return none.index_fill_(0, edges, True)[self.edge_of_column]

    def columns_joining(self, edge_index: Tensor) -> Tensor:
        """Return the columns `[n]`, ascending, of the edges between pairs `[2, k]`; needs an `index`."""
        index, ends = cast(PairIndex, self.index), edge_index.to(self.edge_index.device)
        ends = torch.cat([ends, ends.flip(0)], dim=1) if self.is_undirected else ends
        return index.columns_of(ends).sort().values

    def with_copies(self, columns: Tensor) -> Tensor:
        """Return all columns `[n]`, ascending, of the edges of some columns `[k]`."""
        if self.index is not None:
            return self.columns_joining(self.edge_index[:, columns])
        return places(self.columns_of(self.edge_of_column[columns]))

    def columns_at(self, nodes: Tensor) -> Tensor:
        """Return the columns `[n]`, ascending, with an end among distinct ascending `nodes` `[k]`."""
        if self.index is not None:
            return torch.cat([self.index.leaving(nodes)[0], self.index.arriving(nodes)[0]]).unique()
        return places(torch.isin(self.edge_index, nodes).any(dim=0))  # there may be very many nodes

    def hand_on(self, retain: Data, columns: Tensor, rows: Tensor) -> None:
        """Prepare what a request leaves, where `data` is prepared.

        Args:
            retain: that.
            columns: the columns that go, ascending `[k]`; of each edge all.
            rows: the nodes that lose features, `[n]`.
        """
        if facts_of(self.data) is None:
            return
        features: SharedFeatures | None = self._memory.get("features")
        left = {
            "index": None if self.index is None else self.index.without(columns, self.edge_index),
            "features": None if features is None else features.after(rows),
        }
        known = {name: value for name, value in left.items() if value is not None}
        hand_on(self.data, retain, rows, {"checked": None} | known)

    def copy_of_features(self, x: Tensor) -> Tensor:
        """Return a copy of dense features, which may be written to; those of prepared data share their memory."""
        if facts_of(self.data) is not None and x is self.data.get("x") and can_share(x):
            with suppress(OSError):  # no memory or no file is left for it
                return self._once("features", lambda: SharedFeatures.of(x)).copy(x)
        return large_copy(x)

    def is_edge(self, edge_index: Tensor) -> Tensor:
        """Return which pairs `[2, k]` are edges in this direction, of any relation, boolean `[k]`."""
        if self.index is not None:
            return self.index.contains(edge_index.to(self.edge_index.device))
        keys = self._once("pairs", lambda: self.ordered_key(self.edge_index))
        return is_among(self.ordered_key(edge_index), keys)


def distinct_pairs(data: Data) -> Tensor:
    """Return the node pairs that edges join, see `TrainingGraph.distinct_pairs`."""
    return TrainingGraph(data).distinct_pairs


def first_of_pairs(pairs: Tensor, is_undirected: bool) -> Tensor:
    """Return the columns, ascending, of the first of all equal pairs; with `is_undirected` a turned pair is equal."""
    nodes, local = pairs.unique(return_inverse=True)
    row, col = local.sort(dim=0).values if is_undirected else local
    distinct, place = (row * nodes.numel() + col).unique(return_inverse=True)
    columns = torch.arange(pairs.size(1), device=pairs.device)
    first = torch.full_like(distinct, pairs.size(1))
    return first.scatter_reduce_(0, place, columns, "amin").sort().values
