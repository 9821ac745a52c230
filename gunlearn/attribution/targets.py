"""Targets of influence: how far outputs move, or the change of a number computed from them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from gunlearn.attribution.distinct_items import grouped
from gunlearn.errors import InvalidInputError, InvalidTypeError, UnsupportedMethodError
from gunlearn.losses.functional import mean_tokens
from gunlearn.nn.kernels.scatter import scatter
from gunlearn.nn.kernels.subgraph import spans
from gunlearn.tasks.base import Task
from gunlearn.tasks.graph.multilabel import OwnLabels


class Target(ABC):
    """The quantity that items influence; see `as_target`.

    Attributes:
        name: for tables.
        kind: `"distance"` (sum over nodes of how far each output moves, never negative) or `"value"` (a number of the
            outputs; influence is its change, `after - before`).
    """

    name: ClassVar[str]
    kind: ClassVar[str]

    def bind(self, model: nn.Module, data: Data, task: Task) -> Target:
        """Return the target for one problem; called once, before use."""
        return self

    @abstractmethod
    def change(self, before: Tensor, row: Tensor, after: Tensor, item: Tensor, num_items: int) -> Tensor:
        """Return the influence of each item, `[num_items]`, given the output rows that it changes.

        Args:
            before: outputs on the whole graph `[num_nodes, dim]`.
            row: node of each changed row `[num_rows]`.
            after: changed rows `[num_rows, dim]`.
            item: the item that changes each row, in `[0, num_items)`, `[num_rows]`; an item's rows are distinct.
            num_items: number of items.
        """


class Distance(Target):
    """Sum over nodes of a distance between their outputs."""

    kind = "distance"

    @abstractmethod
    def distance(self, before: Tensor, after: Tensor) -> Tensor:
        """Return the distance of each pair of rows, `[num_rows]`, for rows `[num_rows, dim]`."""

    def change(self, before: Tensor, row: Tensor, after: Tensor, item: Tensor, num_items: int) -> Tensor:
        return scatter(self.distance(before[row], after), item, dim=0, dim_size=num_items, reduce="sum")


class Probabilities(Distance):
    r"""`sum_i ||softmax(y_i) - softmax(y'_i)||_1` over all nodes (a node item: all others), NORA's target."""

    name = "probabilities"

    def bind(self, model: nn.Module, data: Data, task: Task) -> Probabilities:
        """Refuse outputs that are no scores of classes."""
        if isinstance(task, OwnLabels):
            raise UnsupportedMethodError(
                f"Expected outputs to softmax with target 'probabilities' (got task '{task.name}'); use target "
                "'embeddings' or 'loss'"
            )
        return self

    def distance(self, before: Tensor, after: Tensor) -> Tensor:
        return (after.softmax(dim=-1) - before.softmax(dim=-1)).abs_().sum(dim=-1)


class Embeddings(Distance):
    r"""`sum_i ||y_i - y'_i||_2` over all nodes (a node item: all others)."""

    name = "embeddings"

    def distance(self, before: Tensor, after: Tensor) -> Tensor:
        return (after - before).norm(dim=-1)


class Value(Target):
    """A differentiable number computed from the outputs."""

    kind = "value"

    @abstractmethod
    def value(self, outputs: Tensor) -> Tensor:
        """Return the number, a scalar, for outputs `[num_nodes, dim]`."""

    def change(self, before: Tensor, row: Tensor, after: Tensor, item: Tensor, num_items: int) -> Tensor:
        base = self.value(before)
        order, ptr = grouped(item, num_items)
        found = base.new_zeros(num_items)
        for i, rows in enumerate(order.split(ptr.diff().tolist())):
            if rows.numel():
                outputs = before.clone()
                outputs[row[rows]] = after[rows]
                found[i] = self.value(outputs) - base
        return found


