"""New values for slices of a model's tensors, as a newly made model would have them."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from gunlearn.seed import isolated_rng
from gunlearn.tasks.graph.held_tensors import held_tensors
from gunlearn.tasks.graph.node_records import as_tensor, new_record, node_records

_FAR = 3.0  # times larger or smaller than the trained rows: then the model did not draw its rows as the layer does


@dataclass(frozen=True)
class Slice:
    """Entries `index` `[k]`, of `size`, of a named tensor along a dimension: new values, and how they were made.

    `dim` is -1 for single entries, counted as in the flat tensor.
    """

    name: str
    dim: int
    index: Tensor
    values: Tensor
    size: int
    how: str

    def read(self, value: Tensor) -> Tensor:
        """Return what stands at the entries."""
        index = self.index.to(value.device)
        return value.reshape(-1)[index] if self.dim < 0 else value.index_select(self.dim, index)

    def write(self, value: Tensor, new: Tensor) -> None:
        """Replace the entries in place."""
        index, new = self.index.to(value.device), new.to(value)
        if self.dim < 0:
            value.copy_(value.reshape(-1).index_copy(0, index, new).view_as(value))
        else:
            value.index_copy_(self.dim, index, new)

    def fits(self, value: Tensor) -> bool:
        """Return whether a tensor, of another architecture perhaps, has the entries."""
        if self.dim < 0:
            return value.numel() == self.size
        like = list(value.shape)
        return value.dim() == self.values.dim() and (
            [*like[: self.dim], self.index.numel(), *like[self.dim + 1 :]] == list(self.values.shape)
        )


class FreshValues:
    """Slices to replace in a model, or in another one of the same architecture."""

    def __init__(self) -> None:
        self.slices: list[Slice] = []
        self.records: list[tuple[str, int, dict[int, Any]]] = []  # name, nodes of the graph, new records by node

    @torch.no_grad()
    def put(self, model: nn.Module) -> None:
        """Replace the slices in place; tensors of other names or shapes (another architecture) stay as they are."""
        tensors = held_tensors(model) if self.slices else {}
        for one in self.slices:
            value = tensors.get(one.name)
            if value is not None and one.fits(value):
                one.write(value, one.values)
        for name, size, new in self.records:
            store = node_records(model, size).get(name)
            for node, record in new.items() if store is not None else ():
                store[node] = copy.deepcopy(record)  # type: ignore[index]

    def notes(self) -> dict[str, Any]:
        """Return the note for a result: how many entries of which tensor were replaced, without saying which."""
        groups: dict[str, list[Slice]] = {}
        for one in self.slices:
            whole = one.dim < 0 and one.index.numel() == one.size  # its key may be a node or a pair
            groups.setdefault(f"{one.name.rpartition('.')[0]}.*" if whole else one.name, []).append(one)
        said = {
            name: f"{sum(one.index.numel() for one in same)} of {sum(one.size for one in same)} entries, {same[0].how}"
            for name, same in groups.items()
        }
        return {"reset": said | {name: f"{len(new)} records, as new" for name, _, new in self.records}}


class Draws:
    """New values of any slice of a model's tensors.

    They come from `reset_parameters` (or `reset_state`) of the outermost module that resets the tensor, on a copy;
    where there is none, parameters get the mean and the spread of the other rows, and buffers zeros.

    Args:
        model: does not change.
        seed: of the draws; the caller's random state does not change.
    """

    def __init__(self, model: nn.Module, seed: int) -> None:
        # Another stream than that of `torch.manual_seed(seed)`, under which the model may have been made.
        self.model, self.seed = model, int(hashlib.sha256(f"fresh values {seed}".encode()).hexdigest()[:8], 16)
        self._resets: dict[str, nn.Module | None] = {}

    @torch.no_grad()
    def slice(self, name: str, owner: Any, dim: int, index: Tensor) -> Slice:
        """Return new values of the entries `index` `[k]` of the tensor `name` of `owner` along `dim`, flat if -1."""
        path, _, attribute = name.rpartition(".")
        trained = cast(Tensor, as_tensor(getattr(owner, attribute)))
        whole, shape_of, at = trained, trained.shape, max(dim, 0)
        trained = trained.reshape(-1) if dim < 0 else trained
        index, size = index.to(trained.device), trained.size(at)
        others = torch.ones(size, dtype=torch.bool, device=trained.device).index_fill_(0, index, False)
        rest = trained.index_select(at, others.nonzero().view(-1))
        parts = path.split(".") if path else []
        for depth in range(len(parts) + 1):
            new = self._reset(".".join(parts[:depth]))
            value = None if new is None else _attribute(new, [*parts[depth:], attribute])
            if value is None or value.shape != shape_of or torch.equal(value, whole):
                continue
            value = value.reshape(trained.shape)
            if depth == len(parts) and isinstance(owner, nn.Embedding) and _far(value, rest):
                continue  # the model's own code drew its rows in another way
            return Slice(name, dim, index, value.detach().index_select(at, index).clone(), size, "drawn like new ones")
        shape = [*trained.shape[:at], index.numel(), *trained.shape[at + 1 :]]
        alike = [] if rest.size(at) >= 2 else [p for p in _siblings(owner, whole)]
        if alike:  # all of it is new: as its like in the same list
            rest, at = torch.stack([one.reshape(-1)[index] if dim < 0 else one for one in alike]), 0
        if not isinstance(whole, nn.Parameter) or not trained.is_floating_point() or rest.size(at) < 2:
            return Slice(name, dim, index, trained.new_zeros(shape), size, "set to zero")
        mean, spread = (f(rest.double(), dim=at, keepdim=not alike) for f in (torch.mean, torch.std))
        with isolated_rng(self.seed):
            noise = torch.randn(shape, dtype=torch.double).to(trained.device)
        values = (mean + spread * noise).to(trained)
        return Slice(name, dim, index, values, size, "drawn with the mean and the spread of the others")

    def records(self, name: str, store: Any, nodes: list[int]) -> dict[int, Any]:
        """Return what a dictionary or list by node holds of `nodes` after a reset; zeros where none is known."""
        parts = name.split(".")
        for depth in range(len(parts)):
            new = self._reset(".".join(parts[:depth]))
            found = {} if new is None else node_records(new, len(store)).get(".".join(parts[depth:]), {})
            if found:
                return {node: found[node] for node in nodes}
        return {node: new_record(store[node]) for node in nodes}

    def _reset(self, path: str) -> nn.Module | None:
        """Return a copy of a submodule with new values; `None` where it cannot make them."""
        if path not in self._resets:
            module = _object(self.model, path)
            resets = [name for name in ("reset_parameters", "reset_state") if callable(getattr(module, name, None))]
            new = copy.deepcopy(module) if resets else None
            try:
                with isolated_rng(self.seed):
                    for reset in resets[:1]:
                        getattr(new, reset)()
            except (TypeError, ValueError, RuntimeError, AttributeError):  # it takes arguments, or has lazy parts
                new = None
            self._resets[path] = new
        return self._resets[path]


def _object(model: Any, path: str) -> Any:
    for part in path.split(".") if path else ():
        model = getattr(model, part)
    return model


def _siblings(owner: Any, tensor: Tensor) -> list[Tensor]:
    """Return the other parameters of a list or dictionary that have a parameter's shape."""
    if not isinstance(owner, nn.ParameterList | nn.ParameterDict):
        return []
    return [one for one in owner.parameters() if one is not tensor and one.shape == tensor.shape]


def _attribute(module: Any, parts: list[str]) -> Tensor | None:
    for part in parts:
        module = getattr(module, part, None)
    return as_tensor(module)


def _far(new: Tensor, trained: Tensor) -> bool:
    """Return whether new values are of quite another size than trained ones."""
    sizes = [float(value.double().square().mean().sqrt()) if value.numel() else 0.0 for value in (new, trained)]
    return min(sizes) * _FAR < max(sizes)
