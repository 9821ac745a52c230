"""Requests to forget edges: named one by one, or drawn."""

from __future__ import annotations

import warnings
from collections.abc import Hashable
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from gunlearn.core.checks import check_seed, check_size, the_one_given
from gunlearn.errors import EmptyForgetSetError, InvalidRequestError
from gunlearn.requests.base import Request
from gunlearn.requests.draw import ORDERS, PROTOCOLS, draw_edges
from gunlearn.requests.regions import REGIONS
from gunlearn.requests.training_graph import TrainingGraph, show_pairs


@dataclass(frozen=True, eq=False, repr=False)
class ForgetEdges(Request):
    """Forget edges of the training graph.

    Exactly one of `edge_index`, `edge_ids`, `ratio` and `count` says which. In an undirected graph (an edge_index
    that is symmetric as a set of pairs) everything counts undirected edges, and forgetting `(u, v)` removes `(v, u)`
    and every copy too.

    Args:
        edge_index: the edges, `[2, F]` (tensor or array) or a list of pairs. Both directions of an undirected edge
            may be given; they count once.
        edge_ids: the edges as columns of `data.edge_index`, `[F]`.
        ratio: draw `int(ratio * num_training_edges)` edges, 0 < ratio < 1.
        count: draw this many edges.
        region: where drawn edges lie: "in" the two-hop neighbourhood of the test edges, "out" of it, or "any".
        protocol: "inpo" repeats the draw of the official INPO code, for a split made with the same seed. Its quirks:
            always "in", whatever `region` says; around validation edges, not test edges; hops along row < col
            edges from col to row only.
        by: order of the draw: "random", "degree" (largest sum of the end points' degrees first, ties at random) or
            "influence" (highest score first; `resolve` needs `scores`, of which an edge takes its columns' largest).
        seed: of the draw; the global random state is left alone.
        edge_type: the relation, in a graph with `data.edge_type` `[E]` (triples of a knowledge graph): `edge_index`
            names edges of it, a draw is among them. `None` means every relation between the named nodes.

    Raises:
        EmptyForgetSetError: no edges are named.
        InvalidRequestError: any other wrong argument.

    Example:
        >>> from torch_geometric.data import Data
        >>> data = Data(edge_index=torch.tensor([[0, 1, 1, 2, 2, 3], [1, 0, 2, 1, 3, 2]]), num_nodes=4)
        >>> ForgetEdges([(0, 1), (3, 2)]).resolve(data).num_forget
        2
        >>> ForgetEdges(ratio=0.4, seed=1).resolve(data).retain_data
        Data(edge_index=[2, 4], num_nodes=4)
    """

    kind: ClassVar[str] = "edges"

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

    def __post_init__(self) -> None:
        """Check all that can be checked without the data."""
        given = the_one_given(self, ("edge_index", "edge_ids", "ratio", "count"))
        for name, allowed in (("region", REGIONS), ("protocol", PROTOCOLS), ("by", ORDERS)):
            if getattr(self, name) not in allowed:
                raise InvalidRequestError(f"Expected '{name}' to be one of {allowed} (got {getattr(self, name)!r})")
        check_seed(self.seed)
        if given in ("edge_index", "edge_ids"):
            changed = [name for name in ("region", "protocol", "by") if getattr(self, name) != _DEFAULTS[name]]
            if changed:
                raise InvalidRequestError(f"Expected {', '.join(changed)} with ratio or count only (got {given})")
            # A copy of our own: the request must not change when the caller's tensor does.
            object.__setattr__(self, given, _named_tensor(getattr(self, given), given))
        check_size(self.ratio, self.count, "edge")
        if self.edge_type is not None:
            if isinstance(self.edge_type, bool) or not isinstance(self.edge_type, int) or self.edge_type < 0:
                raise InvalidRequestError(f"Expected 'edge_type' to be an integer >= 0 (got {self.edge_type!r})")
            if given == "edge_ids":
                raise InvalidRequestError("Expected edge_type with edge_index, ratio or count (got edge_ids)")
        if self.protocol is not None and self.by != "random":
            raise InvalidRequestError(f"Expected by='random' with protocol {self.protocol!r} (got {self.by!r})")
        if self.protocol == "inpo" and self.region == "out":
            warnings.warn(
                "protocol='inpo' draws inside the region whatever 'region' says, as the official code does; for a "
                "draw that is really outside use region='out' without a protocol",
                stacklevel=3,
            )

    def select(self, graph: TrainingGraph, scores: Tensor | None) -> Tensor:
        """Columns of the named or drawn edges."""
        if self.edge_type is not None and graph.edge_type is None:
            raise InvalidRequestError(f"Expected data with 'edge_type' for edge_type={self.edge_type} (got none)")
        if self.edge_index is not None:
            edges = _named_edges(graph, self.edge_index, self.edge_type)
        elif self.edge_ids is not None:
            edges = _edges_of_ids(graph, self.edge_ids)
        else:
            edges = draw_edges(self, graph, scores)
        return graph.columns_of(edges)

    def content(self) -> Hashable:
        """All arguments, named edges sorted."""
        return tuple(_sorted_content(getattr(self, field.name)) for field in fields(self))

    def __repr__(self) -> str:
        """The arguments that were given; of named edges the first few."""
        shown = []
        for name, default in _DEFAULTS.items():
            value = getattr(self, name)
            if isinstance(value, Tensor) and value.dim() == 2:
                shown.append(f"[{show_pairs(value, 3)}]")
            elif isinstance(value, Tensor):
                shown.append(f"{name}=[{', '.join(map(str, value[:3].tolist()))}{', ...' if len(value) > 3 else ''}]")
            elif value != default:
                shown.append(f"{name}={value!r}")
        return f"ForgetEdges({', '.join(shown)})"


_DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(ForgetEdges)}


def _named_tensor(value: Any, name: str, noun: str = "edge") -> Tensor:
    """Named edges as an int64 CPU tensor: `[2, F]`, or `[F]` for ids."""
    is_list = isinstance(value, (list, tuple))
    try:
        tensor = value.detach() if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(f"Expected '{name}' to hold integers (got {error})") from error
    if tensor.numel() == 0:
        raise EmptyForgetSetError(f"Expected '{name}' to name at least one {noun} (got none)")
    pairs = name == "edge_index"
    # A list is always one of pairs: two lists of two nodes each could be read either way.
    if tensor.dim() != 1 + pairs or (pairs and tensor.size(1 if is_list else 0) != 2):
        expected = "a list of pairs, or a tensor of shape [2, F]" if pairs else "of shape [F]"
        raise InvalidRequestError(f"Expected '{name}' to be {expected} (got shape {tuple(tensor.shape)})")
    if pairs and is_list:
        tensor = tensor.t()
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        hint = "; a boolean mask goes to 'mask='" if tensor.dtype == torch.bool and not pairs else ""
        raise InvalidRequestError(f"Expected '{name}' to hold integers (got {tensor.dtype}{hint})")
    return torch.clone(tensor.to("cpu", torch.long)).contiguous()


def _sorted_content(value: Any) -> Hashable:
    """A tensor as a tuple of its sorted columns, a mask as its size and its ids; anything else as it is."""
    if not isinstance(value, Tensor):
        return value
    if value.dtype == torch.bool:
        return tuple(value.shape), value.nonzero().numpy().tobytes()
    array = np.atleast_2d(value.numpy())
    return array[:, np.lexsort(array[::-1])].tobytes()


def _named_edges(graph: TrainingGraph, edge_index: Tensor, edge_type: int | None = None) -> Tensor:
    """Numbers of the edges that `edge_index` names; an undirected edge may come in both directions."""
    named = edge_index.to(graph.edge_index.device)
    if edge_type is None and graph.edge_type is not None:  # all relations between the pair
        key, columns = graph.pair_key(named), graph.pair_key(graph.edge_index)
        edges = torch.where(torch.isin(key, columns), key, -1)
        found = graph.edge_of_column[torch.isin(columns, key)].unique()
    else:
        edges = found = graph.find(named, edge_type)
    missing = named[:, edges < 0]
    if missing.numel():
        raise InvalidRequestError(_why_missing(graph, missing))
    # Both directions of an undirected edge are how PyG writes it; the same column twice is a mistake.
    _, column_of, counts = (2 * edges + (named[0] > named[1])).unique(return_inverse=True, return_counts=True)
    if bool((counts > 1).any()):
        raise InvalidRequestError(
            f"Expected each edge once (got {int((counts - 1).sum())} repeated columns, of "
            f"{show_pairs(named[:, counts[column_of] > 1])})"
        )
    return found


def _why_missing(graph: TrainingGraph, missing: Tensor) -> str:
    """Message about named edges that are not in the training graph; held-out ones are told apart."""
    for name in ("val_pos_edge_index", "test_pos_edge_index"):
        held_out = getattr(graph.data, name, None)
        if not isinstance(held_out, Tensor) or held_out.numel() == 0:
            continue
        held_out = held_out.to(missing.device)
        if graph.is_undirected:
            held_out = torch.cat([held_out, held_out.flip(0)], dim=1)
        # Renumbered, so that the keys of any node ids fit into int64.
        nodes, local = torch.cat([held_out, missing], dim=1).unique(return_inverse=True)
        keys = local[0] * nodes.numel() + local[1]
        found = missing[:, torch.isin(keys[held_out.size(1) :], keys[: held_out.size(1)])]
        if found.numel():
            return (
                f"Expected training edges (got {found.size(1)} held-out edges of '{name}': {show_pairs(found)}); "
                "forget sets come from training edges only"
            )
    return (
        f"Expected edges of the {'undirected' if graph.is_undirected else 'directed'} training graph (got "
        f"{missing.size(1)} that it does not have: {show_pairs(missing)})"
    )


def _edges_of_ids(graph: TrainingGraph, edge_ids: Tensor) -> Tensor:
    """Numbers of the edges in the given columns."""
    outside = edge_ids[(edge_ids < 0) | (edge_ids >= graph.num_columns)]
    if outside.numel():
        raise InvalidRequestError(
            f"Expected 'edge_ids' in [0, {graph.num_columns}) (got {outside.numel()} outside: {outside[:5].tolist()})"
        )
    repeated, counts = edge_ids.unique(return_counts=True)
    if repeated.numel() != edge_ids.numel():
        raise InvalidRequestError(f"Expected each id once (got repeated {repeated[counts > 1][:5].tolist()})")
    return graph.edge_of_column[edge_ids.to(graph.edge_index.device)]
