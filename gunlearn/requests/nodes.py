"""Requests to forget nodes, subgraphs, features of nodes, and whole graphs of a batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from gunlearn.errors import InvalidRequestError
from gunlearn.requests.graph_tensors import GONE, num_graphs
from gunlearn.requests.ids import RequestByIds, named_tensor, skipped, trainable_mask, with_known_arguments
from gunlearn.requests.names import Names, check_numbering, rows_by_name
from gunlearn.requests.selection import Selection, k_hop_mask
from gunlearn.requests.split_masks import split_masks
from gunlearn.requests.training_graph import TrainingGraph

if TYPE_CHECKING:
    from torch_geometric.data import Data


@dataclass(frozen=True, eq=False, repr=False)
class _RequestByNodes(RequestByIds):
    """A request for nodes, by row number or by id; draws can order them by degree."""

    by: str = "random"
    by_id: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.by not in ("random", "degree"):
            raise InvalidRequestError(f"Expected 'by' to be one of ('random', 'degree') (got {self.by!r})")
        if self.by != "random" and not self.draws:
            raise InvalidRequestError(
                f"Expected by with ratio or count only (got {'index' if self.mask is None else 'mask'})"
            )

    def nodes(self, graph: TrainingGraph) -> tuple[Tensor, str]:
        """Return the sorted row numbers of the named or drawn nodes, `[k]`, and which were skipped, in words."""
        if isinstance(self.index, Names):
            rows, unknown = rows_by_name(graph.data, self.index, self.missing)
            ids, told = replace(self, index=rows, by_id=False).nodes(graph)
            return ids, "; ".join(filter(None, (skipped(len(self.index), self.noun, unknown, 0), told)))
        if self.index is not None:
            check_numbering(graph.data, self.index, self.by_id)
        size = graph.num_nodes
        degree = torch.bincount(graph.edge_index.flatten(), minlength=size) if self.by == "degree" else None
        candidates = training_ids(graph.data, size) if self.draws else torch.empty(0, dtype=torch.long)
        gone = graph.data.get(GONE)
        ids, told = self.ids(size, candidates, degree, gone if gone is not None and gone.numel() == size else None)
        return ids.to(graph.edge_index.device), told


@with_known_arguments
@dataclass(frozen=True, eq=False, repr=False)
class ForgetNodes(_RequestByNodes):
    """Forget nodes: features, label and all edges; see `gunlearn.requests.apply` for what is left.

    Exactly one of `index`, `mask`, `ratio` and `count` says which. Any node may be named; draws are among the training
    nodes (`data.train_mask`; without one, labelled nodes outside `val_mask` and `test_mask`).

    Args:
        index: row numbers `[F]`, or ids: a list of texts, each looked up in `data.node_id` (`ForgetNodes(["alice"])`).
        mask: boolean `[num_nodes]`.
        ratio: draw `int(ratio * num_training_nodes)` nodes, 0 < ratio < 1.
        count: draw this many nodes.
        by: order of the draw: "random", or "degree" (largest first, ties at random).
        by_id: what integers in `index` are: ids of `data.node_id` (`True`) or row numbers (`False`). `None` means row
            numbers, and `resolve` refuses integers that would be ids of other nodes.
        seed: of the draw; the global random state does not change.
        missing: `"ignore"` skips nodes that are named twice or were forgotten before (`result.notes["skipped"]` counts
            them); `"error"` refuses them.

    Raises:
        EmptyForgetSetError: no nodes are named, or none that is still there.
        InvalidRequestError: any other wrong argument; at `resolve`, an id that no node has.

    Example:
        >>> import gunlearn as gu
        >>> data = gu.load("karate")
        >>> ForgetNodes([4, 7]).resolve(data).forget_nodes
        tensor([4, 7])
        >>> ForgetNodes(mask=data.y == 1).resolve(data).num_forget  # a whole class
        17
    """

    kind = "nodes"

    def select(self, graph: TrainingGraph, scores: Tensor | None) -> Selection:
        nodes, told = self.nodes(graph)
        return Selection.of(graph, nodes=nodes, skipped=told)


@with_known_arguments
@dataclass(frozen=True, eq=False, repr=False)
class ForgetFeatures(_RequestByNodes):
    """Forget features of nodes: their entries become zero; label and edges stay.

    Args:
        index: nodes, `[F]`; `mask`, `ratio`, `count`, `by`, `by_id` and `seed` are those of `ForgetNodes`.
        columns: columns of `x`, `[c]`; `None` for all of them.

    Raises:
        EmptyForgetSetError: no nodes or no columns are named.
        InvalidRequestError: any other wrong argument.
    """

    columns: Any = None

    kind = "features"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.columns is not None:
            object.__setattr__(self, "columns", named_tensor(self.columns, "columns", "column"))

    def select(self, graph: TrainingGraph, scores: Tensor | None) -> Selection:
        (nodes, told), columns, x = self.nodes(graph), self.columns, graph.data.get("x")
        if not isinstance(x, Tensor) or x.dim() != 2:
            got = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise InvalidRequestError(f"Expected features 'data.x' of shape [num_nodes, num_features] (got {got})")
        if columns is not None and bool(((columns < 0) | (columns >= x.size(1))).any()):
            raise InvalidRequestError(f"Expected columns of x in [0, {x.size(1)}) (got {columns.tolist()[:5]})")
        return Selection.of(graph, features=((nodes, columns),), skipped=told)


@with_known_arguments
@dataclass(frozen=True, eq=False, repr=False)
class ForgetSubgraph(_RequestByNodes):
    """Forget the subgraph around some nodes: all nodes within `num_hops` of them, or only the edges among these.

    With `num_hops=0` it is the subgraph that the nodes induce. Drawn centres are training nodes; their neighbours may
    be any.

    Args:
        index: the centres, `[F]`; `mask`, `ratio`, `count`, `by`, `by_id` and `seed` are those of `ForgetNodes`.
        num_hops: radius; hops take edges both ways.
        keep_nodes: forget only the edges inside; features, labels and the edges that lead outside stay.

    Raises:
        EmptyForgetSetError: no nodes are named, or (`keep_nodes`) no edges lie among them.
        InvalidRequestError: any other wrong argument.
    """

    num_hops: int = 1
    keep_nodes: bool = False

    kind = "subgraph"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.num_hops, bool) or not isinstance(self.num_hops, int) or self.num_hops < 0:
            raise InvalidRequestError(f"Expected 'num_hops' to be an integer >= 0 (got {self.num_hops!r})")

    def select(self, graph: TrainingGraph, scores: Tensor | None) -> Selection:
        centres, told = self.nodes(graph)
        inside = k_hop_mask(graph.edge_index, centres, graph.num_nodes, self.num_hops)
        if self.keep_nodes:
            return Selection.of(graph, inside[graph.edge_index].all(dim=0), skipped=told)
        return Selection.of(graph, nodes=inside.nonzero().view(-1), skipped=told)


@with_known_arguments
@dataclass(frozen=True, eq=False, repr=False)
class ForgetGraphs(_RequestByNodes):
    """Forget whole graphs of a batch (`torch_geometric.data.Batch`), as items of graph classification.

    Args:
        index: graph ids, `[F]`; or one of the next three.
        mask: boolean `[num_graphs]`.
        ratio: draw this share of the training graphs (`data.train_mask`, `[num_graphs]`).
        count: draw this many of them.
        seed: of the draw.

    Raises:
        EmptyForgetSetError: no graphs are named.
        InvalidRequestError: any other wrong argument, or data that is no batch.
    """

    kind = "graphs"
    noun: ClassVar[str] = "graph"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.by_id is not None or isinstance(self.index, Names):
            raise InvalidRequestError("Expected graphs by their numbers in the batch (got ids)")

    def select(self, graph: TrainingGraph, scores: Tensor | None) -> Selection:
        data = graph.data
        if self.by != "random":
            raise InvalidRequestError(f"Expected by='random' for graphs (got {self.by!r})")
        size = num_graphs(data)
        gone = data.get(GONE)
        if gone is not None and gone.numel() == graph.num_nodes:  # a graph is gone with all its nodes
            left = torch.bincount(data.batch[~gone], minlength=size)
            gone = left == 0
        ids, told = self.ids(size, training_ids(data, size), gone=gone)
        return Selection.of(graph, graphs=ids.to(graph.edge_index.device), skipped=told)


def training_ids(data: Data, size: int) -> Tensor:
    """Return the ids that may be drawn, `[k]`: of `train_mask`; without one, all labelled ones in no other mask.

    Lists of ids are read as masks where there are none, see `split_masks`.
    """
    free, listed = trainable_mask(data, size), {}
    if data.get("train_mask") is None:
        listed = split_masks(data, size, strict=False)
    if "train_mask" in listed:
        return listed["train_mask"].nonzero().view(-1).cpu()
    if data.get("train_mask") is None:
        for mask in listed.values():
            free &= ~mask.cpu()
        y, gone = data.get("y"), data.get(GONE)
        if isinstance(y, Tensor) and y.numel() == size and not y.is_floating_point() and y.dtype != torch.bool:
            free &= (y.view(-1) >= 0).cpu()  # unlabelled, or forgotten before
        if gone is not None and gone.numel() == size:
            free &= ~gone.cpu()
    return free.nonzero().view(-1)
