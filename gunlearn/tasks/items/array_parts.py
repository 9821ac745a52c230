"""The parts of a problem over the rows of an array or a data set."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from gunlearn.errors import InvalidInputError
from gunlearn.losses import Prediction
from gunlearn.seed import isolated_rng
from gunlearn.tasks.base import PartItems, Parts, Task
from gunlearn.tasks.items.columns import Column
from gunlearn.tasks.items.tables import ItemTable, rows_at

if TYPE_CHECKING:
    from torch_geometric.data import Data

    from gunlearn.tasks.sampling import Draw

ROWS_READ = 1024  # items that are read at a time where no gradient is needed
MOST_AT_ONCE = 4096  # items of a problem that a step may read where nobody says how many; of more it reads so many:
USUAL_BATCH = 128


@dataclass(frozen=True)
class ArrayItems(PartItems):
    """Inputs `[num_items, ...]` and integer labels `[num_items]`."""

    x: Tensor
    y: Tensor
    fixed: bool = True


@dataclass(frozen=True)
class TriedItems(ArrayItems):
    """Items of the trial pass, with the labels of all training items `[num_items]`, where they are known."""

    labels: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class TableRows(PartItems):
    """Rows `index` `[num_items]` of a table, loaded and predicted so many at a time, never all at once."""

    data: Any
    index: Tensor
    fixed: bool = False

    @property
    def y(self) -> Tensor:
        """Return the labels `[num_items]`."""
        y = self.data.y
        return (y.labels() if isinstance(y, Column) else y)[self.index].long()

    def batches(self) -> Iterator[ArrayItems]:
        """Return the items, loaded."""
        return (ArrayItems(*rows_at(self.data, index), fixed=False) for index in self.index.split(ROWS_READ))

    def decode(self, task: Task, model: nn.Module, outputs: None) -> Prediction:
        """Return the predictions of all rows, with their labels; what a transform draws is the same for each model."""
        with isolated_rng(0):
            found = [(task.decode(model, outputs, batch), batch.y) for batch in self.batches()]
        logits = [prediction.logits for prediction, _ in found]
        return Prediction(
            log_prob=torch.cat([prediction.log_prob for prediction, _ in found]),
            logits=None if any(part is None for part in logits) else torch.cat([p for p in logits if p is not None]),
            label=torch.cat([y.to(prediction.log_prob.device) for prediction, y in found]),
        )


class ArrayParts(Parts):
    """Parts of a problem over the rows of an array.

    Args:
        data: the rows.
        forget_mask: boolean `[num_items]`, `None` where nothing is forgotten.
        retain_mask: boolean `[num_items]`.
        batch_sizes: number of items per step of a part, drawn anew at each; parts without one are read whole.
    """

    names: ClassVar[dict[str, str]] = {
        "forget": "the items to forget",
        "retain": "the remaining training items (a fresh batch where limited)",
    }

    def __init__(
        self, data: Data, forget_mask: Tensor | None, retain_mask: Tensor, batch_sizes: Mapping[str, int | None]
    ) -> None:
        self.data, self.batch_sizes = data, batch_sizes
        self.draws: dict[str, Draw] = {}
        self.usual_batch = data.get("batch_size") if isinstance(data, ItemTable) else None
        masks = {"forget": forget_mask, "retain": retain_mask}
        self.index = {name: mask.nonzero().view(-1) for name, mask in masks.items() if mask is not None}

    def strata(self) -> Tensor:
        return torch.zeros_like(self.index["retain"])

    def count(self, name: str) -> int:
        self._check([name])
        return self.index[name].numel()

    def _check(self, names: Collection[str]) -> None:
        unknown = sorted(set(names) - set(self.index))
        if unknown:
            raise InvalidInputError(f"Expected parts among {list(self.index)} (got {unknown})")

    def sample(self, names: Collection[str]) -> dict[str, ArrayItems]:
        self._check(names)
        out = {}
        for name in names:
            index, fixed, size = self.index[name], True, self.batch_sizes.get(name)
            if name in self.draws:
                index, fixed = index[self.draws[name]()[0].to(index.device)], False  # one stratum: all weights are 1
            elif size is not None and size < index.numel():
                index, fixed = index[torch.randperm(index.numel())[:size].to(index.device)], False
            out[name] = self.items(index, fixed)
        return out

    def items(self, index: Tensor, fixed: bool) -> Any:
        """Return the rows `index`; `fixed` where they are the same at every step.

        Items of a data set never are: a transform may draw.
        """
        return ArrayItems(*rows_at(self.data, index), fixed and not isinstance(self.data.x, Column))

    def unread(self, name: str, size: int | None) -> list[TableRows]:
        if not isinstance(getattr(self.data, "x", None), Column):
            return []
        index = self.index[name]
        return [TableRows(self.data, rows) for rows in index.split(size or max(index.numel(), 1))]

    def moves_statistics(self, names: Collection[str]) -> bool:
        return "forget" in names
