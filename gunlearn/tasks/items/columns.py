"""Inputs and labels of a map-style data set, loaded when they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset, default_collate

from gunlearn.core.checks import is_finite
from gunlearn.errors import InvalidInputError
from gunlearn.seed import isolated_rng

#: Where data sets keep the labels of all items (torchvision's and most others).
_LABELS = ("targets", "labels", "y")
_CLASSES = 256  # of which an item is compared with the labels kept beside it
_TRIED = 8  # items that are read twice, to see whether a transform draws


class Column:
    """One of the two entries of each item of a map-style data set; items are loaded when they are read.

    Args:
        dataset: `dataset[i]` is a pair of an input and an integer label.
        place: 0 for inputs, 1 for labels.
        collate: makes a pair of tensors of a list of items, a loader's own `collate_fn`.
    """

    def __init__(self, dataset: Any, place: int, collate: Callable[[list[Any]], Any] = default_collate) -> None:
        self.dataset, self.place, self.collate = dataset, place, collate

    @property
    def shape(self) -> tuple[int]:
        """Number of items."""
        return (len(self.dataset),)

    def __len__(self) -> int:
        return len(self.dataset)

    def __repr__(self) -> str:
        # The same in every process.
        return f"Column({type(self.dataset).__name__} of {len(self)}, {self.place})"

    def __getitem__(self, index: Tensor) -> Tensor:
        return self.load(index)[self.place]

    def select(self, mask: Tensor) -> Column:
        """Return the column of the items that a boolean mask `[num_items]` keeps."""
        return Column(Subset(self.dataset, mask.nonzero().view(-1).tolist()), self.place, self.collate)

    def load(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Load items `[k]`, numbers or a boolean mask `[num_items]`: inputs `[k, ...]` and labels `[k]`.

        Raises:
            InvalidInputError: items that are no pairs, inputs that are no tensors of one shape or not finite, labels
                that are no integers of at least 0.
        """
        chosen = (index.nonzero().view(-1) if index.dtype == torch.bool else index).tolist()
        items = [_pair(self.dataset[i]) for i in chosen]
        return self._checked(chosen, *self._together(items))

    def _together(self, items: list[Any]) -> tuple[Any, Any]:
        try:
            x, y = self.collate(items)
        except (TypeError, ValueError, RuntimeError) as error:
            kind = type(items[0][0])
            if not isinstance(items[0][0], Tensor):
                said = f"inputs of {kind.__module__}.{kind.__qualname__}"
                remedy = "give the data set a transform that returns tensors, such as torchvision's ToTensor()"
            else:
                said = f"inputs of shapes {sorted({tuple(x.shape) for x, _ in items})[:2]}: {str(error)[:100]}"
                remedy = "resize or pad them in the data set's transform, or in the loader's collate_fn"
            raise InvalidInputError(f"Expected inputs that are tensors of one shape (got {said}); {remedy}") from error
        return x, y

    def _checked(self, chosen: list[int], x: Any, y: Any) -> tuple[Tensor, Tensor]:
        y = torch.as_tensor(y)
        if not isinstance(x, Tensor) or len(x) != len(chosen) or len(y) != len(chosen):
            got = f"{len(x)} inputs and {len(y)} labels" if isinstance(x, Tensor) else type(x).__name__
            raise InvalidInputError(f"Expected {len(chosen)} inputs and labels of {len(chosen)} items (got {got})")
        if not is_finite(x):
            wrong = [i for i, row in zip(chosen, x, strict=True) if not is_finite(row)]
            place, dataset = wrong[0], self.dataset
            while isinstance(dataset, Subset):  # the caller's own numbers
                place, dataset = dataset.indices[place], dataset.dataset
            raise InvalidInputError(
                f"Expected finite inputs (got NaN or infinity in {len(wrong)} of {len(chosen)} items that were read, "
                f"the first is item {place} of {type(dataset).__name__})"
            )
        return x, class_labels(y)

    def labels(self) -> Tensor:
        """Return the labels of all items `[num_items]`, from where the data set keeps them, else of each item."""
        known = known_labels(self.dataset)
        if known is not None:
            return known
        with isolated_rng():  # a transform may draw
            return class_labels(torch.as_tensor([_pair(self.dataset[i])[1] for i in range(len(self))]))

    def draws(self, among: Tensor | None = None) -> bool:
        """Return whether items differ when they are read again: a transform draws. The random state does not change.

        A few of the items `among` `[k]` are read, and no others; `None` for all.
        """
        among = torch.arange(len(self)) if among is None else among
        if not len(among):
            return False
        index = among[torch.linspace(0, len(among) - 1, min(len(among), _TRIED)).long()]
        with isolated_rng(0):
            first = self.load(index)[0]
        with isolated_rng(1):
            return not torch.equal(first, self.load(index)[0])


