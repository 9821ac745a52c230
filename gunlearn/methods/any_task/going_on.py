"""What the steps and passes of a training that goes on are spent on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from gunlearn.errors import InvalidInputError
from gunlearn.methods.any_task.known_training import KnownTraining
from gunlearn.methods.any_task.lowered_rate import RATE_LOOKS, LoweredRate, lowered_to
from gunlearn.methods.any_task.predictions_moved import Moved
from gunlearn.methods.any_task.second_look import LOOKS
from gunlearn.methods.any_task.starts import Start, check_source, estimated, from_state, warn_of_other_steps
from gunlearn.methods.any_task.still_moving import FEWEST, PASSES, StillMoving
from gunlearn.methods.any_task.training_budget import AT_MOST, is_small, is_trace, steps_of
from gunlearn.methods.base import Problem
from gunlearn.methods.forget_part import has_forget_items
from gunlearn.tasks.base import Parts
from gunlearn.tasks.named import reads_links
from gunlearn.training.another_loss import CHECK, checks_loss, read_as
from gunlearn.training.mean_step import step_back
from gunlearn.training.processes import world_size
from gunlearn.training.same_items import warn_of_other_items
from gunlearn.training.second_moments import shorten_memory
from gunlearn.training.state_sources import as_training_state

if TYPE_CHECKING:
    from gunlearn.methods.any_task.continued_training import ContinuedTraining


def checked_training(method: ContinuedTraining, problem: Problem) -> KnownTraining:
    """Return what the settings of a method tell of the training.

    Raises:
        InvalidInputError: the state of another model, or of a training that read its items in another way.
    """
    state = as_training_state(method.training)
    if state is not None:
        state.check_model(problem.reference)
        warn_of_other_items(state, problem.task, problem.partition.data)
        for name, value in state.reading.items():  # the optimiser's state is that of its batches
            own = getattr(method, name)
            if own not in (value, type(method).__dataclass_fields__[name].default):
                raise InvalidInputError(
                    f"Expected {name}={value!r}, as the 'training' read its items, or nothing (got {own!r})"
                )
    return KnownTraining.told(method.training, method.optimizer, method.training_steps, problem.model)


@dataclass(frozen=True)
class Spending:
    """What a run starts from, and what its steps and passes are spent on.

    Attributes:
        known: of the training.
        start: where the optimiser comes from.
        steps: of the model; `None` where passes (`epochs`) count.
        learning: of a teacher, before them.
        most: up to which the steps may be doubled, all passes counted.
        passes: over the data beside the steps.
        looks: the loss before and after is compared.
        checks: the loss is held against what the optimiser remembers.
        low: share of its highest rate with which it starts; `None` for all of it.
        watched: the forgotten items whose predictions decide how long it is; `None` where nothing does.
        compared: those that decide whether the rate rises.
        goes_back: before the steps it moves back by as many mean steps of the training, see `step_back`.
    """

    known: KnownTraining
    start: Start
    steps: int | None
    learning: int
    most: int
    passes: int
    looks: bool
    checks: bool
    low: float | None
    watched: Parts | None
    compared: Parts | None
    goes_back: bool

    @classmethod
    def of(cls, method: ContinuedTraining, problem: Problem, known: KnownTraining) -> Spending:
        """Return what a request is worth; looks and checks that do not fit the budget are left out."""
        source, total = known.source, known.total
        by_budget = method.steps is None and method.epochs is None
        at_most = AT_MOST if method.at_most is None else method.at_most
        brief = by_budget and _is_brief(method, problem, known)  # too few steps to see whether it still moves
        if by_budget and source is not None and total is not None and int((method.budget or at_most) * total) < 1:
            check_source(source, problem.model)
        allowed = steps_of(method.budget, problem.partition, total, at_most, brief) if by_budget else None
        most = 0 if allowed is None or total is None else int(at_most * total)
        watched = _watched(method, problem, known) if most > FEWEST + LOOKS + PASSES and not brief else None
        if watched is not None:
            allowed = max(allowed or 0, FEWEST + LOOKS + PASSES)
        looks = LOOKS if allowed is None or allowed > LOOKS else 0
        if source is None:
            room = None if allowed is None else allowed - looks - 1
            start = estimated(method, problem, method.arguments().lr, method.weight_decay, room)
        else:
            warn_of_other_steps(source, method.training_steps)
            start = from_state(source, problem.model, method.lr, method.weight_decay)
        spent = looks + start.passes + (0 if watched is None else PASSES)
        checks = checks_loss(source) and (allowed is None or allowed > spent + CHECK)
        spent += CHECK if checks else 0
        low = _lowered(method, problem, source)
        few = allowed is not None and allowed - spent <= 2 * RATE_LOOKS
        compared = None if low is None or few else seen(problem) if watched is None else watched
        spent += 0 if compared is None else RATE_LOOKS
        steps, learning = _shares(method.teacher_share, method.steps if allowed is None else allowed - spent)
        goes_back = by_budget and low is None and _goes_back(method, problem, known, at_most)
        return cls(known, start, steps, learning, most, spent, looks > 0, checks, low, watched, compared, goes_back)

    def changes(self, partition: Any) -> tuple[Callable[[Any], None], ...]:
        """Return how the optimiser changes for the run, and its parameters with it."""
        if self.known.source is None or self.steps is None or self.learning:
            return self.start.changes
        back = (partial(step_back, steps=self.steps),) if self.goes_back else ()
        shorter = () if is_small(partition) else (partial(shorten_memory, steps=self.steps),)
        return (*back, *self.start.changes, *shorter)

    def watches(self, problem: Problem, batch_size: int | None) -> tuple[StillMoving | None, LoweredRate | None]:
        """Return what says how many steps are taken, and what its rate is multiplied by."""
        items = self.watched if self.compared is None else self.compared
        forgotten = None if items is None else Moved.forgotten(problem, items, batch_size)
        moving = None
        if self.watched is not None and forgotten is not None and self.steps is not None:
            moving = StillMoving(forgotten, self.steps, self.most - self.passes)
        rate = None if self.low is None else LoweredRate(self.low, None if self.compared is None else forgotten)
        return moving, rate


def seen(problem: Problem) -> Parts | None:
    """Return the forgotten items and the retained ones; `None` where a request names none of the task's items."""
    parts = problem.task.parts(problem.partition, "retain", problem.model, ("forget", "retain"))
    return parts if has_forget_items(parts) else None


