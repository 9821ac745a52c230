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
from torch.nn.functional import pad

from gunlearn.losses import NLL, Distillation, GradientAscent, Loss, Objective, Prediction, as_objective, weighted
from gunlearn.methods.base import BY_MODE, Problem, check_interval, check_whole, fill_in
from gunlearn.methods.gradient import FrozenStatistics, GradientMethod
from gunlearn.methods.graph.entities import entity_graph, forgotten_entities, inverted_features, surrounding
from gunlearn.tasks.base import PartItems, Parts, Task
from gunlearn.tasks.graph.node_classification import NodeParts, node_items, training_nodes
from gunlearn.training.optimizers import OptimizerSpec, PhasedOptimizer, make_optimizer

PHASES = ("contrast", "ascent", "descent")
_MODES: dict[str, dict[str, Any]] = {
    "default": {"descent_lr": 2e-3, "descent_steps": 3, "shared_optimizer": True},
    "paper": {"descent_lr": 1.5e-2, "descent_steps": 1, "shared_optimizer": False},
}


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

    The paper's search over hyper-parameters, and its choice of the best model on validation nodes and forgotten ones,
    is left out: steps are fixed and the last model counts. Forgotten nodes are read on the original graph.

    `mode="paper"` has one Adam per phase and descends at the paper's rate, once per ascent; by default one Adam serves
    all phases, each at its own rate, and three steps descend at a lower one. The paper's other numbers (ascent at
    .0025, a tenth of the nodes, temperature 4) are the default's too. It tunes the contrast's rate, the margin and
    `alpha`, so that these are ours in both modes.

    Args:
        mode: `"default"` or `"paper"`; fills in every option that is `None`.
        epochs: passes over the items; a pass is one step of a phase unless `batch_size` is set.
        lr: learning rate for the contrast.
        ascent_lr: the same for the ascent.
        descent_lr: the same for the descent.
        contrast_steps: steps of a cycle's first phase; 0 leaves it out.
        ascent_steps: of its second.
        descent_steps: of its third.
        shared_optimizer: one optimiser serves all phases; else each phase has its own, which keeps its own state.
        fraction: share of nearby nodes that count as affected, in (0, 1].
        num_hops: how far nodes may be affected.
        margin: how far off the forgotten they are pushed.
        alpha: weight of the distance to the original model.
        temperature: of that distance.
    """

    mode: str = "default"
    epochs: int = 60
    lr: float = 1e-3
    ascent_lr: float = 2.5e-3
    descent_lr: float = BY_MODE
    contrast_steps: int = 1
    ascent_steps: int = 1
    descent_steps: int = BY_MODE
    shared_optimizer: bool = BY_MODE
    fraction: float = 0.1
    num_hops: int = 2
    margin: float = 1.0
    alpha: float = 1.0
    temperature: float = 4.0

    name = "cognac"
    summary = "contrast affected nodes with the forgotten, ascend on the forgotten, descend on the rest"
    paper = "arXiv 2412.00789"
    requests = ("edges", "nodes", "features")
    tasks = ("node_classification",)
    needs = "retained data, reference model"
    cost = "`epochs` passes"
    variants: ClassVar[dict[str, dict[str, Any]]] = {"default": {}, "paper": {"mode": "paper"}}

    def __post_init__(self) -> None:
        fill_in(self, _MODES)
        check_interval(self, "> 0", "ascent_lr", "descent_lr")
        check_whole(self, contrast_steps=0, ascent_steps=0, descent_steps=1, num_hops=1)
        check_interval(self, "in (0, 1]", "fraction")
        check_interval(self, ">= 0", "margin", "alpha")
        super().__post_init__()

    def phase(self, step: int) -> str:
        steps = (self.contrast_steps, self.ascent_steps, self.descent_steps)
        place = step % sum(steps)
        return PHASES[0] if place < steps[0] else PHASES[1] if place < steps[0] + steps[1] else PHASES[2]

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
        data, place = entity_graph(task, partition, entities, "original", self.message_graph, problem.model)
        size = int(partition.data.num_nodes)
        walk = Walk(partition.retain_data.edge_index, size, self.num_hops, entities)
        learned = entities[torch.isin(entities, training_nodes(partition.data).index)]
        forget = replace(node_items(partition.data, learned), index=place(learned))
        plain = NodeParts(data, training_nodes(partition.retain_data), partition.touched_nodes, forget)
        return ContrastParts(plain, walk, nodes, place(entities))

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


@dataclass(frozen=True, repr=False)
class Contrast(Loss):
    r"""Near one, far from another: :math:`\|a - p\| + \max(0, m - \|a - n\|)` of embeddings `[num_items, 3, dim]`.

    Args:
        margin: `m`, how far is far enough.
    """

    name = "contrast"
    summary = "distance to a neighbour, and to a margin off something forgotten"

    margin: float = 1.0

    @property
    def reads(self) -> tuple[str, ...]:
        return ("embeddings",)

    def values(self, current: Prediction, reference: Prediction | None = None) -> Tensor:
        anchor, positive, negative = current.require("embeddings").unbind(dim=1)
        far = torch.linalg.vector_norm(anchor - negative, dim=-1)
        return torch.linalg.vector_norm(anchor - positive, dim=-1) + (self.margin - far).relu()


@dataclass(frozen=True)
class TripleItems(PartItems):
    """Affected nodes with a positive and a negative each.

    Args:
        index: node ids `[num_items, 3]`.
        fixed: drawn anew at each step.
    """

    index: Tensor
    fixed: bool = False

    def decode(self, task: Task, model: nn.Module, outputs: Tensor) -> Prediction:
        """Predict nothing; hand on the outputs of each triple as embeddings `[num_items, 3, dim]`."""
        return Prediction(log_prob=outputs.new_zeros(self.num_items), embeddings=outputs[self.index])


class ContrastParts(Parts):
    """What Cognac's phases read; see `names`."""

    names: ClassVar[dict[str, str]] = {
        "affected": "affected nodes, each with a neighbour in the retained graph and with something forgotten",
        "forget": "training nodes among what is forgotten, as the original graph shows them",
        "retain": "the training nodes that stay",
    }

    def __init__(self, plain: NodeParts, walk: Walk, nodes: Tensor, entities: Tensor) -> None:
        """`plain` has the two other parts; `entities` are where its data shows them, `[k]`, `nodes` the affected."""
        self.data, self.plain, self.walk, self.nodes, self.entities = plain.data, plain, walk, nodes, entities
        self.draws = plain.draws  # to limit these parts limits those

    def strata(self) -> Tensor:
        return self.plain.strata()

    def count(self, name: str) -> int:
        return self.nodes.numel() if name == "affected" else self.plain.count(name)

    def sample(self, names: Collection[str]) -> dict[str, Any]:
        plain = self.plain.sample([name for name in names if name != "affected"])
        return {name: self._triples() if name == "affected" else plain[name] for name in names}

    def _triples(self) -> TripleItems:
        draw = torch.randint(self.entities.numel(), (self.nodes.numel(),), device=self.nodes.device)
        return TripleItems(torch.stack([self.nodes, self.walk(self.nodes), self.entities[draw]], dim=1))


