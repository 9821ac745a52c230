"""Retraining as the model was trained, as far as the state of its training or its optimiser says how."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from gunlearn.methods.any_task.retrain import Retrain
from gunlearn.training.highest_rate import highest_rates
from gunlearn.training.inner_model import inner_model
from gunlearn.training.repeated_rates import repeated
from gunlearn.training.resumed_optimizer import resumed_optimizer, started_anew
from gunlearn.training.training_state import TrainingState

_READING = ("batch_size", "sampler", "num_neighbors")


def same_recipe(
    state: TrainingState | None, source: Any, model: nn.Module, given: dict[str, Any], validated: bool
) -> tuple[dict[str, Any], str]:
    """Return options of `Retrain`, and in words what they are; see also `missing_of_recipe`.

    Where the number of steps is known, the model of the last one counts. A training that kept earlier weights than its
    last is repeated to its end, and the best on validation items counts; without such items it ends where the weights
    were kept.

    Args:
        state: of the training, if it is known.
        source: the optimiser that trained the model, or its `state_dict`, where there is no state.
        model: as trained; it does not change.
        given: `steps`, `lr` and `weight_decay` of the training where the caller named them.
        validated: there are validation items.
    """
    options = {name: value for name, value in given.items() if value is not None}
    known, ended = state if state is not None else source, ""
    if state is not None:
        kept = state.kept_at
        options |= {"steps": state.total} | {name: state.reading[name] for name in _READING if name in state.reading}
        if kept < state.total:
            ended = f"the training kept the weights of step {kept} of {state.total}, and "
        if kept < state.total and not validated:
            options["steps"], ended = kept, f"{ended}there are no validation items to choose others by"
        if state.rates is not None and state.knows_all_rates:
            options["scheduler"] = repeated(state.rates, 0)
    if known is not None:
        settings = {name: options.pop(name, None) for name in ("lr", "weight_decay")}
        options["optimizer"] = NewLike(known, model, settings)
    if "steps" in options and (not ended or not validated):
        options["eval_every"] = None
    elif validated:
        ended += f"the best on validation items, looked at after each {Retrain.eval_every} passes, counts"
    return options, "; ".join(filter(None, [_words(options, known, model), ended]))


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
        for group, highest in zip(made.param_groups, highest_rates(self.known), strict=True):
            group["lr"] = highest
            group.pop("initial_lr", None)
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
