"""The table of layers: for each class, which axes of its weights are channels of its input and of its output."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import NamedTuple

from torch import nn

from gunlearn.core.checks import check_choice
from gunlearn.errors import InvalidInputError, InvalidTypeError, UnsupportedModelError

#: What a label of an axis may begin with: the axis scales as the inverse of its space does.
INVERSE = "-"
_OUTPUTS = ("new", "permuted", "same")


class Axes(NamedTuple):
    """The axes of one tensor of a layer.

    Attributes:
        labels: one per axis: `"in"` (channels of the input), `"out"` (of the output), another word (channels inside the
            layer, such as `"heads"`), or `None` (no channels). `"-out"` marks weights that are divided where channels
            of the output are multiplied, such as vectors of attention.
        view: the shape in which the labels hold, where it is not the tensor's own.
    """

    labels: tuple[str | None, ...]
    view: tuple[int, ...] | None = None


class LinearMap(NamedTuple):
    """A part of a layer whose output is `sum_k X_k W_k^T + b`, `X_k` being free of these weights.

    Attributes:
        owner: name of the submodule that computes it; empty for the layer itself.
        weights: names of the `W_k`, `[out, ...]`, in the owner.
        bias: name of `b`, `[out]`.
    """

    owner: str
    weights: tuple[str, ...]
    bias: str = "bias"


AxesOf = Mapping[str, Axes | tuple[str | None, ...]]


@dataclass(frozen=True)
class LayerRule:
    """How channels pass through a layer.

    Args:
        axes: of each parameter and buffer, by its name in the layer; a function of the layer where settings decide.
            Names that the layer lacks are passed over.
        axis: of inputs and outputs, the one that counts channels.
        output: `"new"` (channels of its own), `"permuted"` (those of the input, in their order, at another scale, such
            as normalisation), `"same"` (those of the input).
        heads: blocks of the output's channels that move as wholes; a function of the layer.
        inner: name of a submodule that is called on the aggregated input and returns the output.
        linear: what the closed form of merging solves for; a function of the layer.
        scales: returns whether a positive factor on an output channel's weights is one on the output.
        refuse: returns in words why a layer with these settings is not understood, or nothing.
    """

    axes: AxesOf | Callable[[nn.Module], AxesOf]
    axis: int = -1
    output: str = "new"
    heads: Callable[[nn.Module], int] = lambda layer: 1
    inner: str = ""
    linear: Callable[[nn.Module], Sequence[LinearMap]] = lambda layer: ()
    scales: Callable[[nn.Module], bool] = lambda layer: True
    refuse: Callable[[nn.Module], str] = lambda layer: ""

    def __post_init__(self) -> None:
        check_choice("output", self.output, _OUTPUTS)

    def axes_of(self, layer: nn.Module) -> dict[str, Axes]:
        """Return the axes of each tensor that the layer has."""
        given = self.axes(layer) if callable(self.axes) else self.axes
        held = layer.state_dict(keep_vars=True)
        return {k: v if isinstance(v, Axes) else Axes(tuple(v)) for k, v in given.items() if k in held}


_TABLE: dict[type, LayerRule] = {}
_GRAPH_TABLE = "gunlearn.nn.channels.graph_layers"


def register_layer(cls: type[nn.Module], rule: LayerRule) -> None:
    """Add a class of layers to the table; its subclasses follow the same rule unless they have one of their own.

    Args:
        cls: the class.
        rule: see `LayerRule`.

    Raises:
        InvalidTypeError: `cls` is no class of modules, or `rule` no `LayerRule`.

    Example:
        >>> class Scaled(nn.Linear): ...
        >>> register_layer(Scaled, LayerRule({"weight": ("out", "in"), "bias": ("out",)}))
    """
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)) or not isinstance(rule, LayerRule):
        raise InvalidTypeError(f"Expected a class of torch modules and a LayerRule (got {cls!r} and {rule!r})")
    _TABLE[cls] = rule


def rule_of(layer: nn.Module) -> LayerRule | None:
    """Return the rule of a layer's class or the nearest of its base classes; None where the table has none.

    Raises:
        UnsupportedModelError: the layer has settings that its rule does not know.
    """
    import_module("gunlearn.nn.channels.torch_layers")
    if "torch_geometric" in sys.modules:  # otherwise no layer can be one of its classes
        import_module(_GRAPH_TABLE)
    rule = next((_TABLE[cls] for cls in type(layer).__mro__ if cls in _TABLE), None)
    if rule is not None and (why := rule.refuse(layer)):
        raise UnsupportedModelError(f"Expected a layer whose channels are understood (got {layer}: {why})")
    return rule


def unlisted(layer: nn.Module, rule: LayerRule, children: Sequence[str] = ()) -> list[str]:
    """Return names of a layer's tensors that its rule does not name; single numbers have no channels.

    Args:
        layer: a layer of the table.
        rule: its rule.
        children: submodules whose tensors have rules of their own.
    """
    known = rule.axes_of(layer)
    held = layer.state_dict(keep_vars=True)
    own = [name for name in held if not name.startswith(tuple(f"{child}." for child in children))]
    for name in own:
        if name in known and len(known[name].labels) != len(known[name].view or held[name].shape):
            raise InvalidInputError(
                f"Expected a label per axis of '{name}' of {type(layer).__name__} "
                f"(got {known[name].labels} for {tuple(known[name].view or held[name].shape)})"
            )
    return [name for name in own if name not in known and getattr(held[name], "numel", lambda: 2)() > 1]