class Walk:
    """A random walk of random length, which stays at its start where it has no way or would end at something forgotten.

    Args:
        edge_index: `[2, num_edges]`.
        num_nodes: how many nodes there are.
        num_hops: longest length.
        avoid: nodes not to end at, ids `[k]`.
    """

    def __init__(self, edge_index: Tensor, num_nodes: int, num_hops: int, avoid: Tensor) -> None:
        """Edges by source."""
        order = edge_index[0].argsort(stable=True)
        self.target, self.degree = edge_index[1, order], torch.bincount(edge_index[0], minlength=num_nodes)
        self.start, self.num_hops, self.avoid = pad(self.degree.cumsum(0), (1, 0)), num_hops, avoid

    def __call__(self, nodes: Tensor) -> Tensor:
        """Return where walks from `nodes` end, ids `[k]`."""
        place, length = nodes, torch.randint(1, self.num_hops + 1, nodes.shape, device=nodes.device)
        for hop in range(self.num_hops):
            degree = self.degree[place]
            step = (torch.rand(nodes.shape, device=nodes.device) * degree).long().clamp(max=(degree - 1).clamp(min=0))
            goes = (degree > 0) & (hop < length)
            slot = torch.where(goes, self.start[place] + step, 0)
            place = torch.where(goes, self.target[slot], place) if self.target.numel() else place
        return torch.where(torch.isin(place, self.avoid), nodes, place)
