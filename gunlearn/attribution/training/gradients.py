"""Training influence from the gradients of the items' losses and of the target."""

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing

from gunlearn.attribution.base import Estimator, InfluenceProblem
from gunlearn.attribution.training.item_losses import item_losses
from gunlearn.core.checks import check_choice, check_differentiable
from gunlearn.curvature.training_loss import second_order
from gunlearn.errors import CheckpointError, InvalidInputError, UnsupportedMethodError
from gunlearn.nn.kernels.scatter import without_torch_scatter
from gunlearn.tasks.graph.link_prediction import LinkPrediction
from gunlearn.tasks.graph.node_classification import NodeClassification


class Gradients:
    """Gradients of a problem's target and of all its items' losses at the model's present weights.

    The dot product of one vector with every item's gradient takes one differentiable backward pass for `J^T w` with
    dummy weights `w`, and one more through it, for any number of items. `target` is the target's gradient.
    """

    def __init__(self, problem: InfluenceProblem, parameters: list[nn.Parameter]) -> None:
        with without_torch_scatter():  # its segment kernels cannot be differentiated twice
            outputs = problem.encode(problem.data)
        value = problem.value(outputs)
        self.parameters, self.target = parameters, [torch.zeros_like(p) for p in parameters]
        if value.requires_grad:
            self.target = list(torch.autograd.grad(value, parameters, retain_graph=True, materialize_grads=True))
        with second_order(problem.model):  # scores of pairs are differentiated twice
            self.losses = item_losses(problem, outputs)
            check_differentiable(self.losses)
            self.weight = torch.ones_like(self.losses, requires_grad=True)
            self.pull = torch.autograd.grad(self.losses, parameters, self.weight, create_graph=True, allow_unused=True)

    def along(self, direction: Sequence[Tensor]) -> Tensor:
        """Return the dot product of `direction` with every item's gradient, `[num_items]`."""
        terms = [(g * v).sum() for g, v in zip(self.pull, direction, strict=True) if g is not None and g.requires_grad]
        if not terms:
            return torch.zeros_like(self.losses)
        return torch.autograd.grad(sum(terms[1:], start=terms[0]), self.weight, retain_graph=True)[0]

    def norms(self, probes: int | None) -> Tensor:
        """Return the Euclidean norm of every item's gradient, `[num_items]`.

        `E[(g . e)^2] = |g|^2` for `e ~ N(0, I)`: with `k` probes the relative standard deviation is `1 / sqrt(2 k)`.
        Exact, by a backward pass per item, with `None` or no more items than probes.
        """
        found = torch.zeros_like(self.losses)
        if probes is not None and probes < self.losses.numel():
            for _ in range(probes):
                found += self.along([torch.randn_like(p) for p in self.parameters]).square()
            return (found / probes).sqrt()
        for i, loss in enumerate(self.losses):
            grads = torch.autograd.grad(loss, self.parameters, retain_graph=True, allow_unused=True)
            found[i] = torch.stack([g.square().sum() for g in grads if g is not None]).sum().sqrt()
        return found


class _GradientEstimator(Estimator):
    """Base class of estimators that need items with a training loss of their own."""

    question = "training"
    of = ("edges", "nodes")
    targets = ("value",)

    def supports(self, problem: InfluenceProblem) -> None:
        super().supports(problem)
        task, of = problem.task, problem.items.of
        if not (isinstance(task, LinkPrediction) or (isinstance(task, NodeClassification) and of == "nodes")):
            raise UnsupportedMethodError(
                f"Expected items with a training loss of their own, edges or nodes of link prediction or nodes of node "
                f"classification (got {of} under '{task.name}')"
            )


