"""Graphs that a model keeps for itself: lists of pairs and adjacency matrices among its buffers and attributes."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from gunlearn.errors import GunlearnError, UnsupportedModelError
from gunlearn.nn.attach.message_layers import CACHES
from gunlearn.requests.adjacency import is_adjacency, matrix_entries, rebuilt_matrix
from gunlearn.requests.list_names import list_shape
from gunlearn.seed import isolated_rng
from gunlearn.tasks.graph.node_state import same_outputs
from gunlearn.tasks.trial import private_copy

if TYPE_CHECKING:
    from gunlearn.tasks.base import Task

_CONTAINERS = 16  # entries of a list or dictionary that are looked at


@dataclass(frozen=True)
class _Stored:
    """Pairs `[2, k]` that a model keeps: their name, how to write others in their place, and whether they are edges."""

    name: str
    pairs: Tensor
    without: Callable[[Tensor], None]


def check_stored_graphs(model: nn.Module, task: Task, partition: Any, refuse: bool) -> bool:
    """Refuse a model that computes with a stored graph in which a forgotten edge stays; warn of one that only keeps it.

    Returns whether there is one. What it computes with is tried: outputs change when the forgotten pairs are taken out
    of a copy.

    Args:
        model: does not change.
        task: calls it.
        partition: the resolved request.
        refuse: warn only where false, for methods that train anew.

    Raises:
        UnsupportedModelError: it does; the message names the buffer.
    """
    if not bool(partition.forget_mask.any()):
        return False
    probe, kept = private_copy(getattr(model, "_orig_mod", model), task).eval(), []
    for one in _stored(probe, partition.data):
        gone = _forgotten(one, partition)
        if not bool(gone.any()):
            continue
        before = _outputs(probe, task, partition)
        one.without(~gone)
        after = _outputs(probe, task, partition)
        read = before is not None and (after is None or not same_outputs(before, after))
        if read and refuse:
            raise UnsupportedModelError(
                f"Expected a model that computes with the edges of 'data' alone (got '{one.name}' in "
                f"{type(probe).__name__}, which holds {int(gone.sum())} forgotten pairs and decides its outputs); let "
                "'forward' read edge_index, or take the pairs out of it yourself before this call"
            )
        kept.append(f"'{one.name}' ({int(gone.sum())} pairs{', which decide outputs' if read else ''})")
    if kept:
        warnings.warn(
            f"{type(probe).__name__} keeps forgotten pairs in {', '.join(kept)}: they stay in the result's model, and "
            "are saved with it where they are a buffer; take them out, or give the model a list made of result.data",
            stacklevel=4,
        )
    return bool(kept)


def _outputs(model: nn.Module, task: Task, partition: Any) -> Tensor | None:
    try:
        with isolated_rng(), torch.no_grad():
            return task.encode(model, partition.retain_data)
    except GunlearnError:  # other tensors of the model go with the pairs
        return None


def _forgotten(one: _Stored, partition: Any) -> Tensor:
    """Return which stored pairs are forgotten `[k]`; none of a list that does not consist of edges."""
    data, ids = partition.data, one.pairs
    if not ids.numel():
        return torch.zeros(0, dtype=torch.bool)
    size = max(int(data.num_nodes), int(ids.max()) + 1)
    edges = data.edge_index.to(ids.device)
    mask = partition.forget_mask.to(ids.device)
    key, turned = ids[0] * size + ids[1], ids[1] * size + ids[0]
    known = edges[0] * size + edges[1]
    stays = torch.isin(key, known[~mask])
    gone = (torch.isin(key, known[mask]) | torch.isin(turned, known[mask])) & ~stays
    listed = (stays | gone | torch.isin(turned, known) | (ids[0] == ids[1])).float().mean()
    gone |= torch.isin(ids, partition.forget_nodes.to(ids.device)).any(dim=0)
    return gone if float(listed) >= 0.5 else torch.zeros_like(gone)


def _stored(model: nn.Module, data: Data) -> Iterator[_Stored]:
    """Yield the pairs in buffers, plain attributes, and lists, dictionaries and graphs on a model's modules."""
    for path, owner in model.named_modules():
        before = f"{path}." if path else ""
        for name, value in owner.named_buffers(recurse=False):
            yield from _pairs(f"{before}{name}", name, value, data, owner._buffers)
        for name, value in list(vars(owner).items()):
            if name in CACHES or name in ("_parameters", "_buffers", "_modules"):
                continue
            yield from _pairs(f"{before}{name}", name, value, data, owner.__dict__)
            entries: Any = ()
            if type(value) is tuple:  # its entries are replaced
                value = owner.__dict__[name] = list(value)
            if isinstance(value, Data):
                value = owner.__dict__[name] = copy.copy(value)
                entries = [(key, value[key]) for key in value.keys()]  # noqa: SIM118
            elif type(value) in (list, dict):
                entries = list(value.items() if isinstance(value, dict) else enumerate(value))[:_CONTAINERS]
            for key, entry in entries:
                inner = key if isinstance(value, Data) else name
                yield from _pairs(f"{before}{name}.{key}", inner, entry, data, value, key)


def _pairs(full: str, name: str, value: Any, data: Data, place: Any, key: Any = None) -> Iterator[_Stored]:
    """Yield the pairs of one value, which stands at `place[key]` (`key` is `name` unless given)."""
    size, at = int(data.num_nodes or 0), name if key is None else key
    if is_adjacency(value, size) or _is_dense_graph(value, size):
        if isinstance(value, Tensor) and value.layout == torch.strided:
            row, col = value.nonzero().t()

            def zeroed(keep: Tensor) -> None:
                place[at] = value.index_put((row[~keep], col[~keep]), torch.zeros((), dtype=value.dtype))

            yield _Stored(full, torch.stack([row, col]), zeroed)
            return
        row, col, weight = matrix_entries(value)

        def fewer(keep: Tensor) -> None:
            place[at] = rebuilt_matrix(value, row[keep], col[keep], None if weight is None else weight[keep])

        yield _Stored(full, torch.stack([row, col]), fewer)
    elif isinstance(value, Tensor) and value.dim() == 2 and not value.is_floating_point():
        own = name if name != "edge_index" else "own_edge_index"
        ids = value.long()
        shape = list_shape(own, ids, size, (), rows=False)
        if shape is not None and ids.size(shape[0] ^ 1) == 2:
            dim = shape[0]

            def shorter(keep: Tensor) -> None:
                place[at] = value.index_select(dim, keep.nonzero().view(-1))

            yield _Stored(full, ids.t() if dim == 0 else ids, shorter)


def _is_dense_graph(value: Any, size: int) -> bool:
    """Return whether a dense matrix has an entry for some pairs of nodes only."""
    shape = isinstance(value, Tensor) and value.layout == torch.strided and value.shape == (size, size) and size > 2
    return shape and 0 < 2 * int(torch.count_nonzero(value)) < value.numel()
