"""The items of each part of a problem, and which of them a step reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

from torch import Tensor, nn

from gunlearn.errors import UnsupportedMethodError

if TYPE_CHECKING:  # tasks without graphs load none of it
    from torch_geometric.data import Data

    from gunlearn.tasks.sampling import Draw


@dataclass(frozen=True)
class View:
    """The arguments of `Task.parts`: what to read of a problem."""

    partition: Any
    message_graph: str = "retain"
    model: nn.Module | None = None
    names: tuple[str, ...] | None = None

    def reads(self, name: str) -> bool:
        """Return whether a part will be read."""
        return self.names is None or name in self.names


class PartItems:
    """Items of one part, a base for dataclasses whose tensors have a row per item.

    Attributes:
        fixed: the items are the same at every step, so that a reference prediction of them can be kept.
    """

    fixed: bool

    @property
    def num_items(self) -> int:
        """Return the number of items."""
        return next(value.size(0) for value in vars(self).values() if isinstance(value, Tensor))

    def rows(self, index: Tensor | slice, **changes: Any) -> Any:
        """Return some of the items, with other fields changed."""
        rows = {name: value[index] for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(cast(Any, self), **{**rows, **changes})

    def take(self, index: Tensor) -> Any:
        """Return some of the items, `[k]`."""
        return self.rows(index, fixed=False)

    def share(self, rank: int, world: int) -> Any:
        """Return every `world`-th item, from `rank` on."""
        return self.rows(slice(rank, None, world))


class Parts(ABC):
    """The items of each part ("forget", "retain", ...) of one problem, drawn anew at each step where they are random.

    Attributes:
        names: the parts of this problem, each with a description.
        data: what the model reads (the message graph, for a graph task).
        joint: `data` also holds the forgotten items' part of the original graph, beside the retained graph.
        retained: what the model reads instead of `data` where no part of `outside` is read; `None` for `data`. Its rows
            come first in `data`.
        outside: the parts that may hold items that `retained` lacks.
        apart: steps that read forgotten items alone read the original part of `data` alone. Dropout then draws other
            numbers than over all of `data`, which is why it is not the rule.
        usual_batch: items that a step reads where nothing else says how many, as a loader does; `None` for all.
        draws: by part, the function that says which items a step reads; `None` where items can only be read all at
            once.
    """

    names: ClassVar[dict[str, str]]
    data: Data
    joint: bool = False
    retained: Data | None = None
    outside: ClassVar[tuple[str, ...]] = ("forget",)
    apart: ClassVar[bool] = False
    usual_batch: int | None = None
    draws: dict[str, Draw] | None = None

    @abstractmethod
    def sample(self, names: Collection[str]) -> dict[str, Any]:
        """Return items of the named parts for one step, drawn from torch's global generator where they are random."""

    def count(self, name: str) -> int:
        """Return the number of items of a part."""
        return self.sample([name])[name].num_items

    def unread(self, name: str, size: int | None) -> list[Any]:
        """Return the items of a part, `size` at a time, for `Task.predict` to load; none where they are at hand."""
        return []

    def moves_statistics(self, names: Collection[str]) -> bool:
        """Return whether steps that read these parts would bring forgotten items into running statistics."""
        return self.joint

    def strata(self) -> Tensor:
        """Return the stratum of each retained item for `StratifiedSampler`, integers `[num_retained]`.

        In a graph it is the distance to what is forgotten; elsewhere all items are one stratum. A task that can only
        read all retained items at once raises `UnsupportedMethodError`.
        """
        raise UnsupportedMethodError(
            f"Expected a task that reads retained items in batches (got {type(self).__name__} without 'strata')"
        )

    def limit(self, draw: Draw, part: str = "retain") -> None:
        """Read at each step only the items of a part that `draw` names.

        A task that can only read these items all at once raises `UnsupportedMethodError`.
        """
        if self.draws is None:
            raise UnsupportedMethodError(
                f"Expected a task that reads '{part}' items in batches (got {type(self).__name__} without 'limit')"
            )
        self.draws[part] = draw

    def drawn(self, part: str, items: Any) -> Any:
        """Return the items of a part that this step reads: all of them, unless they are limited."""
        if not self.draws or part not in self.draws:
            return items
        index, weight = self.draws[part]()
        taken = items.take(index.to(items.label.device))
        return taken if weight is None else replace(taken, weight=weight)
