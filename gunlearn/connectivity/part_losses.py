"""Losses of the parts of a problem at a point of a path, on the same items at every point."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.core.modes import evaluating
from gunlearn.errors import DivergenceError, InvalidInputError, InvalidTypeError, UnsupportedModelError
from gunlearn.losses import NLL, Prediction
from gunlearn.methods.forget_part import has_forget_items
from gunlearn.seed import isolated_rng
from gunlearn.tasks.base import Parts, Task
from gunlearn.tasks.items.statistics import batch_norm_layers, settle_statistics

_READ = 1024  # independent items that are read at a time
#: Parts whose losses are computed, in the order of rows.
PARTS = ("retain", "forget", "val", "test")
_STATISTICS = "statistics"  # what is held for them


class PartLosses:
    """Mean negative log-likelihood of retained, forgotten, validation and test items, in nats per item.

    Retained items are those of training: of links, edges and as many other pairs, drawn once under the seed, so that
    all points are judged by the same. Models read what unlearning reads.

    Args:
        task: what the models predict.
        partition: what was forgotten; `None` where nothing was, for which `data` is given.
        data: training data without a request.
        model: of the architecture at hand.
        seed: of what is drawn.
        loader: training items, in any form of data that the task reads, on which statistics of batch normalisation are
            computed; by default the retained items.

    Raises:
        InvalidInputError: a `loader` for a model without such statistics, or neither a partition nor data.
        InvalidTypeError: something else in place of a partition.
    """

    def __init__(
        self, task: Task, partition: Any, model: nn.Module, data: Any = None, seed: int = 0, loader: Any = None
    ) -> None:
        if partition is not None and not hasattr(partition, "retain_data"):
            raise InvalidTypeError(
                f"Expected a partition, request.resolve(data), or None (got {type(partition).__name__})"
            )
        if partition is None and data is None:
            raise InvalidInputError("Expected a partition, or 'data' where nothing was forgotten (got None)")
        self.task, retained = task, data if partition is None else partition.retain_data
        self.held: dict[str, tuple[Any, list[Any]]] = {}
        with isolated_rng(seed):
            for name in PARTS[: 1 if partition is None else 2]:
                parts = (
                    task.training_parts(data) if partition is None else task.parts(partition, "retain", model, (name,))
                )
                if name == "forget" and not has_forget_items(parts):
                    continue
                self.held[name] = parts.data, list(_pieces(task, parts, name))
            if loader is not None:
                if not batch_norm_layers(model):
                    raise InvalidInputError(
                        f"Expected 'loader' for models with statistics of batch normalisation alone (got "
                        f"{type(model).__name__} without)"
                    )
                parts = task.training_parts(task.check_data(loader))
                self.held[_STATISTICS] = parts.data, list(_pieces(task, parts, "retain"))
        for name in PARTS[2:]:
            items = task.held_out_items(retained, name)
            if items is not None:
                self.held[name] = retained, [items]

    def without_classes(self, name: str, classes: Sequence[int]) -> str:
        """Hold the items of a part that are of none of these classes, too; return the name under which they are."""
        if not classes or name not in self.held:
            return name
        data, pieces = self.held[name]
        rest = []
        for items in pieces:
            label = items.label if hasattr(items, "label") else items.y
            rest.append(items.take((~torch.isin(label.view(-1).cpu(), torch.tensor(classes))).nonzero().view(-1)))
        self.held[f"{name}_that_stays"] = data, [items for items in rest if items.num_items]
        return f"{name}_that_stays"

    @torch.no_grad()
    def losses(self, model: nn.Module, names: Sequence[str] = PARTS) -> dict[str, float | None]:
        """Return the loss of each part in `names` by its name, `None` without items; no other part is read.

        Raises:
            DivergenceError: a loss is NaN or infinite.
        """
        with evaluating(model):
            found = {name: self._loss(model, name) for name in names}
        for name, value in found.items():
            if value is not None and not math.isfinite(value):
                raise DivergenceError(f"Expected finite losses of a model on the path (got {value} in 'loss_{name}')")
        return found

    def _loss(self, model: nn.Module, name: str) -> float | None:
        data, pieces = self.held.get(name, (None, []))
        total, count = 0.0, 0
        outputs = self.task.encode(model, data) if pieces else None
        for items in pieces:
            prediction = self.task.read(model, outputs, items)
            size = _size(prediction)
            total += size * float(NLL(on=name)(prediction).double()) if size else 0.0
            count += size
        return total / count if count else None

    def number(self, name: str) -> int:
        """Return the number of items of a part."""
        return sum(items.num_items for items in self.held.get(name, (None, []))[1])

    @torch.no_grad()
    def each(self, model: nn.Module, name: str, value: Callable[[Prediction], Tensor]) -> Tensor:
        """Return a value of each item of a part, on the CPU `[num_items]`."""
        data, pieces = self.held[name]
        with evaluating(model):
            outputs = self.task.encode(model, data)
            return torch.cat([value(self.task.read(model, outputs, items)).cpu() for items in pieces])

    def probabilities(self, model: nn.Module) -> dict[str, float | None]:
        """Return the mean probability of forgotten and of retained texts: of each the geometric mean of its tokens'."""
        found: dict[str, float | None] = {}
        for name in ("forget", "retain"):
            found[f"{name}_prob"] = None
            if self.number(name):
                found[f"{name}_prob"] = float(self.each(model, name, _text_probability).mean())
        return found

    @torch.no_grad()
    def some(self, model: nn.Module, name: str = "retain") -> Tensor:
        """Return the log-probability of a part's items; of independent ones, of the first thousand or so."""
        data, pieces = self.held.get(name, (None, []))
        with evaluating(model):
            outputs = self.task.encode(model, data) if pieces else None
            return self.task.read(model, outputs, pieces[0]).log_prob if pieces else torch.empty(0)

    def call_of(self, model: nn.Module) -> Callable[[nn.Module], Any]:
        """Return a function that calls a model of this architecture as the task does, and nothing else.

        It runs on the retained items, of independent ones on the first thousand or so.
        """
        data = self.held["retain"][0]
        if self.task.shared_pass:
            return lambda other: self.task.encode(other, data)
        seen: list[tuple[Any, Any]] = []
        handle = model.register_forward_pre_hook(lambda _, *given: seen.append(given), with_kwargs=True)
        try:
            self.some(model)
        finally:
            handle.remove()
        if not seen:
            raise UnsupportedModelError(
                f"Expected a task that calls the model (got '{self.task.name}', which does not)"
            )
        args, kwargs = seen[0]
        return lambda other: other(*args, **kwargs)

    @torch.no_grad()
    def recompute(self, model: nn.Module) -> None:
        """Compute running statistics of batch normalisation anew, on the loader or the retained items, in place.

        Pieces count by their sizes, see `settle_statistics`; everything else runs in evaluation mode.
        """
        layers = batch_norm_layers(model)
        data, pieces = self.held.get(_STATISTICS, self.held["retain"])
        if self.task.shared_pass:
            settle_statistics(model, layers, [(1, partial(self.task.encode, model, data))])
            return
        with evaluating(model):
            outputs = self.task.encode(model, data)
        reads = [(items.num_items, partial(self.task.read, model, outputs, items)) for items in pieces]
        settle_statistics(model, layers, reads)


def _pieces(task: Task, parts: Parts, name: str) -> Iterator[Any]:
    """Yield the items of a part; independent ones so many at a time."""
    unread = parts.unread(name, _READ)
    if unread:
        yield from unread
        return
    if not task.shared_pass and parts.draws is not None:  # all of them, however many the task reads at a step
        parts.limit(partial(_all_of, parts.count(name)), name)
    items = parts.sample([name])[name]
    if task.shared_pass or items.num_items <= _READ or not hasattr(items, "take"):
        yield items
        return
    for index in torch.arange(items.num_items).split(_READ):
        yield items.take(index)


def _all_of(count: int) -> tuple[Tensor, None]:
    return torch.arange(count), None


def _size(prediction: Prediction) -> int:
    """Return the number of values that a mean counts."""
    mask: Tensor | None = prediction.mask
    return prediction.log_prob.numel() if mask is None else int(mask.sum())


def _text_probability(prediction: Prediction) -> Tensor:
    mask = prediction.mask if prediction.mask is not None else torch.ones_like(prediction.log_prob, dtype=torch.bool)
    total = (prediction.log_prob.double() * mask).sum(-1)
    return (total / mask.sum(-1).clamp(min=1)).exp()
