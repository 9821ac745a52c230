"""Whether steps can go on with the settings and the memory of an optimiser."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from gunlearn.errors import InvalidInputError
from gunlearn.training.optimizer_state import is_adam

#: What helps where a state does not fit.
REMEDY = "hand in the optimiser that trained this model, or its state_dict"
#: What does without the state of an optimiser.
ESTIMATES = "let method 'continued_training' estimate its state (optimizer=\"adam\", lr=...)"
_LIKE_PARAMETER = ("exp_avg", "exp_avg_sq", "exp_inf", "momentum_buffer", "square_avg", "sum", "acc_delta", "prev")


def check_goes_on(optimizer: Optimizer) -> None:
    """Refuse settings that no step of a method goes on with."""
    kind = type(optimizer).__name__
    if any(group.get("maximize") for group in optimizer.param_groups):
        raise InvalidInputError(
            f"Expected an optimiser that lowers the loss (got {kind} with maximize=True); give a task of your own with "
            "the training's loss, its sign changed"
        )
    check_rates(optimizer.param_groups, kind)


def check_rates(groups: Sequence[Mapping[str, Any]], kind: str) -> None:
    """Refuse learning rates that are no finite number from 0 on, of an optimiser of the class `kind`."""
    for group in groups:
        rate = group.get("lr", 0.0)
        one = isinstance(rate, int | float) or (isinstance(rate, Tensor) and rate.numel() == 1)
        if not one or not 0 <= float(rate) < math.inf:
            got = f"{kind} with lr={rate!r}"
            raise InvalidInputError(f"Expected an optimiser with a learning rate (got {got}); {ESTIMATES}")


def check_memory(optimizer: Optimizer) -> None:
    """Refuse a state of Adam without its moments, and moments with NaN or infinity, on which no step goes on."""
    for group in optimizer.param_groups:
        needed = {"step", "exp_avg", "exp_avg_sq"} | ({"max_exp_avg_sq"} if group.get("amsgrad") else set())
        for state in (optimizer.state.get(p, {}) for p in group["params"]):
            if is_adam(optimizer) and state and not needed <= set(state):
                raise InvalidInputError(
                    f"Expected {sorted(needed)} in the state of {type(optimizer).__name__} (got "
                    f"{sorted(map(str, state))}); {REMEDY}, or {ESTIMATES}"
                )
            for name, value in state.items():
                if is_like_parameter(name, value) and not bool(value.isfinite().all()):
                    raise InvalidInputError(
                        f"Expected finite values in the optimiser's state (got NaN or infinity in '{name}'); {REMEDY} "
                        f"from before that, or {ESTIMATES}"
                    )


def densify(optimizer: Optimizer) -> None:
    """Let sparse moments be dense: so are the gradients of a copy of the model."""
    for state in optimizer.state.values():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.is_sparse:
                state[name] = value.to_dense()


def is_like_parameter(name: str, value: Any) -> bool:
    """Return whether a part of an optimiser's state has its parameter's shape."""
    return name in _LIKE_PARAMETER and isinstance(value, Tensor)
