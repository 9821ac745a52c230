"""Features that requests on a prepared graph leave: they share their memory, but for the rows that changed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gunlearn.core.shared_pages import Image

#: Share of the rows that may differ before the memory is written anew.
_CHANGED = 0.1


@dataclass(frozen=True, eq=False)
class SharedFeatures:
    """The features `[num_nodes, ...]` of a graph, as those of an earlier one and the rows that are others.

    Args:
        image: the features of the earlier graph.
        rows: where those of this graph differ, ascending `[k]`.
    """

    image: Image
    rows: Tensor

    @classmethod
    def of(cls, x: Tensor) -> SharedFeatures:
        """Write features to shared memory.

        Raises:
            OSError: see `Image`.
        """
        return cls(Image(x), torch.empty(0, dtype=torch.long))

    def copy(self, x: Tensor) -> Tensor:
        """Return a copy of `x`, the features of this graph, that may be written to.

        Raises:
            OSError: see `Image.copy`.
        """
        new = self.image.copy()
        new[self.rows] = x.detach()[self.rows]
        return new

    def after(self, rows: Tensor) -> SharedFeatures | None:
        """Return what to copy from when some more `rows` `[k]` change; `None` where these are too many."""
        rows = torch.cat([self.rows, rows]).unique()
        return replace(self, rows=rows) if rows.numel() <= _CHANGED * self.image.shape[0] else None
