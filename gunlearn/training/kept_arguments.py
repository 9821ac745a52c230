"""What a loop of one's own hands to `KeepState`."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from gunlearn.errors import InvalidInputError
from gunlearn.training.resumed_optimizer import check_one_optimizer


def check_step_arguments(model: Any, optimizer: Any) -> None:
    """Refuse anything but a module and its optimiser, which may be wrapped, as Lightning and accelerate do.

    Raises:
        InvalidInputError: something else, such as an optimiser's `state_dict`, or several optimisers.
    """
    check_one_optimizer(optimizer)
    is_optimizer = hasattr(optimizer, "param_groups") and callable(getattr(optimizer, "state_dict", None))
    if not isinstance(model, nn.Module) or not is_optimizer:
        raise InvalidInputError(
            "Expected 'step(model, optimizer)' with a torch module and the optimiser that trains it, not their state "
            f"dicts (got {type(model).__name__} and {type(optimizer).__name__})"
        )


def check_trained_model(model: Any, inner: Any, names: Sequence[str]) -> None:
    """Refuse anything but the module that was trained.

    Args:
        model: as it was handed in.
        inner: `model` without what runs it.
        names: of the optimiser's parameters; empty for those that are not the model's.

    Raises:
        InvalidInputError: no module, or one without these parameters, such as an average of the weights.
    """
    if not isinstance(model, nn.Module):
        raise InvalidInputError(f"Expected 'state(model)' with the torch module that was trained (got {_said(model)})")
    own = dict(inner.named_parameters())
    lacking = [name for name in names if name and name not in own]
    if lacking:
        raise InvalidInputError(
            f"Expected the module that 'step' was called with (got {type(model).__name__}, which has no parameter "
            f"'{lacking[0]}'); hand that in, or, to unlearn an average of its weights (EMA, SWA), give the average to "
            "'unlearn' with optimizer=optimizer.state_dict() in place of this state"
        )


def check_kept_state(state: Any, keys: Sequence[str]) -> None:
    """Refuse anything but what `KeepState.state_dict` returned, which has these `keys`."""
    if not isinstance(state, Mapping) or not set(keys) <= state.keys():
        got = sorted(map(str, state)) if isinstance(state, Mapping) else type(state).__name__
        raise InvalidInputError(f"Expected what 'state_dict()' returned, with {list(keys)} (got {got})")


def _said(value: Any) -> str:
    return "None" if value is None else type(value).__name__
