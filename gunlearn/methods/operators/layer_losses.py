"""Outputs layer by layer, the nodes that a request affects there, and the losses on them."""

from functools import partial, reduce

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch_geometric.data import Data

from gunlearn.errors import UnsupportedModelError
from gunlearn.losses import Objective, ObjectiveValue, Prediction
from gunlearn.methods.base import Problem
from gunlearn.nn.attach.contexts import after_layer
from gunlearn.nn.attach.message_layers import message_passing_layers
from gunlearn.nn.attach.operators import DeletionOperator, OperatorView
from gunlearn.tasks.base import Task
from gunlearn.tasks.graph.negatives import NegativeSampler
from gunlearn.tasks.graph.node_kinds import node_kinds
from gunlearn.tasks.graph.pair_kinds import PairKinds
from gunlearn.training.callbacks import StatefulCallback, TrainState


@torch.no_grad()
def layer_outputs(model: nn.Module, task: Task, data: Data) -> list[tuple[str, Tensor]]:
    """Return name and output `[num_nodes, channels]` of each call of a message passing layer in one pass.

    Other shapes, or a model that has or calls no such layer, raise `UnsupportedModelError`.
    """
    calls: list[tuple[str, Tensor]] = []

    def record(name: str, h: Tensor) -> Tensor:
        calls.append((name, h.clone()))  # later layers may change it in place
        return h

    with after_layer(model, {name: partial(record, name) for name in message_passing_layers(model)}):
        task.encode(model, data)
    if not calls:
        raise UnsupportedModelError("Expected the model to call its message passing layers (got a pass without)")
    for name, h in calls:
        if h.dim() != 2 or h.size(0) != data.num_nodes:
            raise UnsupportedModelError(
                f"Expected layer '{name}' to return [{data.num_nodes}, channels] (got {list(h.shape)})"
            )
    return calls


class Affected:
    """The nodes that a request affects, layer by layer; `names` lists the layers in the order of their calls.

    Attributes:
        ends: end points of forgotten edges that do not go with a node, `[2 * num_edges]`.
        alone: forgotten nodes, and nodes that lose features, `[k]`.
        last: hops after the last layer.
    """

    def __init__(self, problem: Problem, names: list[str]) -> None:
        self.partition, layers = problem.partition, message_passing_layers(problem.reference)
        self.last, self.hops = 0, {}
        for name in names:
            steps = getattr(layers[name], "K", 1)  # PyG's name for the number of message passing steps
            self.last += steps if isinstance(steps, int) and steps > 1 else 1
            self.hops[name] = self.last
        partition = self.partition
        edges, gone = partition.forget_edge_index, partition.forget_nodes
        self.ends = edges[:, ~torch.isin(edges, gone).any(dim=0)].flatten()
        self.alone = torch.cat([gone, partition.feature_nodes]).unique()
        self._nodes: dict[int, Tensor] = {}

    def nodes(self, num_hops: int) -> Tensor:
        """Return sorted ids `[k]` of the nodes within `num_hops` of what is forgotten."""
        if num_hops not in self._nodes:
            self._nodes[num_hops] = self.partition.affected_nodes(num_hops).nonzero().view(-1)
        return self._nodes[num_hops]

    def kept(self, name: str) -> Tensor:
        """Return sorted ids `[k]` of the affected nodes after a layer that are not forgotten themselves."""
        nodes = self.nodes(self.hops[name])
        return nodes[~torch.isin(nodes, torch.cat([self.ends, self.alone]))]

    def operators(self, calls: list[tuple[str, Tensor]], init: str) -> dict[str, DeletionOperator]:
        size = int(self.partition.data.num_nodes)
        outputs = dict(calls)
        return {
            name: DeletionOperator(self.nodes(hops), size, outputs[name].size(1), init, outputs[name].dtype)
            for name, hops in self.hops.items()
        }

    def graph(self) -> Data:
        """Return the original graph with only the edges between affected nodes, forgotten ones included."""
        data = self.partition.data
        return data.edge_subgraph(self.partition.affected_nodes(self.last)[data.edge_index].all(dim=0))

    def sizes(self) -> dict[str, int]:
        """Return the number of affected nodes after each layer."""
        return {name: self.nodes(hops).numel() for name, hops in self.hops.items()}


