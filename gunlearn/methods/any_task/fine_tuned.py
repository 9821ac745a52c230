"""The rule of `auto` for models that were fine-tuned, and know by heart what they are to forget: language models."""

from __future__ import annotations

from typing import Any

from torch import nn

from gunlearn.errors import InvalidInputError, UnsupportedModelError
from gunlearn.methods.any_task.by_training import Choice
from gunlearn.methods.any_task.known_training import KnownTraining
from gunlearn.tasks.base import Task

_SHRINK = 0.1  # `experiments/smollm`: .25 left more of what is forgotten
_SHARE = 0.5  # of the training's steps: there a fifth taught too little of what is retained again
_PASSES = 4  # over the retained items, where nobody said how many steps the training took: half of that study's eight
_STAYS = "going on with the training leaves what was learned by heart"


def choice_of_fine_tuned(
    known: KnownTraining,
    words: dict[str, Any],
    budget: float | None,
    towards: Any,
    task: Task,
    model: nn.Module,
    epochs: int | None = None,
) -> Choice:
    """Return the choice between shrinking what fine-tuning changed, then going on, and `npo`.

    Shrinking needs the weights before, and the rate that the retained items were learned at, which are learned again.
    An adapter counts where the caller says that fine-tuning made it (`towards="base"`, or the state of its training):
    what unlearning changed must not be taken back.

    Args:
        known: of the training.
        words: how `ContinuedTraining` is told of it; `lr` is `npo`'s where nothing else was said.
        budget: share of the training's steps that may be spent, `_SHARE` where nobody named one.
        towards: weights before fine-tuning; `None` where nobody named them.
        task: the task.
        model: as fine-tuned.
        epochs: passes over the retained items, in place of `budget`.

    Raises:
        InvalidInputError: words that `npo` does not read where it is chosen, `epochs` beside `budget`, or a `budget`
            of a training of unknown length.
    """
    adapter = task.adapts(model)
    named = towards is not None or (adapter and known.source is not None)
    reason = _unscaled(task, model) if adapter and named else ""
    lacking = [] if named and not reason else [reason or "the weights before it ('towards')"]
    lacking += [] if known.source is not None or "lr" in words else ["the learning rate of the training ('lr')"]
    if lacking:
        why = f"{_STAYS}, and shrinking what it changed needs {' and '.join(lacking)}"
        told = {name: value for name, value in words.items() if name != "lr"}
        given = [*told, *(["budget"] if budget is not None else []), *(["towards"] if towards is not None else [])]
        if given:
            raise InvalidInputError(f"Expected more than {given[0]!r} for 'auto': {why}; 'npo' does not read it")
        return Choice("npo", {"lr": words["lr"]} if "lr" in words else {}, why)
    options = words | {"shrink": _SHRINK} | ({} if towards is None else {"towards": towards})
    options |= {"optimizer": "adamw"} if known.source is None else {}
    if epochs is not None or (known.total is None and budget is None):
        if budget is not None:
            raise InvalidInputError(f"Expected 'budget' or 'epochs' (got both, {budget:g} and {epochs})")
        options["epochs"] = _PASSES if epochs is None else epochs
        unsaid = ", as nobody said how many steps the training took" if epochs is None else ""
        spent = f"{options['epochs']} passes{unsaid}"
    elif known.total is None:
        raise InvalidInputError(f"Expected 'training' or 'training_steps' beside 'budget' (got {budget:g} alone)")
    else:
        options["budget"] = _SHARE if budget is None else min(1.0, budget)
        spent = f"{options['budget']:g} of the training's steps"
    took = f"it took back {1 - _SHRINK:.0%} of what the training changed, and learned the retained items again"
    return Choice("continued_training", options, f"{_STAYS}; {took}, with {spent}; what is not among them is lost")


def _unscaled(task: Task, model: nn.Module) -> str:
    """Return what a model lacks whose adapter cannot be shrunk; empty where it can be."""
    if not hasattr(model, "peft_config"):
        return "an adapter that is there"
    try:
        task.adapter_scaling(model)
    except UnsupportedModelError as error:
        return f"another adapter ({error})"
    return ""
