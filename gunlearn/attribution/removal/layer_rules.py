"""The rule of each kind of convolution, and the choice of a layer's rule."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
import torch_geometric.nn as pyg
from torch import Tensor, nn
from torch.nn import functional

from gunlearn.attribution.removal.attention_rule import GATRule
from gunlearn.attribution.removal.linear_rule import LinearRule, Rule
from gunlearn.attribution.removal.structure import Structure
from gunlearn.nn.attach.overrides import Override
from gunlearn.nn.kernels.sparse import SparseMatrix
from gunlearn.nn.kernels.sparse_linear import first_linear
from gunlearn.nn.layers.influence_conv import InfluenceAwareConv, needs_messages


class GCNRule(LinearRule):
    """`GCNConv`, and `InfluenceAwareConv` without scales."""

    layer: pyg.GCNConv

    @property
    def degree_in_sender(self) -> bool:
        return getattr(self.layer, "normalize", True)

    @classmethod
    def unfit(cls, layer: Any) -> str | None:
        if isinstance(layer, InfluenceAwareConv):
            return "scaled messages" if "message" in vars(layer) else None
        return super().unfit(layer)

    def send(self, x: Any) -> Tensor:
        return x @ self.layer.lin.weight.t() if isinstance(x, SparseMatrix) else self.layer.lin(x)

    def finish(self, out: Tensor) -> Tensor:
        return out if self.layer.bias is None else out + self.layer.bias

    def scales(self, degree: Tensor) -> tuple[Tensor | None, Tensor | None]:
        # 1 / sqrt(degree) on both sides; a node without incoming weight sends and receives nothing.
        if not self.degree_in_sender:
            return None, None
        scale = torch.where(degree > 0, degree, 1.0).rsqrt() * (degree > 0)
        return scale, scale

    def loop_weights(self) -> tuple[Tensor, Tensor]:
        # A layer that adds loops keeps those that are there, and adds its own where one is removed.
        held, lost = super().loop_weights()
        if not self.degree_in_sender or not getattr(self.layer, "add_self_loops", True):
            return held, lost
        if self.edge_weight is None:  # one loop of weight 1, whether the graph had it or not
            return torch.ones_like(held), torch.zeros_like(lost)
        fill = 2.0 if getattr(self.layer, "improved", False) else 1.0
        source = self.structure.edge_index[0, self.structure.loops]
        count, lost = torch.bincount(source, minlength=held.numel()), lost.clone()
        loop = torch.where(count > 0, held, fill)
        lost[self.structure.loops] = ((loop - fill) / count.clamp(min=1))[source]  # items take all copies of a loop
        return loop, lost


class SAGERule(LinearRule):
    """`SAGEConv` with mean or sum."""

    layer: pyg.SAGEConv
    aggr = ("mean", "add", "sum")

    @classmethod
    def unfit(cls, layer: Any) -> str | None:
        return super().unfit(layer) or ("project=True" if layer.project else None)

    def send(self, x: Any) -> Tensor:
        return _without_bias(self.layer.lin_l, x)  # the linear map may go before the mean

    def root(self, x: Any, message: Tensor) -> Tensor | None:
        return self.layer.lin_r(x) if self.layer.root_weight else None

    def finish(self, out: Tensor) -> Tensor:
        out = out if self.layer.lin_l.bias is None else out + self.layer.lin_l.bias
        return functional.normalize(out, p=2.0, dim=-1) if self.layer.normalize else out

    def scales(self, degree: Tensor) -> tuple[Tensor | None, Tensor | None]:
        return (1 / degree.clamp(min=1) if self.layer.aggr == "mean" else None), None


class GINRule(LinearRule):
    """`GINConv`; its network's first linear map is applied before the sum."""

    layer: pyg.GINConv

    def __init__(self, layer: pyg.GINConv, structure: Structure, edge_weight: Tensor | None) -> None:
        super().__init__(layer, structure, edge_weight)
        self.first = first_linear(layer.nn)

    def send(self, x: Any) -> Tensor:
        return x if self.first is None else _without_bias(self.first, x)

    def root(self, x: Any, message: Tensor) -> Tensor | None:
        return (1 + cast(Tensor, self.layer.eps)) * message

    def finish(self, out: Tensor) -> Tensor:
        if self.first is None:
            return self.layer.nn(out)
        done = out + self.first.bias if isinstance(self.first.bias, Tensor) else out
        with replaced_forwards([self.first], lambda first, x: done):
            return self.layer.nn(out)


def _without_bias(linear: nn.Module, x: Any) -> Tensor:
    out: Tensor = linear(x)
    return out - linear.bias if isinstance(linear.bias, Tensor) else out


class _Replaced(Override):
    def __init__(self, layer: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__(layer, "")
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self.layer, *args, **kwargs)


@contextmanager
def replaced_forwards(layers: Iterable[nn.Module], function: Callable[..., Any]) -> Iterator[None]:
    """Inside the block each layer's `forward` is `function(layer, *args, **kwargs)`."""
    with ExitStack() as stack:
        for layer in layers:
            override = _Replaced(layer, function)
            override.install()
            stack.callback(override.uninstall)
        yield


RULES: dict[type, type[Rule]] = {
    pyg.GCNConv: GCNRule,
    InfluenceAwareConv: GCNRule,
    pyg.SAGEConv: SAGERule,
    pyg.GINConv: GINRule,
    pyg.GATConv: GATRule,
    pyg.GATv2Conv: GATRule,
}
"""Rules by the exact type of convolution: a subclass may do anything."""


def rule_for(layer: nn.Module) -> tuple[type[Rule] | None, str | None]:
    """Return a layer's rule, or the reason why there is none."""
    rule = RULES.get(type(layer))
    if rule is None:
        return None, type(layer).__name__
    if layer.flow != "source_to_target":
        return None, f"{type(layer).__name__}: flow={layer.flow!r}"
    if needs_messages(layer) or any(name in layer.__dict__ for name in ("propagate", "message", "forward")):
        return None, f"{type(layer).__name__}: something is attached"
    why = rule.unfit(layer)
    return (rule, None) if why is None else (None, f"{type(layer).__name__}: {why}")
