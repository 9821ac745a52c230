"""The outputs of each message passing layer, and the number of hops it reaches."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import MessagePassing

from gunlearn.errors import UnsupportedModelError
from gunlearn.nn.attach.contexts import after_layer
from gunlearn.nn.attach.message_layers import message_passing_layers
from gunlearn.tasks.base import Task


class _Recorder:
    def __init__(self, name: str, calls: list[tuple[str, Tensor]]) -> None:
        self.name, self.calls = name, calls

    def __call__(self, h: Tensor) -> Tensor:
        self.calls.append((self.name, h.clone()))  # the model may go on in place
        return h


@torch.no_grad()
def layer_outputs(model: nn.Module, task: Task, data: Data) -> list[tuple[str, Tensor]]:
    """Return name and output `[num_nodes, channels]` of each call of a message passing layer in one pass.

    Raises:
        UnsupportedModelError: a layer returns outputs of another shape, or the model calls none.
    """
    calls: list[tuple[str, Tensor]] = []
    with after_layer(model, {name: _Recorder(name, calls) for name in message_passing_layers(model)}):
        task.encode(model, data)
    for name, h in calls:
        if h.dim() != 2 or h.size(0) != data.num_nodes:
            raise UnsupportedModelError(
                f"Expected layer '{name}' to return [{data.num_nodes}, channels] (got {list(h.shape)})"
            )
    return calls


def hops_of(layer: MessagePassing) -> int:
    """Return the message passing steps of one call; PyG's layers of several steps name them `K`."""
    steps = getattr(layer, "K", 1)
    return steps if isinstance(steps, int) and steps > 1 else 1
