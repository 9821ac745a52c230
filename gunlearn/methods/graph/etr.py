"""ETR: erase, then rectify, without a training step (arXiv 2409.16684)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from torch_geometric.data import Data

from gunlearn.core.checks import check_choice, check_differentiable
from gunlearn.curvature.training_loss import learning_parameters
from gunlearn.errors import InvalidInputError
from gunlearn.losses import Prediction
from gunlearn.methods.base import BY_MODE, Method, Outcome, Problem, check_interval, fill_in
from gunlearn.methods.gradient import FrozenStatistics
from gunlearn.methods.graph.entities import forgotten_entities
from gunlearn.methods.graph.erasing import erase
from gunlearn.nn.kernels.subgraph import propagation_depth
from gunlearn.requests.selection import k_hop_mask
from gunlearn.tasks.base import Task
from gunlearn.tasks.graph.base import GraphTask
from gunlearn.tasks.graph.link_prediction import LinkPrediction
from gunlearn.tasks.graph.node_classification import NodeClassification, node_items, training_nodes

HOPS = 2  # within which the authors' code looks, whatever the model's depth
_DEFAULT = {
    "lr": 0.3, "erase_ratio": 0.01, "label_smoothing": 0.0, "dropout": False, "rectify": "erased", "rows": "own",
}  # fmt: skip
_PAPER = {**_DEFAULT, "label_smoothing": 0.1, "dropout": True, "rectify": "mixed", "rows": "first"}
_MODES = {"default": _DEFAULT, "paper": _PAPER}


@dataclass(frozen=True)
class ETR(Method):
    r"""Shrinks the weights that matter to what is forgotten, then corrects by one gradient step.

    With `g` the gradient of a mean loss and importances :math:`I = g^2` on the original graph, of all training items,
    of those that go (`f`) and of those that stay within reach of the request (`k`):

    .. math:: b_1 = \min(I_{all} / I_f, 1), \qquad b_2 = \min(I_{all}^2 / (I_f I_k), 1)

    In each tensor the entries with :math:`b_1` up to its `erase_ratio`-quantile :math:`q` are multiplied by
    :math:`b_1 / q`, then those not yet touched by :math:`b_2` likewise. If no training item goes (features, and edges
    under node classification) there is one factor, :math:`b = \min(I_{all} / I_k, 1)`. The correction is a step against

    .. math:: \tfrac nm g_{all} - \tfrac um g_f - \tfrac im g_k + \tfrac im g'_k

    for `n` training items, `u` that go, `m` that stay, `i` within reach, and :math:`g'_k` on the retained graph: the
    gradient of the retained items' mean loss there, as items out of reach have the same gradient on both graphs.

    `mode="default"` takes gradients of the plain loss, those of the correction at the erased weights.
    `mode="paper"` follows the authors' code: dropout on, labels smoothed by 0.1, and :math:`g'_k` alone at the erased
    weights. Under node classification messages pass between training nodes alone, on which the authors train, and
    where they mean the gradients of the nodes that go (or are within reach) they take those of as many other ones: the
    first, by number, of the part of that graph within two hops. Left out: their original model, too, is trained without
    the labels of the nodes that go, whose mask two graphs share. `notes["erased"]` is the share of weights that were
    shrunk.

    Args:
        mode: `"default"` or `"paper"`; fills in every option that is `None`.
        lr: length of the correction, as a multiple of the gradient.
        erase_ratio: share of each tensor's entries that each factor may shrink, in [0, 1); 0 erases nothing.
        label_smoothing: share of the loss that is spread over all classes, in [0, 1).
        dropout: keep dropout on for the gradients; batch statistics never change.
        rectify: take the correction at the `"erased"` or the `"original"` weights, or `"mixed"`, :math:`g'_k` alone at
            the erased ones.
        rows: take gradients over the items' `"own"` rows, or over the `"first"` ones of the authors' code (node
            classification; other tasks have no such rows and take their own).
    """

    mode: str = "default"
    lr: float = BY_MODE
    erase_ratio: float = BY_MODE
    label_smoothing: float = BY_MODE
    dropout: bool = BY_MODE
    rectify: str = BY_MODE
    rows: str = BY_MODE

    name = "etr"
    summary = "shrink the weights that what is forgotten depends on, correct by one gradient"
    paper = "arXiv 2409.16684"
    requests = ("edges", "nodes", "features")
    tasks = ("link_prediction", "node_classification")
    needs = "retained data"
    state = "last"
    cost = "three to four gradients"
    compared = "experiments/paper_modes"
    variants: ClassVar[dict[str, dict[str, Any]]] = {"default": {}, "paper": {"mode": "paper"}}

    def __post_init__(self) -> None:
        fill_in(self, _MODES)
        check_interval(self, ">= 0", "lr")
        check_interval(self, "in [0, 1)", "erase_ratio", "label_smoothing")
        check_choice("rectify", self.rectify, ("erased", "original", "mixed"))
        check_choice("rows", self.rows, ("own", "first"))
        if self.rows == "first" and self.rectify == "erased":
            raise InvalidInputError("Expected rectify='mixed' or 'original' with rows='first' (got 'erased')")

    def run(self, problem: Problem) -> Outcome:
        model = problem.model
        parameters = learning_parameters(model)
        model.train(self.dropout)
        first = self.rows == "first" and isinstance(problem.task, NodeClassification)
        found = (self._first_rows if first else self._own_rows)(problem, parameters)
        changed = found.changed() if self.rectify == "original" else None
        erased = erase(parameters, found.everything, found.gone, found.near, self.erase_ratio)
        changed = found.changed() if changed is None else changed
        with torch.no_grad():
            for i, parameter in enumerate(parameters):
                gradient = changed[i] if found.rest is None else found.rest[i] + changed[i]
                parameter.sub_(gradient, alpha=self.lr / found.items["retained"])
        notes = {"erased": erased / sum(p.numel() for p in parameters), "items": found.items}
        return Outcome(model.eval(), notes=notes)

    def _losses(self, problem: Problem, data: Data, groups: Sequence[Any]) -> list[Tensor]:
        """Return the losses `[num_items]` of groups of items, all read in one pass."""
        with FrozenStatistics(problem.model):
            outputs = problem.task.encode(problem.model, data)
        return [_smoothed(problem.task.decode(problem.model, outputs, items), self.label_smoothing) for items in groups]

    def _own_rows(self, problem: Problem, parameters: Sequence[Tensor]) -> RectifyTerms:
        task, partition = problem.task, problem.partition
        # Negatives are the same on both graphs.
        retain = task.parts(partition, "retain", names=["retain"]).sample(["retain"])["retain"]
        gone = removed_items(task, partition)
        reach = within_reach(problem, retain)
        kept, lost = self._losses(problem, partition.data, (retain, gone))
        out, near, gone_sum = (_gradient(v, parameters) for v in (kept[~reach], kept[reach], lost))
        total, count = kept.numel() + lost.numel(), int(reach.sum())

        def changed() -> list[Tensor]:
            losses = self._losses(problem, partition.retain_data, (retain,))[0]
            return _gradient(losses if self.rectify == "erased" else losses[reach], parameters)

        return RectifyTerms(
            [(a + b + c) / total for a, b, c in zip(out, near, gone_sum, strict=True)],
            [g / lost.numel() for g in gone_sum] if lost.numel() else None,
            [g / max(count, 1) for g in near],
            None if self.rectify == "erased" else out,
            changed,
            {"removed": lost.numel(), "within_reach": count, "retained": kept.numel()},
        )

    def _first_rows(self, problem: Problem, parameters: Sequence[Tensor]) -> RectifyTerms:
        partition, trained = problem.partition, training_nodes(problem.partition.data)
        among = torch.zeros(int(partition.data.num_nodes), dtype=torch.bool, device=trained.index.device)
        among[trained.index] = True
        before, after = (_between(graph, among) for graph in (partition.data, partition.retain_data))
        gone = trained.index[torch.isin(trained.index, partition.forget_nodes)]
        hops = 1 if partition.forgets == ("edges",) else HOPS
        near = k_hop_mask(before.edge_index, forgotten_entities(partition), among.numel(), hops) & among
        near = near.index_fill(0, gone, False).nonzero().view(-1)

        def sums(data: Data, nodes: Tensor) -> tuple[list[Tensor], list[Tensor]]:
            """Return the gradient of the mean loss that stands for some nodes', and of that of the sum of theirs."""
            part, rows = _first(data, nodes)
            losses = self._losses(problem, part, (node_items(part, rows),))[0]
            mean = [g / max(losses.numel(), 1) for g in _gradient(losses, parameters)]
            return mean, [nodes.numel() * g for g in mean]

        whole = _gradient(self._losses(problem, before, (trained,))[0], parameters)
        g_near, near_sum = sums(before, near)
        g_gone, gone_sum = sums(before, gone) if gone.numel() else (None, [torch.zeros_like(g) for g in whole])
        return RectifyTerms(
            [g / trained.num_items for g in whole],
            g_gone,
            g_near,
            [a - f - k for a, f, k in zip(whole, gone_sum, near_sum, strict=True)],
            lambda: sums(after, near)[1],
            {"removed": gone.numel(), "within_reach": near.numel(), "retained": trained.num_items - gone.numel()},
        )


