"""What a model keeps of single nodes (embedding tables, biases, memories), and new values for those that are forgotten.

Entries of a tensor belong to forgotten nodes where they stand at their places in some numbering of the nodes, and no
prediction of what stays changes when they are replaced. That is tried on the retained graph, one pass per candidate.
"""

from __future__ import annotations

import copy
import warnings
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gunlearn.errors import GunlearnError
from gunlearn.requests.prepared import facts_of
from gunlearn.seed import isolated_rng
from gunlearn.tasks.graph.edge_memories import warn_of_memories
from gunlearn.tasks.graph.fresh_values import Draws, FreshValues, Slice
from gunlearn.tasks.graph.held_tensors import named_tensors
from gunlearn.tasks.graph.lookups import Lookups, own_rows
from gunlearn.tasks.graph.node_places import Place, Places, may_be_table
from gunlearn.tasks.graph.node_records import node_records
from gunlearn.tasks.graph.one_hot import OneHotInputs
from gunlearn.tasks.graph.own_entries import FOREIGN, own_entries
from gunlearn.tasks.graph.same_outputs import same_outputs
from gunlearn.tasks.graph.shared_rows import warn_of_shared_rows
from gunlearn.tasks.known_models import model_key

if TYPE_CHECKING:
    from gunlearn.tasks.base import Task


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
    found, nodes, edges = FreshValues(), partition.forget_nodes.numel(), partition.forget_edge_index.numel()
    if not nodes and not edges:
        return found
    tensors, draws = named_tensors(model), Draws(model, seed)
    trial = _Trial(model, task, partition, seed)
    own = own_entries(model, task, partition, trial.graph, seed)
    if nodes:
        tables = {name: value.size(0) for name, (owner, value) in tensors.items() if may_be_table(owner, value)}
        places = Places(partition, tables)
        for name, (owner, value) in tensors.items():
            for dim in range(value.dim() if not _is_table_of_ids(value, places.size) else 0):
                options = places.of(name, owner, value, dim, trial.looked_up(name, dim))
                chosen = None
                if options:
                    chosen = _choose(name, owner, dim, options, trial, draws, places.no_features, name in own)
                if chosen is not None:
                    found.slices.append(chosen)
    _add_single_entries(found, own, tensors, trial, draws)
    if not nodes:
        warn_of_memories(model, partition, {one.name for one in found.slices})
        return found
    warn_of_shared_rows(trial.lookups, trial.groups(), model, task, partition)
    for name, store in node_records(model, places.size).items():
        found.records.append((name, places.size, draws.records(name, store, partition.forget_nodes.tolist())))
        warnings.warn(
            f"'{name}' keeps a record per node: those of forgotten nodes were made new, empty or zero unless the model "
            "resets them in its own way; see for yourself whether records of other nodes name them",
            stacklevel=2,
        )
    return found


def _is_table_of_ids(value: Tensor, size: int) -> bool:
    """Return whether a tensor is an integer table `[num_nodes, k]` that may number nodes: see `stored_graphs`."""
    table = value.dtype in (torch.long, torch.int, torch.short) and value.dim() == 2 and value.size(0) == size
    return table and value.numel() > 0 and int(value.min()) >= -1 and 1 < int(value.max()) <= size


def _add_single_entries(found: FreshValues, own: dict[str, Tensor], tensors: Any, trial: _Trial, draws: Draws) -> None:
    """Add the entries that what is forgotten alone reads, and that no slice holds."""
    for name, entries in own.items():
        owner, value = tensors[name]
        covered = torch.zeros(value.shape, dtype=torch.bool, device=value.device)
        for one in found.slices:
            if one.name == name:
                covered.index_fill_(one.dim, one.index, True)
        if bool(covered.reshape(-1)[entries].all()):
            continue
        entries = torch.cat([entries, covered.reshape(-1).nonzero().view(-1)]).unique()
        new = draws.slice(name, owner, -1, entries)
        if trial.put(new)[0]:
            found.slices = [one for one in found.slices if one.name != name] + [new]
        else:
            warnings.warn(
                f"'{name}' has {entries.numel()} entries that only forgotten nodes or edges read in training, and "
                "predictions of others depend on them now, so they were left; reset them yourself",
                stacklevel=2,
            )


def _choose(
    name: str,
    owner: nn.Module,
    dim: int,
    options: list[Place],
    trial: _Trial,
    draws: Draws,
    no_features: bool,
    known: bool,
) -> Slice | None:
    """Return new values at the first place that fits; where none does, `None`, with a warning if one may.

    No warning of a guess where the entries of forgotten nodes are `known` otherwise.
    """
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
    if certain is None or (known and certain.why):
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
        self.columns: dict[str, Tensor] = {}
        self.facts = facts_of(partition.data)

    @cached_property
    def fact(self) -> tuple[str, str]:
        """The name of what later requests on a prepared graph need not try."""
        return "looks nothing up", model_key(self.trained, self.task)

    def _start(self) -> nn.Module:
        if self.model is None:
            self.model = copy.deepcopy(self.trained).eval()
            seen = Lookups(self.model, set(self.groups()))
            with seen, OneHotInputs(self.model, self.partition.is_forgotten_node) as inputs:
                self.before = self._read(self.model)
            self.lookups, self.columns = seen.found, inputs.columns
            if self.facts is not None and self.before is not None and not self.lookups and not self.columns:
                self.facts[self.fact] = True
        return self.model

    def groups(self) -> dict[int, Tensor]:
        """Return which nodes are forgotten, among all and among those of each type, by their number."""
        gone, kinds = self.partition.is_forgotten_node, self.partition.data.get("node_type")
        groups = [] if kinds is None else [gone[kinds == kind] for kind in kinds.unique()]
        return {group.numel(): group for group in (*reversed(groups), gone)}

    def looked_up(self, name: str, dim: int) -> Place | None:
        """Return the entries of a tensor that forgotten nodes alone look up by ids; `None` if there are none."""
        if self.facts is not None and self.facts.get(self.fact):  # an earlier request on a prepared graph has shown it
            return None
        self._start()
        if dim == 1 and name in self.columns:
            return Place(self.columns[name])
        index = self.lookups.get((name, dim))
        if index is None:
            return None
        own, alone = own_rows(index, self.groups()[index.size(0)])
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
        old = new.read(value).clone()
        new.write(value, new.values)
        after = self._read(model)
        if after is not None:
            stays, same = (all(map(same_outputs, *both)) for both in zip(self.before, after, strict=True))
            if stays and not same:
                self.before = after
                return True, True
        new.write(value, old)
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
        except (GunlearnError, *FOREIGN):
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
