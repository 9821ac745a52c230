"""Follow channels through one run of a model: hooks on the layers of the table, functions of tensors between them."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from gunlearn.connectivity.alignment.spaces import Block, Layout, Spaces
from gunlearn.connectivity.alignment.tensor_functions import Followed, follow, tensors_of
from gunlearn.errors import InvalidInputError, UnsupportedModelError
from gunlearn.nn.channels.channel_rules import INVERSE, Axes, LayerRule, rule_of, unlisted

#: A block of an axis with the power of its space's factor: 1 where weights are multiplied, -1 where divided.
AxisBlocks = tuple[tuple[Block, ...], int] | None


@dataclass
class Call:
    """One call of a layer: what went in and out, `[rows, channels]`, and of which spaces.

    Attributes:
        layer: the module's name.
        given: blocks of the input; None where it has no channels of a layer.
        made: blocks of the output.
        new: whether the output's channels begin here.
    """

    layer: str
    given: tuple[Block, ...] | None
    made: tuple[Block, ...]
    new: bool
    inputs: Tensor | None
    outputs: Tensor


@dataclass
class ChannelStructure:
    """What one run told of a model.

    Attributes:
        spaces: of channels.
        axes: of each tensor of the state, by name: blocks per axis.
        views: shape in which `axes` hold, by name, where it is not the tensor's own.
        calls: of layers, in their order.
        rules: of layers, by name.
        output: what the model returned.
        unused: layers that the run did not reach, whose weights stay as they are.
    """

    spaces: Spaces = field(default_factory=Spaces)
    axes: dict[str, tuple[AxisBlocks, ...]] = field(default_factory=dict)
    views: dict[str, tuple[int, ...]] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    rules: dict[str, LayerRule] = field(default_factory=dict)
    output: Any = None
    unused: list[str] = field(default_factory=list)


class _Functions(TorchFunctionMode):
    def __init__(self, tracer: "Tracer") -> None:
        self.tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not self.tracer.inside:
            name = getattr(func, "__name__", str(func))
            if name == "__get__":
                name = getattr(func.__self__, "__name__", name)
            name = name.strip("_") if name.startswith("__") else name
            follow(self.tracer.followed, name, args, kwargs, out)
        return out


class Tracer:
    """Runs a model once and finds its `ChannelStructure`; the model must be in evaluation mode and is left as it was.

    Args:
        model: whose channels are followed.
        run: calls it and returns its output.

    Raises:
        UnsupportedModelError: a parameter belongs to no layer of the table, or a layer has unknown settings.
    """

    def __init__(self, model: nn.Module, run: Callable[[nn.Module], Any]) -> None:
        self.model, self.run = model, run
        self.structure = ChannelStructure()
        self.followed = Followed(self.structure.spaces)
        self.inside: list[str] = []  # layers that are running; functions inside them, and ours, are not followed
        self._given: dict[str, tuple[Layout | None, Tensor | None]] = {}
        self._made: dict[str, dict[str, int]] = {}  # spaces that begin in a layer, by label
        self._inputs: dict[str, tuple[Block, ...]] = {}
        self._owners: dict[int, str] = {}

    def trace(self) -> ChannelStructure:
        """ModelCall the model."""
        rules = self._rules()
        handles: list[RemovableHandle] = []
        with ExitStack() as stack:
            stack.callback(_remove, handles)
            outer = [(name, layer, rule) for name, (layer, rule) in rules.items() if rule.inner]
            for name, layer, rule in outer:
                handles += self._enter_inner(name, layer, rule)
            for name, (layer, rule) in rules.items():
                if not rule.inner:
                    handles += self._watch(name, layer, rule)
            for name, layer, rule in outer:  # last, since the submodule may be a layer of the table itself
                handles.append(layer.get_submodule(rule.inner).register_forward_hook(self._again_inside(name)))
            with torch.no_grad(), _Functions(self):
                self.structure.output = self.run(self.model)
        self.followed.freeze(self.structure.output, "they are the model's output")
        self.structure.unused = [k for k, (_, rule) in rules.items() if not rule.inner and k not in self._made]
        return self.structure

    def _rules(self) -> dict[str, tuple[nn.Module, LayerRule]]:
        """Return the layers of the table, those inside others left out; refuse weights of none."""
        found: dict[str, tuple[nn.Module, LayerRule]] = {}
        within: list[str] = []
        for name, module in self.model.named_modules():
            if name.startswith(tuple(within)):
                continue
            rule = rule_of(module)
            prefix = f"{name}." if name else ""
            if rule is None:
                own = [k for k, v in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]]
                if own:
                    raise UnsupportedModelError(
                        f"Expected layers of the table (got {type(module).__name__} '{name}' with {', '.join(own)}); "
                        "add it by gunlearn.connectivity.alignment.register_layer"
                    )
                continue
            if left := unlisted(module, rule, [rule.inner] if rule.inner else []):
                raise UnsupportedModelError(
                    f"Expected a rule for each tensor of {type(module).__name__} '{name}' (got none for "
                    f"{', '.join(left)}); register_layer takes one"
                )
            found[name] = (module, rule)
            self.structure.rules[name] = rule
            if not rule.inner:
                within.append(prefix)
        return found

    def _watch(self, name: str, layer: nn.Module, rule: LayerRule) -> list[RemovableHandle]:
        def before(module: nn.Module, args: Any, kwargs: Any) -> None:
            self.inside.append(name)
            if len(self.inside) == 1:
                self._given[name] = self._taken(rule, (args, kwargs), name)

        def after(module: nn.Module, args: Any, out: Any) -> None:
            if len(self.inside) == 1:
                self._leave(name, layer, rule, out)
            self.inside.pop()

        return [
            layer.register_forward_pre_hook(before, with_kwargs=True),
            layer.register_forward_hook(after),
        ]

    def _enter_inner(self, name: str, layer: nn.Module, rule: LayerRule) -> list[RemovableHandle]:
        """A layer that aggregates and then calls a submodule: the aggregated input has the channels of the input."""

        def before(module: nn.Module, args: Any, kwargs: Any) -> None:
            self.inside.append(name)
            self._given[name] = self._taken(rule, (args, kwargs), name)

        def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
            layout = self._given[name][0]
            value = next(tensors_of((args, kwargs)))
            self.followed.put(value, None if layout is None else Layout(value.dim() - 1, layout.blocks))
            self.inside.pop()

        def after(module: nn.Module, args: Any, out: Any) -> None:
            self.inside.pop()

        return [
            layer.register_forward_pre_hook(before, with_kwargs=True),
            layer.register_forward_hook(after),
            layer.get_submodule(rule.inner).register_forward_pre_hook(enter, with_kwargs=True),
        ]

    def _again_inside(self, name: str) -> Callable[..., None]:
        def leave(module: nn.Module, args: Any, out: Any) -> None:
            self.inside.append(name)

        return leave

    def _taken(self, rule: LayerRule, given: Any, name: str) -> tuple[Layout | None, Tensor | None]:
        """Return the layout of what a layer is called with, that of several inputs tied, and the first input."""
        tensors = list(tensors_of(given))
        held = [(t, at) for t in tensors if (at := self.followed.get(t)) is not None]
        if not held:
            return None, None
        value, layout = held[0]
        axis = rule.axis % value.dim()
        for other, at in held[1:]:
            self.structure.spaces.unify(layout.blocks, at.blocks, f"they meet other values in '{name}'")
            if other.dim() - at.axis != value.dim() - layout.axis:
                self.followed.freeze([value, other], f"'{name}' reads them along different axes")
        fixed = [
            t for t in tensors if self.followed.get(t) is None and t.is_floating_point() and t.dim() == value.dim()
        ]
        if rule.output == "same" and any(t.shape == value.shape for t in fixed):
            self.followed.freeze([value], f"they meet other values in '{name}'")
        if layout.axis != axis:
            self.followed.freeze([value], f"'{name}' reads another axis of them")
            return None, None
        return layout, value

    def _leave(self, name: str, layer: nn.Module, rule: LayerRule, out: Any) -> None:
        """Give the output its channels, and the layer's tensors theirs."""
        layout, value = self._given[name]
        result = next(tensors_of(out))
        axis = rule.axis % result.dim()
        spaces, given = self.structure.spaces, None if layout is None else layout.blocks
        taken = given if given is not None else (Block(-1, _input_size(layer, rule, result.size(axis))),)
        if name in self._inputs:
            spaces.unify(self._inputs[name], taken, f"'{name}' is called with several inputs")
        made = self._output(name, layer, rule, taken, result.size(axis))
        self._inputs.setdefault(name, taken)
        for label, axes in rule.axes_of(layer).items():
            self._label(f"{name}.{label}" if name else label, layer, label, axes, taken, made, name)
        self.followed.put(result, Layout(axis, made))
        rows = (None if value is None else _rows(value, rule.axis), _rows(result, rule.axis))
        self.structure.calls.append(Call(name, given, made, rule.output == "new", *rows))

    def _output(
        self, name: str, layer: nn.Module, rule: LayerRule, taken: tuple[Block, ...], size: int
    ) -> tuple[Block, ...]:
        spaces = self.structure.spaces
        if rule.output == "same":
            self._made.setdefault(name, {})
            return taken
        made = self._made.setdefault(name, {})
        if rule.output == "new":
            if "out" not in made:
                made["out"] = spaces.new(size, name, rule.heads(layer))
                if not rule.scales(layer):
                    spaces.scale.freeze(made["out"], f"'{name}' normalises them")
            return (Block(made["out"]),)
        spaces.freeze(taken, f"'{name}' normalises them", order=False)
        held = any("out" in axes.labels for axes in rule.axes_of(layer).values())
        blocks = []
        for k, block in enumerate(taken):
            if block.space >= 0 and f"out{k}" not in made:
                of = spaces.order.find(block.space)
                made[f"out{k}"] = spaces.new(spaces.sizes[block.space], name, spaces.heads[of])
                spaces.order.tie(block.space, made[f"out{k}"])
                if not held or block.inner > 1:
                    spaces.scale.freeze(made[f"out{k}"], f"'{name}' has no weights that scale them")
            blocks.append(block if block.space < 0 else Block(made[f"out{k}"], block.inner))
        return tuple(blocks)

    def _label(
        self,
        tensor: str,
        layer: nn.Module,
        label: str,
        axes: Axes,
        taken: tuple[Block, ...],
        made: tuple[Block, ...],
        name: str,
    ) -> None:
        value = layer.state_dict(keep_vars=True)[label]
        shape = value.shape if axes.view is None else value.reshape(axes.view).shape
        found: list[AxisBlocks] = []
        for size, word in zip(shape, axes.labels, strict=True):
            inverse, word = (word or "").startswith(INVERSE), (word or "").removeprefix(INVERSE)
            if not word:
                found.append(None)
                continue
            if word not in ("in", "out") and word not in self._made[name]:
                self._made[name][word] = self.structure.spaces.new(size, f"{name} {word}".strip())
                self.structure.spaces.scale.freeze(self._made[name][word], "they are inside a layer")
            blocks = taken if word == "in" else made if word == "out" else (Block(self._made[name][word]),)
            if self.structure.spaces.length(blocks) != size:
                raise InvalidInputError(
                    f"Expected an axis of {self.structure.spaces.length(blocks)} channels for '{word}' of '{tensor}' "
                    f"(got {size}); the layer's rule does not fit"
                )
            found.append((blocks, -1 if (word == "in") != inverse else 1))
        self._tie_shared(tensor, value, tuple(found))
        if axes.view is not None:
            self.structure.views[tensor] = tuple(shape)

    def _tie_shared(self, tensor: str, value: Any, found: tuple[AxisBlocks, ...]) -> None:
        """Two names of one parameter have the same axes."""
        first = self._owners.setdefault(id(value), tensor)
        known = self.structure.axes.get(first)
        self.structure.axes[tensor] = found
        if known is None:
            return
        why = f"'{first}' and '{tensor}' are one tensor"
        for a, b in zip(known, found, strict=True):
            if (a is None) != (b is None):
                self.structure.spaces.freeze((a or b or ((), 1))[0], why)
            elif a is not None and b is not None:
                self.structure.spaces.unify(a[0], b[0], why, scale=a[1] == b[1])


def _remove(handles: list[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()


def _input_size(layer: nn.Module, rule: LayerRule, otherwise: int) -> int:
    """Return the number of a layer's input channels by its weights."""
    held = layer.state_dict(keep_vars=True)
    for name, axes in rule.axes_of(layer).items():
        if "in" in axes.labels:
            shape = held[name].shape if axes.view is None else held[name].reshape(axes.view).shape
            return int(shape[axes.labels.index("in")])
    return otherwise


def _rows(value: Tensor, axis: int) -> Tensor:
    """Return a tensor as `[rows, channels]`."""
    value = value.detach()
    return value.movedim(axis, -1).reshape(-1, value.size(axis)) if value.layout == torch.strided else value
