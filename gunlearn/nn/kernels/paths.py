"""Record the path (fused or plain) of each layer in the last pass inside `fast_path`."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from gunlearn.nn.attach.overrides import Override

PATHS: WeakKeyDictionary[nn.Module, Paths] = WeakKeyDictionary()


class Paths:
    """Names and kinds of a model's layers by their path in its last pass."""

    def __init__(self) -> None:
        self.fused: dict[str, str] = {}
        self.plain: dict[str, str] = {}
        self.sparse_features = False


def path_of(model: nn.Module) -> str | None:
    """Return one line about how the last pass of `model` inside `fast_path` ran; `None` before the first.

    Example:
        >>> import torch
        >>> from gunlearn.nn import fast_path
        >>> from torch_geometric.nn import GCNConv
        >>> conv = GCNConv(2, 3)
        >>> with fast_path(conv):
        ...     out = conv(torch.randn(3, 2), torch.tensor([[0, 1], [1, 2]]))
        >>> path_of(conv)
        'CSR products in 1 of 1 layers'
    """
    paths = PATHS.get(model)
    if paths is None:
        return None
    number = len(paths.fused) + len(paths.plain)
    parts = [f"CSR products in {len(paths.fused)} of {number} layers"] if paths.fused else []
    if paths.plain:
        reasons = ", ".join(dict.fromkeys(paths.plain.values()))
        parts.append(f"gather-scatter in {len(paths.plain)} of {number} layers ({reasons})")
    if paths.sparse_features:
        parts.append("sparse features")
    return "; ".join(parts) or "as compiled, or without message passing"


class Recorded(Override):
    """An override that records its layer's path."""

    def __init__(self, layer: nn.Module, name: str, paths: Paths) -> None:
        super().__init__(layer, name)
        self.paths = paths

    def record(self, reason: str | None) -> None:
        """Record that the layer ran fused (`None`), or plain for a reason."""
        kind = type(self.layer).__name__
        if reason is None and self.name not in self.paths.plain:
            self.paths.fused[self.name] = kind
        elif reason is not None:
            self.paths.fused.pop(self.name, None)
            self.paths.plain[self.name] = f"{kind}: {reason}" if reason else kind


class Watched(Recorded):
    """Records the passes of a layer that cannot be fused."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.record("")
        return self.original(*args, **kwargs)
