"""Cognac: contrast of affected nodes, then ascent and descent, by turns (arXiv 2412.00789)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gunlearn.core.checks import check_choice
from gunlearn.errors import UnsupportedMethodError
from gunlearn.losses import NLL, Distillation, GradientAscent, Objective, as_objective, weighted
from gunlearn.methods.base import BY_MODE, Outcome, Problem, check_interval, check_whole, fill_in
from gunlearn.methods.gradient import FrozenStatistics, GradientMethod
from gunlearn.methods.graph.best_validation import BestOnValidation
from gunlearn.methods.graph.contrast import Contrast, ContrastParts, Walk
from gunlearn.methods.graph.entities import entity_graph, forgotten_entities, inverted_features, surrounding
from gunlearn.tasks.base import Parts, Task
from gunlearn.tasks.graph.beside import is_joint
from gunlearn.tasks.graph.node_classification import NodeParts, node_items, training_nodes
from gunlearn.training.optimizers import OptimizerSpec, PhasedOptimizer, make_optimizer

PHASES = ("contrast", "ascent", "descent")
_MODES: dict[str, dict[str, Any]] = {
    "default": {
        "epochs": 60, "lr": 1e-3, "descent_lr": 2e-3, "descent_steps": 3, "rounds": 1, "shared_optimizer": True,
        "margin": 1.0, "alpha": 1.0, "read": "original", "keep": "last",
    },
    "paper": {
        "epochs": 210, "lr": 1.5e-2, "descent_lr": 1.5e-2, "descent_steps": 1, "rounds": 10, "shared_optimizer": False,
        "margin": 500.0, "alpha": 0.0, "read": "isolated", "keep": "best",
    },
}  # fmt: skip


@dataclass(frozen=True)
class Cognac(GradientMethod):
    r"""Pulls affected nodes to their neighbours and off the forgotten, then unlearns labels and learns the rest again.

    A cycle has three phases of optimiser steps, all over the whole model:

    - contrast (CoGN), with logits `z`, over affected nodes `v`, a neighbour `p` and something forgotten `n` each:
      :math:`\|z_v - z_p\| + \max(0, m - \|z_v - z_n\|)`;
    - ascent on the forgotten training nodes' labels;
    - descent on the retained ones', with :math:`\alpha` times `losses.Distillation` of the original model.

    Affected are the `fraction` of the nodes within `num_hops` whose predicted probabilities change most when the
    features `x` of what is forgotten become `1 - x`. Of edges the end points count as forgotten, as in the paper: their
    labels are unlearned from what the original graph shows, and learned on the retained graph.

    By default one Adam serves all phases, each at its own rate, three steps descend per ascent, forgotten nodes are
    read on the original graph, and the last model counts.

    `mode="paper"` follows the default arguments of the authors' code: one Adam per phase; ten cycles of ten ascents
    with a descent after each, at .0025 and .015; no distance to the original model; forgotten nodes keep their features
    and lose their edges; and **the model returned is the one that does best on validation nodes**, of those after each
    contrast and each descent, by the mean over classes of the accuracy (the authors take the mean of two means, over
    the classes that were poisoned and over the others; there are none here). Where their default has no contrast, but
    their search of hyper-parameters (which they call mandatory) at least one step, a cycle starts with one. Left out:
    the search; positions in a list of nodes that are taken for node ids; a time limit of three seconds. Theirs averages
    the distances to all nodes within `num_hops` and to all that is forgotten, of which a step here draws one each.

    Args:
        mode: `"default"` or `"paper"`; fills in every option that is `None`.
        epochs: passes over the items; a pass is one step of a phase unless `batch_size` is set.
        lr: learning rate for the contrast.
        ascent_lr: the same for the ascent.
        descent_lr: the same for the descent.
        contrast_steps: steps of a cycle's first phase; 0 leaves it out.
        ascent_steps: of its second.
        descent_steps: of its third.
        rounds: how often a cycle takes the second and the third phase, by turns.
        shared_optimizer: one optimiser serves all phases; else each phase has its own, which keeps its own state.
        fraction: share of nearby nodes that count as affected, in (0, 1].
        num_hops: how far nodes may be affected.
        margin: how far off the forgotten they are pushed.
        alpha: weight of the distance to the original model.
        temperature: of that distance.
        read: where forgotten nodes are read: in the `"original"` graph, or `"isolated"`, with no edges.
        keep: the `"last"` model, or the one that is `"best"` on validation nodes.
    """

    mode: str = "default"
    epochs: int = BY_MODE
    lr: float = BY_MODE
    ascent_lr: float = 2.5e-3
    descent_lr: float = BY_MODE
    contrast_steps: int = 1
    ascent_steps: int = 1
    descent_steps: int = BY_MODE
    rounds: int = BY_MODE
    shared_optimizer: bool = BY_MODE
    fraction: float = 0.1
    num_hops: int = 2
    margin: float = BY_MODE
    alpha: float = BY_MODE
    temperature: float = 4.0
    read: str = BY_MODE
    keep: str = BY_MODE

    name = "cognac"
    summary = "contrast affected nodes with the forgotten, ascend on the forgotten, descend on the rest"
    paper = "arXiv 2412.00789"
    requests = ("edges", "nodes", "features")
    tasks = ("node_classification",)
    needs = "retained data, reference model"
    cost = "`epochs` passes"
    compared = "experiments/paper_modes"
    variants: ClassVar[dict[str, dict[str, Any]]] = {"default": {}, "paper": {"mode": "paper"}}

    def __post_init__(self) -> None:
        fill_in(self, _MODES)
        check_interval(self, "> 0", "ascent_lr", "descent_lr")
        check_whole(self, contrast_steps=0, ascent_steps=0, descent_steps=1, rounds=1, num_hops=1)
        check_choice("read", self.read, ("original", "isolated"))
        check_choice("keep", self.keep, ("last", "best"))
        check_interval(self, "in (0, 1]", "fraction")
        check_interval(self, ">= 0", "margin", "alpha")
        super().__post_init__()

    def supports(self, task: Task, partition: Any) -> None:
        super().supports(task, partition)
        if self.keep == "best" and task.validation_items(partition.retain_data) is None:
            raise UnsupportedMethodError(
                "Expected validation nodes for keep='best' of 'cognac' (got none); take keep='last'"
            )

    def phase(self, step: int) -> str:
        one_round = self.ascent_steps + self.descent_steps
        place = step % (self.contrast_steps + self.rounds * one_round) - self.contrast_steps
        return PHASES[0] if place < 0 else PHASES[1] if place % one_round < self.ascent_steps else PHASES[2]

    def objective(self) -> Objective:
        return Contrast(self.margin, on="affected") + GradientAscent(on="forget") + self._descent()

    def objective_at(self, step: int) -> Objective:
        phase = self.phase(step)
        if phase == "descent":
            return self._descent()
        return as_objective(Contrast(self.margin, on="affected") if phase == "contrast" else GradientAscent())

    def _descent(self) -> Objective:
        return weighted((1.0, NLL(on="retain")), (self.alpha, Distillation(self.temperature, on="retain")))

    def surroundings(self, problem: Problem) -> Callable[[nn.Module], AbstractContextManager]:
        return FrozenStatistics

    def rate_at(self, step: int) -> float:
        return {"contrast": self.lr, "ascent": self.ascent_lr, "descent": self.descent_lr}[self.phase(step)]

    def make_optimizer(self, problem: Problem) -> OptimizerSpec:
        if self.shared_optimizer:
            return self.optimizer
        options = self.optimizer_options

        def make(parameters: Sequence[nn.Parameter]) -> PhasedOptimizer:
            own = {p: make_optimizer(self.optimizer, parameters, self.lr, self.weight_decay, options) for p in PHASES}
            return PhasedOptimizer(own)

        return make

    def parts(self, problem: Problem, names: Collection[str]) -> ContrastParts:
        """Return affected nodes in triples, forgotten training nodes (on the original graph), and those that stay."""
        task, partition = problem.task, problem.partition
        entities = forgotten_entities(partition)
        nodes = affected(problem, entities, self.num_hops, self.fraction)
        data, place = entity_graph(task, partition, entities, self.read, self.message_graph, problem.model)
        size = int(partition.data.num_nodes)
        walk = Walk(partition.retain_data.edge_index, size, self.num_hops, entities)
        learned = entities[torch.isin(entities, training_nodes(partition.data).index)]
        forget = replace(node_items(partition.data, learned), index=place(learned))
        plain = NodeParts(data, training_nodes(partition.retain_data), partition.touched_nodes, forget)
        parts = ContrastParts(plain, walk, nodes, place(entities))
        if self.read == "original" and is_joint(data, partition):
            parts.retained = partition.retain_data
        return parts

    def run(self, problem: Problem) -> Outcome:
        if self.keep == "last":
            return super().run(problem)
        # Never after an ascent, which a descent follows.
        best = BestOnValidation(problem, lambda step: self.phase(step) != "ascent")
        outcome = super().run(replace(problem, callbacks=[best, *problem.callbacks]))
        outcome.notes.update(best.notes)
        return outcome

    def notes(self, problem: Problem, parts: Parts) -> dict[str, Any]:
        """Add `"affected"`, the number of affected nodes."""
        return {**super().notes(problem, parts), "affected": parts.count("affected")}


@torch.no_grad()
def affected(problem: Problem, entities: Tensor, num_hops: int, fraction: float) -> Tensor:
    """Return the nodes near the entities that depend on them most, sorted ids in the whole graph `[k]`."""
    task, data = problem.task, problem.partition.data
    near = surrounding(data, entities, num_hops)
    turned = copy.copy(data)
    turned.x = inverted_features(data.x, entities)
    before, after = (task.encode(problem.reference, graph)[near].softmax(dim=-1) for graph in (data, turned))
    change = (after - before).abs().mean(dim=1)
    best = change.topk(math.ceil(fraction * near.numel())).indices
    return near[best].sort().values
