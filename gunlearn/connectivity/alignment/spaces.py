"""Spaces of channels: what indexes an axis of a tensor, and which spaces must be permuted alike."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor


class Block(NamedTuple):
    """A run of an axis: the channels of a space, each `inner` entries long, or `inner` entries that stay in place.

    Attributes:
        space: number of the space, -1 for entries that stay.
        inner: consecutive entries per channel, such as the places of a flattened image.
    """

    space: int
    inner: int = 1


class Layout(NamedTuple):
    """Which axis of a tensor holds channels, and of which spaces."""

    axis: int
    blocks: tuple[Block, ...]


@dataclass
class Ties:
    """Spaces that must be treated alike (union-find), and the reasons why some must not be touched."""

    parent: list[int] = field(default_factory=list)
    frozen: dict[int, str] = field(default_factory=dict)

    def add(self) -> None:
        """Begin a space that is tied to none."""
        self.parent.append(len(self.parent))

    def find(self, space: int) -> int:
        """Return the space that stands for all that are tied to this one."""
        while self.parent[space] != space:
            space = self.parent[space]
        return space

    def tie(self, one: int, other: int) -> None:
        """Treat two spaces alike from now on; what freezes one freezes both."""
        a, b = sorted((self.find(one), self.find(other)))
        if a != b:
            self.parent[b] = a
            if b in self.frozen:
                self.frozen.setdefault(a, self.frozen.pop(b))

    def freeze(self, space: int, why: str) -> None:
        """Leave a space, and all that are tied to it, as they are; the first reason is kept."""
        self.frozen.setdefault(self.find(space), why)

    def why(self, space: int) -> str:
        """Return why a space is left as it is; empty where it is not."""
        return self.frozen.get(self.find(space), "")


@dataclass
class Spaces:
    """All spaces of a model: sizes, blocks of channels that move as wholes, what permutes and what scales alike."""

    sizes: list[int] = field(default_factory=list)
    heads: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    order: Ties = field(default_factory=Ties)
    scale: Ties = field(default_factory=Ties)

    def new(self, size: int, name: str, heads: int = 1) -> int:
        """Begin a space of `size` channels in `heads` blocks; return its number."""
        self.sizes.append(size)
        self.heads.append(heads)
        self.names.append(name)
        self.order.add()
        self.scale.add()
        return len(self.sizes) - 1

    def unify(self, one: tuple[Block, ...], other: tuple[Block, ...], why: str, scale: bool = True) -> None:
        """Permute (and scale) the blocks of two axes alike; where they differ in shape, leave both as they are."""
        same = len(one) == len(other) and all(
            a.inner == b.inner and min(a.space, b.space) >= 0 and self._fits(a.space, b.space)
            for a, b in zip(one, other, strict=True)
            if a != b
        )
        if not same:
            self.freeze((*one, *other), why)
            return
        for a, b in zip(one, other, strict=True):
            if a != b:
                self.order.tie(a.space, b.space)
                self._tie_heads(a.space, b.space)
                if scale:
                    self.scale.tie(a.space, b.space)
            if not scale and a.space >= 0:
                self.scale.freeze(a.space, why)
                self.scale.freeze(b.space, why)

    def freeze(self, blocks: tuple[Block, ...], why: str, order: bool = True) -> None:
        """Leave the scale of blocks as it is, and their order with `order`."""
        for block in blocks:
            if block.space >= 0:
                self.scale.freeze(block.space, why)
                if order:
                    self.order.freeze(block.space, why)

    def length(self, blocks: tuple[Block, ...]) -> int:
        """Return the number of entries of an axis."""
        return sum(b.inner * (self.sizes[b.space] if b.space >= 0 else 1) for b in blocks)

    def _fits(self, a: int, b: int) -> bool:
        heads = {self.heads[self.order.find(s)] for s in (a, b)} - {1}
        return self.sizes[a] == self.sizes[b] and len(heads) < 2

    def _tie_heads(self, a: int, b: int) -> None:
        root = self.order.find(a)
        self.heads[root] = max(self.heads[root], self.heads[a], self.heads[b])

    def free(self) -> list[int]:
        """Return the spaces whose order may change, one for each that are tied."""
        found = dict.fromkeys(self.order.find(s) for s in range(len(self.sizes)))
        return [s for s in found if not self.order.why(s) and self.sizes[s] > 1]


def positions(blocks: tuple[Block, ...], spaces: Spaces, orders: dict[int, Tensor]) -> Tensor:
    """Return the index that permutes an axis: entry `i` is taken from `positions[i]`.

    Args:
        blocks: of the axis.
        spaces: of the model.
        orders: a permutation `[size]` for each space that is permuted, by the space that stands for it.
    """
    parts, start = [], 0
    for space, inner in blocks:
        size = spaces.sizes[space] if space >= 0 else 1
        order = orders.get(spaces.order.find(space)) if space >= 0 else None
        channels = torch.arange(size) if order is None else order
        parts.append((channels[:, None] * inner + torch.arange(inner) + start).reshape(-1))
        start += size * inner
    return torch.cat(parts)
