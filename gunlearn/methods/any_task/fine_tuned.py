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
    known: KnownTraining, words: dict[str, Any], budget: float | None, towards: Any, task: Task, model: nn.Module
) -> Choice:
    """Return the choice between shrinking what fine-tuning changed, then going on, and `npo`.

    Shrinking needs the weights before (`towards`, or the base of an adapter), and the rate that the retained items were
    learned at, which are learned again.

    Args:
        known: of the training.
        words: how `ContinuedTraining` is told of it; `lr` is `npo`'s as well.
        budget: share of the training's steps that may be spent, `_SHARE` where nobody named one.
        towards: weights before fine-tuning; `None` where nobody named them.
        task: the task.
        model: as fine-tuned.

    Raises:
        InvalidInputError: `towards` beside a model with an adapter.
    """
    adapter = task.adapts(model)
    if adapter and towards is not None:
        raise InvalidInputError("Expected no 'towards' for a model with an adapter, whose base is known (got both)")
    lacking = [] if towards is not None or _has_multiples(task, model) else ["the weights before it"]
    if lacking and adapter:
        lacking = ["an adapter that has multiples (one of LoRA)"]
    lacking += [] if known.source is not None or "lr" in words else ["the learning rate of the training"]
    if lacking:
        given = {"lr": words["lr"]} if "lr" in words else {}
        return Choice("npo", given, f"{_STAYS}, and shrinking what it changed needs {' and '.join(lacking)}")
    options = words | {"shrink": _SHRINK} | ({} if towards is None else {"towards": towards})
    options |= {"optimizer": "adamw"} if known.source is None else {}
    if known.total is None:
        options["epochs"] = _PASSES
        spent = f"{_PASSES} passes, as nobody said how many steps the training took"
    else:
        options["budget"] = _SHARE if budget is None else budget
        spent = f"{options['budget']:g} of the training's steps"
    took = f"it took back {1 - _SHRINK:.0%} of what the training changed, and learned the retained items again"
    return Choice("continued_training", options, f"{_STAYS}; {took}, with {spent}")


def _has_multiples(task: Task, model: nn.Module) -> bool:
    """Return whether the model has an adapter, not one to come, that can be shrunk."""
    try:
        return hasattr(model, "peft_config") and task.adapter_scaling(model) is not None
    except UnsupportedModelError:
        return False
