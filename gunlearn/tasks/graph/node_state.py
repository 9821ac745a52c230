"""What a model keeps of single nodes (embedding tables, biases, memories), and new values for those that are forgotten.

Entries of a tensor belong to forgotten nodes where they stand at their places in some numbering of the nodes, and no
prediction of what stays changes when they are replaced. That is tried on the retained graph, one pass per candidate.
"""

from __future__ import annotations

import copy
import warnings
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gunlearn.errors import GunlearnError
from gunlearn.seed import isolated_rng
from gunlearn.tasks.graph.fresh_values import Draws, FreshValues, Slice, named_tensors, node_records
from gunlearn.tasks.graph.node_places import Place, Places, may_be_table

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
        nodes = set(range(int(partition.data.num_nodes)))
        stores = ", ".join(f"'{name}'" for name, records in node_records(model).items() if records.keys() == nodes)
        if stores and partition.forget_edge_index.numel():
            warnings.warn(
                f"{stores} keep records per node, which may hold messages of the forgotten edges: they stay, and so "
                "does what memories learned from them; compute them again from the retained edges",
                stacklevel=2,
            )
        return found
    tensors = named_tensors(model)
    tables = {name: value.size(0) for name, (owner, value) in tensors.items() if may_be_table(owner, value)}
    places, trial, draws = Places(partition, tables), _Trial(model, task, partition, seed), Draws(model, seed)
    for name, (owner, value) in tensors.items():
        looked_up = trial.looked_up(name) if isinstance(owner, nn.Embedding) else None
        for dim in range(value.dim()):
            options = places.of(name, owner, value, dim, looked_up)
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
    warnings.warn(
        f"'{name}' is as long in dimension {dim} as the graph has nodes. If it holds per-node state (a row for each "
        "node), that of forgotten nodes is still in the model: predictions of other nodes depend on it, so it was "
        "left; reset it yourself, or ignore this if the size is the same by chance",
        stacklevel=2,
    )
    return None


class _Trial:
    """A copy of a model in which entries are replaced to see which predictions change."""

    def __init__(self, model: nn.Module, task: Task, partition: Any, seed: int) -> None:
        self.trained, self.task, self.partition, self.seed = model, task, partition, seed
        self.graph = copy.copy(partition.retain_data)  # forgotten nodes have no edges here, but their own features
        self.graph.x = partition.data.get("x")
        self.model: nn.Module | None = None
        self.before: tuple[list[Tensor], list[Tensor]] | None = None
        self.lookups: dict[str, Tensor] = {}

    def _start(self) -> nn.Module:
        if self.model is None:
            self.model = copy.deepcopy(self.trained).eval()
            self.before = self._read(self.model)
        return self.model

    def looked_up(self, name: str) -> Tensor | None:
        """Return the rows of an embedding (by the name of its table) that forgotten nodes alone look up, `[k]`."""
        self._start()
        index = self.lookups.get(name.rpartition(".")[0])
        data, gone = self.partition.data, self.partition.is_forgotten_node
        if index is None:
            return None
        if index.size(0) != gone.numel():
            kinds = data.get("node_type")
            groups = [] if kinds is None else [gone[kinds == kind] for kind in kinds.unique()]
            gone = next((group for group in groups if group.numel() == index.size(0)), gone[:0])
        if not gone.numel():
            return None
        own = index[gone].unique()
        return own[~torch.isin(own, index[~gone])]

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
            stays, same = (all(map(_close, *both)) for both in zip(self.before, after, strict=True))
            if stays and not same:
                self.before = after
                return True, True
        value.index_copy_(new.dim, new.index, old)
        return after is not None and stays, False

    def _read(self, model: nn.Module) -> tuple[list[Tensor], list[Tensor]] | None:
        """Return the predictions of what stays, and those of forgotten nodes and edges; `None` if there are none."""
        partition, found = self.partition, ([], [])  # type: tuple[Any, tuple[list[Tensor], list[Tensor]]]
        try:
            with isolated_rng(self.seed), torch.no_grad(), ExitStack() as stack:
                for name, module in model.named_modules():
                    if isinstance(module, nn.Embedding):
                        handle = module.register_forward_pre_hook(self._listen(name))
                        stack.callback(handle.remove)
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

    def _listen(self, name: str) -> Any:
        def hear(module: nn.Module, args: tuple) -> None:
            if args and isinstance(args[0], Tensor) and args[0].dim():
                self.lookups.setdefault(name, args[0].detach().long())

        return hear


def _close(one: Tensor, other: Tensor) -> bool:
    """Return whether predictions are equal up to rounding."""
    if one.shape != other.shape:
        return False
    share = 1e-5 if torch.finfo(one.dtype).eps < 1e-6 else 1e-2
    size = float(one.abs().max()) if one.numel() else 0.0
    return torch.allclose(one, other, rtol=share, atol=share * size, equal_nan=True)
