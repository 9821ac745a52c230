"""A heterogeneous model, called on one graph with node and edge types."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import MessagePassing

from gunlearn.errors import InvalidInputError, UnsupportedModelError
from gunlearn.nn.attach.edge_lookup import EdgeLookup
from gunlearn.nn.attach.overrides import EdgeOverride, Override
from gunlearn.nn.hetero.typed import TypedNodes, columns_of, edges_by_type, nodes_by_type
from gunlearn.nn.kernels.bag_of_words import sparse_features
from gunlearn.nn.kernels.memo import memo


class HeteroWrapper(nn.Module):
    """A heterogeneous model called as `wrapper(x, edge_index, edge_type)`; made by `homogeneous`.

    It splits the graph by type, calls the model, and joins its rows, `[num_nodes, dim]`; types without rows get zeros.
    `removed_edges` and `scaled_messages` find edges by the ids of the one graph.

    Args:
        model: the heterogeneous model, kept as `wrapper.model`.
        num_nodes: nodes of each type.
        num_edges: edges of each relation.
        widths: features of each type that has any.
    """

    node_type: Tensor

    def __init__(
        self,
        model: nn.Module,
        num_nodes: Mapping[str, int],
        num_edges: Mapping[tuple[str, str, str], int],
        widths: Mapping[str, int],
    ) -> None:
        super().__init__()
        self.model = model
        self.num_nodes, self.num_edges, self.widths = dict(num_nodes), dict(num_edges), dict(widths)
        self.register_buffer("node_type", type_numbers(self.num_nodes), persistent=False)

    def ids(self, node_type: str, index: Any = None) -> Tensor:
        """Return the one graph's ids of a type's nodes: all, or the `index`-th ones `[k]`."""
        _known(self.num_nodes, node_type, "node type")
        names, sizes = list(self.num_nodes), list(self.num_nodes.values())
        start, size = sum(sizes[: names.index(node_type)]), self.num_nodes[node_type]
        return (torch.arange(size) if index is None else _inside(index, size, f"node type {node_type!r}")) + start

    def edge_ids(self, data: Data, edge_type: tuple[str, str, str], index: Any = None) -> Tensor:
        """Return columns of `data.edge_index` of a relation's edges: all, or the `index`-th ones `[k]`.

        After a request, pass `result.data`, which has fewer edges.
        """
        columns = (data.edge_type == self.relation(edge_type)).nonzero().view(-1)
        return columns if index is None else columns[_inside(index, columns.numel(), f"relation {edge_type!r}")]

    def relation(self, edge_type: tuple[str, str, str]) -> int:
        """Return the number of a relation in `edge_type`, for `ForgetEdges(..., edge_type=)`."""
        _known(self.num_edges, edge_type, "relation")
        return list(self.num_edges).index(edge_type)

    def by_type(self, rows: Tensor) -> dict[str, Tensor]:
        """Split rows of the one graph `[num_nodes, ...]` by node type."""
        return dict(zip(self.num_nodes, rows.split(list(self.num_nodes.values())), strict=True))

    def forward(
        self, x: Tensor | None, edge_index: Tensor, edge_type: Tensor, node_type: Tensor | None = None
    ) -> Tensor:
        """Return a row per node, `[num_nodes, dim]`, from padded features `[num_nodes, widest]`.

        `edge_index` is `[2, E]`, `edge_type` `[E]`; a part of the graph, or several copies of it, need `node_type`
        `[num_nodes]`. `UnsupportedModelError` for types that do not fit, or a model that returns no dictionary of rows.
        """
        node_type = self.node_type if node_type is None else node_type
        number = node_type.numel() if x is None else x.size(0)
        if number != node_type.numel() or edge_type.shape != edge_index.shape[1:]:
            raise UnsupportedModelError(
                f"Expected a type of each node and edge (got {node_type.numel()} types of {number} nodes, "
                f"{edge_type.numel()} of {edge_index.size(1)} edges)"
            )
        tag = ("hetero", *self.num_nodes, *self.num_edges)
        nodes = memo(node_type, tag, lambda: nodes_by_type(node_type, list(self.num_nodes)))
        edges, whole = memo(
            (node_type, edge_type, edge_index),
            tag,
            lambda: edges_by_type(edge_index, edge_type, node_type, nodes, list(self.num_edges)),
        )

        def features() -> dict[str, Tensor]:
            if x is None:
                return {}
            parts = {kind: columns_of(x, nodes.rows[kind], width) for kind, width in self.widths.items()}
            for part in parts.values():
                sparse_features(part)  # made here once; linear maps look it up
            return parts

        # Remembered with x, so that what is derived from these copies is remembered too.
        fixed = x is not None and not x.requires_grad
        by_type = memo((node_type, x), (*tag, *self.widths.items()), features) if fixed else features()
        with self._by_node(whole):
            out = self.model(dict(by_type), dict(edges))
        return self._together(out, nodes)

    def _together(self, out: Any, nodes: TypedNodes) -> Tensor:
        if not isinstance(out, Mapping):
            raise UnsupportedModelError(
                f"Expected a heterogeneous model to return a dictionary of rows by node type (got {type(out).__name__})"
            )
        given = {kind: rows for kind, rows in out.items() if kind in nodes.rows and isinstance(rows, Tensor)}
        shapes = {kind: tuple(rows.shape) for kind, rows in given.items()}
        fits = all(len(s) == 2 and s[0] == nodes.rows[kind].numel() for kind, s in shapes.items())
        if not given or not fits or len({s[1] for s in shapes.values()}) != 1:
            raise UnsupportedModelError(
                f"Expected a row per node, of one size for all node types (got shapes {shapes} for "
                f"{ {kind: rows.numel() for kind, rows in nodes.rows.items()} } nodes)"
            )
        some = next(iter(given.values()))
        rows = [given.get(kind) for kind in nodes.rows]
        counts = [index.numel() for index in nodes.rows.values()]
        filled = [some.new_zeros(n, some.size(1)) if r is None else r for r, n in zip(rows, counts, strict=True)]
        return torch.cat(filled).index_select(0, nodes.position)

    @contextmanager
    def _by_node(self, whole: dict[int, Tensor]) -> Iterator[None]:
        """Inside the block, attachments to the model's layers find edges by the ids of the one graph."""
        before: list[tuple[EdgeOverride, EdgeLookup]] = []
        try:
            for layer in self.model.modules():
                if isinstance(layer, MessagePassing):
                    for override in _attached(layer):
                        before.append((override, override.lookup))
                        override.lookup = _WholeLookup(override.lookup, whole)
            yield
        finally:
            for override, lookup in before:
                override.lookup = lookup


