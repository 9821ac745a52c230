"""Classification of independent items, without graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from gunlearn.core.checks import check_choice, is_finite
from gunlearn.errors import InvalidInputError, UnsupportedModelError
from gunlearn.losses import Prediction
from gunlearn.requests.ids import checked_masks, trainable_mask
from gunlearn.tasks.base import Parts, Reader, Task, View
from gunlearn.tasks.calling import own_words
from gunlearn.tasks.items.array_parts import MOST_AT_ONCE, USUAL_BATCH, ArrayItems, ArrayParts, TableRows, TriedItems
from gunlearn.tasks.items.columns import Column, class_labels, known_labels
from gunlearn.tasks.items.statistics import STATISTICS, moving_norms, recalibrate
from gunlearn.tasks.items.tables import as_table, rows_at
from gunlearn.tasks.logits import log_of_classes, set_outputs

if TYPE_CHECKING:
    from torch_geometric.data import Data

    from gunlearn.tasks.sampling import BatchOptions


_TRIED = 8  # items that the trial pass reads
_COLOURS = (1, 3, 4)  # channels of pictures


class ImageClassification(Task):
    """Each row of `data.x` is an item of class `data.y`; the model is called as `model(x)` and returns logits.

    Training reads the rows of `data.train_mask`; without one, every row that is not held out.

    **Batch normalisation**: what an objective with a forget part reads would enter the running statistics, so they are
    frozen while it runs: layers compute with them and leave them as they are. Methods that read retained items alone
    train them as training does. `statistics="recalibrated"` replaces them after the run by those of the retained items,
    so that none that the forgotten ones left in them stay; the result's notes say what was done.

    Args:
        batch_size: number of retained items per step; `None` takes all. Where neither the task, the method nor a loader
            says a number, methods read all of up to 4096 training items, and of more 128 of a part per step.
        outputs: what the model returns, `"logits"` or `"probabilities"`.
        statistics: of batch normalisation, `"frozen"` or `"recalibrated"`.

    Raises:
        InvalidInputError: another value of `outputs` or `statistics`.
        UnsupportedModelError: the model does not return `[num_items, num_classes]`.
    """

    name = "image_classification"
    summary = "which class is this item?"
    requests = ("items",)

    #: What becomes of the statistics of batch normalisation, one of `STATISTICS`.
    statistics: str = "frozen"

    def __init__(self, batch_size: int | None = None, outputs: str = "logits", statistics: str = "frozen") -> None:
        self.batch_size = batch_size
        set_outputs(self, outputs)
        check_choice("statistics", statistics, STATISTICS)
        if statistics != self.statistics:  # the default is left to the class, so that saved runs keep their names
            self.statistics = statistics

    def outcomes(self, model: nn.Module) -> str:
        return "categorical"

    def decode(self, model: nn.Module, outputs: None, items: ArrayItems) -> Prediction:
        with own_words(model, None, lambda: (f"model(x) with x {list(items.x.shape)}", _remedy(items.x))):
            # A data set loads its items on the CPU.
            known = next(model.parameters(), items.x) if isinstance(model, nn.Module) else items.x
            logits = model(items.x.to(known.device))
        if not isinstance(logits, Tensor) or logits.dim() != 2 or logits.size(0) != items.x.size(0):
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise UnsupportedModelError(f"Expected logits of shape [{items.x.size(0)}, num_classes] (got {got})")
        _check_labels(items, logits.size(1))
        logits = log_of_classes(logits) if self.outputs == "probabilities" else logits
        log_prob = log_softmax(logits, dim=-1).gather(1, items.y.view(-1, 1).to(logits.device)).view(-1)
        return Prediction(log_prob=log_prob, logits=logits)

    def trial_items(self, data: Data) -> ArrayItems:
        """Return the first training items, and one of the highest class: a model may lack it."""
        rows = _trainable(data).nonzero().view(-1)
        y = known_labels(data.y.dataset) if isinstance(data.y, Column) else data.y
        if y is None or not len(rows):
            return ArrayItems(*rows_at(data, rows[:_TRIED]))
        highest = rows[y[rows].argmax()][None]
        return TriedItems(*rows_at(data, torch.cat([rows[:_TRIED], highest])), labels=(y[rows],))

    def reader(
        self, model: nn.Module, parts: Parts, names: tuple[str, ...], options: BatchOptions, around: Any
    ) -> Reader:
        reader = super().reader(model, parts, names, options, around)
        x = getattr(parts.data, "x", None)
        if isinstance(x, Column) and isinstance(parts, ArrayParts):
            reader.note = "items of a data set, loaded anew at each step"
            if x.draws(torch.cat([parts.index[name] for name in names])):
                reader.note += "; its transform draws (augmentation), and both models see the same draw"
        return reader

    def make_parts(self, view: View) -> ArrayParts:
        part = view.partition
        parts = ArrayParts(part.data, part.forget_mask, part.retain_mask, {"retain": self.batch_size})
        many = sum(index.numel() for index in parts.index.values()) > MOST_AT_ONCE
        if many and parts.usual_batch is None and self.batch_size is None:
            parts.usual_batch = USUAL_BATCH
        return parts

    def training_parts(self, data: Data) -> ArrayParts:
        train = _trainable(data)
        return ArrayParts(data, None, train, {"retain": self.batch_size})

    def training_items(self, data: Data) -> list[Tensor]:
        rows = _trainable(data).nonzero().view(-1)
        return [rows, data.y[rows]] if isinstance(data.y, Tensor) else [rows]

    def validation_items(self, data: Data) -> TableRows | None:
        return self.held_out_items(data, "val")

    def held_out_items(self, data: Data, part: str) -> TableRows | None:
        mask = f"{part}_mask"
        return TableRows(data, data[mask].nonzero().view(-1)) if mask in data else None

    def check_data(self, data: Any) -> Any:
        """Return the items as a table; see `as_table`. Inputs must be finite, labels integers of at least 0."""
        data = as_table(data)
        x, shape = data.x, getattr(data.x, "shape", ())
        if shape:
            checked_masks(data, shape[0])
        if isinstance(x, Tensor) and not is_finite(x):
            wrong = [i for i, row in enumerate(x) if not is_finite(row)]
            raise InvalidInputError(
                f"Expected finite inputs 'x' (got NaN or infinity in {len(wrong)} of {len(x)}, first in row {wrong[0]})"
            )
        if isinstance(data.y, Tensor):
            class_labels(data.y)
        return data

    def settle(self, model: nn.Module, partition: Any) -> dict[str, Any]:
        """Recalibrate the statistics of batch normalisation that learns, where that was asked for, and say so."""
        layers = moving_norms(model)
        if not layers or self.statistics == "frozen":
            return {}
        rows = TableRows(partition.data, partition.retain_mask.nonzero().view(-1))
        count = recalibrate(model, layers, (batch.x for batch in rows.batches()))
        return {"statistics": f"recalibrated on {count} retained items"}


def _check_labels(items: ArrayItems, classes: int) -> None:
    """Refuse labels beyond the logits; a message counts items, and names none: they may be those to forget."""
    if not items.y.numel() or int(items.y.max()) < classes:
        return
    (y,) = getattr(items, "labels", ()) or (items.y,)
    raise UnsupportedModelError(
        f"Expected labels from 0 to {classes - 1}, the model's logits of {classes} classes (got "
        f"{int((y >= classes).sum())} of {y.numel()} above, the largest is {int(y.max())})"
    )


def _trainable(data: Data) -> Tensor:
    """Return the mask of the items that may be learned from, `[num_items]`."""
    return trainable_mask(data, data.x.shape[0], getattr(data.x, "device", "cpu"))


def _remedy(x: Tensor) -> str:
    """Return what to pass instead of inputs that a model does not take."""
    if not x.is_floating_point():
        return f"x.float() / 255 in place of {str(x.dtype).removeprefix('torch.')} images"
    if x.dim() == 4 and x.size(-1) in _COLOURS and x.size(1) not in _COLOURS:
        return "x.permute(0, 3, 1, 2), where channels are last as here"
    return "a model that takes such rows"
