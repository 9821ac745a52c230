"""Three requests on Fashion-MNIST: a class, random images, images with labels that were exchanged."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

import gunlearn as gu
from gunlearn.tasks.items.tables import ItemTable

#: Shirt: the class to forget.
CLASS = 6
#: Classes whose labels are exchanged: sandal and ankle boot.
CONFUSED = (5, 9)


@dataclass(frozen=True)
class Problem:
    """What to train on and what to forget.

    Attributes:
        name: of the problem.
        data: images, labels and masks.
        request: what to forget.
        confused: the two classes whose labels were exchanged, if any.
    """

    name: str
    data: ItemTable
    request: gu.ForgetItems
    confused: tuple[int, int] | None = None


def images(root: Path | None, train: int, test: int, seed: int) -> ItemTable:
    """Return so many training and so many of the official test images, drawn under a seed."""
    full = gu.load("FashionMNIST", root)
    draw = torch.Generator().manual_seed(seed)

    def some(mask: torch.Tensor, count: int) -> torch.Tensor:
        rows = mask.nonzero().view(-1)
        return rows[torch.randperm(rows.numel(), generator=draw)[:count]]

    index = torch.cat([some(~full.test_mask, train), some(full.test_mask, test)])
    return ItemTable(x=full.x[index], y=full.y[index], test_mask=torch.arange(train + test) >= train)


def digits(seed: int) -> ItemTable:
    """Return scikit-learn's digits, a fifth of them for the test: what the short form runs on."""
    table = gu.item_split(gu.load("digits", images=True), val_ratio=0, test_ratio=0.2, seed=seed)
    return ItemTable(x=table.x, y=table.y, test_mask=table.test_mask)


def a_class(data: ItemTable, seed: int) -> Problem:
    return Problem("class", data, gu.ForgetItems(label=CLASS))


def random_images(data: ItemTable, seed: int) -> Problem:
    return Problem("random", data, gu.ForgetItems(count=200, seed=seed))


def confusion(data: ItemTable, seed: int) -> Problem:
    """Exchange the labels of 100 training images of each of two classes; forget these images."""
    draw, y = torch.Generator().manual_seed(seed), data.y.clone()
    chosen = []
    for label in CONFUSED:
        rows = ((data.y == label) & ~data.test_mask).nonzero().view(-1)
        chosen.append(rows[torch.randperm(rows.numel(), generator=draw)[:100]])
    for rows, label in zip(chosen, reversed(CONFUSED), strict=True):
        y[rows] = label
    changed = ItemTable(x=data.x, y=y, test_mask=data.test_mask)
    return Problem("confusion", changed, gu.ForgetItems(torch.cat(chosen)), CONFUSED)


PROBLEMS: dict[str, Callable[[ItemTable, int], Problem]] = {
    "class": a_class, "random": random_images, "confusion": confusion,
}  # fmt: skip


def figures(problem: Problem) -> tuple[str, ...]:
    """Return the figures beside those of the task."""
    return ("retain_acc", "forget_acc", *(() if problem.confused is None else ("ic_err", "fgt_err")))
