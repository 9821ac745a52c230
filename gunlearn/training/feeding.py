"""The items of each step: all of every part, or batches of it."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.errors import InvalidInputError
from gunlearn.tasks.base import Parts, Task
from gunlearn.tasks.items.statistics import check_batches
from gunlearn.tasks.sampling import BatchOptions, ShuffledBatches, StratifiedSampler
from gunlearn.training.callbacks import Callback, TrainState
from gunlearn.training.processes import processes


class Feed(Callback):
    """Hands out a step's items, and what the model must read for them.

    With `batch_size` each part is read in batches of its own random permutation. A pass is over the retained items if
    the objective reads any, else over the forgotten ones; the shorter part starts again meanwhile. With `whole_forget`
    each step reads all forgotten items, in pieces of `batch_size` whose gradients are accumulated. `turn` says which
    batch of a part a step reads; by default all parts go on at each step. The other arguments are those of
    `Task.reader`.

    Attributes:
        steps_per_epoch: steps of one pass.
        step: number of the next step, set by the loop.
        draws: samplers of batches; if there are any, the loop must report the begin of each step.
        chunk: which forgotten items the present piece holds; `None` for all.
    """

    draws_nothing = True

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        parts: Parts,
        names: Collection[str],
        options: BatchOptions,
        around: AbstractContextManager | None = None,
        whole_forget: bool = False,
        turn: Callable[[str, int], int] | None = None,
    ) -> None:
        if options.batch_size is None and options.retain_samples is None and parts.usual_batch is not None:
            options = replace(options, batch_size=parts.usual_batch)
        self.turn = turn
        self.task, self.names, self.options = task, tuple(names), options
        self.draws: dict[str, ShuffledBatches] = {}
        self.step = 0
        self.chunk: Tensor | None = None
        self.pieces_of = options.batch_size if whole_forget and not task.shared_pass else None
        self._limit(parts, whole_forget)
        if not task.shared_pass and not getattr(around, "freezes_statistics", False):
            check_batches(model, parts, self.names, options.batch_size)
        self.reader = task.reader(model, parts, self.names, options, around)
        self.parts = self.reader.parts
        if self.reader.batches is not None:
            self.draws["retain"] = self.reader.batches
        lead = self.draws.get("retain") or self.draws.get("forget")
        self.steps_per_epoch = 1 if lead is None else lead.num_batches

    def _limit(self, parts: Parts, whole_forget: bool) -> None:
        """Make the parts hand out batches or samples."""
        options, retained = self.options, bool(set(self.names) - {"forget"})
        if options.retain_samples is not None:
            if not retained:
                raise InvalidInputError(
                    f"Expected an objective that reads retained items for 'retain_samples' (got {self.names})"
                )
            strata = parts.strata()
            if options.retain_samples < strata.numel():
                parts.limit(StratifiedSampler(strata, options.retain_samples))
        if options.batch_size is None or options.sampler == "random_node":
            return
        # Drawn here, before a checkpoint is read, so that a resumed run has the same permutations.
        seed, size = int(torch.randint(2**31, ())), options.batch_size
        if retained:
            self.draws["retain"] = ShuffledBatches(parts.strata().numel(), size, seed)
        if "forget" in self.names and not whole_forget:
            self.draws["forget"] = ShuffledBatches(parts.count("forget"), options.forget_batch_size or size, seed + 1)
        for name, draw in self.draws.items():
            if draw.num_batches > 1:
                parts.limit(draw, name)

    def on_step_begin(self, args: Any, state: TrainState, control: Any, **kwargs: Any) -> None:
        self.step = state.step
        for name, draw in self.draws.items():
            draw.step = state.step if self.turn is None else self.turn(name, state.step)

    def sample(self) -> dict[str, Any]:
        """Return the items of every part for one step."""
        return self.parts.sample(self.names)

    def rows(self, name: str, values: Tensor) -> Tensor:
        """Return the rows of a part's `values` `[num_items, ...]` that belong to this step and this process."""
        draw = self.draws.get(name)
        if draw is not None and draw.num_batches > 1:
            values = values[draw()[0].to(values.device)]
        if name == "forget" and self.chunk is not None:
            values = values[self.chunk]
        return processes().rows(values)

    def pieces(self, items: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Split one step's items into pieces with at most `batch_size` forgotten ones."""
        forget = items.get("forget")
        if self.pieces_of is None or forget is None:
            yield dict(items)
            return
        others = {name: item for name, item in items.items() if name != "forget"}
        if others:
            yield others
        for chunk in torch.arange(forget.num_items).split(self.pieces_of):
            self.chunk = chunk
            yield {"forget": forget.take(chunk)}
        self.chunk = None
