"""What one run tells of a model: spaces of channels, the axes of its tensors, the calls of its layers."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from gunlearn.connectivity.alignment.spaces import Block, Spaces
from gunlearn.nn.channels.channel_rules import LayerRule

#: Why the channels of the output stay as they are.
OUTPUT_CHANNELS = "they are the model's output"
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
