"""What a model keeps of single nodes (embedding tables, biases, memories), and new values for those that are forgotten.

Entries of a tensor belong to forgotten nodes where they stand at their places in some numbering of the nodes, and no
prediction of what stays changes when they are replaced. That is tried on the retained graph, one pass per candidate.
"""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gunlearn.errors import GunlearnError
from gunlearn.seed import isolated_rng
from gunlearn.tasks.graph.fresh_values import Draws, FreshValues, Slice, named_tensors, node_records
from gunlearn.tasks.graph.lookups import Lookups, own_rows
from gunlearn.tasks.graph.node_places import Place, Places, may_be_table, may_hold_rows

if TYPE_CHECKING:
    from gunlearn.tasks.base import Task

_FOREIGN = (RuntimeError, IndexError, KeyError, ValueError, TypeError, AttributeError)  # of a model on another graph


def forgotten_state(model: nn.Module, task: Task, partition: Any, seed: int) -> FreshValues:
    """Return new values for what `model` keeps of forgotten nodes; none where a request names no node.

    A tensor as long as the graph has nodes stays as it is, and a warning names it, where predictions of other nodes
    depend on the entries; but an `nn.Embedding` of a model without features can hold nothing else than a row per node.

    Args:
        model: the trained model; it does not change.
        task: calls it.
        partition: the resolved request.
        seed: of the new values; the caller's random state does not change.
    """
    found = FreshValues()
    if not partition.forget_nodes.numel():
        if partition.forget_edge_index.numel():
            _warn_of_memories(model, partition)
        return found
    tensors = named_tensors(model)
    tables = {name: value.size(0) for name, (owner, value) in tensors.items() if may_be_table(owner, value)}
    places, trial, draws = Places(partition, tables), _Trial(model, task, partition, seed), Draws(model, seed)
    for name, (owner, value) in tensors.items():
        for dim in range(value.dim()):
            options = places.of(name, owner, value, dim, trial.looked_up(name, dim))
            chosen = _choose(name, owner, dim, options, trial, draws, places.no_features) if options else None
            if chosen is not None:
                found.slices.append(chosen)
    for name, records in node_records(model).items():
        if records.keys() == set(range(places.size)):
            found.records.append((name, partition.forget_nodes.tolist(), draws.records(name)))
            warnings.warn(
                f"'{name}' keeps a record per node: those of forgotten nodes were made new; see for yourself whether "
                "records of other nodes name them",
                stacklevel=2,
            )
    return found


def _warn_of_memories(model: nn.Module, partition: Any) -> None:
    """Warn of buffers and records by node, which may have been computed from forgotten edges.

    They are left: new ones for the nodes at the ends would lose all other events of these nodes, and other nodes would
    still hold what was passed on to them.
    """
    size, x = int(partition.data.num_nodes), partition.data.get("x")
    stores = [name for name, records in node_records(model).items() if records.keys() == set(range(size))]
    tensors, buffers = named_tensors(model), dict(model.named_buffers())
    for name, (owner, value) in tensors.items():
        rows = value.is_floating_point() and value.dim() > 0 and value.size(0) == size and may_hold_rows(owner)
        if not rows or name not in buffers or bool((value == value[:1]).all()):
            continue
        if not (isinstance(x, Tensor) and x.shape == value.shape and torch.equal(x.to(value), value)):
            stores.append(name)
    if stores:
        said = ", ".join(f"'{name}'" for name in sorted(stores))
        warnings.warn(
            f"{said} keep records per node, which may hold messages of the {partition.forget_edge_index.size(1)} "
            f"forgotten edges: those of the {partition.touched_nodes.numel()} nodes at their ends, and of nodes that "
            "got messages from these. They stay as they are, since new ones for some nodes would lose all their other "
            "events; reset all of them (reset_state(), where the memory has it) and replay the retained events, or "
            "compute them anew from result.data",
            stacklevel=2,
        )


def _choose(
    name: str, owner: nn.Module, dim: int, options: list[Place], trial: _Trial, draws: Draws, no_features: bool
) -> Slice | None:
    """Return new values at the first place that fits; where none does, `None`, with a warning if one may."""
    unread = None
    for place in options:
        new = draws.slice(name, owner, dim, place.index)
        stays, changes = trial.put(new)
        if stays and changes:
            return new
        if stays and place.by_size and unread is None:
            unread = new
    if unread is not None:  # no prediction reads it, as the time of a node's last event
        return unread
    certain = next((place for place in options if place.of_all), None)
    if certain is None:
        return None
    if isinstance(owner, nn.Embedding) and no_features:
        return draws.slice(name, owner, dim, certain.index)
    why, chance = certain.words
    warnings.warn(
        f"'{name}' {why} in dimension {dim}. If it holds per-node state (a row for each node), that of forgotten nodes "
        f"is still in the model: predictions of other nodes depend on it, so it was left; reset it yourself{chance}",
        stacklevel=2,
    )
    return None