@dataclass(frozen=True)
class TracIn(_GradientEstimator):
    r"""TracIn (arXiv 2002.08484), over checkpoints of training.

    Without the item each step would have descended `lr * grad loss_item` less, so that to first order

    .. math:: f_{-i} - f = \sum_k \eta_k \, \nabla f(\theta_k) \cdot \nabla \ell_i(\theta_k)

    (Eq. 1 there, with the sign of a removal), where :math:`\ell_i` is the item's share of the mean training loss.
    Messages along its edges are left out; dropout is off.

    Args:
        checkpoints: weights during training: state dicts, modules, or a folder of saved results (`*.safetensors`, each
            in its own folder); `None` takes the model alone.
        lr: learning rate times the number of steps per checkpoint, one number for all or one each; `None` reads it from
            the saved results' records, and is 1 without them.
    """

    checkpoints: Sequence[Any] | str | Path | None = None
    lr: float | Sequence[float] | None = None

    name = "tracin"
    summary = "sum over checkpoints of lr times the dot product of target's and item's gradients"
    paper = "arXiv 2002.08484"
    cost = "three passes per checkpoint"

    def scores(self, problem: InfluenceProblem) -> Tensor:
        states, rates = self._states()
        model, parameters = problem.model, trained_parameters(problem.model)
        found, original = torch.zeros(()), copy.deepcopy(model.state_dict())
        try:
            for state, rate in zip(states, rates, strict=True):
                if state is not None:
                    _load(model, state)
                gradients = Gradients(problem, parameters)
                found = found + rate * gradients.along(gradients.target)
        finally:
            model.load_state_dict(original)
        problem.notes.update(checkpoints=len(states), lr=list(rates))
        return found

    def _states(self) -> tuple[list[Any], list[float]]:
        if isinstance(self.checkpoints, str | Path):
            states, rates = _read(Path(self.checkpoints))
        else:
            given = [None] if self.checkpoints is None else self.checkpoints
            states = [c.state_dict() if isinstance(c, nn.Module) else c for c in given]
            rates = [1.0] * len(states)
        if not states:
            raise InvalidInputError(f"Expected at least one checkpoint (got none in {self.checkpoints!r})")
        if self.lr is not None:
            rates = [float(self.lr)] * len(states) if isinstance(self.lr, int | float) else [float(r) for r in self.lr]
        if len(rates) != len(states):
            raise InvalidInputError(f"Expected one 'lr' for each of {len(states)} checkpoints (got {len(rates)})")
        return states, rates


@dataclass(frozen=True)
class GradientSimilarity(_GradientEstimator):
    """The similarity of an item's gradient and the target's (arXiv 2002.08484; 2006.04528 for the cosine).

    Positive: the target would be higher without the item.

    Args:
        similarity: `"cosine"` or `"dot"`.
        parameters: `"all"`, or those of the `"last_layer"` (in the order of definition).
        probes: random directions that estimate a cosine's gradient norms, to a relative standard deviation of
            `1 / sqrt(2 * probes)`; exact with `None` and where there are fewer items.
    """

    similarity: str = "cosine"
    parameters: str = "all"
    probes: int | None = 256

    name = "gradient_similarity"
    summary = "cosine (or dot product) of the target's and the item's gradients"
    paper = "arXiv 2006.04528"
    cost = "three passes; with the cosine one more per probe"

    def __post_init__(self) -> None:
        check_choice("similarity", self.similarity, ("cosine", "dot"))
        check_choice("parameters", self.parameters, ("all", "last_layer"))
        if self.probes is not None and (isinstance(self.probes, bool) or self.probes < 1):
            raise InvalidInputError(f"Expected 'probes' >= 1 or None (got {self.probes!r})")

    def scores(self, problem: InfluenceProblem) -> Tensor:
        parameters = (last_layer if self.parameters == "last_layer" else trained_parameters)(problem.model)
        gradients = Gradients(problem, parameters)
        dot = gradients.along(gradients.target)
        if self.similarity == "dot":
            return dot
        norm = torch.stack([g.square().sum() for g in gradients.target]).sum().sqrt() * gradients.norms(self.probes)
        return torch.where(norm > 0, dot / torch.where(norm > 0, norm, 1), 0)


def trained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that require a gradient; in a wholly frozen model unfreeze all first."""
    parameters = list(model.parameters())
    if not any(p.requires_grad for p in parameters):
        model.requires_grad_()
    return [p for p in parameters if p.requires_grad]


def last_layer(model: nn.Module) -> list[nn.Parameter]:
    """Return the trained parameters of the module defined last; a message passing layer counts as one module."""
    trained = {id(p) for p in trained_parameters(model)}
    found: list[nn.Parameter] = []

    def visit(module: nn.Module) -> None:
        whole = isinstance(module, MessagePassing)
        own = [p for p in module.parameters(recurse=whole) if id(p) in trained]
        if own:
            found[:] = own
        if not whole:
            for child in module.children():
                visit(child)

    visit(model)
    return found


def _read(folder: Path) -> tuple[list[Any], list[float]]:
    """Return the weights and learning rates of every saved result in a folder, sorted by path."""
    states, rates = [], []
    for path in sorted(folder.rglob("*.safetensors")):
        try:
            states.append(load_file(path))
            record = path.with_name("result.json")
            config = json.loads(record.read_text())["config"] if record.is_file() else {}
            rates.append(float(config.get("lr", 1.0)))
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise CheckpointError(f"Expected a readable checkpoint {path} (got: {error})") from error
    return states, rates


def _load(model: nn.Module, state: Any) -> None:
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        raise CheckpointError(f"Expected checkpoints that fit {type(model).__name__} (got: {error})") from error
