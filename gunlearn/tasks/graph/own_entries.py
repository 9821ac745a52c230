"""Entries of a model's tensors that only forgotten nodes and edges read, whatever the layout of the tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gunlearn.errors import GunlearnError
from gunlearn.seed import isolated_rng
from gunlearn.tasks.graph.fresh_values import named_tensors
from gunlearn.tasks.graph.node_places import may_hold_rows
from gunlearn.tasks.trial import private_copy

if TYPE_CHECKING:
    from gunlearn.tasks.base import Task

FOREIGN = (RuntimeError, IndexError, KeyError, ValueError, TypeError, AttributeError)  # of a model on another graph
_GATES = {torch.relu, torch.relu_, nn.functional.relu, Tensor.relu, Tensor.relu_, nn.functional.relu6}


def own_entries(model: nn.Module, task: Task, partition: Any, retained: Any, seed: int) -> dict[str, Tensor]:
    """Return by name of a tensor the entries, counted as in the flat tensor, that what is forgotten alone reads.

    Two passes with gradients: an entry is so where outputs on the original graph depend on it and no output for what
    stays does on the retained graph. Layers are left out, whose entries are shared; under edge requests all but the
    weights by pair of nodes are, since what is left of a node's edges is no matter of its own row.

    Args:
        model: does not change.
        task: calls it.
        partition: the resolved request.
        retained: the retained graph, on which forgotten nodes have their own features and no edges.
        seed: of what a model draws in its pass.
    """
    probe, nodes = private_copy(getattr(model, "_orig_mod", model), task).eval(), partition.forget_nodes.numel() > 0
    tensors = {
        name: value
        for name, (owner, value) in named_tensors(probe).items()
        if value.is_floating_point() and value.is_leaf and may_hold_rows(owner)
        if nodes or _is_by_pair(name, owner, value, int(partition.data.num_nodes))
    }
    if not tensors:
        return {}
    for value in tensors.values():
        value.requires_grad_(True)
    full = _gradients(probe, task, partition, tensors, seed, None)
    kept = None if full is None else _gradients(probe, task, partition, tensors, seed, retained)
    if full is None or kept is None:
        return {}
    found = {}
    for name, value in tensors.items():
        mask = (full[name] != 0) & (kept[name] == 0)
        if bool(mask.any()) and not _is_of_features(mask, partition.data.get("x")):
            found[name] = mask.reshape(-1).nonzero().view(-1)
        value.requires_grad_(False)
    return found


def _is_by_pair(name: str, owner: nn.Module, value: Tensor, size: int) -> bool:
    if isinstance(owner, nn.ParameterDict):
        return sum(part.isdigit() for part in name.rpartition(".")[2].replace("_", "-").split("-")) == 2
    return value.dim() >= 2 and value.shape[:2] == (size, size)


def _is_of_features(mask: Tensor, x: Any) -> bool:
    """Return whether entries are the weights of some features, such as words that only forgotten nodes have."""
    if bool(mask.all()):
        return False
    width = x.size(1) if isinstance(x, Tensor) and x.dim() == 2 else -1
    for dim in range(mask.dim() if width > 0 else 0):
        lines = mask.transpose(0, dim).reshape(mask.size(dim), -1)
        if mask.size(dim) == width and bool((lines.any(dim=1) == lines.all(dim=1)).all()):
            return True
    return False


class _Open(TorchFunctionMode):
    """Lets gradients through units that are switched off: whether they are is a matter of values, not of who reads."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in _GATES:
            return nn.functional.leaky_relu(args[0], 0.5)
        return func(*args, **(kwargs or {}))


def _gradients(
    model: nn.Module, task: Task, partition: Any, tensors: dict[str, Tensor], seed: int, retained: Any | None
) -> dict[str, Tensor] | None:
    """Return the gradient of a random sum of the outputs on one graph; `None` where the model has none there."""
    whole = retained is None
    graph, everything = partition.data if whole else retained, partition.retain_edge_index
    try:
        with isolated_rng(seed), torch.enable_grad(), _Open():
            out = task.encode(model, graph)
            rows = torch.ones(out.size(0), dtype=torch.bool, device=out.device)
            if not whole and out.size(0) == partition.is_forgotten_node.numel():
                rows = ~partition.is_forgotten_node
            sums = [out[rows]]
            if hasattr(task, "edge_items"):
                edges = [everything, partition.forget_edge_index] if whole else [everything]
                for pairs in edges:
                    if pairs.numel():
                        sums.append(task.read(model, out, task.edge_items(graph, pairs)).log_prob)
            total = sum((one * torch.rand_like(one).add(0.5)).sum() for one in sums)
            if not isinstance(total, Tensor) or not total.requires_grad:
                return None
            found = torch.autograd.grad(total, list(tensors.values()), allow_unused=True)
    except (GunlearnError, *FOREIGN):
        return None
    named = zip(tensors.items(), found, strict=True)
    return {name: torch.zeros_like(value) if gradient is None else gradient for (name, value), gradient in named}
