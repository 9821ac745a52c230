"""Requests to forget edges: named one by one, or drawn."""

import warnings
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from gunlearn.core.sorting import places
from gunlearn.errors import SKIPS, EmptyForgetSetError, InvalidRequestError
from gunlearn.requests.draw import REGIONS, draw_edges
from gunlearn.requests.ids import (
    RequestByArguments,
    check_in_range,
    check_unique,
    named_before,
    places_of,
    skipped,
    with_known_arguments,
)
from gunlearn.requests.names import Names, check_numbering, rows_by_name
from gunlearn.requests.selection import Selection
from gunlearn.requests.training_graph import TrainingGraph
from gunlearn.requests.two_readings import has_two_readings, warn_of_other_reading

_OF_DRAWS = ("region", "protocol", "by")


@with_known_arguments
@dataclass(frozen=True, eq=False, repr=False)
class ForgetEdges(RequestByArguments):
    """Forget edges of the training graph.

    Exactly one of `edge_index`, `edge_ids`, `ratio` and `count` says which. In an undirected graph (its edge_index is
    symmetric as a set of pairs) ratios and counts are of undirected edges, and forgetting `(u, v)` removes `(v, u)` and
    every copy too.

    Args:
        edge_index: the edges, `[2, F]` (tensor or array) or a list of pairs (so are two lists of two nodes; a warning
            says where they could be rows of an `[2, 2]`, too); of row numbers, or of ids as texts, each
            looked up in `data.node_id` (`ForgetEdges([("alice", "bob")])`). Both directions of an undirected edge may
            be given; they count once.
        edge_ids: the edges as columns of `data.edge_index`, `[F]`.
        ratio: draw `int(ratio * num_training_edges)` edges, 0 < ratio < 1.
        count: draw this many edges.
        region: where drawn edges lie: "in" the two-hop neighbourhood of the test edges, "out" of it, or "any".
        protocol: "inpo" repeats the draw of the official INPO code, for a split made with the same seed. Its quirks:
            always "in", even for `region="out"`; around validation edges, not test edges; hops along row < col edges
            from col to row only.
        by: order of the draw: "random", "degree" (largest sum of the end points' degrees first, ties at random) or
            "influence" (highest score first; an edge has the largest score of its columns). `resolve` needs `scores`;
            `gunlearn.unlearn` and grids hand it the exact removal influence on the model, see `gunlearn.influence`.
        seed: of the draw; the global random state does not change.
        missing: `"ignore"` skips edges that are named twice or are not in the graph (`result.notes["skipped"]` counts
            them); `"error"` refuses them. Held-out edges and unknown nodes are refused in any case.
        edge_type: the relation of named and drawn edges, in a graph with `data.edge_type` `[E]` (triples of a knowledge
            graph). `None` means every relation between the named nodes.
        by_id: what integers in `edge_index` are: ids of `data.node_id` (`True`) or row numbers (`False`). `None` means
            row numbers, and `resolve` refuses integers that would be other edges by id.

    Raises:
        EmptyForgetSetError: no edges are named.
        InvalidRequestError: any other wrong argument.

    Example:
        >>> import torch
        >>> from torch_geometric.data import Data
        >>> data = Data(edge_index=torch.tensor([[0, 1, 1, 2, 2, 3], [1, 0, 2, 1, 3, 2]]), num_nodes=4)
        >>> ForgetEdges([(0, 1)]).resolve(data).retain_data.edge_index.tolist()
        [[1, 2, 2, 3], [2, 1, 3, 2]]
        >>> ForgetEdges(ratio=0.7, seed=1).resolve(data).num_forget
        2
    """

    kind = "edges"
    noun: ClassVar[str] = "edge"

    edge_index: Any = None
    _: KW_ONLY
    edge_ids: Any = None
    ratio: float | None = None
    count: int | None = None
    region: str = "any"
    protocol: str | None = None
    by: str = "random"
    seed: int = 0
    edge_type: int | None = None
    by_id: bool | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "_unclear", has_two_readings(self.edge_index))
        given = self.check_arguments(("edge_index", "edge_ids", "ratio", "count"))
        orders = ("random", "degree", "influence")
        for name, allowed in (("region", REGIONS), ("protocol", (None, "inpo")), ("by", orders)):
            if getattr(self, name) not in allowed:
                raise InvalidRequestError(f"Expected '{name}' to be one of {allowed} (got {getattr(self, name)!r})")
        if given in ("edge_index", "edge_ids"):
            changed = [f.name for f in fields(self) if f.name in _OF_DRAWS and getattr(self, f.name) != f.default]
            if changed:
                raise InvalidRequestError(f"Expected {', '.join(changed)} with ratio or count only (got {given})")
        if self.edge_type is not None:
            if isinstance(self.edge_type, bool) or not isinstance(self.edge_type, int) or self.edge_type < 0:
                raise InvalidRequestError(f"Expected 'edge_type' to be an integer >= 0 (got {self.edge_type!r})")
            if given == "edge_ids":
                raise InvalidRequestError("Expected edge_type with edge_index, ratio or count (got edge_ids)")
        if self.protocol is not None and self.by != "random":
            raise InvalidRequestError(f"Expected by='random' with protocol {self.protocol!r} (got {self.by!r})")
        if self.protocol == "inpo" and self.region == "out":
            warnings.warn(
                "protocol='inpo' draws inside the region and ignores 'region', as the official code does; for a draw "
                "outside, use region='out' without a protocol",
                stacklevel=3,
            )

    def select(self, graph: TrainingGraph, scores: Tensor | None) -> Selection:
        told = ""
        if self.edge_type is not None and graph.edge_type is None:
            raise InvalidRequestError(f"Expected data with 'edge_type' for edge_type={self.edge_type} (got none)")
        if self.edge_index is not None:
            rows, unknown = self._rows(graph)
            if getattr(self, "_unclear", False) and rows.size(1) == 2:
                warn_of_other_reading(graph, rows)
            columns, told = _named_edges(graph, rows, self.edge_type, self.missing)
            told = "; ".join(filter(None, (skipped(rows.size(1) + unknown, self.noun, unknown, 0), told)))
        elif self.edge_ids is not None:
            check_in_range(self.edge_ids, graph.num_columns, "'edge_ids'")
            ids = self.edge_ids
            if self.missing == "error":
                check_unique(ids, "id")
            told = skipped(ids.numel(), self.noun, 0, ids.numel() - ids.unique().numel())
            columns = ids.unique().to(graph.edge_index.device)
        else:
            return Selection.of(graph, graph.columns_of(draw_edges(self, graph, scores)), skipped=told)
        return Selection(graph.with_copies(columns), skipped=told)

    def _rows(self, graph: TrainingGraph) -> tuple[Tensor, int]:
        """Return the named pairs as row numbers, `[2, F]`, and how many were skipped."""
        if isinstance(self.edge_index, Names):
            return rows_by_name(graph.data, self.edge_index, self.missing)

        def both(by_id: Tensor) -> bool:
            return all(bool(_are_pairs(graph, pairs).all()) for pairs in (self.edge_index, by_id))

        check_numbering(graph.data, self.edge_index, self.by_id, both)
        return self.edge_index, 0


