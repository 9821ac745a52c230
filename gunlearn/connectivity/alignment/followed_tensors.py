"""The channels of the tensors of one run."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from gunlearn.connectivity.alignment.spaces import Layout, Spaces


def tensors_of(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested tuples, lists and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from tensors_of(entry)
    elif isinstance(value, dict):
        for entry in value.values():
            yield from tensors_of(entry)


class Followed:
    """The layouts of the tensors of one run, each kept alive so that its identity stays its own."""

    def __init__(self, spaces: Spaces) -> None:
        self.spaces = spaces
        self._known: dict[int, tuple[Tensor, Layout]] = {}

    def get(self, tensor: Any) -> Layout | None:
        """Return the layout of a tensor; None where it has no channels of any layer."""
        found = self._known.get(id(tensor))
        return None if found is None else found[1]

    def put(self, tensor: Any, layout: Layout | None) -> None:
        """Set the layout of a tensor."""
        if layout is None:
            self._known.pop(id(tensor), None)
        else:
            self._known[id(tensor)] = (tensor, layout)

    def freeze(self, values: Any, why: str) -> None:
        """Leave all channels of some tensors as they are."""
        for tensor in tensors_of(values):
            if (layout := self.get(tensor)) is not None:
                self.spaces.freeze(layout.blocks, why)