class LayerLosses:
    """The sum of the objective over all calls of layers.

    Args:
        objective: reads `"forget"` and `"affected"`.
        calls: layer and output `[num_nodes, channels]` of the original model, call by call.
        views: of the pass over the `"message"` graph and, if there is one, over the `"original"` graph.
        fixed: draw random pairs once.
    """

    def __init__(
        self,
        objective: Objective,
        calls: list[tuple[str, Tensor]],
        affected: Affected,
        operators: dict[str, DeletionOperator],
        views: dict[str, OperatorView],
        fixed: bool,
    ) -> None:
        self.objective, self.calls, self.affected, self.views = objective, calls, affected, views
        self.operators = [operators[name] for name, _ in calls]
        data = affected.partition.data
        pairs = "forget" in objective.parts and affected.ends.numel()
        kinds, size = node_kinds(data), int(data.num_nodes)
        self.sampler = NegativeSampler(data.edge_index, size, node_type=kinds) if pairs else None
        others = torch.ones(size, dtype=torch.bool, device=data.edge_index.device)
        others[affected.alone] = False
        self.others = others.nonzero().view(-1)
        self.kinds = None if kinds is None else PairKinds(size, kinds, self.others, None, others.device)
        self.kept = [affected.kept(name) for name, _ in calls]
        self.kept_place = [self._place("message", i, kept) for i, kept in enumerate(self.kept)]
        self.kept_target = [h[kept] for (_, h), kept in zip(calls, self.kept, strict=True)]
        self.alone = "original" if "original" in views else "message"
        self.ends_place = [self._place("message", i, affected.ends) for i in range(len(calls))]
        self.alone_place = [self._place(self.alone, i, affected.alone) for i in range(len(calls))]
        self.drawn = self.draw() if fixed else None

    def _place(self, view: str, call: int, nodes: Tensor) -> Tensor:
        rows = self.views[view].rows or {}
        return torch.searchsorted(rows[self.operators[call]][1], nodes)

    def draw(self) -> Tensor:
        """Draw random nodes: end points of non-edges for `ends`, others for `alone`, `[num_ends + num_alone]`."""
        ends, alone = self.affected.ends, self.affected.alone
        drawn = []
        if self.sampler is not None:
            pairs = self.sampler.sample(ends.numel() // 2, like=ends.view(2, -1))  # sorted
            drawn.append(pairs[:, torch.randperm(pairs.size(1), device=pairs.device)].flatten())
        if "forget" in self.objective.parts and alone.numel():
            drawn.append(self._others(alone))
        return torch.cat(drawn) if drawn else ends[:0]

    def _others(self, alone: Tensor) -> Tensor:
        """Draw a node that stays for each of some nodes `[k]`, of its type where there is one."""
        drawn = self.others[torch.randint(self.others.numel(), (alone.numel(),), device=alone.device)]
        if self.kinds is not None and self.kinds.type is not None:
            types = self.kinds.type[alone]
            some = self.kinds.size[types] > 0
            drawn[some] = self.kinds.draw_nodes(types[some])
        return drawn

    def by_call(self) -> list[ObjectiveValue]:
        """Return the objective's value of each call of a layer."""
        drawn = self.draw() if self.drawn is None else self.drawn
        values = []
        for i, (_, before) in enumerate(self.calls):
            message = self.views["message"].record[i]
            gone = torch.cat([message[self.ends_place[i]], self.views[self.alone].record[i][self.alone_place[i]]])
            current = {"forget": gone, "affected": message[self.kept_place[i]]}
            target = {"forget": before[drawn], "affected": self.kept_target[i]}
            nothing = self.operators[i].weight.sum(dim=1)[None, :] * 0  # a layer without such nodes has loss zero
            for name in self.objective.parts:
                if not len(current[name]):
                    current[name], target[name] = nothing, torch.zeros_like(nothing)
            now, then = ({k: _rows(v[k]) for k in self.objective.parts} for v in (current, target))
            values.append(self.objective(now, then))
        return values

    def sum(self, values: list[ObjectiveValue]) -> ObjectiveValue:
        """Return the sum of the values, term by term."""
        terms = {name: reduce(torch.add, [value.terms[name] for value in values]) for name in self.objective.labels}
        return ObjectiveValue(reduce(torch.add, [value.total for value in values]), terms)


class LaterGradients(StatefulCallback):
    """The gradient that losses of later layers leave in each operator, which enters its next step instead of this one.

    So does the authors' code: an operator's optimiser steps, and clears the gradient, before the next layer's loss is
    differentiated.

    Args:
        weights: of the operators, in the order of the calls of their layers.
    """

    draws_nothing = True

    def __init__(self, weights: list[Tensor]) -> None:
        self.weights = weights
        self.now: list[Tensor] = []
        self.before: list[Tensor] = []

    def see(self, losses: list[Tensor]) -> None:
        """Take the losses of this step, layer by layer, before they are differentiated."""
        first, losses = self.weights[:-1], losses if torch.is_grad_enabled() else []
        self.now = [
            torch.autograd.grad(reduce(torch.add, losses[i + 1 :]), weight, retain_graph=True, materialize_grads=True)[
                0
            ]
            for i, weight in enumerate(first if losses else ())
        ]

    def swap(self, state: TrainState) -> None:
        """Change the gradients of this step, each of which holds all losses'."""
        for i, now in enumerate(self.now):
            gradient = self.weights[i].grad
            if gradient is not None:
                gradient.sub_(now).add_(self.before[i] if self.before else 0.0)
        self.before = self.now

    def state_dict(self) -> dict[str, Tensor]:
        return {str(i): gradient for i, gradient in enumerate(self.before)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.before = [state[str(i)] for i in range(len(state))]


def _rows(embeddings: Tensor) -> Prediction:
    return Prediction(log_prob=embeddings.new_zeros(embeddings.size(0)), embeddings=embeddings)


def set_mode(model: nn.Module, dropout: bool) -> None:
    """Set evaluation mode; with `dropout` training mode, except for layers with running statistics."""
    model.train(dropout)
    for module in model.modules():
        if isinstance(module, _NormBase):
            module.eval()
