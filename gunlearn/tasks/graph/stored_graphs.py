"""Graphs that a model keeps for itself: lists of pairs and adjacency matrices among its buffers and attributes."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from gunlearn.errors import GunlearnError, UnsupportedModelError
from gunlearn.nn.attach.message_layers import CACHES
from gunlearn.requests.adjacency import is_adjacency, matrix_entries, rebuilt_matrix
from gunlearn.requests.list_names import list_shape
from gunlearn.requests.prepared import facts_of
from gunlearn.seed import isolated_rng
from gunlearn.tasks.graph.held_tensors import is_helper, named_tensors
from gunlearn.tasks.graph.node_places import may_hold_rows
from gunlearn.tasks.graph.same_outputs import same_outputs
from gunlearn.tasks.graph.stored_forms import Stored, as_integers, compressed, ids_alike, keyed, other_forms
from gunlearn.tasks.known_models import model_key
from gunlearn.tasks.trial import private_copy

if TYPE_CHECKING:
    from gunlearn.tasks.base import Task

_CONTAINERS = 16  # entries of a list or dictionary that are looked at


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
    if not partition.forget_edge_index.numel():
        return False
    facts = facts_of(partition.data)
    at = None if facts is None else ("stores no pairs", model_key(model, task))
    if facts is not None and facts.get(at):
        return False
    probe, kept, stores = private_copy(getattr(model, "_orig_mod", model), task).eval(), [], False
    for one in _stored(probe, partition.data):
        stores = True
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
    if facts is not None and not stores:
        facts[at] = True
    if kept:
        warnings.warn(
            f"{type(probe).__name__} keeps forgotten pairs in {', '.join(kept)}: they stay in the result's model, and "
            "are saved with it where they are a buffer; take them out, or give the model a list made of result.data",
            stacklevel=4,
        )
    return bool(kept)


def check_weights_by_edge(model: nn.Module, task: Task, partition: Any) -> None:
    """Refuse a model with weights by the position of an edge, which runs on the original graph alone.

    Raises:
        UnsupportedModelError: it does; the message names the tensor.
    """
    number, left = partition.data.edge_index.size(1), partition.retain_data.edge_index.size(1)
    if not isinstance(model, nn.Module) or left == number or number < 2:
        return
    names = [
        name
        for name, (owner, value) in named_tensors(model).items()
        if value.dim() and number in value.shape and may_hold_rows(owner)
    ]
    if not names:
        return
    probe = private_copy(getattr(model, "_orig_mod", model), task).eval()
    if _outputs(probe, task, partition) is None:
        raise UnsupportedModelError(
            f"Expected a model that runs on fewer edges (got {type(probe).__name__} with weights per edge in "
            f"{', '.join(map(repr, names))}, {number} for {number} edges, and {left} edges are retained): they are "
            "found by an edge's position, which changes; keep them in data.edge_weight or data.edge_attr, or read them "
            "by the nodes at the ends"
        )


def _outputs(model: nn.Module, task: Task, partition: Any) -> Tensor | None:
    try:
        with isolated_rng(), torch.no_grad():
            return task.encode(model, partition.retain_data)
    except GunlearnError:  # other tensors of the model go with the pairs
        return None


def _forgotten(one: Stored, partition: Any) -> Tensor:
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


def _stored(model: nn.Module, data: Data) -> Iterator[Stored]:
    """Yield the pairs in buffers, plain attributes, and lists, dictionaries, graphs and objects of modules."""
    size = int(data.num_nodes or 0)
    for path, owner in model.named_modules():
        before = f"{path}." if path else ""
        if isinstance(owner, nn.ParameterDict | nn.ModuleDict):
            yield from keyed(path, owner)
            continue
        plain = {name: value for name, value in vars(owner).items() if not name.startswith("_")}
        places: Any = lambda name, owner=owner: owner._buffers if name in owner._buffers else owner.__dict__  # noqa: E731
        yield from compressed(before, {**dict(owner.named_buffers(recurse=False)), **plain}, size, places)
        for name, value in owner.named_buffers(recurse=False):
            yield from _pairs(f"{before}{name}", name, value, data, owner._buffers)
        for name, value in list(vars(owner).items()):
            if name in CACHES or name in ("_parameters", "_buffers", "_modules"):
                continue
            yield from _pairs(f"{before}{name}", name, value, data, owner.__dict__)
            entries: Any = ()
            named = False
            if type(value) is tuple:  # its entries are replaced
                value = owner.__dict__[name] = list(value)
            if isinstance(value, Data):
                value = owner.__dict__[name] = copy.copy(value)
                entries = [(key, value[key]) for key in value.keys()]  # noqa: SIM118
            elif is_helper(value) and not name.startswith("_") and (other := _copied(value)) is not None:
                owner.__dict__[name], value, named = other, vars(other), True
                entries = list(value.items())[:_CONTAINERS]
            elif type(value) in (list, dict):
                entries = list(value.items() if isinstance(value, dict) else enumerate(value))[:_CONTAINERS]
            for key, entry in entries:
                inner = key if named or isinstance(value, Data) else name
                yield from _pairs(f"{before}{name}.{key}", inner, entry, data, value, key)


def _copied(value: Any) -> Any:
    """Return a shallow copy of an object of the caller's, or `None` where it cannot be copied."""
    try:
        return copy.copy(value)
    except (TypeError, AttributeError):
        return None


def pairs_forgotten(name: str, value: Any, partition: Any) -> int:
    """Return how many forgotten pairs a value of any form holds; it does not change."""
    found = (_forgotten(one, partition) for one in _pairs(name, name, value, partition.data, {}))
    return sum(int(gone.sum()) for gone in found)


def _pairs(full: str, name: str, value: Any, data: Data, place: Any, key: Any = None) -> Iterator[Stored]:
    """Yield the pairs of one value, which stands at `place[key]` (`key` is `name` unless given)."""
    size, at = int(data.num_nodes or 0), name if key is None else key
    if is_adjacency(value, size) or _is_dense_graph(value, size):
        if isinstance(value, Tensor) and value.layout == torch.strided:
            row, col = value.nonzero().t()

            def zeroed(keep: Tensor) -> None:
                place[at] = value.index_put((row[~keep], col[~keep]), torch.zeros((), dtype=value.dtype))

            yield Stored(full, torch.stack([row, col]), zeroed)
            return
        row, col, weight = matrix_entries(value)

        def fewer(keep: Tensor) -> None:
            place[at] = rebuilt_matrix(value, row[keep], col[keep], None if weight is None else weight[keep])

        yield Stored(full, torch.stack([row, col]), fewer)
        return
    ids = as_integers(value)
    if ids is not None and ids.dim() == 2:
        own = name if name != "edge_index" else "own_edge_index"
        shape = list_shape(own, ids, size, (), rows=False)
        if shape is not None and ids.size(shape[0] ^ 1) == 2:
            dim = shape[0]

            def shorter(keep: Tensor) -> None:
                place[at] = ids_alike(value, ids.index_select(dim, keep.nonzero().view(-1)))

            yield Stored(full, ids.t() if dim == 0 else ids, shorter)
            return
    if name != "training" and not isinstance(value, nn.Module | Data):
        yield from other_forms(full, value, size, lambda new: place.__setitem__(at, new))


def _is_dense_graph(value: Any, size: int) -> bool:
    """Return whether a dense matrix has an entry for some pairs of nodes only."""
    shape = isinstance(value, Tensor) and value.layout == torch.strided and value.shape == (size, size) and size > 2
    return shape and 0 < 2 * int(torch.count_nonzero(value)) < value.numel()
