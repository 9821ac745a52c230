"""Whether a model was trained by another loss than the one that goes on."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from gunlearn.core.modes import set_training
from gunlearn.seed import isolated_rng
from gunlearn.tasks.base import Task
from gunlearn.tasks.sampling import BatchOptions
from gunlearn.training.from_scratch import training_step
from gunlearn.training.minimised_loss import decay_of, training_losses
from gunlearn.training.optimizer_step import summed
from gunlearn.training.training_state import TrainingState

_LARGE = 2.0  # where the loss is the training's, 0.1 to 1.2 was measured
_FALL, _LEAST = 0.5, 0.05  # share of the loss, nats
#: Passes over the data that the check costs.
CHECK = 1


def known_loss(source: Any) -> bool:
    """Return whether a state is that of `gunlearn.train`, which minimises the task's own loss."""
    return isinstance(source, TrainingState) and source.known_loss


def read_as(state: TrainingState, reading: BatchOptions) -> BatchOptions:
    """Return how much a pass reads, as far as the state of the training says so."""
    own = vars(reading)
    return BatchOptions(**own | {name: value for name, value in state.reading.items() if name in own})


def gradient_by_memory(
    optimizer: Any, model: nn.Module, data: Any, task: Task, reading: BatchOptions, seed: int
) -> float | None:
    r"""Return the size of the loss's gradient, with the L2 penalty's, over what Adam remembers of its gradients.

    .. math:: \sqrt{\tfrac{1}{n} \sum_i g_i^2 / \hat v_i}

    About 1 or less where the optimiser was run on this loss: :math:`\hat v` is a mean of its squared gradients, which
    were larger before.

    Args:
        optimizer: with its state, over the parameters of `model`.
        model: as trained; it does not change.
        data: all that it was trained on.
        task: what the model predicts.
        reading: how much a pass reads.
        seed: of dropout and negatives.

    Returns:
        `None` where an optimiser other than Adam or AdamW goes on.
    """
    if not isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW):
        return None
    rates = {id(p): float(group["betas"][1]) for group in optimizer.param_groups for p in group["params"]}
    trained = [(name, p) for name, p in model.named_parameters() if "exp_avg_sq" in optimizer.state.get(p, {})]
    judged = set_training(copy.deepcopy(model))
    with isolated_rng(seed):
        summed(training_step(judged, data, task, reading)[1](), backward=True)
    gradients, decay = dict(judged.named_parameters()), decay_of(optimizer, model) or {}
    total, number = 0.0, 0
    for name, parameter in trained:
        gradient, state = gradients[name].grad, optimizer.state[parameter]
        if gradient is None:
            continue
        gradient = gradient + decay.get(name, 0.0) * parameter.detach()
        memory = state["exp_avg_sq"] / (1 - rates[id(parameter)] ** float(state["step"]))
        known = memory > 0  # inputs that are always zero have no gradient
        total += float((gradient[known].double().square() / memory[known].double()).sum())
        number += int(known.sum())
    return (total / number) ** 0.5 if number else None


def warn_of_another_loss(make: Callable[[list[nn.Parameter]], Any], problem: Any, reading: BatchOptions) -> None:
    """Warn where a model is not at rest under the loss that goes on.

    Mini-batches, whose gradients are larger than their mean, hide a small difference.

    Args:
        make: makes the optimiser that goes on, from parameters of the model.
        problem: see `gunlearn.methods.Problem`; its `reference` holds the trained weights.
        reading: how much a pass reads.
    """
    model = copy.deepcopy(problem.reference)
    for parameter, own in zip(model.parameters(), problem.model.parameters(), strict=True):
        parameter.requires_grad_(own.requires_grad)
    optimizer = make([parameter for parameter in model.parameters() if parameter.requires_grad])
    ratio = gradient_by_memory(optimizer, model, problem.partition.data, problem.task, reading, problem.seed)
    if ratio is not None and ratio > _LARGE:
        warnings.warn(
            f"At the trained weights the gradient of '{problem.task.name}' on the training data is {ratio:.1f} times "
            "what the optimiser remembers of its gradients (at most about 1 is expected). The model was trained by "
            "another loss (label smoothing, class weights) or on other data, its gradients were clipped or scaled, it "
            "is not the model that this optimiser left, or the optimiser held the parameters in another order, which "
            "a state_dict does not tell (hand in the optimiser itself). The steps minimise the task's own loss, which "
            "leads away from another; give a task of your own with the training's loss (docs/models.md)",
            UserWarning,
            stacklevel=2,
        )


def warn_of_a_fall(before: float, after: float, penalty: float, problem: Any, reading: BatchOptions) -> None:
    """Warn where going on lowered the loss by more than a training that had ended at its minimum leaves.

    Without the forgotten data the loss of what stays may be high for a reason, so that the loss of all data, at the
    trained weights, has to be as high; it costs a pass, where the other one fell.

    Args:
        before: the loss on the retained data at the trained weights, with the optimiser's L2 penalty, in nats.
        after: that of the result.
        penalty: the part of `before` that is penalty.
        problem: see `gunlearn.methods.Problem`.
        reading: how much a pass reads.
    """
    if not _fell(before, after):
        return
    data, task = problem.partition.data, problem.task
    trained = float(training_losses(problem.reference, data, task, reading, problem.seed).mean()) + penalty
    if _fell(trained, after):
        warnings.warn(
            f"At the trained weights the loss of '{task.name}' was {trained:.2g} nats on all training data, and going "
            f"on lowered it to {after:.2g}. Either the training had ended long before that loss was at its minimum, or "
            "it minimised another one (label smoothing, class weights): the model is now that of a longer training, or "
            "of another loss, and may be farther from retraining than before; hand in its state and steps, or "
            "give a task of your own with the training's loss (docs/models.md)",
            UserWarning,
            stacklevel=2,
        )


def _fell(before: float, after: float) -> bool:
    return before - after > max(_FALL * before, _LEAST)
