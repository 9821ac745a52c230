"""Classification of independent items, without graphs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from gunlearn.errors import InvalidInputError, UnsupportedModelError
from gunlearn.losses import Prediction
from gunlearn.requests.ids import checked_masks, trainable_mask
from gunlearn.tasks.base import PartItems, Parts, Task, View
from gunlearn.tasks.calling import own_words
from gunlearn.tasks.items.tables import as_table, rows_at
from gunlearn.tasks.logits import log_of_classes, set_outputs

if TYPE_CHECKING:
    from torch_geometric.data import Data

    from gunlearn.tasks.sampling import Draw


_TRIED = 8  # items that the trial pass reads


@dataclass(frozen=True)
class ArrayItems(PartItems):
    """Inputs `[num_items, ...]` and integer labels `[num_items]`."""

    x: Tensor
    y: Tensor
    fixed: bool = True


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
        masks = {"forget": forget_mask, "retain": retain_mask}
        self.index = {name: mask.nonzero().view(-1) for name, mask in masks.items() if mask is not None}

    def strata(self) -> Tensor:
        return torch.zeros_like(self.index["retain"])

    def count(self, name: str) -> int:
        return self.index[name].numel()

    def sample(self, names: Collection[str]) -> dict[str, ArrayItems]:
        unknown = sorted(set(names) - set(self.index))
        if unknown:
            raise InvalidInputError(f"Expected parts among {list(self.index)} (got {unknown})")
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
        """Return the rows `index`; `fixed` where they are the same at every step."""
        return ArrayItems(*rows_at(self.data, index), fixed)


class ImageClassification(Task):
    """Each row of `data.x` is an item of class `data.y`; the model is called as `model(x)` and returns logits.

    Training reads the rows of `data.train_mask`; without one, every row that is not held out.

    Args:
        batch_size: number of retained items per step; `None` takes all.
        outputs: what the model returns, `"logits"` or `"probabilities"`.

    Raises:
        InvalidInputError: another value of `outputs`.
        UnsupportedModelError: the model does not return `[num_items, num_classes]`.
    """

    name = "image_classification"
    summary = "which class is this item?"
    requests = ("items",)

    def __init__(self, batch_size: int | None = None, outputs: str = "logits") -> None:
        self.batch_size = batch_size
        set_outputs(self, outputs)

    def outcomes(self, model: nn.Module) -> str:
        return "categorical"

    def decode(self, model: nn.Module, outputs: None, items: ArrayItems) -> Prediction:
        shape = list(items.x.shape)
        with own_words(model, None, lambda: (f"model(x) with x {shape}", "a model that takes such rows")):
            logits = model(items.x)
        if not isinstance(logits, Tensor) or logits.dim() != 2 or logits.size(0) != items.x.size(0):
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise UnsupportedModelError(f"Expected logits of shape [{items.x.size(0)}, num_classes] (got {got})")
        classes = int(items.y.max()) + 1 if items.y.numel() else 0
        if logits.size(1) < classes:
            raise UnsupportedModelError(f"Expected logits of at least {classes} classes (got {logits.size(1)})")
        logits = log_of_classes(logits) if self.outputs == "probabilities" else logits
        log_prob = log_softmax(logits, dim=-1).gather(1, items.y.view(-1, 1)).view(-1)
        return Prediction(log_prob=log_prob, logits=logits)

    def trial_items(self, data: Data) -> ArrayItems:
        """Return the first training items."""
        train = trainable_mask(data, data.x.shape[0], getattr(data.x, "device", "cpu"))
        return ArrayItems(*rows_at(data, train.nonzero().view(-1)[:_TRIED]))

    def make_parts(self, view: View) -> ArrayParts:
        part = view.partition
        return ArrayParts(part.data, part.forget_mask, part.retain_mask, {"retain": self.batch_size})

    def training_parts(self, data: Data) -> ArrayParts:
        train = trainable_mask(data, data.x.shape[0], getattr(data.x, "device", "cpu"))
        return ArrayParts(data, None, train, {"retain": self.batch_size})

    def validation_items(self, data: Data) -> ArrayItems | None:
        return ArrayItems(*rows_at(data, data.val_mask)) if "val_mask" in data else None

    def check_data(self, data: Any) -> Any:
        """Return the items as a table; see `as_table`. Inputs must be finite, and masks must fit the items."""
        data = as_table(data)
        x, shape = data.x, getattr(data.x, "shape", ())
        if shape:
            checked_masks(data, shape[0])
        if isinstance(x, Tensor) and x.is_floating_point() and not bool(torch.isfinite(x).all()):
            raise InvalidInputError("Expected finite inputs 'x' (got NaN or infinity)")
        return data