def _are_pairs(graph: TrainingGraph, pairs: Tensor) -> Tensor:
    """Return which pairs `[2, k]` are edges, of any relation, in either direction of an undirected graph."""
    pairs = pairs.to(graph.edge_index.device)
    ahead = graph.is_edge(pairs)
    return ahead | graph.is_edge(pairs.flip(0)) if graph.is_undirected else ahead


def _named_edges(
    graph: TrainingGraph, edge_index: Tensor, edge_type: int | None, if_missing: str
) -> tuple[Tensor, str]:
    """Return columns of the edges that `edge_index` names, `[n]`, and which of these were skipped, in words.

    An undirected edge may be named in both directions.
    """
    named = edge_index.to(graph.edge_index.device)
    if if_missing == "ignore":
        check_in_range(named.flatten(), graph.num_nodes, "nodes of edges")
    if edge_type is None:  # all relations between the pair
        edges = torch.where(_are_pairs(graph, named), graph.pair_key(named), -1)
    else:
        edges = graph.find(named, edge_type)
    lacking = edges < 0
    missing = int(lacking.sum())
    if missing:
        _refuse_held_out(graph, named, lacking)
        if if_missing == "error":
            raise InvalidRequestError(
                f"Expected edges of the {'undirected' if graph.is_undirected else 'directed'} training graph (got "
                f"{missing} that it does not have: {places_of(lacking)}); {SKIPS}"
            )
        if missing == named.size(1):
            raise EmptyForgetSetError(
                f"Expected an edge that is still in the graph (got none of {named.size(1)} named)"
            )
        named, edges = named[:, ~lacking], edges[~lacking]
    # Both directions of an undirected edge are PyG's way to write it; the same column twice is a mistake.
    one_each = torch.stack([edges, (named[0] > named[1]).long()])
    again = named_before(one_each.unique(dim=1, return_inverse=True)[1])
    repeated = int(again.sum())
    if repeated and if_missing == "error":
        raise InvalidRequestError(f"Expected each edge once (got {repeated} repeated: {places_of(again)}); {SKIPS}")
    return _columns(graph, named, edges, edge_type), skipped(edge_index.size(1), "edge", missing, repeated)