class _WholeLookup(EdgeLookup):
    """A lookup by ids of the one graph, for layers that number nodes within their types."""

    def __init__(self, lookup: EdgeLookup, whole: dict[int, Tensor]) -> None:
        self.__dict__.update(lookup.__dict__)
        self.whole = whole

    def find(self, edge_index: Tensor) -> tuple[Tensor, Tensor]:
        if id(edge_index) not in self.whole:
            raise UnsupportedModelError(
                "Expected layers that send messages along the relation's own edge_index, whose edges are known in the "
                "whole graph (got another one: self-loops added, or an edit inside an edit)"
            )
        return super().find(self.whole[id(edge_index)])


def _attached(layer: MessagePassing) -> Iterator[EdgeOverride]:
    for method in ("forward", "propagate"):
        override = layer.__dict__.get(method)
        while isinstance(override, Override):
            if isinstance(override, EdgeOverride):
                yield override
            override = override.previous


def _known(count: Mapping[Any, int], key: Any, what: str) -> None:
    if key not in count:
        raise InvalidInputError(f"Expected a {what} among {list(count)} (got {key!r})")


def _inside(index: Any, size: int, what: str) -> Tensor:
    index = torch.as_tensor(index)
    if index.numel() and (int(index.min()) < 0 or int(index.max()) >= size):
        raise InvalidInputError(
            f"Expected numbers in [0, {size}) of {what} (got {int(index.min())} to {int(index.max())})"
        )
    return index.long()


def type_numbers(count: Mapping[Any, int], device: Any = None) -> Tensor:
    """Return 0 as often as the first count, 1 as often as the second, ..."""
    return torch.repeat_interleave(torch.tensor(list(count.values()), device=device))
