"""Read the items that influence is asked for: edges, nodes, columns and single entries of features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from gunlearn.attribution.distinct_items import ITEM_KINDS, Items, grouped, owner, plain_edges
from gunlearn.errors import InvalidInputError
from gunlearn.nn.kernels.memo import memo
from gunlearn.requests.relations import same_both_ways


def standing_still(nodes: Tensor, num_nodes: int) -> Items:
    """Return one item per node `[k]` that changes nothing."""
    return _items("nodes", num_nodes, nodes)


def resolve_items(data: Data, of: str, items: Any = None) -> tuple[Items, Tensor]:
    """Return the distinct items, and the place among them of each item asked for `[k]`.

    Args:
        data: the graph.
        of: `"edges"`, `"nodes"` or `"features"`.
        items: edges `[2, k]`, nodes `[k]`, columns of `x` `[k]`, or single entries of `x` (node, column) `[2, k]`;
            `None` for every column of `edge_index`, every node, every column of `x`.

    Raises:
        InvalidInputError: an unknown kind, items outside the graph, or no items.
    """
    data = plain_edges(data)
    if of not in ITEM_KINDS:
        raise InvalidInputError(f"Expected influence of one of {ITEM_KINDS} (got {of!r})")
    if items is not None:
        try:
            items = torch.as_tensor(items, device=data.edge_index.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InvalidInputError(f"Expected items as integers (got {type(items).__name__}: {error})") from error
        if items.is_floating_point() or items.dtype == torch.bool:
            raise InvalidInputError(f"Expected items as integers (got {items.dtype})")
        if items.numel() == 0:
            raise InvalidInputError(f"Expected at least one item among {of} (got none)")
        items = items.long()
    return {"edges": _edges, "nodes": _nodes, "features": _features}[of](data, items)


def _edges(data: Data, items: Tensor | None) -> tuple[Items, Tensor]:
    edge_index, n = data.edge_index, int(data.num_nodes)
    if edge_index.numel() == 0:
        raise InvalidInputError("Expected a graph with edges (got none)")
    row, col = edge_index
    undirected = memo(edge_index, ("undirected", n), lambda: same_both_ways(row * n + col, col * n + row))
    if items is None:
        items = edge_index
    elif items.dim() != 2 or items.size(0) != 2:
        raise InvalidInputError(f"Expected edges of shape [2, k] (got {tuple(items.shape)})")
    check_range(items, n, "nodes of the edges")

    def key(pairs: Tensor) -> Tensor:
        low, high = (pairs.min(dim=0).values, pairs.max(dim=0).values) if undirected else pairs
        return low * n + high

    wanted, place = torch.unique(key(items), return_inverse=True)
    graph = key(edge_index)
    missing = ~torch.isin(wanted, graph)
    if bool(missing.any()):
        first = wanted[missing][:5]
        pairs = list(zip((first // n).tolist(), (first % n).tolist(), strict=True))
        raise InvalidInputError(
            f"Expected edges of the graph (got {int(missing.sum())} that it does not have: {pairs})"
        )
    column = torch.isin(graph, wanted).nonzero().view(-1)
    item = torch.searchsorted(wanted, graph[column])
    return _items("edges", n, torch.stack([wanted // n, wanted % n]), columns=(column, item)), place


def _nodes(data: Data, items: Tensor | None) -> tuple[Items, Tensor]:
    n = int(data.num_nodes)
    items = torch.arange(n, device=data.edge_index.device) if items is None else items
    if items.dim() != 1:
        raise InvalidInputError(f"Expected nodes of shape [k] (got {tuple(items.shape)})")
    check_range(items, n, "nodes")
    wanted, place = torch.unique(items, return_inverse=True)
    position = _position(wanted, n)
    (source, target), columns = data.edge_index, torch.arange(data.edge_index.size(1), device=wanted.device)
    loops = source == target
    item, column = torch.cat([position[source], position[target[~loops]]]), torch.cat([columns, columns[~loops]])
    return _items("nodes", n, wanted, columns=(column[item >= 0], item[item >= 0])), place


def _features(data: Data, items: Tensor | None) -> tuple[Items, Tensor]:
    x = data.x
    if not isinstance(x, Tensor) or x.dim() != 2:
        raise InvalidInputError("Expected features 'x' of shape [num_nodes, num_features] (got none)")
    n, num_features = x.shape
    items = torch.arange(num_features, device=data.edge_index.device) if items is None else items
    if items.dim() == 2 and items.size(0) == 2:  # single entries
        check_range(items[0], n, "nodes")
        check_range(items[1], num_features, "feature columns")
        key, place = torch.unique(items[0] * num_features + items[1], return_inverse=True)
        entry = torch.stack([key // num_features, key % num_features])
        return _items("features", n, entry, entries=(entry, torch.arange(key.numel(), device=key.device))), place
    if items.dim() != 1:
        raise InvalidInputError(f"Expected columns [k] or entries (node, column) [2, k] (got {tuple(items.shape)})")
    check_range(items, num_features, "feature columns")
    wanted, place = torch.unique(items, return_inverse=True)
    entry = x.nonzero().t() if x.layout == torch.strided else torch.stack([owner(x.crow_indices()), x.col_indices()])
    item = _position(wanted, num_features)[entry[1]]
    return _items("features", n, wanted, entries=(entry[:, item >= 0], item[item >= 0])), place


def _position(wanted: Tensor, size: int) -> Tensor:
    """Return the place in `wanted` of each id in `[0, size)`, -1 for missing ids."""
    position = torch.full((size,), -1, device=wanted.device)
    position[wanted] = torch.arange(wanted.numel(), device=wanted.device)
    return position


def _items(
    of: str,
    num_nodes: int,
    ids: Tensor,
    columns: tuple[Tensor, Tensor] | None = None,
    entries: tuple[Tensor, Tensor] | None = None,
) -> Items:
    """Return the items `ids`; `columns` and `entries` hold what is removed, and its item."""
    none, num_items = torch.empty(0, dtype=torch.long, device=ids.device), ids.size(-1)
    (column, column_item), (entry, entry_item) = columns or (none, none), entries or (none.view(2, 0), none)
    by_column, column_ptr = grouped(column_item, num_items)
    by_entry, entry_ptr = grouped(entry_item, num_items)
    return Items(of, num_items, num_nodes, ids, column[by_column], column_ptr, entry[:, by_entry], entry_ptr)


def check_range(ids: Tensor, limit: int, what: str) -> None:
    """Refuse ids outside `[0, limit)`."""
    outside = ids[(ids < 0) | (ids >= limit)]
    if outside.numel():
        raise InvalidInputError(f"Expected {what} in [0, {limit}) (got {outside[:5].tolist()})")
