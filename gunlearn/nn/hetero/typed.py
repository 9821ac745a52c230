"""Split one graph's nodes, edges and features by type."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gunlearn.errors import UnsupportedModelError
from gunlearn.nn.kernels.sparse import csr_tensor
from gunlearn.nn.kernels.subgraph import csr_rows


@dataclass(frozen=True)
class TypedNodes:
    """Nodes by type.

    `rows` holds each type's ids, ascending; `place` each node's number within its type, `position` its number among
    all, type after type (`[num_nodes]` both).
    """

    rows: dict[str, Tensor]
    place: Tensor
    position: Tensor


def nodes_by_type(node_type: Tensor, kinds: list[str]) -> TypedNodes:
    """Split nodes in any order by type; `kinds` names the types."""
    order, count = _grouped(node_type, len(kinds), "node type")
    position = torch.empty_like(order)
    position[order] = torch.arange(order.numel(), device=order.device)
    place = position - (count.cumsum(0) - count)[node_type]
    return TypedNodes(dict(zip(kinds, order.split(count.tolist()), strict=True)), place, position)


def edges_by_type(
    edge_index: Tensor, edge_type: Tensor, node_type: Tensor, nodes: TypedNodes, relations: list[tuple[str, str, str]]
) -> tuple[dict[tuple[str, str, str], Tensor], dict[int, Tensor]]:
    """Split edges by relation, named by `relations`; within a relation they keep their order.

    Return each relation's edge_index by numbers within the types; and the same by the ids of the one graph, keyed by
    Python's `id` of the former. An edge between other types than its relation's raises `UnsupportedModelError`.
    """
    order, count = _grouped(edge_type, len(relations), "relation")
    number = {kind: i for i, kind in enumerate(nodes.rows)}
    ends = torch.tensor([[number[src], number[dst]] for src, _, dst in relations], device=edge_type.device)
    if not torch.equal(node_type[edge_index], ends.t()[:, edge_type]):
        raise UnsupportedModelError(
            "Expected every edge between nodes of its relation's types (got others; a part of a heterogeneous graph "
            "needs the types of all its nodes)"
        )
    whole = edge_index.index_select(1, order).split(count.tolist(), dim=1)
    local = {relation: nodes.place[pairs] for relation, pairs in zip(relations, whole, strict=True)}
    return local, {id(a): b for a, b in zip(local.values(), whole, strict=True)}


def _grouped(kind: Tensor, number: int, what: str) -> tuple[Tensor, Tensor]:
    """Return the stable order by kind, and the size of each kind; refuse other numbers."""
    if kind.numel() and (int(kind.min()) < 0 or int(kind.max()) >= number):
        raise UnsupportedModelError(f"Expected a {what} in [0, {number}) (got {int(kind.min())} to {int(kind.max())})")
    return kind.argsort(stable=True), torch.bincount(kind, minlength=number)


def columns_of(x: Tensor, rows: Tensor, width: int) -> Tensor:
    """Return the first `width` columns of some rows; CSR stays CSR."""
    if x.layout == torch.strided:
        return x.index_select(0, rows)[:, :width].contiguous()
    part = csr_rows(x, rows)
    return csr_tensor(part.crow_indices(), part.col_indices(), part.values(), (rows.numel(), width))