@dataclass
class RectifyTerms:
    """What `ETR` computes before it changes a weight; one tensor per parameter.

    Args:
        everything: gradient of the mean loss of all items on the original graph.
        gone: of those that go; `None` for none.
        near: of those that stay within reach.
        rest: of the sum of losses, what the correction takes on the original graph; `None` for nothing.
        changed: computes what it takes on the retained graph, at the weights as they are.
        items: how many items there are, for notes.
    """

    everything: list[Tensor]
    gone: list[Tensor] | None
    near: list[Tensor]
    rest: list[Tensor] | None
    changed: Callable[[], list[Tensor]]
    items: dict[str, int]


def _between(data: Data, inside: Tensor) -> Data:
    """Return the graph with the edges between the nodes of a mask alone."""
    return data.edge_subgraph(inside[data.edge_index].all(dim=0))


def _first(data: Data, nodes: Tensor) -> tuple[Data, Tensor]:
    """Return the edges of a graph within two hops of those nodes that have one, and as many of the first nodes there.

    That is what the authors' code reads, `output[:batch_size]` of PyG's `k_hop_subgraph`, whose rows are sorted.
    """
    nodes = nodes[torch.isin(nodes, data.edge_index)]
    reached = k_hop_mask(data.edge_index, nodes, int(data.num_nodes), HOPS)
    return _between(data, reached), reached.nonzero().view(-1)[: nodes.numel()]


