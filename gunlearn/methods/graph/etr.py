"""ETR: erase, then rectify, without a training step (arXiv 2409.16684)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from torch_geometric.data import Data

from gunlearn.core.checks import check_choice, check_differentiable
from gunlearn.curvature.training_loss import learning_parameters
from gunlearn.losses import Prediction
from gunlearn.methods.base import BY_MODE, Method, Outcome, Problem, check_interval, fill_in
from gunlearn.methods.gradient import FrozenStatistics
from gunlearn.nn.kernels.subgraph import propagation_depth
from gunlearn.tasks.base import Task
from gunlearn.tasks.graph.base import GraphTask
from gunlearn.tasks.graph.link_prediction import LinkPrediction
from gunlearn.tasks.graph.node_classification import node_items, training_nodes

_DEFAULT = {"lr": 0.3, "erase_ratio": 0.01, "label_smoothing": 0.0, "dropout": False, "rectify": "erased"}
_PAPER = {**_DEFAULT, "label_smoothing": 0.1, "dropout": True, "rectify": "original"}
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

    `mode="paper"` takes all gradients at the original weights, with dropout on and labels smoothed by 0.1.
    `mode="default"` takes gradients of the plain loss, the last one at the erased weights. `notes["erased"]` is the
    share of weights that were shrunk.

    Args:
        mode: `"default"` or `"paper"`; fills in every option that is `None`.
        lr: length of the correction, as a multiple of the gradient.
        erase_ratio: share of each tensor's entries that each factor may shrink, in [0, 1); 0 erases nothing.
        label_smoothing: share of the loss that is spread over all classes, in [0, 1).
        dropout: keep dropout on for the gradients; batch statistics never change.
        rectify: take the correction at the `"erased"` or the `"original"` weights.
    """

    mode: str = "default"
    lr: float = BY_MODE
    erase_ratio: float = BY_MODE
    label_smoothing: float = BY_MODE
    dropout: bool = BY_MODE
    rectify: str = BY_MODE

    name = "etr"
    summary = "shrink the weights that what is forgotten depends on, correct by one gradient"
    paper = "arXiv 2409.16684"
    requests = ("edges", "nodes", "features")
    tasks = ("link_prediction", "node_classification")
    needs = "retained data"
    state = "last"
    cost = "three to four gradients"
    variants: ClassVar[dict[str, dict[str, Any]]] = {"default": {}, "paper": {"mode": "paper"}}

    def __post_init__(self) -> None:
        fill_in(self, _MODES)
        check_interval(self, ">= 0", "lr")
        check_interval(self, "in [0, 1)", "erase_ratio", "label_smoothing")
        check_choice("rectify", self.rectify, ("erased", "original"))

    def run(self, problem: Problem) -> Outcome:
        model, task, partition = problem.model, problem.task, problem.partition
        parameters = learning_parameters(model)
        # Negatives are the same on both graphs.
        retain = task.parts(partition, "retain", names=["retain"]).sample(["retain"])["retain"]
        gone = removed_items(task, partition)
        reach = within_reach(problem, retain)
        model.train(self.dropout)

        def losses(data: Data, groups: Sequence[Any]) -> list[Tensor]:
            with FrozenStatistics(model):
                outputs = task.encode(model, data)
            return [_smoothed(task.decode(model, outputs, items), self.label_smoothing) for items in groups]

        kept, lost = losses(partition.data, (retain, gone))
        out, near, gone_sum = (_gradient(v, parameters) for v in (kept[~reach], kept[reach], lost))
        total, num_gone = kept.numel() + lost.numel(), lost.numel()
        if self.rectify == "original":
            step = _gradient(losses(partition.retain_data, (retain,))[0][reach], parameters)
            step = [a + b for a, b in zip(out, step, strict=True)]
        mean = [(a + b + c) / total for a, b, c in zip(out, near, gone_sum, strict=True)]
        near = [g / max(int(reach.sum()), 1) for g in near]
        gone_mean = [g / max(num_gone, 1) for g in gone_sum] if num_gone else None
        erased = erase(parameters, mean, gone_mean, near, self.erase_ratio)
        if self.rectify == "erased":
            step = _gradient(losses(partition.retain_data, (retain,))[0], parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, step, strict=True):
                parameter.sub_(gradient, alpha=self.lr / kept.numel())
        notes = {
            "erased": erased / sum(p.numel() for p in parameters),
            "items": {"removed": num_gone, "within_reach": int(reach.sum()), "retained": kept.numel()},
        }
        return Outcome(model.eval(), notes=notes)


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


@torch.no_grad()
def erase(
    parameters: Sequence[Tensor],
    everything: Sequence[Tensor],
    gone: Sequence[Tensor] | None,
    near: Sequence[Tensor],
    ratio: float,
) -> int:
    """Shrink weights in place by `ETR`'s factors, each at most the share `ratio` of a tensor; return how many.

    `everything`, `gone` (`None` for none) and `near`: gradients of the mean losses of all, removed and reached items.
    """
    count = 0
    for i, parameter in enumerate(parameters if ratio else ()):
        factors = [everything[i] / near[i]]
        if gone is not None:
            factors = [everything[i] / gone[i], everything[i] / gone[i] * factors[0]]
        free = torch.ones_like(parameter, dtype=torch.bool)
        for factor in factors:
            # Squared after the division, or small gradients underflow. 0 / 0 becomes 1: erase nothing.
            factor = factor.square().nan_to_num(1.0).clamp(max=1)
            limit = quantile(factor, ratio)
            chosen = free & (factor <= limit) & (factor < 1)
            parameter.mul_(torch.where(chosen, factor / limit, 1).nan_to_num(0.0))
            free &= ~chosen
        count += int((~free).sum())
    return count


def quantile(values: Tensor, q: float) -> Tensor:
    """Return `torch.quantile` by linear interpolation, for tensors of any size."""
    values = values.flatten()
    place = q * (values.numel() - 1)
    low, high = (values.kthvalue(int(k) + 1).values for k in (math.floor(place), math.ceil(place)))
    return low + (high - low) * (place - math.floor(place))


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
