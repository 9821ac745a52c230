"""Forgotten items that are replaced: by others, or by the same with other targets."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.core.modes import evaluating
from gunlearn.diffusion.noised_items import DenoisingItems, DenoisingParts, conditions_at
from gunlearn.errors import InvalidInputError
from gunlearn.tasks.base import Parts

_AT_A_TIME = 256  # retained items whose conditions are looked at


class Replaced(Parts):
    """Parts of which the forgotten items are replaced.

    Args:
        inner: the parts of the problem.
        change: makes the items of a step from those of `inner`.
        pool: items in place of the forgotten ones, read in batches; `None` reads those of `inner`.
        told: remarks on them for the result.
    """

    names = DenoisingParts.names

    def __init__(
        self,
        inner: Parts,
        change: Callable[[DenoisingItems], DenoisingItems] | None = None,
        pool: DenoisingItems | None = None,
        told: Mapping[str, Any] | None = None,
    ) -> None:
        self.inner, self.change, self.pool, self.told = inner, change, pool, told or {}
        self.draws, self.data, self.usual_batch = {}, inner.data, inner.usual_batch

    def count(self, name: str) -> int:
        return self.inner.count(name) if self.pool is None or name != "forget" else self.pool.num_items

    def moves_statistics(self, names: Collection[str]) -> bool:
        return self.inner.moves_statistics(names)

    def strata(self) -> Tensor:
        return self.inner.strata()

    def limit(self, draw: Any, part: str = "retain") -> None:
        if self.pool is None or part != "forget":
            self.inner.limit(draw, part)
        else:
            self.draws = {part: draw}

    def sample(self, names: Collection[str]) -> dict[str, Any]:
        out = self.inner.sample([name for name in names if self.pool is None or name != "forget"])
        if self.pool is not None and "forget" in names:
            index = self.draws["forget"]()[0] if self.draws else None
            out["forget"] = self.pool if index is None else self.pool.take(index.to(self.pool.t.device))
        if self.change is not None and "forget" in out:
            out["forget"] = self.change(out["forget"])
        return out


def predicted_by(task: Any, model: nn.Module, items: DenoisingItems) -> DenoisingItems:
    """Return items whose targets are a model's own predictions, without gradient and in evaluation mode."""
    with torch.no_grad(), evaluating(model):
        return replace(items, target=task.denoise_items(model, items).to(items.noisy))


def same_conditions(y: Tensor, others: Tensor) -> Tensor:
    """Return which conditions `[n, ...]` equal which others `[k, ...]`, boolean `[n, k]`."""
    if y.dim() == 1:
        return y.unsqueeze(1) == others
    # One after the other: all embeddings beside all others may not fit into memory. Into one tensor, made before: small
    # ones of each comparison would lie where the next large one is to go.
    found = torch.empty(y.size(0), others.size(0), dtype=torch.bool, device=y.device)
    for column, other in enumerate(others):
        found[:, column] = (y == other).flatten(1).all(1)
    return found


def _other_conditions(parts: DenoisingParts, forgotten: Tensor) -> Tensor:
    """Return conditions of some retained items `[k, ...]`, none of them forgotten; all are looked at in random order.

    Raises:
        InvalidInputError: there are none.
    """
    rows = parts.index["retain"]
    for some in rows[torch.randperm(rows.numel()).to(rows.device)].split(_AT_A_TIME):
        kept = conditions_at(parts.data, some)
        others = kept[~same_conditions(kept, forgotten).any(1)]
        if others.numel():
            return others
    raise InvalidInputError(
        "Expected retained items of conditions that are not forgotten, one of which stands for each forgotten one (got "
        "none); forget whole conditions, or use 'npo'"
    )


def pseudo_conditions(task: Any, parts: Any, model: nn.Module) -> Replaced:
    """Return parts whose forgotten items have the model's prediction under another condition as their target.

    Args:
        task: the `Denoising` task.
        parts: a `DenoisingParts`.
        model: predicts, as it is at each step.

    Raises:
        InvalidInputError: all retained items have the conditions that are forgotten, or there are no conditions.
    """
    assert isinstance(parts, DenoisingParts)
    forgotten = conditions_at(parts.data, parts.index["forget"]).unique(dim=0)
    others = _other_conditions(parts, forgotten)
    stand_in = others[torch.randint(others.size(0), (forgotten.size(0),)).to(others.device)]

    def change(items: DenoisingItems) -> DenoisingItems:
        other = stand_in[same_conditions(items.y, forgotten).int().argmax(1)]
        return replace(predicted_by(task, model, replace(items, y=other)), y=items.y)

    return Replaced(parts, change)
