"""Training influence of graph edits: parameter shift and changed messages."""

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.autograd import grad

from gunlearn.attribution.base import InfluenceProblem
from gunlearn.attribution.removal.first_order import reads, weighted_layers
from gunlearn.attribution.training.inverse_hessian import InverseHessian, along
from gunlearn.attribution.training.item_losses import own_terms
from gunlearn.core.checks import check_choice
from gunlearn.curvature.products import Curvature
from gunlearn.curvature.solvers import Solution, Spectrum, lissa
from gunlearn.curvature.training_loss import TrainingLoss, gradient
from gunlearn.errors import UnsupportedMethodError


@dataclass(frozen=True)
class EdgeEdit(InverseHessian):
    r"""The influence of an edit of the graph: parameter shift plus message change (arXiv 2506.04694).

    The item leaves the graph, with its own loss term if any, which changes the losses of all nodes that its messages
    reach. With :math:`L` on the edited graph :math:`G^-` and Gauss-Newton curvature,

    .. math:: \underbrace{-s^\top \big(\nabla L(\theta; G^-) - \nabla L(\theta; G)\big)}_{\text{parameter shift}}
              + \underbrace{f(\theta; G^-) - f(\theta; G)}_{\text{message propagation}},
              \qquad (C + \lambda I)\, s = \nabla f(\theta; G).

    The paper takes the second term to first order, `-df/dA`; with `edit="exact"` both use the edited graph itself.
    Args `curvature`, `damping`, `tolerance`, `max_iterations` and `weight_decay`: see `InverseHessian`.

    Args:
        edit: `"exact"`, a forward and a backward pass per item, or `"first_order"`, two passes for all items together,
            with derivatives in edge weights (the model must take `edge_weight`).
        terms: `"both"`, or `"shift"` or `"message"` alone.

    Raises:
        UnsupportedMethodError: a first-order edit of features, or of a model without `edge_weight`.
    """

    edit: str = "exact"
    terms: str = "both"

    name = "edge_edit"
    summary = "parameter shift by the inverse Gauss-Newton matrix, plus the change of messages"
    paper = "arXiv 2506.04694"
    of: ClassVar[tuple[str, ...]] = ("edges", "nodes", "features")
    cost = "some hundred passes, then two passes per item, or (edit='first_order') two for all"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("edit", self.edit, ("exact", "first_order"))
        check_choice("terms", self.terms, ("both", "shift", "message"))

    def scores(self, problem: InfluenceProblem) -> Tensor:
        loss = TrainingLoss.of(problem)
        s = None if self.terms == "message" else self.solve(problem, loss)
        shift, message = (_exact if self.edit == "exact" else _first_order)(problem, loss, s)
        return message if self.terms == "message" else shift if self.terms == "shift" else shift + message


@dataclass(frozen=True)
class GIFInfluence(EdgeEdit):
    r"""Graph influence function (arXiv 2304.02835): the parameter shift alone, read off on the unchanged graph.

    :math:`\Delta\theta = H^{-1} v`, where :math:`v` is the change of the summed training loss's gradient over all nodes
    that the item's messages reach; the target changes by :math:`\nabla f^\top \Delta\theta`.

    `mode="paper"` follows the authors' code: LiSSA, `h <- v + (1 - damp) h - (H h) / scale`, on the Hessian of the
    summed loss on the whole graph, for a fixed number of steps without damping (100 steps, scale 500: their README).
    That is far from solved; `notes["residual"]` says how far. Default mode solves the damped system by conjugate
    gradients.

    Args `curvature`, `weight_decay`, `tolerance` and `max_iterations` (these two for default mode): see
    `InverseHessian`; `edit` and `terms`: see `EdgeEdit`.

    Args:
        damping: see `InverseHessian`; in paper mode in units of `scale`, `None` for 0.
        mode: `"default"` or `"paper"`.
        iterations: number of LiSSA's steps.
        scale: LiSSA's scale, for the summed loss.

    Raises:
        DivergenceError: LiSSA ended farther from the solution than it began.
    """

    curvature: str = "hessian"
    terms: str = "shift"
    mode: str = "default"
    iterations: int = 100
    scale: float = 500.0

    name = "gif"
    summary = "parameter shift alone; paper mode: LiSSA on the Hessian of the summed loss"
    paper = "arXiv 2304.02835"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("mode", self.mode, ("default", "paper"))

    def invert(self, matrix: Curvature, b: Tensor, ends: Spectrum, loss: TrainingLoss) -> tuple[Solution, float]:
        if self.mode == "default":
            return super().invert(matrix, b, ends, loss)
        n, damping = loss.weight.numel(), self.damping or 0.0
        # The mean loss has curvature C = H / n: scale / n on C takes the steps that scale takes on H.
        return lissa(matrix, b, self.iterations, self.scale / n, damping), damping


def _exact(problem: InfluenceProblem, loss: TrainingLoss, s: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return both terms, computed item by item on the edited graph; `[num_items]` each."""
    items, params = problem.items, loss.params
    item, term = own_terms(loss.items, items)
    own = term.split(torch.bincount(item, minlength=items.num_items).tolist())
    shift, message = loss.weight.new_zeros(items.num_items), loss.weight.new_zeros(items.num_items)
    with torch.no_grad():
        before = problem.value(loss.outputs())
    slope = 0.0 if s is None else gradient(loss(), params) @ s
    for i in range(items.num_items):
        with torch.set_grad_enabled(s is not None):
            outputs = loss.outputs(items.edited(problem.data, i))
        if s is not None:
            weight = loss.weight.index_fill(0, own[i], 0.0)
            shift[i] = slope - gradient(loss.mean(loss.predict(outputs), weight), params) @ s
        with torch.no_grad():
            message[i] = problem.value(outputs.detach()) - before
    return shift, message


def _first_order(problem: InfluenceProblem, loss: TrainingLoss, s: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return both terms for all items at once, by derivatives in edge and term weights; `[num_items]` each."""
    items, data = problem.items, copy.copy(loss.data)
    if items.of == "features":
        raise UnsupportedMethodError("Expected edges or nodes for a first-order edit (got features); use edit='exact'")
    given = data.get("edge_weight")
    edge_weight = loss.weight.new_ones(data.edge_index.size(1)) if given is None else given.to(loss.weight)
    edge_weight = edge_weight.detach().clone().requires_grad_()
    data.edge_weight = edge_weight
    weight = loss.weight.clone().requires_grad_()
    with weighted_layers(problem.model) as all_weighted:
        slope = problem.value(loss.outputs(data))
    if not (all(all_weighted) and reads(slope, edge_weight)):
        raise UnsupportedMethodError(
            "Expected a model all of whose layers take 'edge_weight' for a first-order edit (got "
            f"{type(problem.model).__name__}); use edit='exact'"
        )

    def removed(per_edge: Tensor) -> Tensor:
        """Sum over the columns that an item removes; each falls from its weight to 0."""
        change = -(per_edge * edge_weight.detach())[items.column]
        return loss.weight.new_zeros(items.num_items).index_add(0, items.column_item, change)

    message = removed(grad(slope, edge_weight)[0])
    if s is None:
        return torch.zeros_like(message), message
    per_edge, per_term = grad(along(loss, s, data, weight), [edge_weight, weight], materialize_grads=True)
    item, term = own_terms(loss.items, items)
    return (-removed(per_edge)).index_add(0, item, (per_term * loss.weight)[term]), message
