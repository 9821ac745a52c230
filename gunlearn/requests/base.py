"""The base of all requests: resolving to a partition, equality by content, and sums."""

from __future__ import annotations

import functools
import operator
from abc import ABC, abstractmethod
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from gunlearn.errors import EmptyForgetSetError, InvalidRequestError
from gunlearn.requests.partition import Partition
from gunlearn.requests.reverses import warn_of_reverses
from gunlearn.requests.selection import Selection
from gunlearn.requests.training_graph import TrainingGraph

if TYPE_CHECKING:
    from torch_geometric.data import Data


class Request(ABC):
    """Something to forget, described without the data.

    A subclass defines `select`, what to take out of a graph, and `content`, what makes two requests equal.
    """

    kind: str

    @abstractmethod
    def select(self, graph: TrainingGraph, scores: Tensor | None) -> Selection | Tensor:
        """Return what to forget; for edges, a mask `[E]` over the columns of `data.edge_index`, one of each edge."""

    def selection(self, graph: TrainingGraph, scores: Tensor | None) -> Selection:
        """Return the result of `select`, with a mask of edges turned into a selection."""
        selected = self.select(graph, scores)
        return selected if isinstance(selected, Selection) else Selection.of(graph, selected)

    @abstractmethod
    def content(self) -> Hashable:
        """Return what makes two requests of a kind equal."""

    def resolve(self, data: Data, scores: Any = None) -> Partition:
        """Split `data` into what to forget and what to retain.

        In an undirected graph an edge is forgotten in both directions and all copies; a node is forgotten with all its
        edges.

        Args:
            data: its `edge_index` (`[2, E]`) is the message graph of the *training* edges; held-out edges, if any, are
                in `val_pos_edge_index` and `test_pos_edge_index`. Never changed.
            scores: `[E]`, one per column of `data.edge_index`; only requests by influence read them.

        Raises:
            EmptyForgetSetError: nothing to forget.
            InvalidRequestError: the request does not fit the data, or would leave no edge.
            InvalidTypeError: `data` is no `Data`.

        Warns:
            UserWarning: forgotten edges have a reverse that stays, in a graph that is symmetric but for some edges.
        """
        graph = TrainingGraph(data)
        named = self.selection(graph, scores)
        if not named.forgets:
            raise EmptyForgetSetError(f"Expected {type(self).__name__} to forget something (got nothing)")
        selection = named.closed(graph)
        if selection.columns.numel() == graph.num_columns:
            things = {"nodes": selection.nodes.numel(), "graphs": selection.graphs.numel()}
            held = "".join(f"{number} {kind} with " for kind, number in things.items() if number)
            raise InvalidRequestError(
                f"Expected {type(self).__name__} to leave something to retain (got {held}all {graph.num_edges} "
                "training edges)"
            )
        if named.columns.numel():
            warn_of_reverses(graph, selection.columns)
        return Partition.of(self.kind, graph, selection, named.forgets)

    def __add__(self, other: Request) -> RequestSum:
        return RequestSum(self, other) if isinstance(other, Request) else NotImplemented

    def __radd__(self, other: int) -> Request:
        """Return the request itself for 0, so that `sum([...])` is the sum of requests."""
        return self if type(other) is int and other == 0 else NotImplemented

    @property
    def needs_scores(self) -> bool:
        """Whether `resolve` must be given influence scores."""
        return getattr(self, "by", None) == "influence"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.content() == other.content()

    def __hash__(self) -> int:
        return hash((type(self).__name__, self.content()))


class RequestSum(Request):
    """The union of several requests, each resolved against the same original data.

    Parts of one kind give the hash of a single request of that kind that names the same things.
    """

    def __init__(self, *parts: Request) -> None:
        self.parts: tuple[Request, ...] = tuple(
            inner for part in parts for inner in (part.parts if isinstance(part, RequestSum) else (part,))
        )
        self.kind = "+".join(sorted({part.kind for part in self.parts}))

    def select(self, graph: TrainingGraph, scores: Tensor | None) -> Selection:
        return functools.reduce(operator.or_, (part.selection(graph, scores) for part in self.parts))

    @property
    def needs_scores(self) -> bool:
        return any(part.needs_scores for part in self.parts)

    def content(self) -> Hashable:
        """Return the set of parts: order and repetition do not matter."""
        return frozenset(self.parts)

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.parts))