def _columns(graph: TrainingGraph, named: Tensor, edges: Tensor, edge_type: int | None) -> Tensor:
    """Return columns `[n]` of edges: of pairs `[2, k]` with keys `edges`, or by these numbers under a relation."""
    if edge_type is not None:
        return graph.first_column[edges]
    if graph.index is not None:
        return graph.columns_joining(named)
    return places(torch.isin(graph.pair_key(graph.edge_index), edges))


def _refuse_held_out(graph: TrainingGraph, named: Tensor, lacking: Tensor) -> None:
    """Refuse named edges `[2, k]` that are held out, or listed as positives apart from the graph.

    Args:
        graph: what edges are forgotten from.
        named: by the caller.
        lacking: which of these the graph does not have, boolean `[k]`.
    """
    listed = getattr(graph.data, "edge_label_index", None)
    if isinstance(listed, Tensor) and listed.dim() == 2 and listed.size(0) == 2:
        found = lacking & _listed(named, listed)
        if bool(found.any()):
            raise InvalidRequestError(
                f"Expected edges of 'edge_index' (got {int(found.sum())} pairs that 'edge_label_index' alone holds: "
                f"{places_of(found)}); what is only a positive of the training, as RandomLinkSplit("
                "disjoint_train_ratio=...) makes it, cannot be forgotten here: train with it in 'edge_index'"
            )
    for name in ("val_pos_edge_index", "test_pos_edge_index"):
        held_out = getattr(graph.data, name, None)
        if not isinstance(held_out, Tensor):
            continue
        both = torch.cat([held_out, held_out.flip(0)], dim=1) if graph.is_undirected else held_out
        found = lacking & _listed(named, both)
        if bool(found.any()):
            raise InvalidRequestError(
                f"Expected training edges (got {int(found.sum())} held-out edges of '{name}': {places_of(found)}); "
                "forget sets come from training edges only"
            )


def _listed(named: Tensor, pairs: Tensor) -> Tensor:
    """Return which of the named pairs `[2, k]` a list of pairs `[2, n]` holds, boolean `[k]`."""
    known = {tuple(pair) for pair in pairs.t().tolist()}
    return torch.tensor([tuple(pair) in known for pair in named.t().tolist()], device=named.device)