def _pair(item: Any) -> Any:
    """Return an item of a data set, or raise InvalidInputError where it is no pair of an input and a label."""
    if isinstance(item, list | tuple) and len(item) == 2:
        return item
    if isinstance(item, Mapping):
        keys = ", ".join(map(repr, list(item)[:5]))
        got = f"a dict with keys {keys}); wrap the data set in one that returns (item[INPUT], item[LABEL]"
    else:
        sized = isinstance(item, list | tuple)
        got = f"a {type(item).__name__} of {len(item)}" if sized else f"a {type(item).__name__}"
    raise InvalidInputError(f"Expected items that are pairs of an input and a label (got {got})")


def class_labels(y: Tensor) -> Tensor:
    """Return labels `[num_items]` as int64, or raise InvalidInputError for other than integers of at least 0."""
    if y.is_floating_point() or y.is_complex() or y.dim() != 1:
        raise InvalidInputError(f"Expected one integer label per item (got {y.dtype} of shape {tuple(y.shape)})")
    below = int((y < 0).sum())
    if below:
        raise InvalidInputError(
            f"Expected labels of at least 0, the places of the classes in the logits (got {below} of {y.numel()} "
            f"below, the smallest is {int(y.min())})"
        )
    return y.long()


def known_labels(dataset: Any) -> Tensor | None:
    """Return labels `[num_items]` that a data set keeps beside its items; `None` where items must be loaded for them.

    What it keeps is compared with an item of each class (of 256 classes, spread over all, where there are more), and of
    a subset with its own: a transform may give them other labels.
    """
    if isinstance(dataset, ConcatDataset):
        parts = [known_labels(part) for part in dataset.datasets]
        return None if any(part is None for part in parts) else torch.cat([p for p in parts if p is not None])
    for labels in _kept_labels(dataset):
        with isolated_rng():
            classes = labels.unique()
            classes = classes[torch.linspace(0, len(classes) - 1, min(len(classes), _CLASSES)).long()]
            first = (labels == classes.unsqueeze(1)).int().argmax(1).tolist()
            if all(int(_pair(dataset[i])[1]) == int(labels[i]) for i in {*first, len(labels) // 2, len(labels) - 1}):
                return class_labels(labels)
    return None


def _kept_labels(dataset: Any) -> Iterator[Tensor]:
    """Yield what may be the labels of a data set's items `[num_items]`; no item is read."""
    if isinstance(dataset, Subset):
        index = torch.as_tensor(dataset.indices, dtype=torch.long)
        whole = known_labels(dataset.dataset) if isinstance(dataset.dataset, ConcatDataset) else None
        inner = _kept_labels(dataset.dataset) if whole is None else iter([whole])
        yield from (labels[index] for labels in inner if len(index))
        return
    kept = [dataset.tensors[-1]] if isinstance(dataset, TensorDataset) else []
    for value in [*kept, *(getattr(dataset, name, None) for name in _LABELS)]:
        try:
            labels = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError):
            continue
        if labels.dim() == 1 and not labels.is_floating_point() and len(labels) == len(dataset) and len(labels):
            yield labels
