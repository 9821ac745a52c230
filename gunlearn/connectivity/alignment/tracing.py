"""Follow channels through one run of a model: hooks on the layers of the table, functions of tensors between them."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from gunlearn.connectivity.alignment.axis_labels import AxisLabels
from gunlearn.connectivity.alignment.channel_structure import OUTPUT_CHANNELS, Call, ChannelStructure
from gunlearn.connectivity.alignment.followed_tensors import Followed, tensors_of
from gunlearn.connectivity.alignment.spaces import Layout
from gunlearn.connectivity.alignment.tensor_functions import follow
from gunlearn.errors import UnsupportedModelError
from gunlearn.nn.channels.channel_rules import LayerRule, rule_of, unlisted


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
        self.labels = AxisLabels(self.structure)

    def trace(self) -> ChannelStructure:
        """Run the model and return what was found."""
        rules = layers_of_table(self.model)
        self.structure.rules = {name: rule for name, (_, rule) in rules.items()}
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
        self.followed.freeze(self.structure.output, OUTPUT_CHANNELS)
        self.structure.unused = [k for k, (_, rule) in rules.items() if not rule.inner and k not in self.labels.made]
        return self.structure

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
        given = None if layout is None else layout.blocks
        made = self.labels.of_call(name, layer, rule, given, result.size(axis))
        self.followed.put(result, Layout(axis, made))
        rows = (None if value is None else _rows(value, rule.axis), _rows(result, rule.axis))
        self.structure.calls.append(Call(name, given, made, rule.output == "new", *rows))


def layers_of_table(model: nn.Module) -> dict[str, tuple[nn.Module, LayerRule]]:
    """Return the layers of the table and their rules by name, those inside others left out.

    Raises:
        UnsupportedModelError: a parameter belongs to no layer of the table, or a layer has unknown settings.
    """
    found: dict[str, tuple[nn.Module, LayerRule]] = {}
    within: list[str] = []
    for name, module in model.named_modules():
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
        if not rule.inner:
            within.append(prefix)
    return found


def _remove(handles: list[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()


def _rows(value: Tensor, axis: int) -> Tensor:
    """Return a tensor as `[rows, channels]`."""
    value = value.detach()
    return value.movedim(axis, -1).reshape(-1, value.size(axis)) if value.layout == torch.strided else value
