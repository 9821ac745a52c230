"""MEGU: weights and an operator on the logits evolve together (arXiv 2401.11760)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn.conv.gcn_conv import gcn_norm

from gunlearn.core.checks import check_choice, check_number
from gunlearn.errors import DivergenceError, InvalidInputError
from gunlearn.losses import NLL, GradientAscent, Loss, Objective, Prediction, functional
from gunlearn.methods.base import BY_MODE, Outcome, Problem, check_interval, check_whole, fill_in
from gunlearn.methods.gradient import FrozenStatistics, GradientMethod
from gunlearn.methods.graph.entities import entity_graph, forgotten_entities, inverted_features, surrounding
from gunlearn.nn.kernels.sparse import sparse_matrix
from gunlearn.tasks.base import Parts, Task
from gunlearn.tasks.graph.linked import linked
from gunlearn.tasks.graph.node_classification import NodeItems
from gunlearn.training.optimizers import OptimizerSpec

OPERATOR = "mutual_operator"
_COLUMNS = 256  # features that are propagated at a time
_DEFAULT = {
    "epochs": 30, "optimizer": "adam", "lr": 1e-3, "kappa": 0.4, "temperature": 1.5, "init": "identity",
    "read": "original",
}  # fmt: skip
_PAPER = {**_DEFAULT, "optimizer": "sgd", "lr": 5e-2, "kappa": 0.01, "init": "random", "read": "isolated"}
_MODES = {"default": _DEFAULT, "paper": _PAPER}


@dataclass(frozen=True)
class MEGU(GradientMethod):
    r"""Mutual evolution: an operator `T` on the logits unlearns, the weights follow it and hold the neighbourhood.

    With `o` the logits, `T o` those after a linear map of C classes, the entities `V` that are forgotten, their highly
    influenced neighbours `N`, and the original model's predicted classes :math:`\hat y`,

    .. math:: \kappa \big( KL_\tau(\bar{To} \| o)_V - CE(To, \hat y)_V \big)
              + KL_\tau(\bar o \| To)_N + CE(o, \hat y)_N

    where a bar takes no gradient: at the entities the weights follow the operator, around them the operator follows the
    weights. No true label is read. The operator leaves the model at the end, and nothing is done to predictions
    afterwards: the authors pass theirs, and no other method's, through 160 steps of label smoothing over the graph,
    which their figures owe their height to.

    Entities are forgotten nodes, nodes that lose features, and end points of forgotten edges. `N` are the nodes within
    `num_hops` whose propagated features turn most, by the cosine, when the entities' features `x` become `1 - x`; how
    far is "most" is where the similarities leave a gap of 0.1. Without any, the training nodes that stay take its part.

    `mode="default"` starts the operator at the identity and reads entities as the original graph shows them.
    `mode="paper"` starts it at random and reads them in the graph that is left, forgotten nodes with their features and
    no edges, and takes the authors' settings for Cora: plain SGD at 0.05 with kappa 0.01 (CiteSeer: 0.09 and 0.01,
    PubMed: 0.04 and 0.09).

    Args:
        mode: `"default"` or `"paper"`; fills in every option that is `None`.
        epochs: passes over the items, 30 in the paper.
        lr: learning rate.
        kappa: weight of the entities' terms.
        temperature: of both divergences.
        num_hops: how far neighbours are looked for.
        init: where the operator starts, `"identity"` or `"random"`.
        read: where entities are read, `"original"` or `"isolated"`.
    """

    epochs: int = BY_MODE
    lr: float = BY_MODE
    optimizer: OptimizerSpec = BY_MODE
    mode: str = "default"
    kappa: float = BY_MODE
    temperature: float = BY_MODE
    num_hops: int = 2
    init: str = BY_MODE
    read: str = BY_MODE

    name = "megu"
    summary = "an operator on the logits unlearns, the weights evolve with it and keep the neighbourhood"
    paper = "arXiv 2401.11760"
    requests = ("edges", "nodes", "features")
    tasks = ("node_classification",)
    needs = "reference model"
    cost = "`epochs` passes"
    compared = "experiments/paper_modes"
    variants: ClassVar[dict[str, dict[str, Any]]] = {"default": {}, "paper": {"mode": "paper"}}

    def __post_init__(self) -> None:
        fill_in(self, _MODES)
        check_interval(self, "> 0", "kappa")
        check_whole(self, num_hops=1)
        check_choice("init", self.init, ("identity", "random"))
        check_choice("read", self.read, ("original", "isolated"))
        for name in ("batch_size", "retain_samples"):
            if getattr(self, name) is not None:
                raise InvalidInputError(
                    f"Expected no '{name}' for 'megu', which reads entities and their neighbours, not retained items "
                    f"(got {getattr(self, name)!r})"
                )
        super().__post_init__()

    def objective(self) -> Objective:
        unlearn = self.kappa * Follow(self.temperature, on="forget") + self.kappa * GradientAscent(on="forget")
        return unlearn + Follow(self.temperature, on="neighbours") + NLL(on="neighbours")

    def surroundings(self, problem: Problem) -> Callable[[nn.Module], AbstractContextManager]:
        return FrozenStatistics

    def parts(self, problem: Problem, names: Collection[str]) -> MutualParts:
        """Return entities and highly influenced neighbours; without such neighbours, the training nodes that stay."""
        task, partition = problem.task, problem.partition
        with torch.no_grad():
            label = task.encode(problem.reference, partition.data).argmax(dim=1)
        entities = forgotten_entities(partition)
        near = influenced(partition, entities, self.num_hops)
        count = near.numel()
        if not count:
            near = task.training_parts(partition.retain_data).sample(["retain"])["retain"].index
        # Both graphs in little more than one pass, where the model allows it: each step reads both.
        joint = linked(partition, entities, problem.model, task) if self._reads_both else None
        data, place = joint or entity_graph(task, partition, entities, self.read, self.message_graph, problem.model)
        forget = HeadItems(place(entities), label[entities], entity=True)
        return MutualParts(data, {"forget": forget, "neighbours": HeadItems(near, label[near])}, count)

    @property
    def _reads_both(self) -> bool:
        return self.read == "original" and self.message_graph == "retain"

    def notes(self, problem: Problem, parts: Parts) -> dict[str, Any]:
        """Add `"neighbours"`, the number of highly influenced ones."""
        return {**super().notes(problem, parts), "neighbours": cast(MutualParts, parts).num_influenced}

    def run(self, problem: Problem) -> Outcome:
        """Unlearn with an operator on the logits that learns along."""
        model = problem.model
        with torch.no_grad():
            logits = problem.task.encode(problem.reference, problem.partition.data)
        operator = nn.Linear(logits.size(1), logits.size(1)).to(logits)
        if self.init == "identity":
            nn.init.eye_(operator.weight)
            nn.init.zeros_(operator.bias)
        # A part of the model while it trains, so that the loop steps, saves and resumes it too.
        model.add_module(OPERATOR, operator)
        try:
            outcome = super().run(problem)
        finally:
            delattr(model, OPERATOR)
        outcome.notes["changed_predictions"] = self._changed(problem, outcome.model)
        return outcome

    @torch.no_grad()
    def _changed(self, problem: Problem, model: nn.Module) -> float:
        """Return the share of the training nodes that stay whose predicted class changed.

        Nothing in the objective holds nodes that are neither entities nor near them, so a model can come to harm.
        """
        task, data = problem.task, problem.partition.retain_data
        stay = task.training_parts(data).sample(["retain"])["retain"].index
        before, after = (task.encode(m.eval(), data)[stay].argmax(dim=1) for m in (problem.reference, model))
        share = float((before != after).double().mean())
        if share > 0.5 and self.mode == "default":
            raise DivergenceError(
                f"Expected the unlearned model to keep most predictions on what stays (got {share:.0%} changed); lower "
                "'lr' or 'epochs'"
            )
        if share > 0.2:
            warnings.warn(
                f"{share:.0%} of the training nodes that stay are predicted otherwise now; lower 'lr' or 'epochs'",
                stacklevel=2,
            )
        return share


def influenced(partition: Any, entities: Tensor, num_hops: int) -> Tensor:
    """Return the highly influenced neighbours of the entities, sorted ids `[k]`; see `MEGU`."""
    data, near = partition.data, surrounding(partition.data, entities, num_hops)
    if not near.numel():
        return near
    size, x, features = int(data.num_nodes), data.x, (data.x, inverted_features(data.x, entities))
    edge_index, weight = gcn_norm(data.edge_index, None, size, dtype=x.dtype)
    adjacency = sparse_matrix(edge_index[1], edge_index[0], weight, (size, size))
    dots = x.new_zeros(3, near.numel(), layout=torch.strided)
    for start in range(0, x.size(1), _COLUMNS):
        before, after = (_columns(value, start) for value in features)
        for _ in range(num_hops):
            before, after = adjacency @ before, adjacency @ after
        a, b = before[near], after[near]
        dots += torch.stack([(a * b).sum(1), (a * a).sum(1), (b * b).sum(1)])
    cosine = dots[0] / (dots[1] * dots[2]).sqrt().clamp_min(1e-12)
    return near[cosine <= gap(cosine)]


def gap(similarity: Tensor) -> float:
    """Return the first of 0.1, 0.2, ... that lies above some similarities, with none in the 0.1 below it."""
    count = 0
    for tenth in range(1, 11):
        now = int((similarity <= tenth / 10).sum())
        if now and now == count:
            return tenth / 10
        count = now
    return 1.0 + 1e-6  # above rounding errors too


def _columns(x: Tensor, start: int) -> Tensor:
    """Return some columns of dense or CSR features, dense `[num_nodes, k]`."""
    stop = min(start + _COLUMNS, x.size(1))
    if x.layout == torch.strided:
        return x[:, start:stop].contiguous()
    chosen = torch.zeros(x.size(1), stop - start, dtype=x.dtype, device=x.device)
    chosen[start:stop].fill_diagonal_(1)
    return x @ chosen


@dataclass(frozen=True, repr=False)
class Follow(Loss):
    r"""Divergence of the logits from the embeddings read as logits, which take no gradient: one head follows another.

    .. math:: KL\big(p_\tau(\bar e) \,\|\, p_\tau(z)\big), \qquad p_\tau(z) = \mathrm{softmax}(z / \tau)

    Args:
        temperature: both are divided by it.
    """

    name = "follow"
    summary = "divergence of one head's prediction from another's"

    temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("temperature", self.temperature, positive=True)

    @property
    def reads(self) -> tuple[str, ...]:
        return ("logits", "embeddings")

    def values(self, current: Prediction, reference: Prediction | None = None) -> Tensor:
        leader = current.require("embeddings").detach() / self.temperature
        return functional.kl_divergence(current.require("logits") / self.temperature, leader, bernoulli=False)


@dataclass(frozen=True)
class HeadItems(NodeItems):
    """Nodes that are read through both heads: the follower's logits, and the leader's as embeddings.

    Args:
        entity: the operator's likelihood counts and the model follows it; else the other way round.
    """

    entity: bool = False

    def decode(self, task: Task, model: nn.Module, outputs: Tensor) -> Prediction:
        """Predict by the model's own logits and by those after the operator."""
        plain = task.decode(model, outputs, self)
        changed = getattr(model, OPERATOR)(plain.logits)
        if not self.entity:
            return plain.replace(logits=changed, embeddings=plain.logits)
        log_prob = changed.log_softmax(dim=-1).gather(1, self.label.view(-1, 1)).view(-1)
        return plain.replace(log_prob=log_prob, embeddings=changed)


class MutualParts(Parts):
    """Entities and their neighbours, with the classes that the original model predicts."""

    names: ClassVar[dict[str, str]] = {"forget": "the entities", "neighbours": "the highly influenced nodes"}

    def __init__(self, data: Data, items: dict[str, HeadItems], num_influenced: int) -> None:
        """`items` by part, in terms of `data`."""
        self.data, self.items, self.num_influenced = data, items, num_influenced

    def sample(self, names: Collection[str]) -> dict[str, HeadItems]:
        return {name: self.items[name] for name in names}
