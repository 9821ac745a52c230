"""Whether a model was trained by another loss than the one that goes on."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.core.modes import set_training
from gunlearn.seed import isolated_rng
from gunlearn.tasks.base import Task
from gunlearn.tasks.named import reads_links
from gunlearn.tasks.sampling import BatchOptions
from gunlearn.training.from_scratch import training_step
from gunlearn.training.gradient_memory import gradient_memories, remembers
from gunlearn.training.inner_model import learning_names
from gunlearn.training.minimised_loss import decay_of, training_losses
from gunlearn.training.optimizer_state import is_adam
from gunlearn.training.optimizer_step import summed
from gunlearn.training.resumed_optimizer import resumed_optimizer
from gunlearn.training.training_state import TrainingState

#: Where the loss is the training's, sizes of 0.1 to 2.9 were measured; steady parts were below 0.4, or below 2.1 means,
#: and where negatives are drawn anew below 3.7 means in 8 of 9 trainings; a mean was at most 1.5 sizes.
_LARGE, _STEADY, _PULL, _PULL_OF_LINKS, _SCALE = 3.0, 0.6, 2.5, 4.0, 5.0
_STEADY_OF_SGD = 0.75  # where the loss is the training's, it was at most .55 without dropout
_ALIKE = 0.5  # share of a gradient by which two draws may differ, where no sizes are remembered to tell noise by
_FALL = 0.5  # share of the loss
#: Nats by which a loss has to change before anybody is warned of it.
LEAST = 0.05
#: Passes over the data that the check costs.
CHECK = 2


def known_loss(source: Any) -> bool:
    """Return whether a state is that of `gunlearn.train`, which minimises the task's own loss."""
    return isinstance(source, TrainingState) and source.known_loss


def checks_loss(source: Any) -> bool:
    """Return whether the loss of a training is unknown, and its optimiser remembers what tells it: two passes."""
    return source is not None and not known_loss(source) and remembers(source)


def read_as(source: Any, reading: BatchOptions) -> BatchOptions:
    """Return how much a pass reads: as far as the state of the training says so, which else is no `TrainingState`."""
    own, said = vars(reading), source.reading if isinstance(source, TrainingState) else {}
    return BatchOptions(**own | {name: value for name, value in said.items() if name in own})


@dataclass(frozen=True)
class ByMemory:
    """A loss's gradient, with the L2 penalty's, in units of what Adam remembers of the size of its gradients.

    All are root mean squares over the weights, each weight's gradient divided by its root of `exp_avg_sq`. SGD
    remembers no sizes: the unit is that of the gradient itself.

    Attributes:
        size: of the gradient. About 1 or less where the optimiser was run on this loss, since the gradients that it
            remembers were larger before.
        steady: of the part that stays the same from one step to the next and that the optimiser does not remember.
            Dropout, drawn pairs and steps that swing to and fro leave none of it, but another loss does.
        mean: of the mean gradient that the optimiser remembers (`exp_avg`, or the buffer of momentum).
        pull: so many means a steady part may be.
        least: from which on a steady part says anything.
    """

    size: float
    steady: float
    mean: float
    pull: float = _PULL
    least: float = _STEADY

    @property
    def is_another(self) -> bool:
        """Return whether the loss is none that the optimiser was run on."""
        return self.size > _LARGE or self.pulls or self.scaled

    @property
    def pulls(self) -> bool:
        """Return whether the steady part says so."""
        return self.steady > max(self.least, self.pull * self.mean)

    @property
    def scaled(self) -> bool:
        """Whether the last gradients were many times as large: those of a sum over items."""
        return self.mean > _SCALE * self.size


