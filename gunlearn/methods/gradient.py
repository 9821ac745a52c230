"""What all optimised methods share: an objective, the parts it reads, one loop."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from gunlearn.errors import EmptyForgetSetError, InvalidInputError, UnsupportedMethodError
from gunlearn.losses import Objective, ObjectiveValue, Prediction, as_objective
from gunlearn.methods.base import Method, Outcome, Problem
from gunlearn.methods.graph.score_targets import TARGETS, ScoreTarget, check_held_out
from gunlearn.nn.kernels.subgraph import Subgraph
from gunlearn.tasks.base import Parts, Task
from gunlearn.tasks.graph.link_prediction import LinkPrediction
from gunlearn.training.feeding import BatchOptions, Feed
from gunlearn.training.loop import TrainArguments, fit
from gunlearn.training.processes import processes


@dataclass(frozen=True)
class GradientMethod(Method):
    """Minimises an objective over all parameters, starting from the trained model.

    Args:
        epochs: optimiser steps.
        lr: Adam's learning rate.
        weight_decay: Adam's L2 penalty.
        max_grad_norm: clip the gradient's norm; `None` does not.
        eval_every: epochs between evaluations on validation items, which `EarlyStopping` waits for; `None` never does.
        message_graph: what message passing reads while unlearning: `"retain"` or `"full"`.
        until: `"end"` pushes every forgotten item for all epochs. `"unseen"` lets each forgotten edge go where it
            scores like true edges that the model never saw, `"separated"` where it scores below 95 % of the retained
            edges; the run ends when nearly all are there (link prediction, objectives with a forget part; see
            `targets.py`).
        retain_samples: each step reads so many retained items, stratified by their distance to the forget set and
            weighted so that losses are unbiased, and as many negatives; `None` reads them all.
        batch_size: each step reads the next so many retained items of a random permutation, and the whole forget set;
            an epoch stays one optimiser step. `None` reads them all.
        sampler: what the model reads for a batch: `"k_hop"`, all that the items' outputs depend on (exact);
            `"neighbor"`, `num_neighbors` random neighbours per layer (PyG's `NeighborLoader`; needs pyg-lib);
            `"random_node"`, random parts of the nodes without the edges between them (methods without a forget part).
        num_neighbors: neighbours per layer for `sampler="neighbor"`.
        subgraph: encode only the subgraph that the step's items depend on: `"auto"` where it has at most half of the
            edges and gives the outputs of the whole graph (tried once), `"always"` or `"never"`.
    """

    epochs: int = 100
    lr: float = 1e-3
    weight_decay: float = 0.0
    max_grad_norm: float | None = None
    message_graph: str = "retain"
    eval_every: int | None = None
    until: str = "end"
    retain_samples: int | None = None
    batch_size: int | None = None
    sampler: str = "k_hop"
    num_neighbors: tuple[int, ...] | None = None
    subgraph: str = "auto"

    def __post_init__(self) -> None:
        """Refuse bad options at construction, not at the first step."""
        TrainArguments(self.epochs, self.lr, self.weight_decay, self.max_grad_norm, self.eval_every)
        _ = self.reading
        if self.message_graph not in ("retain", "full"):
            raise InvalidInputError(f"Expected 'message_graph' to be 'retain' or 'full' (got '{self.message_graph}')")
        parts = as_objective(self.objective()).parts
        if self.until != "end" and self.until not in TARGETS:
            raise InvalidInputError(f"Expected 'until' to be 'end' or one of {sorted(TARGETS)} (got {self.until!r})")
        if self.until != "end" and "forget" not in parts:
            raise InvalidInputError(f"Expected a method with a forget loss for 'until' (got '{self.name}')")

    @property
    def reading(self) -> BatchOptions:
        """How much a step reads."""
        return BatchOptions(self.batch_size, self.sampler, self.num_neighbors, self.retain_samples, self.subgraph)

    @property
    def label(self) -> str:
        """The mode, where there is one, and the stop criterion, where it is not the usual one."""
        mode = getattr(self, "mode", "default")
        return mode if self.until == "end" else f"{mode} until {self.until}"

    def supports(self, task: Task, partition: Any) -> None:
        """See `Method.supports`."""
        super().supports(task, partition)
        if self.until != "end" and not isinstance(task, LinkPrediction):
            raise UnsupportedMethodError(f"Expected link prediction for 'until' (got '{task.name}')")
        if self.until == "unseen":
            check_held_out(partition.data)

    @abstractmethod
    def objective(self) -> Objective:
        """The objective; losses read the parts that the task names."""

    def objective_at(self, epoch: int) -> Objective:
        """What the step after `epoch` steps minimises, where a method goes in phases; made of terms of `objective`."""
        return as_objective(self.objective())

    def teachers(self, problem: Problem) -> dict[str, nn.Module]:
        """Frozen models, by part, that predictions are compared with in the original model's place."""
        return {}

    def surroundings(self, problem: Problem) -> Callable[[nn.Module], AbstractContextManager]:
        """Makes, for a model, a context that is entered anew around each of its training passes; empty by default.

        One with a method `on(subgraph)` that makes the same context for a part of the graph lets steps read parts.
        """
        return lambda model: nullcontext()

    @torch.no_grad()
    def reference_outputs(self, problem: Problem, parts: Parts, around: AbstractContextManager) -> Any:
        """What the original model computes, once: on the same graph and in the same surroundings as the current one.

        So the two agree before the first step, and differ by what unlearning did to the weights alone.
        """
        with around:
            return problem.task.encode(problem.reference, parts.data)

    def prepare(self, problem: Problem) -> bool:
        """Whether gradients that this left on the model belong to the first step; nothing by default."""
        return False

    def adapt(self, problem: Problem, parts: Parts) -> tuple[Callable[[dict], dict], Callable[[], bool] | None]:
        """A change of the current predictions before the losses, and a stop condition.

        With `until` edges at their target leave the forget losses, and the run ends when all are there.
        """
        if self.until == "end":
            return (lambda predictions: predictions), None
        target = ScoreTarget(problem, self.until, narrow=self.subgraph != "never")
        return target.release, target.reached

    def run(self, problem: Problem) -> Outcome:
        """See `Method.run`."""
        objective, task = as_objective(self.objective()), problem.task
        parts = task.parts(problem.partition, self.message_graph, problem.model, objective.parts)
        if "forget" in objective.parts:
            forget_items(parts, self.name)
        change, stop = self.adapt(problem, parts)
        surroundings = self.surroundings(problem)
        if parts.joint and type(self).surroundings is GradientMethod.surroundings:
            surroundings = FrozenStatistics  # else what is forgotten would enter the statistics of what stays
        references = []
        compared = {**dict.fromkeys(objective.reference_parts, problem.reference), **self.teachers(problem)}
        for teacher in dict.fromkeys(compared.values()):
            view, names = replace(problem, reference=teacher), tuple(n for n, m in compared.items() if m is teacher)
            references.append(Reference(view, names, self.reference_outputs(view, parts, surroundings(teacher))))
        args = TrainArguments(
            self.epochs,
            self.lr,
            self.weight_decay,
            self.max_grad_norm,
            self.eval_every,
            progress=problem.progress,
            checkpoint_dir=problem.checkpoint_dir,
            keep_gradients=self.prepare(problem),
            fingerprint=problem.fingerprint,
        )
        together = processes()
        around = surroundings(problem.model)  # around training passes alone: callbacks see the plain model
        feed = Feed(problem.model, task, parts, objective.parts, self.reading, around)
        phased = type(self).objective_at is not GradientMethod.objective_at

        def step() -> ObjectiveValue:
            now, items = self.objective_at(feed.epoch) if phased else objective, feed.sample()
            with together.apart(problem.model):
                data, mine, subgraph = feed.read(together.share(items))
            # Patterns of pairs are made for the joint graph; items that are rows are not.
            if parts.joint and subgraph is None and "forget" not in now.parts and not isinstance(task, LinkPrediction):
                data = problem.partition.retain_data  # its rows come first in the joint graph
            own = together.apart(problem.model) if subgraph is not None else nullcontext()
            with feed.surroundings(subgraph):
                with own:
                    outputs = task.encode(problem.model, data)
                with together.apart(problem.model):
                    current = {name: task.decode(problem.model, outputs, mine[name]) for name in now.parts}
            before = {}
            for reference in references:
                before.update(reference({name: mine[name] for name in now.reference_parts}, subgraph))
            return together.evaluate(now, items, change(current) if "forget" in current else current, before)

        data, held_out = problem.partition.retain_data, None
        if self.eval_every is not None:
            held_out = task.validation_items(data)
            if held_out is None:
                raise InvalidInputError("Expected validation items for 'eval_every' (got data without)")

        def validate() -> float:
            return float(-task.predict(problem.model, data, held_out).log_prob.mean())

        callbacks = [*problem.callbacks, feed] if feed.batches is not None or phased else problem.callbacks
        state = fit(problem.model, step, args, callbacks, None if held_out is None else validate, stop)
        return Outcome(problem.model, state, {**self.notes(problem), "graph": feed.note})

    def notes(self, problem: Problem) -> dict:
        """Remarks for the result."""
        return {"message_graph": self.message_graph, "until": self.until}


class Reference:
    """Predictions of the frozen original model, computed once wherever the items stay the same."""

    def __init__(self, problem: Problem, parts: tuple[str, ...], outputs: Any) -> None:
        """`outputs` is what the original model computed, for `task.decode`."""
        self.model, self.task, self.parts, self.outputs = problem.reference, problem.task, parts, outputs
        self.kept: dict[str, Prediction] = {}

    @torch.no_grad()
    def __call__(self, items: dict, subgraph: Subgraph | None = None) -> dict[str, Prediction]:
        """Reference predictions of the parts that the objective compares with; `items` in terms of `subgraph`."""
        outputs = None
        out = {}
        for name in (n for n in self.parts if n in items):
            if name not in self.kept:
                if outputs is None:
                    outputs = self.outputs if subgraph is None else self.outputs[subgraph.n_id]
                prediction = self.task.decode(self.model, outputs, items[name]).detach()
                if not getattr(items[name], "fixed", False):
                    out[name] = prediction
                    continue
                self.kept[name] = prediction
            out[name] = self.kept[name]
        return out


def forget_items(parts: Parts, method: str) -> Any:
    """The items of the forget part.

    Raises:
        EmptyForgetSetError: there are none: what goes is nothing that the task has an item for.
    """
    items = parts.sample(["forget"])["forget"]
    if items.num_items == 0:
        raise EmptyForgetSetError(f"Expected forgotten training items for '{method}' (got a request that names none)")
    return items


def predict_part(task: Task, model: nn.Module, parts: Parts, name: str) -> Prediction:
    """What a model says about one part, in the mode it is in."""
    return task.predict(model, parts.data, parts.sample([name])[name])


class FrozenStatistics(AbstractContextManager):
    """Batch normalisation reads its running statistics inside the block, and leaves them as they are.

    Steps on the forget set alone would otherwise make its statistics the model's.

    Args:
        model: whose layers.
    """

    def __init__(self, model: nn.Module) -> None:
        """See the class."""
        self.layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        self.modes: list[bool] = []

    def __enter__(self) -> None:
        """To evaluation mode."""
        self.modes = [layer.training for layer in self.layers]
        for layer in self.layers:
            layer.eval()

    def __exit__(self, *error: object) -> None:
        """Back to the modes they had."""
        for layer, mode in zip(self.layers, self.modes, strict=True):
            layer.train(mode)

    def on(self, subgraph: Subgraph) -> FrozenStatistics:
        """The same on a part of the graph."""
        return self


def freeze(model: nn.Module) -> nn.Module:
    """Evaluation mode, no gradients."""
    return model.eval().requires_grad_(False)
