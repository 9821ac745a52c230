"""What a model reads in one step."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from gunlearn.tasks.parts import Parts

if TYPE_CHECKING:  # tasks without graphs load none of it
    from gunlearn.tasks.sampling import ShuffledBatches


class Reader:
    """The base of what a model reads in one step; this one reads everything.

    Args:
        parts: of the problem; a reader may replace them.
        around: the context around training passes.

    Attributes:
        batches: whose `step` must be set before each step, if any.
        note: what steps read, for the result.
    """

    def __init__(self, parts: Parts, around: Any = None) -> None:
        self.around = nullcontext() if around is None else around
        self.parts, self.note = parts, "full"
        self.batches: ShuffledBatches | None = None

    def read(self, items: dict, needed: Collection[str] | None = None) -> tuple[Any, dict, Any]:
        """Return what the model must read for `items`, the items in its terms, and the part of the graph, if any.

        `needed` names the parts that this step's objective reads, of all sampled `items`; `None` for all.
        """
        parts = self.parts
        if parts.retained is not None and needed is not None and not set(parts.outside) & set(needed):
            return parts.retained, items, None
        return parts.data, items, None

    def surroundings(self, subgraph: Any) -> Any:
        """Return the context around a pass over `subgraph`."""
        return self.around
