"""Retraining as the model was trained, as far as the state of its training or its optimiser says how."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from torch import nn

from gunlearn.methods.any_task.retrain import Retrain
from gunlearn.training.inner_model import inner_model
from gunlearn.training.repeated_rates import repeated
from gunlearn.training.resumed_optimizer import resumed_optimizer, started_anew
from gunlearn.training.training_state import TrainingState

_READING = ("batch_size", "sampler", "num_neighbors")


def same_recipe(
    state: TrainingState | None, source: Any, model: nn.Module, given: dict[str, Any]
) -> tuple[dict[str, Any], str, list[str]]:
    """Return options of `Retrain`, in words what they are, and what nobody said of the training.

    Args:
        state: of the training, if it is known.
        source: the optimiser that trained the model, or its `state_dict`, where there is no state.
        model: as trained; it does not change.
        given: `steps`, `lr` and `weight_decay` of the training where the caller named them.
    """
    options = {name: value for name, value in given.items() if value is not None}
    known = state if state is not None else source
    if state is not None:
        options |= {"steps": state.total} | {name: state.reading[name] for name in _READING if name in state.reading}
        if state.steps == state.total:  # no earlier weights were the best
            options["eval_every"] = None
        if state.rates is not None:
            options["scheduler"] = repeated(state.rates, 0)
    if known is not None:
        settings = {name: options.pop(name, None) for name in ("lr", "weight_decay")}
        options["optimizer"] = NewLike(known, model, settings)
    usual = {field.name: field.default for field in fields(Retrain)}
    lacking = {"steps": "its number of steps (training_steps=)"}
    if known is None:
        lacking |= {"lr": "its learning rate (lr=)", "weight_decay": "its weight decay (weight_decay=)"}
        lacking |= {"optimizer": "its optimiser (training= or optimizer=)"}
    if state is None or "batch_size" not in state.reading:
        lacking["batch_size"] = "how many items it read per step (batch_size=)"
    if known is not None and state is None:
        lacking["scheduler"] = "how its learning rate changed (training=)"
    taken = {"steps": usual["epochs"], "batch_size": "all", "weight_decay": "0", "scheduler": "constant"}
    missing = [
        f"{words}, taken as {taken.get(name, usual[name])}" for name, words in lacking.items() if name not in options
    ]
    clipped = None if state is None else state.reading.get("max_grad_norm")
    if clipped is not None:
        missing.append(f"a way to clip gradients at {clipped:g}, as it did (train=)")
    return options, _words(options, known, model), missing


@dataclass(frozen=True, eq=False)
class NewLike:
    """Makes an optimiser of a training's class and settings, without state, over the parameters of a new model.

    Its rate is the highest one that the training says, where a scheduler lowered it; `settings` change it. What the
    training did not change, parameters that require no gradient, stays as it is.
    """

    keeps_frozen: ClassVar[bool] = True

    known: Any
    model: nn.Module
    settings: dict[str, float | None]

    def __repr__(self) -> str:
        return "as in the training"

    def __call__(self, parameters: Sequence[nn.Parameter]) -> Any:
        own = list(inner_model(self.model).named_parameters())
        names = [name for name, parameter in own if parameter.requires_grad]
        held = [parameter for _, parameter in own if parameter.requires_grad]
        made = resumed_optimizer(self.known, held, names, may_be_new=True)
        learns = list(parameters)
        if len(learns) > len(held):
            learns = [new for new, (_, old) in zip(learns, own, strict=True) if old.requires_grad]
        made = started_anew(made, held, learns)
        for group in made.param_groups:
            group["lr"] = max(group["lr"], group.pop("initial_lr", group["lr"]))
            group.update({name: value for name, value in self.settings.items() if value is not None})
        return made


def _words(options: dict[str, Any], known: Any, model: nn.Module) -> str:
    """Return what the recipe is: the optimiser, its rates and decays, the steps and the items per step."""
    steps = options.get("steps", f"{Retrain.epochs} (by default)")
    read = options.get("batch_size") or "all"
    if known is None:
        kind, groups = "Adam", [{name: options.get(name, getattr(Retrain, name)) for name in ("lr", "weight_decay")}]
    else:
        make: Callable[[Any], Any] = options["optimizer"]
        made = make(list(model.parameters()))
        kind, groups = type(made).__name__, made.param_groups
    rates, decays = ({f"{group[name]:g}" for group in groups if name in group} for name in ("lr", "weight_decay"))
    changing = ", changed as then" if "scheduler" in options else ""
    return (
        f"it takes {steps} steps of {kind} at a rate of {' and '.join(sorted(rates))}{changing}, with weight decay "
        f"{' and '.join(sorted(decays)) or 'none'}, on {read} items each"
    )
