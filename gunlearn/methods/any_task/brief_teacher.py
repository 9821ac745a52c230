"""A new model, trained for a few steps without the forgotten items, shows what they look like to who never saw them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gunlearn.core.modes import set_training
from gunlearn.errors import UnsupportedModelError
from gunlearn.losses import Prediction
from gunlearn.losses.divergences import cross_entropy
from gunlearn.methods.base import Problem
from gunlearn.methods.forget_part import has_forget_items, no_forget_items
from gunlearn.seed import isolated_rng
from gunlearn.tasks.base import Parts
from gunlearn.tasks.items.statistics import averaged_anew, moving_norms
from gunlearn.tasks.sampling import BatchOptions
from gunlearn.training.arguments import TrainArguments
from gunlearn.training.from_scratch import fresh_like, train_from_scratch
from gunlearn.training.resumed_optimizer import started_anew
from gunlearn.training.step import Reference
from gunlearn.training.unseen import Unseen

_BISECTIONS, _LARGEST = 40, 100.0
#: How many times the original's loss a teacher's may be: those up to 1.1 led to retraining, from 1.4 on away from it.
_WORSE = 1.25
_PASSES = 3  # for running statistics: forward alone, which costs about as much as a step


def can_teach(parts: Parts, model: nn.Module) -> bool:
    """Return whether there are forgotten items that are predicted, and `taught` takes the model."""
    try:
        _new_model(model, parts)
    except UnsupportedModelError:
        return False
    return has_forget_items(parts)


def _new_model(model: nn.Module, parts: Parts) -> nn.Module:
    if moving_norms(model) and not parts.joint:  # see `RetainedStatistics`
        raise UnsupportedModelError(
            "Expected a model without batch normalisation for 'teacher_share' where items are read apart (got one): a "
            "pass over forgotten items would enter its statistics"
        )
    return fresh_like(model)


@torch.no_grad()
def _settle(layers: list[Any], read: Callable[[], Any]) -> None:
    """Let running statistics be those of the weights as they are: means of a few passes in training mode.

    After a short training they would be those of its first steps, too, and predictions of no use.
    """
    with averaged_anew(layers):
        for _ in range(_PASSES if layers else 0):
            read()


def taught(
    name: str,
    problem: Problem,
    weight: float,
    steps: int,
    make: Callable[[Sequence[nn.Parameter]], Any],
    reading: BatchOptions,
) -> tuple[Unseen, str]:
    """Return as unseen what a new model says of the forgotten items after some steps on the retained data.

    And in words why not to trust it, where its loss on the validation items is more than a quarter above that of the
    original: it has learned too little. Empty where it is not, and where there are no such items.

    A short training is less sure of everything. Its logits are multiplied by the factor that makes it as sure of the
    validation items as the original model is: the same mean entropy. Without such items they stay.

    Args:
        name: of the method, for errors.
        problem: with the original model as reference.
        weight: see `Unseen`.
        steps: of the new model's training; with batch normalisation one goes into its statistics.
        make: makes an optimiser, whose settings count: its state is dropped.
        reading: how much a step reads.

    Raises:
        EmptyForgetSetError: a request without items that are predicted, such as edges under node classification.
        UnsupportedModelError: weights that cannot be drawn anew, or that came from pretraining; batch
            normalisation where items are read apart.
    """
    task, data = problem.task, problem.partition.retain_data
    parts = task.parts(problem.partition, "retain", problem.model, ("forget", "retain"))
    if parts.count("forget") == 0:
        raise no_forget_items(name)
    own = [parameter for parameter in problem.model.parameters() if parameter.requires_grad]

    def new(parameters: Sequence[nn.Parameter]) -> Any:
        optimizer = make(own)
        return started_anew(optimizer, own, parameters) if isinstance(optimizer, Optimizer) else make(parameters)

    with isolated_rng(problem.seed):
        model = _new_model(problem.model, parts)
        norms = moving_norms(model)
        args = TrainArguments(
            0,
            steps=max(1, steps - 1) if norms else steps,
            batch_size=reading.batch_size,
            sampler=reading.sampler,
            num_neighbors=reading.num_neighbors,
        )
        train_from_scratch(model, data, task, args, optimizer=new)
        _settle(norms, lambda: task.encode(set_training(model), data))
    model.eval().requires_grad_(False)
    with torch.no_grad():
        read = Reference(model, task, ("forget",), task.encode(model, parts.data))
        said = read({"forget": parts.sample(("forget",))["forget"]})["forget"]
        logits = said.require("logits")
        held_out, doubt = None if said.gaussian else task.validation_items(data), ""
        if held_out is not None:
            ours, theirs = (task.predict(one, data, held_out) for one in (problem.reference.eval(), model))
            factor = _as_sure(theirs.require("logits"), ours.require("logits"), ours.bernoulli)
            logits, doubt = logits * factor, _doubt(theirs, factor, ours, steps)
    return Unseen(parts, logits.detach(), weight), doubt


def _doubt(teacher: Prediction, factor: float, original: Prediction, steps: int) -> str:
    """Return in words that a teacher, its logits times a factor, predicts far worse than the original; else nothing."""
    told, known = _loss(teacher, factor), _loss(original, 1.0)
    if told <= _WORSE * known:
        return ""
    return f"a teacher of {steps} steps has a loss of {told:.2f} nats on validation items, and the model {known:.2f}"


def _loss(prediction: Prediction, factor: float) -> float:
    """Return the mean loss of predictions whose logits are multiplied by a factor."""
    logits, log_prob = factor * prediction.require("logits"), prediction.log_prob
    if prediction.bernoulli:
        likely = log_prob > math.log(0.5)
        losses = torch.nn.functional.softplus(torch.where(likely, -logits.abs(), logits.abs()))
    else:  # the label is the class of this likelihood
        far = (prediction.require("logits").log_softmax(-1) - log_prob.unsqueeze(-1)).abs()
        losses = -logits.log_softmax(-1).gather(-1, far.argmin(-1, keepdim=True)).squeeze(-1)
    return float((losses if prediction.mask is None else losses[prediction.mask]).mean())


def _as_sure(logits: Tensor, like: Tensor, bernoulli: bool) -> float:
    """Return the factor on `logits` that gives predictions the mean entropy of those of `like`."""
    wanted = _entropy(like, bernoulli)
    low, high = 1 / _LARGEST, _LARGEST
    for _ in range(_BISECTIONS):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if _entropy(middle * logits, bernoulli) > wanted else (low, middle)
    return middle


def _entropy(logits: Tensor, bernoulli: bool) -> float:
    """Return the mean entropy of predictions, in nats."""
    if bernoulli:
        logits = torch.stack([logits, torch.zeros_like(logits)], dim=-1)
    return float(cross_entropy(logits.softmax(-1), logits).mean())
