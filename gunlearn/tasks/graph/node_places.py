"""Where in a model's tensors something of the forgotten nodes may stand: the ways to number nodes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from torch_geometric.nn import MessagePassing

from gunlearn.requests.features import ids_in
from gunlearn.tasks.graph.held_tensors import named_tensors
from gunlearn.tasks.graph.one_hot import own_columns

_ROOMS = ("conv", "dense", "norm", "aggr", "pool", "encoding")
_LAYERS = ("torch.nn.", *(f"torch_geometric.nn.{room}" for room in _ROOMS))


_AS_LONG = "is as long as the graph has nodes"
_LARGE = 64  # a multiple of fewer nodes may be a number of channels


@dataclass(frozen=True)
class Place:
    """Entries `index` `[k]` of a tensor along one dimension.

    Attributes:
        by_size: the dimension is as long as there are nodes to number: what nothing reads there is theirs, too.
        of_all: it is as long as the graph has nodes, or a node's number or id says which entries are its own.
        why: what a warning says of the tensor.
    """

    index: Tensor
    by_size: bool = False
    of_all: bool = False
    why: str = ""

    @property
    def words(self) -> tuple[str, str]:
        """Return what to say of the tensor, and of the chance that it means nothing."""
        return self.why or _AS_LONG, "" if "ids" in self.why else ", or ignore this if the size is so by chance"


class Places:
    """Finds places of the forgotten nodes.

    Args:
        partition: the resolved request.
        tables: rows of each tensor that may hold one row per node, by name in the order of the model.
    """

    def __init__(self, partition: Any, tables: dict[str, int]) -> None:
        self.nodes, data = partition.forget_nodes, partition.data
        self.size, self.x = int(partition.retain_data.num_nodes), data.get("x")
        self.offsets, start = {}, 0
        for name, rows in tables.items():
            self.offsets[name] = start
            start += rows
        self.ids: list[tuple[int, Tensor]] = []
        kinds = data.get("node_type")
        if isinstance(self.x, Tensor) and self.x.layout == torch.strided and self.x.dtype in (torch.long, torch.int):
            self._find_ids(self.x, kinds)
        self.types: list[tuple[int, Tensor]] = []
        if isinstance(kinds, Tensor) and kinds.numel() == self.size:
            for kind in kinds.unique():
                own = (kinds == kind).nonzero().view(-1)
                inside = self.nodes[torch.isin(self.nodes, own)]
                self.types.append((own.numel(), torch.searchsorted(own, inside)))

    def _find_ids(self, x: Tensor, kinds: Any) -> None:
        flat, ids = (value.reshape(value.size(0), -1) for value in (x, ids_in(x, kinds)))
        for column in ids.any(dim=0).nonzero().view(-1).tolist():
            mine = self.nodes[ids[self.nodes, column]]
            self.ids.append((int(flat[ids[:, column], column].max()), flat[mine, column].long()))

    @property
    def no_features(self) -> bool:
        """Whether a model reads nothing of a node but its number."""
        return self.x is None or bool(self.ids)

    def of(self, name: str, owner: nn.Module, tensor: Tensor, dim: int, looked_up: Place | None) -> list[Place]:
        """Return the places to try along one dimension, the likeliest first.

        `looked_up` holds the entries that forgotten nodes alone look up by ids, where this is known.
        """
        size, n = tensor.size(dim), self.size
        if not may_hold_rows(owner):  # its sizes are channels: only one-hot features read one entry per node
            x = self.x
            one_hot = isinstance(x, Tensor) and x.dim() == 2 and x.size(1) == size >= n
            columns = own_columns(x, self.nodes, every=size > n) if one_hot else None
            found = [] if looked_up is None else [looked_up]
            found += [Place(columns)] if columns is not None else []
            return [place for place in found if place.index.numel()]
        found = [] if looked_up is None else [looked_up]
        if dim == 0:
            found += [Place(index, size == n, size == n) for highest, index in self.ids if size > highest]
        if size == n:
            found.append(Place(self.nodes, True, True))
        first = getattr(owner, "padding_idx", None) == 0
        numberings = [(n, self.nodes), *self.types]
        for number, index in numberings:
            if size == number + 1:
                found += [Place(index + 1), Place(index)] if first else [Place(index), Place(index + 1)]
        found += [Place(index, True) for number, index in self.types if size == number]
        if dim == 0 and 1 < size < n and name in self.offsets:
            for start in sorted({0, n - size, self.offsets[name]}):
                inside = self.nodes[(self.nodes >= start) & (self.nodes < start + size)]
                found.append(Place(inside - start))
        if dim == 0 and size > n and size % n == 0 and name in self.offsets:
            found += self._flat(size // n)
        padding = getattr(owner, "padding_idx", None)
        if padding is not None and dim == 0:
            found = [replace(place, index=place.index[place.index != padding]) for place in found]
        return [place for place in found if place.index.numel()]

    def _flat(self, width: int) -> list[Place]:
        """Return the places in a table of `width` entries per node, one node after the other or entry by entry."""
        many, why = self.size >= _LARGE, f"is {width} times as long as the graph has nodes"
        each = torch.arange(width, device=self.nodes.device)
        rows = (self.nodes[:, None] * width + each, self.nodes[:, None] + self.size * each)
        return [Place(index.view(-1), of_all=many, why=why) for index in rows]


def looks_nodes_up(model: nn.Module, num_nodes: int) -> bool:
    """Return whether a decoder of the model's own may read tensors by node numbers: it has some to read."""
    return hasattr(model, "decode") and any(
        isinstance(owner, nn.Embedding) or (may_be_table(owner, value) and value.size(0) in (num_nodes, num_nodes + 1))
        for owner, value in named_tensors(model).values()
    )


def may_hold_rows(owner: nn.Module) -> bool:
    """Return whether a module's tensors may have a row per node: not those of layers, whose sizes are channels."""
    containers = (nn.ParameterList, nn.ParameterDict, ParametrizationList)
    if isinstance(owner, (nn.Embedding, nn.EmbeddingBag, *containers)):
        return True
    return not type(owner).__module__.startswith(_LAYERS)


def may_be_table(owner: nn.Module, tensor: Tensor) -> bool:
    """Return whether a tensor may hold rows of some of the nodes, whatever their number."""
    return may_hold_rows(owner) and not isinstance(owner, MessagePassing) and tensor.dim() > 0 and tensor.size(0) > 1
