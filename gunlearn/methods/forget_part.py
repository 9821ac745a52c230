"""The items of the forget part, and what a model predicts for them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.errors import EmptyForgetSetError, UnsupportedMethodError
from gunlearn.losses import Prediction
from gunlearn.losses.functional import sum_tokens
from gunlearn.tasks.base import PartItems, Parts, Task


def no_forget_items(method: str) -> EmptyForgetSetError:
    """Return the error of a request that names nothing that the task has an item for."""
    return EmptyForgetSetError(f"Expected forgotten training items for '{method}' (got a request that names none)")


def has_forget_items(parts: Parts) -> bool:
    """Return whether forgotten items are predicted: a forgotten edge under node classification is none."""
    try:
        return parts.count("forget") > 0
    except UnsupportedMethodError:
        return False


def forget_items(parts: Parts, method: str) -> Any:
    """Return the items of the forget part.

    Raises:
        EmptyForgetSetError: there are none: what goes is nothing that the task has an item for.
    """
    unread = parts.unread("forget", None)
    items = unread[0] if unread else parts.sample(["forget"])["forget"]
    if items.num_items == 0:
        raise no_forget_items(method)
    return items


def forget_pieces(task: Task, parts: Parts, size: int | None) -> list[Any]:
    """Return the forgotten items, `size` at a time where the task predicts each item alone."""
    size = parts.usual_batch if size is None else size
    unread = parts.unread("forget", size)
    if unread:
        return unread
    items = parts.sample(["forget"])["forget"]
    if size is None or task.shared_pass or not isinstance(items, PartItems):
        return [items]
    return [items.take(rows) for rows in torch.arange(items.num_items).split(size)]


def forget_losses(task: Task, model: nn.Module, parts: Parts, size: int | None) -> list[Callable[[], Tensor]]:
    """Return a function per piece of `forget_pieces` that computes its items' losses, `[k]` in nats."""

    def losses(piece: Any) -> Tensor:
        return -sum_tokens(task.predict(model, parts.data, piece).log_prob)

    return [partial(losses, piece) for piece in forget_pieces(task, parts, size)]


@torch.no_grad()
def predict_forget(task: Task, model: nn.Module, parts: Parts, size: int | None) -> Prediction:
    """Return what a model predicts for the forgotten items, from passes over `forget_pieces`; no gradients."""
    return predict_pieces(task, model, parts, forget_pieces(task, parts, size))


@torch.no_grad()
def predict_pieces(task: Task, model: nn.Module, parts: Parts, pieces: list[Any]) -> Prediction:
    """Return what a model predicts for `forget_pieces`, which may be drawn: compared models need the same."""
    found = [task.predict(model, parts.data, piece) for piece in pieces]
    if len(found) == 1:
        return found[0]
    given = [name for name, value in vars(found[0]).items() if isinstance(value, torch.Tensor)]
    joined = {name: torch.cat([getattr(one, name) for one in found]) for name in given}
    return Prediction(**joined, gaussian=found[0].gaussian)
