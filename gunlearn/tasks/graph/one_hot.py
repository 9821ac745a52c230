"""Features that number the nodes, one column each, and the linear maps that read them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch_geometric.nn import Linear


def own_columns(x: Tensor, nodes: Tensor, every: bool) -> Tensor:
    """Return the columns of features `[num_nodes, k]` that only `nodes` have, `[m]`.

    Args:
        x: dense or sparse.
        nodes: the forgotten ones, `[f]`.
        every: none where some node has no column of its own, so that features are no one-hot numbers beside others.
    """
    row, column = x.nonzero().t() if x.layout == torch.strided else x.to_sparse_coo().coalesce().indices()
    gone = torch.isin(row, nodes)
    if every:
        alone = torch.bincount(column, minlength=x.size(1))[column] == 1
        if row[alone].unique().numel() < x.size(0):
            return column[:0]
        return column[alone & gone].unique()
    own = column[gone].unique()
    return own[~torch.isin(own, column[~gone])]


class OneHotInputs:
    """Notes the columns of linear maps that one-hot inputs give to forgotten nodes alone, while the block runs.

    Args:
        model: whose linear maps are watched.
        gone: which nodes are forgotten, boolean `[num_nodes]`.
    """

    def __init__(self, model: nn.Module, gone: Tensor) -> None:
        self.gone, self.columns, self.hooks = gone, dict[str, Tensor](), []  # type: ignore[var-annotated]
        for name, module in model.named_modules():
            weight = getattr(module, "weight", None)
            if not isinstance(module, nn.Linear | Linear) or not isinstance(weight, Tensor) or is_lazy(weight):
                continue
            if weight.size(1) >= gone.numel():
                note = self._hook(f"{name}.weight" if name else "weight")
                self.hooks.append(module.register_forward_pre_hook(note))

    def _hook(self, name: str) -> Any:
        def note(module: nn.Module, args: tuple) -> None:
            x = args[0] if args else None
            if isinstance(x, Tensor) and x.dim() == 2 and x.size(0) == self.gone.numel():
                found = own_columns(x, self.gone.nonzero().view(-1), every=True)
                if found.numel():
                    self.columns[name] = found

        return note

    def __enter__(self) -> OneHotInputs:
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self.hooks:
            hook.remove()