class _Trial:
    """A copy of a model in which entries are replaced to see which predictions change."""

    def __init__(self, model: nn.Module, task: Task, partition: Any, seed: int) -> None:
        self.trained, self.task, self.partition, self.seed = model, task, partition, seed
        self.graph = _with_own_rows(partition)
        self.model: nn.Module | None = None
        self.before: tuple[list[Tensor], list[Tensor]] | None = None
        self.lookups: dict[tuple[str, int], Tensor] = {}

    def _start(self) -> nn.Module:
        if self.model is None:
            self.model = copy.deepcopy(self.trained).eval()
            seen = Lookups(self.model, set(self._groups()))
            with seen:
                self.before = self._read(self.model)
            self.lookups = seen.found
        return self.model

    def _groups(self) -> dict[int, Tensor]:
        """Return which nodes are forgotten, among all and among those of each type, by their number."""
        gone, kinds = self.partition.is_forgotten_node, self.partition.data.get("node_type")
        groups = [] if kinds is None else [gone[kinds == kind] for kind in kinds.unique()]
        return {group.numel(): group for group in (*reversed(groups), gone)}

    def looked_up(self, name: str, dim: int) -> Place | None:
        """Return the entries of a tensor that forgotten nodes alone look up by ids; `None` if there are none."""
        self._start()
        index = self.lookups.get((name, dim))
        if index is None:
            return None
        own, alone = own_rows(index, self._groups()[index.size(0)])
        return Place(own, alone, alone, "has entries that forgotten nodes look up by their ids")

    @torch.no_grad()
    def put(self, new: Slice) -> tuple[bool, bool]:
        """Return whether all predictions of what stays are as before, and whether others change.

        Where both hold the new values stay in the copy.
        """
        model = self._start()
        if self.before is None:
            return False, False
        value = named_tensors(model)[new.name][1]
        old = value.index_select(new.dim, new.index).clone()
        value.index_copy_(new.dim, new.index, new.values)
        after = self._read(model)
        if after is not None:
            stays, same = (all(map(same_outputs, *both)) for both in zip(self.before, after, strict=True))
            if stays and not same:
                self.before = after
                return True, True
        value.index_copy_(new.dim, new.index, old)
        return after is not None and stays, False

    def _read(self, model: nn.Module) -> tuple[list[Tensor], list[Tensor]] | None:
        """Return the predictions of what stays, and those of forgotten nodes and edges; `None` if there are none."""
        partition, found = self.partition, ([], [])  # type: tuple[Any, tuple[list[Tensor], list[Tensor]]]
        try:
            with isolated_rng(self.seed), torch.no_grad():
                out = self.task.encode(model, self.graph)
                gone = partition.is_forgotten_node
                if out.size(0) != gone.numel():
                    rows = partition.data.batch[partition.forget_nodes]
                    gone = torch.zeros(out.size(0), dtype=torch.bool, device=out.device).index_fill_(0, rows, True)
                pairs = (partition.retain_edge_index, partition.forget_edge_index)
                for part, mask, edges in zip(found, (~gone, gone), pairs, strict=True):
                    part.append(out[mask])
                    if hasattr(self.task, "edge_items") and edges.numel():
                        items = self.task.edge_items(self.graph, edges)
                        part.append(self.task.read(model, out, items).log_prob)
        except (GunlearnError, *_FOREIGN):
            return None
        return found


def _with_own_rows(partition: Any) -> Any:
    """Return the retained graph, in which forgotten nodes have no edges, but their own features, ids and the like."""
    data, graph = partition.data, copy.copy(partition.retain_data)
    for name in data.keys():  # noqa: SIM118 - iterating a Data yields pairs
        own, left = data[name], graph.get(name)
        rows = isinstance(own, Tensor) and isinstance(left, Tensor) and own.dim() and own.size(0) == data.num_nodes
        if rows and own.shape == left.shape and not name.startswith("edge"):
            graph[name] = own
    return graph


def same_outputs(one: Tensor, other: Tensor) -> bool:
    """Return whether predictions are equal up to rounding."""
    if one.shape != other.shape:
        return False
    share = 1e-5 if torch.finfo(one.dtype).eps < 1e-6 else 1e-2
    size = float(one.abs().max()) if one.numel() else 0.0
    return torch.allclose(one, other, rtol=share, atol=share * size, equal_nan=True)