class ItemLoss(Value):
    """The task's mean loss over `items` of the task; `None` takes the data's held-out validation items."""

    name = "loss"
    model: nn.Module
    task: Task

    def __init__(self, items: Any = None) -> None:
        self.items = items

    def bind(self, model: nn.Module, data: Data, task: Task) -> ItemLoss:
        items = task.validation_items(data) if self.items is None else self.items
        if items is None:
            raise InvalidInputError(
                "Expected items for target 'loss' (got data without validation items); pass target=ItemLoss(items)"
            )
        if not hasattr(items, "num_items"):
            raise InvalidTypeError(
                f"Expected items of the task, such as task.edge_items(data, edge_index) (got {type(items).__name__})"
            )
        bound = ItemLoss(items)
        bound.model, bound.task = model, task
        return bound

    def value(self, outputs: Tensor) -> Tensor:
        return -self.log_prob(outputs, self.items).mean()

    def log_prob(self, outputs: Tensor, items: Any) -> Tensor:
        """Return the log-likelihood of each item, `[num_items]`; of several labels their mean."""
        found = self.task.decode(self.model, outputs, items)
        return mean_tokens(found.log_prob, found.mask)

    def change(self, before: Tensor, row: Tensor, after: Tensor, item: Tensor, num_items: int) -> Tensor:
        # Only the items of the loss that read a changed output are decoded again.
        seeds = self.task.seeds(self.items)
        if seeds is None:
            return super().change(before, row, after, item, num_items)
        n, num_read = before.size(0), self.items.num_items
        ends = seeds.view(-1, num_read)  # [1 or 2, num_read]: the rows of outputs that each item of the loss reads
        order, ptr = grouped(ends.flatten(), n)
        place, count = spans(ptr, row)
        key = torch.unique(torch.repeat_interleave(item * num_read, count) + order[place] % num_read)
        owner, read = key // num_read, key % num_read

        rows, at = (item * n + row).sort()
        wanted = owner * n + ends[:, read]
        found = torch.searchsorted(rows, wanted).clamp_(max=max(rows.numel() - 1, 0))
        new = torch.where(rows[found] == wanted, n + at[found], ends[:, read]) if rows.numel() else wanted
        outputs = torch.cat([before, after])
        change = before.new_zeros(num_items)
        old = self.log_prob(before, self.items)
        for part in torch.arange(key.numel(), device=row.device).split(1 << 18):
            again = self.task.at_rows(self.items, read[part], new[:, part], outputs.size(0))
            log_prob = self.log_prob(outputs, again)
            change.index_add_(0, owner[part], (old[read[part]] - log_prob) / num_read)
        return change


class Function(Value):
    """A user's function of the outputs `[num_nodes, dim]` that returns a scalar; others raise `InvalidInputError`."""

    name = "function"

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def value(self, outputs: Tensor) -> Tensor:
        value = self.function(outputs.clone())  # it may write into them
        if not isinstance(value, Tensor) or value.numel() != 1:
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise InvalidInputError(f"Expected the target function to return a scalar tensor (got {got})")
        if not torch.isfinite(value).all():
            raise InvalidInputError(f"Expected the target function to return a finite number (got {value.item()})")
        return value.reshape(()).to(outputs.dtype)


#: Targets by name.
INFLUENCE_TARGETS: dict[str, type[Target]] = {cls.name: cls for cls in (Probabilities, Embeddings, ItemLoss)}


def as_target(target: str | Target | Callable[[Tensor], Tensor], model: nn.Module, data: Data, task: Task) -> Target:
    """Return the target, bound to a problem, for a name, a function of the outputs, or a `Target`.

    An unknown name raises `InvalidInputError`, another type `InvalidTypeError`.
    """
    if isinstance(target, str):
        if target not in INFLUENCE_TARGETS:
            known = sorted(INFLUENCE_TARGETS)
            raise InvalidInputError(f"Expected a target among {known} or a function (got '{target}')")
        target = INFLUENCE_TARGETS[target]()
    elif not isinstance(target, Target):
        if not callable(target):
            raise InvalidTypeError(f"Expected a target's name, a Target or a function (got {type(target).__name__})")
        target = Function(target)
    return target.bind(model, data, task)


def as_value(target: Target, use: str) -> Value:
    """Return the target if it is a value, else raise; `use` says what needs a value: `"truth 'pbrf'"`."""
    if not isinstance(target, Value):
        raise UnsupportedMethodError(
            f"Expected a target of kind value with {use}, such as 'loss' (got '{target.name}', a {target.kind})"
        )
    return target
