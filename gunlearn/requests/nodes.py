"""Requests to forget nodes, subgraphs, features of nodes, and whole graphs of a batch."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch_geometric.data import Data

from gunlearn.core.checks import check_seed, check_size, the_one_given
from gunlearn.errors import EmptyForgetSetError, InvalidRequestError
from gunlearn.requests.apply import GONE
from gunlearn.requests.base import Request
from gunlearn.requests.edges import _named_tensor, _sorted_content
from gunlearn.requests.regions import k_hop_mask
from gunlearn.requests.selection import Selection
from gunlearn.requests.training_graph import TrainingGraph, num_graphs

ORDERS = ("random", "degree")


@dataclass(frozen=True, eq=False, repr=False)
class _ForgetIds(Request):
    """Things with numbers, named one by one, by a mask, or drawn among the training ones."""

    index: Any = None
    _: KW_ONLY
    mask: Any = None
    ratio: float | None = None
    count: int | None = None
    by: str = "random"
    seed: int = 0

    noun: ClassVar[str] = "node"

    def __post_init__(self) -> None:
        """Check all that can be checked without the data; copies of our own, for the caller's tensors may change."""
        given = the_one_given(self, ("index", "mask", "ratio", "count"))
        check_seed(self.seed)
        check_size(self.ratio, self.count, self.noun)
        if self.by not in ORDERS:
            raise InvalidRequestError(f"Expected 'by' to be one of {ORDERS} (got {self.by!r})")
        if self.by != "random" and given in ("index", "mask"):
            raise InvalidRequestError(f"Expected by with ratio or count only (got {given})")
        if self.index is not None:
            object.__setattr__(self, "index", _named_tensor(self.index, "index", self.noun))
        if self.mask is not None:
            mask = torch.as_tensor(self.mask)
            if mask.dtype != torch.bool or mask.dim() != 1:
                raise InvalidRequestError(
                    f"Expected 'mask' to be a boolean vector (got {mask.dtype} {tuple(mask.shape)})"
                )
            if not bool(mask.any()):
                raise EmptyForgetSetError(f"Expected 'mask' to name at least one {self.noun} (got none)")
            object.__setattr__(self, "mask", mask.detach().cpu().clone())

    def ids(self, size: int, candidates: Tensor, degree: Tensor | None) -> Tensor:
        """The ids meant, `[k]`; a draw is among `candidates` (ids), made on the CPU so that devices agree.

        Raises:
            EmptyForgetSetError: a ratio of less than one.
            InvalidRequestError: ids outside `[0, size)`, repeated ids, a mask of another size, too few candidates.
        """
        if self.mask is not None:
            if self.mask.numel() != size:
                raise InvalidRequestError(f"Expected a mask of {size} {self.noun}s (got {self.mask.numel()})")
            return self.mask.nonzero().view(-1)
        if self.index is not None:
            outside = self.index[(self.index < 0) | (self.index >= size)]
            if outside.numel():
                raise InvalidRequestError(
                    f"Expected {self.noun}s in [0, {size}) (got {outside.numel()} outside: {outside[:5].tolist()})"
                )
            ids, counts = self.index.unique(return_counts=True)
            if ids.numel() != self.index.numel():
                raise InvalidRequestError(
                    f"Expected each {self.noun} once (got repeated {ids[counts > 1][:5].tolist()})"
                )
            return ids
        number = self.count if self.count is not None else int(self.ratio * candidates.numel())
        if number == 0:
            raise EmptyForgetSetError(
                f"Expected a ratio of at least one {self.noun} (got {self.ratio} of {candidates.numel()})"
            )
        if number > candidates.numel():
            raise InvalidRequestError(
                f"Expected at most the {candidates.numel()} training {self.noun}s (got a draw of {number})"
            )
        generator = torch.Generator().manual_seed(int(self.seed))
        drawn = candidates.cpu()[torch.randperm(candidates.numel(), generator=generator)]
        if self.by == "degree":
            drawn = drawn[degree.cpu()[drawn].sort(descending=True, stable=True).indices]
        return drawn[:number].sort().values

    def content(self) -> Hashable:
        """All arguments, named ids sorted."""
        return tuple(_sorted_content(getattr(self, field.name)) for field in fields(self))

    def __repr__(self) -> str:
        """The arguments that were given; of ids the first few."""
        shown = []
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                ids = value.nonzero().view(-1) if value.dtype == torch.bool else value
                shown.append(f"{field.name}=[{', '.join(map(str, ids[:3].tolist()))}{', ...' if len(ids) > 3 else ''}]")
            elif value != field.default:
                shown.append(f"{field.name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


@dataclass(frozen=True, eq=False, repr=False)
class ForgetNodes(_ForgetIds):
    """Forget nodes: features, label and all edges; see `gunlearn.requests.apply` for what is left.

    Exactly one of `index`, `mask`, `ratio` and `count` says which. Named nodes may be any; draws are among the training
    nodes (`data.train_mask`; without one, those outside `val_mask` and `test_mask`), so that they are *global* ids of
    nodes that a model learned from.

    Args:
        index: node ids, `[F]`.
        mask: boolean `[num_nodes]`.
        ratio: draw `int(ratio * num_training_nodes)` nodes, 0 < ratio < 1.
        count: draw this many nodes.
        by: order of the draw: "random", or "degree" (largest first, ties at random).
        seed: of the draw; the global random state is left alone.

    Raises:
        EmptyForgetSetError: no nodes are named.
        InvalidRequestError: any other wrong argument.

    Example:
        >>> data = Data(edge_index=torch.tensor([[0, 1, 2], [1, 2, 0]]), y=torch.tensor([0, 3, 1]), num_nodes=3)
        >>> ForgetNodes([0]).resolve(data).retain_data.edge_index.tolist()
        [[1], [2]]
        >>> ForgetNodes(mask=data.y == 3).resolve(data).forget_nodes  # a whole class
        tensor([1])
    """

    kind: ClassVar[str] = "nodes"

    def select(self, graph: TrainingGraph, scores: Tensor | None) -> Selection:
        """The nodes; their edges follow."""
        return Selection.of(graph, nodes=_node_ids(self, graph))


@dataclass(frozen=True, eq=False, repr=False)
class ForgetFeatures(_ForgetIds):
    """Forget features of nodes: their entries become zero; label and edges stay.

    Args:
        index: node ids, `[F]`; or one of the next three.
        mask: boolean `[num_nodes]`.
        ratio: draw this share of the training nodes.
        count: draw this many of them.
        by: order of the draw, see `ForgetNodes`.
        seed: of the draw.
        columns: columns of `x`, `[c]`; `None` for all of them.

    Raises:
        EmptyForgetSetError: no nodes or no columns are named.
        InvalidRequestError: any other wrong argument.
    """

    columns: Any = None

    kind: ClassVar[str] = "features"

    def __post_init__(self) -> None:
        """See `_ForgetIds`."""
        super().__post_init__()
        if self.columns is not None:
            object.__setattr__(self, "columns", _named_tensor(self.columns, "columns", "column"))

    def select(self, graph: TrainingGraph, scores: Tensor | None) -> Selection:
        """One block of feature entries."""
        nodes, columns, x = _node_ids(self, graph), self.columns, graph.data.get("x")
        if not isinstance(x, Tensor) or x.dim() != 2:
            got = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise InvalidRequestError(f"Expected features 'data.x' of shape [num_nodes, num_features] (got {got})")
        if columns is not None and bool(((columns < 0) | (columns >= x.size(1))).any()):
            raise InvalidRequestError(f"Expected columns of x in [0, {x.size(1)}) (got {columns.tolist()[:5]})")
        return Selection.of(graph, features=((nodes, columns),))


@dataclass(frozen=True, eq=False, repr=False)
class ForgetSubgraph(_ForgetIds):
    """Forget the subgraph around some nodes: all nodes within `num_hops` of them, or only the edges among these.

    With `num_hops=0` it is the subgraph that the nodes induce. Drawn centres are training nodes; what lies around them
    goes whatever it is.

    Args:
        index: ids of the centres, `[F]`; or one of the next three.
        mask: boolean `[num_nodes]`.
        ratio: draw this share of the training nodes as centres.
        count: draw this many of them.
        by: order of the draw, see `ForgetNodes`.
        seed: of the draw.
        num_hops: radius; hops take edges both ways.
        keep_nodes: forget the edges inside alone; features, labels and the edges that lead outside stay.

    Raises:
        EmptyForgetSetError: no nodes are named, or (`keep_nodes`) no edges lie among them.
        InvalidRequestError: any other wrong argument.
    """

    num_hops: int = 1
    keep_nodes: bool = False

    kind: ClassVar[str] = "subgraph"

    def __post_init__(self) -> None:
        """See `_ForgetIds`."""
        super().__post_init__()
        if isinstance(self.num_hops, bool) or not isinstance(self.num_hops, int) or self.num_hops < 0:
            raise InvalidRequestError(f"Expected 'num_hops' to be an integer >= 0 (got {self.num_hops!r})")

    def select(self, graph: TrainingGraph, scores: Tensor | None) -> Selection:
        """The nodes within reach, or the edges among them."""
        start = torch.zeros(graph.num_nodes, dtype=torch.bool, device=graph.edge_index.device)
        start[_node_ids(self, graph)] = True
        inside = k_hop_mask(graph.edge_index, start, self.num_hops)
        if self.keep_nodes:
            return Selection.of(graph, inside[graph.edge_index].all(dim=0))
        return Selection.of(graph, nodes=inside.nonzero().view(-1))


@dataclass(frozen=True, eq=False, repr=False)
class ForgetGraphs(_ForgetIds):
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

    kind: ClassVar[str] = "graphs"
    noun: ClassVar[str] = "graph"

    def select(self, graph: TrainingGraph, scores: Tensor | None) -> Selection:
        """The graphs; their nodes and edges follow."""
        data = graph.data
        if self.by != "random":
            raise InvalidRequestError(f"Expected by='random' for graphs (got {self.by!r})")
        size = num_graphs(data)
        ids = self.ids(size, training_ids(data, size, "graph"), None).to(graph.edge_index.device)
        return Selection.of(graph, graphs=ids)


def training_ids(data: Data, size: int, noun: str) -> Tensor:
    """What may be drawn: ids of `train_mask`, or of all that `val_mask` and `test_mask` leave, `[k]`."""
    masks = {name: data.get(name) for name in ("train_mask", "val_mask", "test_mask")}
    for name, mask in masks.items():
        if mask is not None and (not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != (size,)):
            raise InvalidRequestError(f"Expected a boolean 'data.{name}' of {size} {noun}s (got {mask!r:.60})")
    if masks["train_mask"] is not None:
        return masks["train_mask"].nonzero().view(-1)
    free = torch.ones(size, dtype=torch.bool)
    y, gone = data.get("y"), data.get(GONE)
    if isinstance(y, Tensor) and y.numel() == size and not y.is_floating_point() and y.dtype != torch.bool:
        free &= (y.view(-1) >= 0).cpu()  # unlabelled, or forgotten before
    for mask in (*masks.values(), gone if gone is not None and gone.numel() == size else None):
        if mask is not None:
            free &= ~mask.cpu()
    return free.nonzero().view(-1)


def _node_ids(request: _ForgetIds, graph: TrainingGraph) -> Tensor:
    degree = torch.bincount(graph.edge_index.flatten(), minlength=graph.num_nodes) if request.by == "degree" else None
    drawn = request.index is None and request.mask is None
    candidates = training_ids(graph.data, graph.num_nodes, "node") if drawn else torch.empty(0, dtype=torch.long)
    return request.ids(graph.num_nodes, candidates, degree).to(graph.edge_index.device)