def removed_items(task: Task, partition: Any) -> Any:
    """Return the training items that go, to be read on the original graph; possibly none."""
    if isinstance(task, LinkPrediction):
        return task.edge_items(partition.data, partition.forget_edge_index)
    gone = partition.forget_nodes
    return node_items(partition.data, gone[torch.isin(gone, training_nodes(partition.data).index)])


def within_reach(problem: Problem, items: Any) -> Tensor:
    """Return the mask `[num_items]` of items with an end within the model's reach of the request."""
    encode = partial(GraphTask.encode, cast(GraphTask, problem.task))  # only to count layers
    depth = propagation_depth(problem.reference, problem.partition.data, encode)
    affected = problem.partition.affected_nodes(depth)
    return affected[problem.task.seeds(items)].view(-1, items.num_items).any(dim=0)


def _smoothed(prediction: Prediction, smoothing: float) -> Tensor:
    """Return negative log-likelihoods with smoothed labels, `[num_items]`."""
    nll = -prediction.log_prob
    if not smoothing:
        return nll
    logits = prediction.require("logits")
    edge = logits.dim() == 1
    uniform = (logsigmoid(logits) + logsigmoid(-logits)) / 2 if edge else logits.log_softmax(-1).mean(-1)
    return (1 - smoothing) * nll - smoothing * uniform


def _gradient(losses: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradient of the losses' sum; zeros where it does not depend on a parameter."""
    if not losses.numel():
        return [torch.zeros_like(p) for p in parameters]
    check_differentiable(losses)
    return list(torch.autograd.grad(losses.sum(), list(parameters), retain_graph=True, materialize_grads=True))
