"""Methods that teach a model other answers: random labels, an incompetent teacher, a student of two teachers."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from gunlearn.errors import InvalidInputError, UnsupportedMethodError
from gunlearn.losses import NLL, Distillation, Objective, Prediction, weighted
from gunlearn.methods.any_task.rewind import labels_of
from gunlearn.methods.base import Outcome, Problem, check_interval
from gunlearn.methods.forget_part import forget_items
from gunlearn.methods.gradient import GradientMethod, freeze
from gunlearn.tasks.base import Parts
from gunlearn.training.from_scratch import reset_model
from gunlearn.training.step import Change


@dataclass(frozen=True)
class RandomLabel(GradientMethod):
    """Learn the forget set anew, each item with a random label that is not its own, and the retained data as it is.

    Labels are drawn once, under the run's seed, evenly among the other classes; an item of two classes (an edge, which
    is one or is none) gets the opposite one. A forgotten image of a denoiser learns what the model predicts under a
    retained condition, one drawn for each forgotten condition. The idea is that of "Amnesiac Machine Learning" (arXiv
    2010.10981).

    Args:
        epochs: passes over the items.
        lr: learning rate.
        retain_weight: weight of the retained data's loss; 0 leaves it out.
    """

    epochs: int = 50
    lr: float = 2e-3
    retain_weight: float = 5.0

    name = "random_label"
    one_label = True
    summary = "learn the forget set with random other labels, the retained data with its own"
    paper = "arXiv 2010.10981"
    needs = "retained data"
    cost = "`epochs` passes"

    def objective(self) -> Objective:
        """Return the loss of the other labels (`adapt` puts them in) and the weighted retained one."""
        check_interval(self, ">= 0", "retain_weight")
        return weighted((1.0, NLL(on="forget")), (self.retain_weight, NLL(on="retain")))

    def parts(self, problem: Problem, names: Collection[str]) -> Parts:
        """Return the parts, of a task that has no classes as it relabels them itself (`Task.relabelled`)."""
        parts = super().parts(problem, names)
        return problem.task.relabelled(parts, problem.model) or parts

    def adapt(self, problem: Problem, parts: Parts) -> tuple[Change, Callable[[], bool] | None]:
        """Put another label's likelihood in the place of the own one's."""
        change, stop = super().adapt(problem, parts)
        if problem.task.relabels:
            return change, stop
        label = labels_of(forget_items(parts, self.name))
        draw = torch.rand(label.size(0)).to(label.device)

        def relabel(predictions: dict[str, Prediction], rows: Callable[[Tensor], Tensor]) -> dict[str, Prediction]:
            forget = change(predictions, rows)["forget"]
            other = other_log_prob(forget, rows(label), rows(draw))
            return {**predictions, "forget": forget.replace(log_prob=other)}

        return relabel, stop


@dataclass(frozen=True)
class SalUn(RandomLabel):
    """Learn random other labels with the weights alone that matter most to the forget set (arXiv 2310.12508).

    This is `random_label` with `saliency=0.5`, the authors' share; other methods take the mask by the same option.
    """

    saliency: float | None = 0.5

    name = "salun"
    summary = "random other labels, learned by the half of the weights with the largest gradients on the forget set"
    paper = "arXiv 2310.12508"
    cost = "`epochs` passes, and one over the forget set"

    def __post_init__(self) -> None:
        if self.saliency is None:
            raise InvalidInputError("Expected a 'saliency' for 'salun' (got None); without one use 'random_label'")
        super().__post_init__()


def other_log_prob(prediction: Prediction, label: Tensor, draw: Tensor) -> Tensor:
    """Return the log-likelihood of a label that is not the item's own.

    Args:
        prediction: with `logits`, Bernoulli `[num_items]` or categorical `[num_items, num_classes]`.
        label: the items' own labels `[num_items]`; of Bernoulli items 0 or 1.
        draw: numbers in [0, 1) that say which of the other classes it is `[num_items]`.

    Raises:
        UnsupportedMethodError: there is no other class.
    """
    logits = prediction.require("logits")
    if prediction.gaussian:
        raise UnsupportedMethodError("Expected a task of classes for other labels (got a regression)")
    if prediction.bernoulli:
        return logsigmoid((1 - 2 * label) * logits)
    classes = logits.size(-1)
    if classes < 2:
        raise UnsupportedMethodError(f"Expected at least two classes for other labels (got {classes})")
    shift = 1 + (draw * (classes - 1)).long().clamp(max=classes - 2)
    other = (label.long() + shift) % classes
    return logits.log_softmax(-1).gather(-1, other.view(-1, 1)).view(-1)


@dataclass(frozen=True)
class BadTeacher(GradientMethod):
    r"""Follow an incompetent teacher on the forget set and the original model on the retained data (arXiv 2205.08096).

    .. math:: KL(p_{bad} \| p)_{forget} + w \, KL(p_{original} \| p)_{retain}

    The incompetent teacher is the same model with new weights, drawn under the run's seed. It knows nothing, but it is
    not uniform: what it says of similar items is similar. Both teachers read the graph that the model reads.

    Args:
        epochs: passes over the items.
        lr: learning rate.
        retain_weight: weight of the divergence on the retained data; 0 leaves it out.
        temperature: what all logits are divided by, 1 in the paper.
    """

    epochs: int = 50
    lr: float = 2e-3
    retain_weight: float = 5.0
    temperature: float = 1.0

    name = "bad_teacher"
    summary = "follow a model with random weights on the forget set, the original one on the retained data"
    paper = "arXiv 2205.08096"
    needs = "retained data, reference model"
    cost = "`epochs` passes"

    def objective(self) -> Objective:
        """Return two divergences; `teachers` says from which models."""
        check_interval(self, ">= 0", "retain_weight")
        forget, retain = (Distillation(self.temperature, on=part) for part in ("forget", "retain"))
        return weighted((1.0, forget), (self.retain_weight, retain))

    def teachers(self, problem: Problem) -> dict[str, nn.Module]:
        """Return a model of new weights for the forget part."""
        return {"forget": freeze(reset_model(problem.reference))}


@dataclass(frozen=True)
class D2DGN(GradientMethod):
    r"""Distil to delete (arXiv 2309.16173): a new student of two teachers, on the graph without what is forgotten.

    .. math:: \alpha \, KL(p_{original} \| p)_{retain} + (1 - \alpha) \, KL(p_{random} \| p)_{forget}

    The student starts from new weights, so that none of its own hold the forgotten data; what it learns of the original
    model is what that says of the retained data, on the retained graph. It is trained for `epochs` steps and kept as it
    is after the last one. The paper's term on embeddings is left out: not every task has them.

    Args:
        epochs: passes over the items; about as many as a training takes.
        lr: learning rate.
        alpha: weight of the retained part, in (0, 1].
        temperature: what all logits are divided by.
    """

    epochs: int = 500
    lr: float = 5e-3
    alpha: float = 0.5
    temperature: float = 1.0

    name = "d2dgn"
    summary = "distil a new student from the original model (retained data) and a random one (forget set)"
    paper = "arXiv 2309.16173"
    needs = "retained data, reference model, retraining"
    cost = "a whole training"

    def objective(self) -> Objective:
        """Return two divergences; `teachers` says from which models."""
        check_interval(self, "in (0, 1]", "alpha")
        if self.saliency is not None:
            raise InvalidInputError(f"Expected no 'saliency' for '{self.name}', whose weights are new")
        forget, retain = (Distillation(self.temperature, on=part) for part in ("forget", "retain"))
        return weighted((1 - self.alpha, forget), (self.alpha, retain))

    def teachers(self, problem: Problem) -> dict[str, nn.Module]:
        """Return a model of new weights for the forget part, others than the student's."""
        return {"forget": freeze(reset_model(problem.reference))} if self.alpha < 1 else {}

    def run(self, problem: Problem) -> Outcome:
        return super().run(replace(problem, model=reset_model(problem.model).requires_grad_()))