def gradient_by_memory(
    optimizer: Any, model: nn.Module, data: Any, task: Task, reading: BatchOptions, seed: int
) -> ByMemory | None:
    r"""Return how the loss's gradient, at the weights and one step further, compares with what Adam remembers.

    With gradients :math:`g` at the weights and :math:`g'` after a step, under other dropout and other negatives,

    .. math::

        size^2 = \tfrac{1}{n} \sum_i g_i^2 / \hat v_i, \qquad
        steady^2 = \max(0, \tfrac{1}{n} \sum_i g_i (g'_i - \hat m_i) / \hat v_i), \qquad
        mean^2 = \tfrac{1}{n} \sum_i \hat m_i^2 / \hat v_i

    Args:
        optimizer: with its state, over the parameters of `model`; it does not change.
        model: as trained; it does not change.
        data: all that it was trained on.
        task: what the model predicts.
        reading: how much a pass reads.
        seed: of dropout and negatives.

    Returns:
        `None` where an optimiser other than torch's own Adam, AdamW or SGD with momentum goes on, or one without state.
    """
    judged, own = copy.deepcopy((model, optimizer))
    set_training(judged)
    called = {id(p): name for name, p in judged.named_parameters()}
    known = {
        called[id(p)]: (mean.double(), torch.ones_like(mean).double() if square is None else square.double())
        for p, _, mean, square in gradient_memories(own)
    }
    if not known:
        return None

    def gradients(at: int) -> dict[str, Tensor]:
        judged.zero_grad(set_to_none=True)
        with isolated_rng(at):
            summed(training_step(judged, data, task, reading)[1](), backward=True)
        decay = decay_of(own, judged) or {}
        return {
            name: p.grad.double() + decay.get(name, 0.0) * p.detach().double()
            for name, p in judged.named_parameters()
            if p.grad is not None and name in known
        }

    before = gradients(seed)
    own.step()
    after = gradients(seed + 1)
    size, steady, mean_size, apart, number = 0.0, 0.0, 0.0, 0.0, 0
    for name, gradient in before.items():
        if name not in after:  # a layer that is dropped at random
            continue
        mean, square = known[name]
        has = square > 0  # inputs that are always zero have no gradient
        g, m, v = gradient[has], mean[has], square[has]
        size += float((g.square() / v).sum())
        steady += float((g * (after[name][has] - m) / v).sum())
        mean_size += float((m.square() / v).sum())
        apart += float(((after[name][has] - g).square() / v).sum())
        number += int(has.sum())
    if not number:
        return None
    pull = _PULL_OF_LINKS if reads_links(task) else _PULL
    unit, least = (1.0, _STEADY) if is_adam(own) else (size / number, _STEADY_OF_SGD)
    if not unit or (not is_adam(own) and apart > _ALIKE**2 * size):
        return None
    found = [(max(0.0, total) / number / unit) ** 0.5 for total in (size, steady, mean_size)]
    return ByMemory(found[0], found[1], found[2], pull, least)


def warn_of_another_loss(make: Callable[[list[nn.Parameter]], Any], problem: Any, reading: BatchOptions) -> None:
    """Warn where a model is not at rest under the loss that goes on.

    Mini-batches, whose gradients differ from step to step, hide a small difference.

    Args:
        make: makes the optimiser that goes on, from parameters of the model.
        problem: see `gunlearn.methods.Problem`; its `reference` holds the trained weights.
        reading: how much a pass reads.
    """
    model = copy.deepcopy(problem.reference)
    for parameter, own in zip(model.parameters(), problem.model.parameters(), strict=True):
        parameter.requires_grad_(own.requires_grad)
    optimizer = make([parameter for parameter in model.parameters() if parameter.requires_grad])
    found = gradient_by_memory(optimizer, model, problem.partition.data, problem.task, reading, problem.seed)
    if found is None or not found.is_another:
        return
    seen = f"is {found.size:.1f} times what the optimiser remembers of its gradients (at most about 1 is expected)"
    if found.scaled:
        small = found.size / found.mean
        seen = f"is {small:.2g} times what the optimiser remembers of its last ones (about 1 is expected)"
    elif found.pulls:
        times = found.steady / found.mean if found.mean else float("inf")
        seen = (
            f"pulls from step to step into one direction, {times:.1f} times as strongly as the "
            "optimiser remembers of its last steps (at most about 2 is expected)"
        )
    warnings.warn(
        f"At the trained weights the gradient of '{problem.task.name}' on the training data {seen}. The model was "
        "trained by another loss (label smoothing, class weights, a sum over items) or on other data, it read its "
        "items in other batches "
        "than are read now (batch_size), its gradients were clipped or scaled, it is not the model that this optimiser "
        "left, or the optimiser held the parameters in another order, which a state_dict does not tell (hand in the "
        "optimiser itself). The steps minimise the task's own loss, which leads away from another; give a task of your "
        "own with the training's loss (docs/models.md)",
        UserWarning,
        stacklevel=2,
    )


def check_loss(source: Any, problem: Any, reading: BatchOptions) -> None:
    """Warn where the training had another loss than the task's own, for `CHECK` passes where `checks_loss` says so.

    Args:
        source: the state of the training, its optimiser or a `state_dict`; `None` where nothing is known.
        problem: see `gunlearn.methods.Problem`, with the trained model.
        reading: how much a pass reads, where the state does not say so.
    """
    if not checks_loss(source):
        return
    names = learning_names(problem.model)
    as_trained = read_as(source, reading)
    warn_of_another_loss(lambda own: resumed_optimizer(source, own, names, may_be_new=True), problem, as_trained)


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
            "it minimised another one (label smoothing, class weights, a sum over items): the model is "
            "now that of a longer training, or "
            "of another loss, and may be farther from retraining than before; hand in its state and steps, or "
            "give a task of your own with the training's loss (docs/models.md)",
            UserWarning,
            stacklevel=2,
        )


def _fell(before: float, after: float) -> bool:
    return before - after > max(_FALL * before, LEAST)
