"""The objective step of training and unlearning: predictions of each part and of the reference, then the objective."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.losses import Objective, ObjectiveValue, Prediction
from gunlearn.tasks.base import Task
from gunlearn.training.feeding import Feed
from gunlearn.training.processes import processes

#: Changes the current predictions before the losses read them. The second argument takes values of all forgotten items
#: `[num_forget, ...]` and returns those of the items at hand.
Change = Callable[[dict[str, Prediction], Callable[[Tensor], Tensor]], dict[str, Prediction]]


class Reference:
    """Predictions of a frozen model, computed once for parts whose items stay the same.

    Args:
        parts: names of the parts to compare with it.
        outputs: its outputs on the whole data, for `task.read`.
    """

    def __init__(self, model: nn.Module, task: Task, parts: tuple[str, ...], outputs: Any) -> None:
        self.model, self.task, self.parts, self.outputs = model, task, parts, outputs
        self.kept: dict[str, Prediction] = {}

    @torch.no_grad()
    def __call__(self, items: Mapping[str, Any], subgraph: Any = None) -> dict[str, Prediction]:
        """Return the predictions of the compared parts; `items` are numbered as in `subgraph`."""
        out = dict(self.kept)
        fresh = [name for name in self.parts if name in items and name not in self.kept]
        if fresh:
            outputs = self.outputs if subgraph is None else self.outputs[subgraph.n_id]
            for name in fresh:
                out[name] = self.task.read(self.model, outputs, items[name]).detach()
                if getattr(items[name], "fixed", False):
                    self.kept[name] = out[name]
        return {name: out[name] for name in self.parts if name in items}


@dataclass(eq=False)
class ObjectiveStep:
    """Evaluates the objective of one step, which `fit` minimises.

    Args:
        objective_at: the objective by the number of the step.
        references: frozen models that losses compare with.
        change: changes current predictions of steps that read the forget part.
        given: logits `[num_items, ...]` of all items of a part, which losses compare with in a reference's place.
    """

    model: nn.Module
    task: Task
    feed: Feed
    objective_at: Callable[[int], Objective]
    references: Sequence[Reference] = ()
    change: Change | None = None
    given: Mapping[str, Tensor] = field(default_factory=dict)

    def __call__(self) -> ObjectiveValue | Iterator[ObjectiveValue]:
        """Return the objective's value, or the values of pieces that add up to it."""
        objective, items = self.objective_at(self.feed.step), self.feed.sample()
        if self.feed.pieces_of is not None:
            return self._accumulated(objective, items)
        current, before = self.predictions(objective, items)
        return processes().evaluate(objective, items, current, before)

    def predictions(
        self, objective: Objective, items: dict[str, Any]
    ) -> tuple[dict[str, Prediction], dict[str, Prediction]]:
        """Return the predictions of the model and of the references on this process's share of the items."""
        together, model, task, feed = processes(), self.model, self.task, self.feed
        with together.apart(model):
            data, mine, subgraph = feed.reader.read(together.share(items), objective.parts)
        with feed.reader.surroundings(subgraph):
            with together.apart(model) if subgraph is not None else nullcontext():
                outputs = task.encode(model, data)
            with together.apart(model):
                current = {name: task.read(model, outputs, mine[name]) for name in objective.parts if name in mine}
        before: dict[str, Prediction] = {}
        for reference in self.references:
            before.update(reference({n: mine[n] for n in objective.reference_parts if n in mine}, subgraph))
        for name, logits in self.given.items():
            if name in current:
                before[name] = Prediction(logits=feed.rows(name, logits), log_prob=current[name].log_prob.detach())
        if self.change is not None and "forget" in current:
            current = self.change(current, lambda values: feed.rows("forget", values))
        return current, before

    def _accumulated(self, objective: Objective, items: dict[str, Any]) -> Iterator[ObjectiveValue]:
        """Evaluate each piece as its share of the whole: means divide by the count over all pieces."""
        together = processes()
        for piece in self.feed.pieces({name: items[name] for name in objective.parts}):
            terms = tuple(term for term in objective.terms if set(term[1].on_parts) <= set(piece))
            if not terms:
                continue
            own = Objective(terms)
            current, before = self.predictions(own, piece)
            if together.world > 1:
                yield together.evaluate(own, items, current, before)
            else:
                yield own(current, before, [_count(loss, items[loss.on]) for _, loss in terms])


def _count(loss: Any, items: Any) -> Tensor | float:
    """Return what the mean of a loss divides by: items, or where items have several entries those that count."""
    mask = getattr(items, "mask", None)
    return items.num_items if mask is None else loss.count(mask)
