"""Label the axes of a layer's tensors with the spaces of its channels."""

from typing import Any

from torch import nn

from gunlearn.connectivity.alignment.channel_structure import AxisBlocks, ChannelStructure
from gunlearn.connectivity.alignment.spaces import Block
from gunlearn.errors import InvalidInputError
from gunlearn.nn.channels.channel_rules import INVERSE, Axes, LayerRule

Blocks = tuple[Block, ...]


class AxisLabels:
    """Gives the channels that begin in layers their spaces, and each tensor's axes theirs.

    Args:
        structure: to be filled.
    """

    def __init__(self, structure: ChannelStructure) -> None:
        self.structure = structure
        self.made: dict[str, dict[str, int]] = {}  # spaces that begin in a layer, by label
        self._inputs: dict[str, Blocks] = {}
        self._owners: dict[int, str] = {}

    def of_call(self, name: str, layer: nn.Module, rule: LayerRule, given: Blocks | None, size: int) -> Blocks:
        """Return the blocks of a layer's output, of `size` channels, and label its tensors.

        Args:
            name: of the layer.
            layer: the module.
            rule: its rule.
            given: blocks of its input; None where these are no layer's channels.
            size: channels of the output.
        """
        taken = given if given is not None else (Block(-1, _input_size(layer, rule, size)),)
        if name in self._inputs:
            self.structure.spaces.unify(self._inputs[name], taken, f"'{name}' is called with several inputs")
        self._inputs.setdefault(name, taken)
        made = self._output(name, layer, rule, taken, size)
        for label, axes in rule.axes_of(layer).items():
            self._label(name, layer, label, axes, {"in": taken, "out": made})
        return made

    def _output(
        self, name: str, layer: nn.Module, rule: LayerRule, taken: tuple[Block, ...], size: int
    ) -> tuple[Block, ...]:
        spaces = self.structure.spaces
        if rule.output == "same":
            self.made.setdefault(name, {})
            return taken
        made = self.made.setdefault(name, {})
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

    def _label(self, name: str, layer: nn.Module, label: str, axes: Axes, ends: dict[str, Blocks]) -> None:
        """Label one tensor; words that are no end of the layer are spaces inside it."""
        tensor, spaces = (f"{name}.{label}" if name else label), self.structure.spaces
        value = layer.state_dict(keep_vars=True)[label]
        shape = value.shape if axes.view is None else value.reshape(axes.view).shape
        found: list[AxisBlocks] = []
        for size, entry in zip(shape, axes.labels, strict=True):
            if not entry:
                found.append(None)
                continue
            inverse, word = entry.startswith(INVERSE), entry.removeprefix(INVERSE)
            if word not in ends and word not in self.made[name]:
                self.made[name][word] = spaces.new(size, f"{name} {word}".strip())
                spaces.scale.freeze(self.made[name][word], "they are inside a layer")
            blocks = ends[word] if word in ends else (Block(self.made[name][word]),)
            if spaces.length(blocks) != size:
                raise InvalidInputError(
                    f"Expected an axis of {spaces.length(blocks)} channels for '{word}' of '{tensor}' (got {size}); "
                    "the layer's rule does not fit"
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


def _input_size(layer: nn.Module, rule: LayerRule, otherwise: int) -> int:
    """Return the number of a layer's input channels by its weights."""
    held = layer.state_dict(keep_vars=True)
    for name, axes in rule.axes_of(layer).items():
        if "in" in axes.labels:
            shape = held[name].shape if axes.view is None else held[name].reshape(axes.view).shape
            return int(shape[axes.labels.index("in")])
    return otherwise
