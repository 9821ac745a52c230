"""New values for slices of a model's tensors, as a newly made model would have them."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gunlearn.nn.attach.message_layers import CACHES
from gunlearn.seed import isolated_rng

_FAR = 3.0  # times larger or smaller than the trained rows: then the model did not draw its rows as the layer does


def named_tensors(model: nn.Module) -> dict[str, tuple[nn.Module, Tensor]]:
    """Return owner and value of every dense tensor of a model by name, tied ones once.

    Plain attributes count too; caches of layers and integer buffers that are not saved (structure, no state) do not.
    """
    found: dict[str, tuple[nn.Module, Tensor]] = {}
    seen: set[int] = set()
    for path, owner in model.named_modules():
        held: dict[str, Tensor] = {
            **dict(owner.named_parameters(recurse=False)),
            **dict(owner.named_buffers(recurse=False)),
        }
        held |= {name: value for name, value in vars(owner).items() if isinstance(value, Tensor) and name not in CACHES}
        for name, value in held.items():
            if id(value) in seen or is_lazy(value) or value.layout != torch.strided:
                continue
            if name in getattr(owner, "_non_persistent_buffers_set", ()) and not value.is_floating_point():
                continue
            seen.add(id(value))
            found[f"{path}.{name}" if path else name] = owner, value
    return found


@dataclass(frozen=True)
class Slice:
    """Entries `index` `[k]`, of `size`, of a named tensor along a dimension: new values, and how they were made."""

    name: str
    dim: int
    index: Tensor
    values: Tensor
    size: int
    how: str


class FreshValues:
    """Slices to replace in a model, or in another one of the same architecture."""

    def __init__(self) -> None:
        self.slices: list[Slice] = []
        self.records: list[tuple[str, list[int], dict[int, Any]]] = []  # dictionaries by node, without tensors' names

    @torch.no_grad()
    def put(self, model: nn.Module) -> None:
        """Replace the slices in place; tensors of other names or shapes (another architecture) stay as they are."""
        tensors = named_tensors(model)
        for one in self.slices:
            _, value = tensors.get(one.name, (None, None))
            like = None if value is None or value.dim() != one.values.dim() else list(value.shape)
            if like is None or [*like[: one.dim], one.index.numel(), *like[one.dim + 1 :]] != list(one.values.shape):
                continue
            value.index_copy_(one.dim, one.index.to(value.device), one.values.to(value))  # type: ignore[union-attr]
        dictionaries = node_records(model)
        for name, nodes, new in self.records:
            for node in nodes if name in dictionaries else ():
                dictionaries[name].pop(node, None)
                dictionaries[name].update({node: new[node]} if node in new else {})

    def notes(self) -> dict[str, Any]:
        """Return the note for a result: how many entries of which tensor were replaced, without saying which."""
        said = {one.name: f"{one.index.numel()} of {one.size} entries, {one.how}" for one in self.slices}
        return {"reset": said | {name: f"{len(nodes)} records, as new" for name, nodes, _ in self.records}}


def node_records(model: nn.Module) -> dict[str, dict[int, Any]]:
    """Return plain dictionaries on a model's modules that have numbers as keys, by name."""
    return {
        f"{path}.{name}" if path else name: value
        for path, owner in model.named_modules()
        for name, value in vars(owner).items()
        if type(value) is dict and value and all(type(key) is int for key in value)
    }


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
    def slice(self, name: str, owner: nn.Module, dim: int, index: Tensor) -> Slice:
        """Return new values of the entries `index` `[k]` of the tensor `name` of `owner` along `dim`."""
        path, _, attribute = name.rpartition(".")
        trained = getattr(owner, attribute)
        index, size = index.to(trained.device), trained.size(dim)
        others = torch.ones(trained.size(dim), dtype=torch.bool, device=trained.device).index_fill_(0, index, False)
        rest = trained.index_select(dim, others.nonzero().view(-1))
        parts = path.split(".") if path else []
        for depth in range(len(parts) + 1):
            new = self._reset(".".join(parts[:depth]))
            value = None if new is None else _attribute(new, [*parts[depth:], attribute])
            if value is None or value.shape != trained.shape or torch.equal(value, trained):
                continue
            if depth == len(parts) and isinstance(owner, nn.Embedding) and _far(value, rest):
                continue  # the model's own code drew its rows in another way
            return Slice(name, dim, index, value.detach().index_select(dim, index).clone(), size, "drawn like new ones")
        shape = [*trained.shape[:dim], index.numel(), *trained.shape[dim + 1 :]]
        zeros = trained.new_zeros(shape)
        if not isinstance(trained, nn.Parameter) or not trained.is_floating_point() or rest.size(dim) < 2:
            return Slice(name, dim, index, zeros, size, "set to zero")
        mean, spread = (f(rest.double(), dim=dim, keepdim=True) for f in (torch.mean, torch.std))
        with isolated_rng(self.seed):
            noise = torch.randn(shape, dtype=torch.double).to(trained.device)
        values = (mean + spread * noise).to(trained)
        return Slice(name, dim, index, values, size, "drawn with the mean and the spread of the others")

    def records(self, name: str) -> dict[int, Any]:
        """Return what a dictionary by node holds after a reset; nothing where none is known."""
        parts = name.split(".")
        for depth in range(len(parts)):
            new = self._reset(".".join(parts[:depth]))
            if new is not None:
                return node_records(new).get(".".join(parts[depth:]), {})
        return {}

    def _reset(self, path: str) -> nn.Module | None:
        """Return a copy of a submodule with new values; `None` where it cannot make them."""
        if path not in self._resets:
            module = self.model.get_submodule(path)
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


def _attribute(module: Any, parts: list[str]) -> Tensor | None:
    for part in parts:
        module = getattr(module, part, None)
    return module if isinstance(module, Tensor) else None


def _far(new: Tensor, trained: Tensor) -> bool:
    """Return whether new values are of quite another size than trained ones."""
    sizes = [float(value.double().square().mean().sqrt()) if value.numel() else 0.0 for value in (new, trained)]
    return min(sizes) * _FAR < max(sizes)