def _is_brief(method: ContinuedTraining, problem: Problem, known: KnownTraining) -> bool:
    """Return whether a few steps do, where nobody asked for more, and a state says that the training had settled."""
    asked = method.budget is not None or method.at_most is not None or method.teacher_share or method.shrink < 1
    return known.state is not None and not asked and is_trace(problem.task, problem.partition, known.growth)


def _goes_back(method: ContinuedTraining, problem: Problem, known: KnownTraining, at_most: float) -> bool:
    """Return whether a training had not settled, so that going on makes a longer one, and left no checkpoint for it.

    That is for items of a graph that are read all at once: of links and of batches a mean step is mostly noise, and
    going back led farther from retraining.
    """
    most = at_most if method.budget is None else method.budget
    kept = known.state is not None and known.state.latest(most * known.state.total) is not None
    asked = method.teacher_share or method.shrink < 1 or method.saliency is not None
    all_read = read_as(known.state, method.reading).batch_size is None
    at_once = problem.task.shared_pass and not reads_links(problem.task) and all_read
    return known.grows and at_once and not kept and not asked


def _watched(method: ContinuedTraining, problem: Problem, known: KnownTraining) -> Parts | None:
    """Return the items that `Spending.watched` holds; a training that had not settled moves them on by itself."""
    if method.budget is not None or method.teacher_share or method.shrink < 1 or known.grows or world_size() > 1:
        return None
    return seen(problem)


def _lowered(method: ContinuedTraining, problem: Problem, source: Any) -> float | None:
    """Return the share of its highest rate with which a run on a graph starts; `None` for all of it."""
    asked = method.lr is not None or method.scheduler is not None or method.teacher_share or method.shrink < 1
    if source is None or asked or world_size() > 1 or not problem.task.shared_pass:
        return None
    return lowered_to(source)


def _shares(teacher_share: float, steps: int | None) -> tuple[int | None, int]:
    """Return the steps of the model and those of its teacher, out of so many."""
    learning = round(teacher_share * (steps or 0))
    if teacher_share and not learning:
        raise InvalidInputError(
            f"Expected a 'teacher_share' of at least one step (got {teacher_share:g} of {steps}); raise 'budget'"
        )
    return (None if steps is None else max(1, steps - learning)), learning
