"""Entries of a model's tensors that only forgotten nodes and edges read, whatever the layout of the tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gunlearn.errors import GunlearnError
from gunlearn.seed import isolated_rng
from gunlearn.tasks.graph.held_tensors import named_tensors
from gunlearn.tasks.graph.node_places import may_hold_rows
from gunlearn.tasks.graph.stored_forms import pair_of
from gunlearn.tasks.trial import private_copy

if TYPE_CHECKING:
    from gunlearn.tasks.base import Task

FOREIGN = (RuntimeError, IndexError, KeyError, ValueError, TypeError, AttributeError)  # of a model on another graph
_GATES = {torch.relu, torch.relu_, nn.functional.relu, Tensor.relu, Tensor.relu_, nn.functional.relu6}


def own_entries(model: nn.Module, task: Task, partition: Any, retained: Any, seed: int) -> dict[str, Tensor]:
    """Return by name of a tensor the entries, counted as in the flat tensor, that what is forgotten alone reads.

    Gradients tell: outputs of forgotten nodes, which have no edges, depend on an entry, and no output for what stays
    does. Weights by pair of nodes are a forgotten edge's own where outputs on the original graph depend on them and no
    output for what stays does. Layers are left out, whose entries are shared.

    Args:
        model: does not change.
        task: calls it.
        partition: the resolved request.
        retained: the retained graph, on which forgotten nodes have their own features and no edges.
        seed: of what a model draws in its pass.
    """
    nodes, pairs, size = partition.forget_nodes.numel() > 0, set(), int(partition.data.num_nodes)
    tensors: dict[str, Tensor] = {}
    for name, (owner, value) in named_tensors(model).items():
        if value.is_floating_point() and value.is_leaf and may_hold_rows(owner):
            by_pair = _is_by_pair(name, owner, value, size)
            pairs |= {name} if by_pair else set()
            tensors |= {name: value} if by_pair or nodes else {}
    if not tensors:
        return {}
    probe = private_copy(getattr(model, "_orig_mod", model), task).eval()
    tensors = {name: value for name, (_, value) in named_tensors(probe).items() if name in tensors}
    for value in tensors.values():
        value.requires_grad_(True)
    found = {}
    with isolated_rng(seed), torch.enable_grad(), _Open():
        kept, own = _gradients(probe, task, retained, partition, tensors, forgotten=nodes)
        every = _gradients(probe, task, partition.data, None, tensors, forgotten=False)[0] if pairs else {}
    for name, stays in kept.items():
        mask = torch.zeros_like(stays, dtype=torch.bool)
        for read in (own.get(name), every.get(name) if name in pairs else None):
            mask |= torch.zeros_like(mask) if read is None else (read != 0) & (stays == 0)
        if bool(mask.any()) and not _is_of_features(mask, partition.data.get("x")):
            found[name] = mask.reshape(-1).nonzero().view(-1)
    return found


def _is_by_pair(name: str, owner: nn.Module, value: Tensor, size: int) -> bool:
    if isinstance(owner, nn.ParameterDict):
        return pair_of(name.rpartition(".")[2]) is not None
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
    model: nn.Module, task: Task, graph: Any, partition: Any | None, tensors: dict[str, Tensor], forgotten: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the gradients of random sums of outputs: those for what stays, and those of `forgotten` nodes.

    All outputs stay where there is no `partition`. Both are empty where the model has no outputs by node there.
    """
    try:
        out = task.encode(model, graph)
        gone = torch.zeros(int(graph.num_nodes), dtype=torch.bool, device=out.device)
        gone = gone if partition is None else partition.is_forgotten_node
        if out.size(0) != gone.numel():
            return {}, {}
        nodes = gone.nonzero().view(-1)
        parts = [(out[~gone], graph.edge_index if partition is None else partition.retain_edge_index)]
        parts += [(out[nodes], torch.stack([nodes, nodes]))] if forgotten else []
        found: list[dict[str, Tensor]] = [{}, {}]
        for place, (rows, pairs) in enumerate(parts):
            outputs = [rows]
            if hasattr(task, "edge_items") and pairs.numel():
                outputs.append(task.read(model, out, task.edge_items(graph, pairs)).log_prob)
            total = torch.stack([(one * torch.rand_like(one).add(0.5)).sum() for one in outputs]).sum()
            if not total.requires_grad:
                return {}, {}
            values = torch.autograd.grad(total, list(tensors.values()), retain_graph=True, allow_unused=True)
            named = zip(tensors.items(), values, strict=True)
            found[place] = {name: torch.zeros_like(t) if v is None else v.to_dense() for (name, t), v in named}
    except (GunlearnError, *FOREIGN):
        return {}, {}
    return found[0], found[1]
