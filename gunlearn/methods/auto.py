"""Choose the method by request, task, model and budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from torch import nn
from torch_geometric.data import Data

from gunlearn.core.checks import check_integer
from gunlearn.errors import InvalidInputError
from gunlearn.methods import METHODS
from gunlearn.methods.any_task.by_training import ByTraining, Choice, most_of
from gunlearn.methods.any_task.careful_teacher import CarefullyTaught, DoubtedTeacher
from gunlearn.methods.any_task.fine_tuned import choice_of_fine_tuned
from gunlearn.methods.any_task.known_training import KnownTraining
from gunlearn.methods.any_task.little_decay import lacking_decay
from gunlearn.methods.any_task.same_recipe import same_recipe
from gunlearn.methods.any_task.training_budget import training_items_around
from gunlearn.methods.any_task.what_is_missing import missing_of_going_on, missing_of_recipe
from gunlearn.methods.any_task.whole_classes import classes_that_go, node_classes_that_go
from gunlearn.methods.base import Method, Outcome, Problem, check_interval
from gunlearn.methods.published import build_method, published
from gunlearn.nn.layers.linear_head import LinearHead
from gunlearn.tasks.base import Task
from gunlearn.tasks.sampling import BatchOptions
from gunlearn.training.another_loss import check_loss
from gunlearn.training.optimizer_state import steps_taken, unwrapped
from gunlearn.training.optimizers import check_optimizer, goes_on
from gunlearn.training.resumed_optimizer import check_one_optimizer
from gunlearn.training.state_sources import NONE, as_training_state
from gunlearn.training.usable_optimizer import ESTIMATES

CHEAP = 0.01  # share of retraining's time below which only free methods fit
MANY_EDGES = 1_000_000
#: Said of nodes of which a whole class goes; `experiments/nearest` shows how far that ends.
WHOLE_CLASS = (
    "A class goes as a whole, and no node that stays says that those of it are of another one: they may keep its label "
    "for longer than after retraining; look at what the model predicts of them, and raise 'budget' (or retrain)."
)


@dataclass(frozen=True)
class Auto(Method):
    """Pick a method by fixed rules; `result.notes["chosen"]` names the method, `["why"]` is a sentence with the rule.

    The first rule that applies counts:

    1. a linear head trained for certificates (`fit_linear_head`): `cgu`, from a million edges on `scalegun`; a language
       model: see below;
    2. `budget >= 1`, or at most half of the training items would stay: `retrain`, by `train` if given, else by the
       recipe that the `training`, `optimizer` and other options tell: steps, optimiser, rates, decay, items per step;
    3. images of which a whole class goes, so that no training image of it stays: `npo` with its published settings, and
       no more steps than `budget` allows where the training's are known. Going on without a class leaves it
       recognised: nothing that is read says that the images are of another one;
    4. `budget` below a hundredth: `utu`, which costs nothing;
    5. `training` that had not settled (`gunlearn.training.settled`: its weights still grew by more than a tenth per
       training, as without weight decay; of an `optimizer` alone what Adam remembers of its last steps tells that, see
       `gunlearn.training.mean_step`): `continued_training` with a teacher where nodes or items are forgotten whose
       model can be drawn anew, else `replay` from a checkpoint within the budget; the teacher, too, where it had
       settled and the model of a graph has batch normalisation: weight decay shrinks the weights before it, and
       nothing that the model says;
    6. else `continued_training`, with the state of the training or its `optimizer`, else with estimates in its place.

    A twentieth of the training's steps is spent on up to 10 items (nodes: that touch at most a tenth of the graph),
    an eighth on more nodes, a fifth on more edges and with a teacher, all of the budget with one under batch
    normalisation; more while the predictions of forgotten items move; and never more than the budget (but for four
    passes that hold the loss of a training of your own before and after `replay`). `replay` goes back to the earliest
    checkpoint within that share, or to the nearest within the budget where none is. Validation items are read under
    link prediction and with a teacher. The rules come from the tables of `experiments/nearest`.

    A trace of a large graph takes 12 steps at most, all passes counted, where rule 6 applies, the `training` is known
    to have settled and nobody gave a `budget`: up to 10 nodes, or their features, that are at most a ten-thousandth of
    the training items and touch at most a thousandth of a graph of at least 50,000 nodes. `["why"]` says so then.

    Language models are fine-tuned and know their rows by heart, which going on leaves as it is (the tables of
    `experiments/tofu_small` and `smollm`). Where the caller names the weights before (`towards`; of an adapter that
    fine-tuning made, `"base"`, or the state of its training) and the learning rate of the training (`training`,
    `optimizer` or `lr`), `continued_training` shrinks what the training changed to a tenth, and learns the retained
    rows again, which must be all of the rest: half of the training's steps (or `budget`), four passes where nobody said
    how many these were. Else `npo` with its published settings, and `lr`. With `train` and a budget of 1, `retrain`.

    Args:
        budget: share of retraining's steps that may be spent, at most; `None` is .33, and lets a trace of a large graph
            take fewer; half for a language model.
        training: the state of the training, see `ContinuedTraining`; results say what is missing without it.
        optimizer: the optimiser that trained the model, or its `state_dict`, in place of `training`.
        training_steps: optimiser steps of the training, where neither `training` nor the `optimizer` counts them.
        lr: learning rate of the training, where no `training` says so.
        weight_decay: penalty of the training, where no `training` says so; `None` estimates it from the weights.
        train: your training function `train(data, seed) -> model`, for rule 2; other rules do not call it.
        batch_size: items per step of the chosen method, where it takes one; `None` reads as the `training` did, else
            in a loader's batches, else all. Another one than that of the `training` is refused.
        towards: weights of a language model before it was fine-tuned, see `ContinuedTraining`; `"base"` of an adapter.
    """

    budget: float | None = None
    training: Any = None
    optimizer: Any = None
    training_steps: int | None = None
    lr: float | None = None
    weight_decay: float | None = None
    train: Callable[[Data, int], nn.Module] | None = None
    batch_size: int | None = None
    towards: Any = None

    name = "auto"
    summary = "pick one of the others by request, task, model and budget"
    needs = "retained data"
    cost = "that of the chosen method"
    state = "chosen"

    def __post_init__(self) -> None:
        if not self.most > 0:
            raise InvalidInputError(f"Expected 'budget' > 0 (got {self.budget})")
        object.__setattr__(self, "optimizer", unwrapped(self.optimizer))
        if self.optimizer is not None:
            self._check_optimizer()
        BatchOptions(self.batch_size)  # refuses other than numbers of items
        check_interval(self, "> 0", *([] if self.lr is None else ["lr"]))
        check_interval(self, ">= 0", *([] if self.weight_decay is None else ["weight_decay"]))
        if self.training_steps is not None:
            check_integer("training_steps", self.training_steps, minimum=1)
        told = {name: getattr(self, name) for name in ("lr", "weight_decay", "training_steps")}
        told = {name: value for name, value in told.items() if value is not None}
        if told and self.training not in (None, NONE):
            raise InvalidInputError(
                f"Expected no other words of a training beside 'training', which says them (got {told})"
            )

    def _check_optimizer(self) -> None:
        check_one_optimizer(self.optimizer)
        if not goes_on(self.optimizer):
            given = self.optimizer
            got = repr(given) if isinstance(given, str) else getattr(given, "__name__", type(given).__name__)
            raise InvalidInputError(
                f"Expected an 'optimizer' that trained the model, or its state_dict (got {got}); hand that in, or "
                f"{ESTIMATES}"
            )
        check_optimizer(self.optimizer, None)
        if self.training not in (None, NONE):
            raise InvalidInputError("Expected 'training' or 'optimizer' (got both)")

    @property
    def most(self) -> float:
        """The share of retraining's steps that may be spent."""
        return most_of(self.budget)

    def choose(self, task: Task, partition: Any, model: nn.Module) -> Choice:
        """Return the method, its options, and the rule that picked it."""
        if isinstance(model, LinearHead) and float(model.alpha) > 0 and task.name == "node_classification":
            large = partition.data.edge_index.size(1) >= MANY_EDGES
            return Choice("scalegun" if large else "cgu", {}, "the model is a linear head trained for certificates")
        if task.fine_tuned and (self.train is None or self.most < 1):
            return self.choose_for_fine_tuned(task, model)
        if self.towards is not None:
            raise InvalidInputError(
                f"Expected 'towards', weights before fine-tuning, with a task of fine-tuned models (got {task.name})"
            )
        if self.most >= 1:
            return self._retrain(task, partition, model, f"a budget of {self.most:g} allows retraining")
        stays = share_that_stays(task, partition)
        if stays <= 0.5:
            return self._retrain(task, partition, model, f"only {stays:.0%} of the training items stay")
        gone = classes_that_go(task, partition)
        if gone:
            return self._against(gone, task)
        if self.most < CHEAP:
            return Choice("utu", {}, f"the budget is below {CHEAP:g} of retraining")
        return self._by_training(task, partition, model).choice()

    def _retrain(self, task: Task, partition: Any, model: nn.Module, why: str) -> Choice:
        """Return the choice of retraining by the caller's function, else by the recipe of the training."""
        if self.train is not None:
            return Choice("retrain", {"train": self.train}, why)
        given = {"steps": self._steps(), "lr": self.lr, "weight_decay": self.weight_decay}
        given["batch_size"] = self.batch_size
        validated = task.validation_items(partition.retain_data) is not None
        options, words = same_recipe(as_training_state(self.training), self.optimizer, model, given, validated)
        return Choice("retrain", options, f"{why}; {words}")

    def _against(self, gone: list[int], task: Task) -> Choice:
        """Return the choice for classes that go as a whole; their numbers are no secret: the request is of classes."""
        settings = published("npo", task)
        options = {} if settings is None else dict(settings.options)
        state = as_training_state(self.training)
        total = self._steps() if state is None else state.total
        most = "its usual steps, as nobody said how many the training took"
        if total is not None:
            options["steps"] = max(1, min(options["steps"], int(self.most * total)))
            most = f"{options['steps']} steps, of {total} of the training"
        size = None if state is None else state.reading.get("batch_size")
        if size is not None:
            options["batch_size"] = size
        whole = "a class goes" if len(gone) == 1 else f"{len(gone)} classes go"
        why = (
            "going on without it leaves it recognised" if len(gone) == 1 else "going on without them leaves them known"
        )
        return Choice("npo", options, f"{whole} as a whole: no training item of it stays, and {why}; it took {most}")

    def _steps(self) -> int | None:
        """Return the steps of the training, where they were given or the optimiser counted them."""
        return self.training_steps or steps_taken(self.optimizer)

    def choose_for_fine_tuned(self, task: Task, model: nn.Module, epochs: int | None = None) -> Choice:
        """Return the choice for a model of a task whose models are fine-tuned; it reads no request."""
        known, words = self._known(model)
        return choice_of_fine_tuned(known, words, self.budget, self.towards, task, model, epochs)

    def _by_training(self, task: Task, partition: Any, model: nn.Module) -> ByTraining:
        """Return the rules that read the training, and what was said of it."""
        return ByTraining(*self._known(model), self.budget, task, partition, model)

    def _known(self, model: nn.Module) -> tuple[KnownTraining, dict[str, Any]]:
        """Return what is known of the training, and how `ContinuedTraining` is told of it."""
        known = KnownTraining.told(self.training, self.optimizer, self.training_steps, model)
        if known.state is not None:
            return known, {"training": known.state}
        words = {name: getattr(self, name) for name in ("optimizer", "lr", "weight_decay", "training_steps")}
        return known, {name: value for name, value in words.items() if value is not None}

    def run(self, problem: Problem) -> Outcome:
        name, options, why = self.choose(problem.task, problem.partition, problem.model)
        options = self.in_batches(name, options)
        method = self._built(name, options, problem)
        if name == "retrain" and self.train is None:
            check_loss(as_training_state(self.training) or self.optimizer, problem, BatchOptions(self.batch_size))
        try:
            outcome = method.run_with_fresh_state(problem)
        except DoubtedTeacher as doubted:
            rules = self._by_training(problem.task, problem.partition, problem.model)
            (name, options, why), before = rules.without_teacher(doubted, Choice(name, options, why))
            method = self._built(name, options, problem)
            outcome = method.run_with_fresh_state(problem)
            outcome.notes["price"] = round(outcome.notes["price"] + before, 4)
        chosen = f"'auto' chose '{name}', because {why}."
        alone = name in ("continued_training", "replay") and "shrink" not in options
        lacking = self._lacking_decay() if alone else ""
        if lacking:
            chosen += (
                f" The training's optimiser had {lacking}: what was learned by heart, steps on the rest hardly undo, "
                "so that it may stay far from retraining; a budget of 1 retrains."
            )
        if name in ("continued_training", "replay") and node_classes_that_go(problem.task, problem.partition):
            chosen += f" {WHOLE_CLASS}"
        if self.train is not None and "train" not in options:
            chosen += " 'train' was not called: it retrains, from a budget of 1."
        written = {key: str(value) for key, value in method.config().items() if key in options}
        outcome.notes |= {"chosen": name, "options": written, "why": chosen}
        lacks = self._lacks(name, options, outcome)
        if lacks:
            outcome.notes["lacks"] = lacks
        return outcome

    def _lacking_decay(self) -> str:
        """Return in words that the training is known to have had no weight decay, or next to none; else nothing."""
        if self.weight_decay is not None:
            return "" if self.weight_decay else "no weight decay"
        return lacking_decay(as_training_state(self.training), self.optimizer, self._steps())

    def _built(self, name: str, options: dict[str, Any], problem: Problem) -> Method:
        """Return the chosen method, which supports the request."""
        if name == "npo":  # with the task's rate for an adapter
            method = build_method(name, options, problem.task, problem.model)
        else:
            method = (CarefullyTaught if "teacher_share" in options else METHODS[name])(**options)
        method.supports(problem.task, problem.partition)
        return method

    def in_batches(self, name: str, options: dict[str, Any]) -> dict[str, Any]:
        """Return the options with the caller's number of items per step, where the method takes one.

        Raises:
            InvalidInputError: the training says another way of reading, which it goes on in.
        """
        if self.batch_size is None:
            return dict(options)
        state = as_training_state(self.training)
        reading = {} if state is None else state.reading
        if reading.get("batch_size", self.batch_size) != self.batch_size:
            raise InvalidInputError(
                f"Expected no other 'batch_size' beside 'training', which read {reading['batch_size'] or 'all'} items "
                f"per step and goes on so (got {self.batch_size})"
            )
        takes = "train" not in options and "batch_size" in {field.name for field in fields(METHODS[name])}
        return options | {"batch_size": self.batch_size} if takes else options

    def _lacks(self, name: str, options: dict[str, Any], outcome: Outcome) -> str:
        """Return in words what would have brought the model nearer to retraining; empty where all is known."""
        missing: list[str] = []
        if name == "retrain" and self.train is None:
            missing = missing_of_recipe(as_training_state(self.training), self.optimizer, options)
        elif name == "continued_training" and "training" not in options:
            taken = 0 if outcome.state is None else outcome.state.step
            missing = missing_of_going_on(vars(self), self._steps(), taken, outcome.notes["passes"])
        return f"Not given of the training: {'; '.join(missing)}." if missing else ""


def share_that_stays(task: Task, partition: Any) -> float:
    """Return the share of the training items that stay."""
    before, after = training_items_around(task, partition)
    return after / before
