"""What nobody said of a training, in words: what would have brought an unlearned model nearer to retraining."""

from dataclasses import fields
from typing import Any

from gunlearn.methods.any_task.retrain import Retrain
from gunlearn.training.training_state import TrainingState

_STATE = (
    "the optimiser's state (training=, what gunlearn.train returned or gunlearn.KeepState kept, or optimizer=, "
    "your own), without which a training by another loss than the task's own is not noticed"
)


def missing_of_recipe(state: TrainingState | None, source: Any, options: dict[str, Any]) -> list[str]:
    """Return what a retraining did not know of the training.

    Args:
        state: of the training, if it is known.
        source: the optimiser that trained the model, or its `state_dict`, where there is no state.
        options: of `Retrain`, as `same_recipe` returned them.
    """
    known = state if state is not None else source
    lacking = {"steps": "its number of steps (training_steps=)"}
    if known is None:
        lacking |= {"lr": "its learning rate (lr=)", "weight_decay": "its weight decay (weight_decay=)"}
        lacking |= {"optimizer": "its optimiser (training= or optimizer=)"}
    if state is None or "batch_size" not in state.reading:
        lacking["batch_size"] = "how many items it read per step (batch_size=)"
    if known is not None and (state is None or not state.knows_all_rates):
        lacking["scheduler"] = "how its learning rate changed (training=, of all its steps)"
    usual = {field.name: field.default for field in fields(Retrain)}
    taken = {"steps": usual["epochs"], "batch_size": "all", "weight_decay": "0", "scheduler": "constant"}
    missing = [
        f"{words}, taken as {taken.get(name, usual[name])}" for name, words in lacking.items() if name not in options
    ]
    clipped = None if state is None else state.reading.get("max_grad_norm")
    return missing if clipped is None else [*missing, f"a way to clip gradients at {clipped:g}, as it did (train=)"]


def missing_of_going_on(given: dict[str, Any], steps: int | None, taken: int, passes: int) -> list[str]:
    """Return what a continued training did not know of the training, without its state.

    Args:
        given: `optimizer`, `lr`, `weight_decay` and `budget` as the caller named them, else `None`.
        steps: of the training, as far as they are known.
        taken: steps of the run.
        passes: beside them.
    """
    missing = []
    if given["optimizer"] is None:
        missing.append(_STATE)
        if given["lr"] is None:
            missing.append("its learning rate (lr=), taken as 1e-3")
        if given["weight_decay"] is None:
            missing.append("its weight decay (weight_decay=), estimated from the weights")
    if steps is None:
        bound = "" if given["budget"] is None else f"the budget of {given['budget']:g} could not be kept to and "
        missing.append(
            f"its number of steps (training_steps=), without which {bound}{taken} steps and {passes} passes beside "
            "them were taken"
        )
    return missing
