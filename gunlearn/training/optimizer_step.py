"""One optimiser step: gradients of the pieces of an objective, added up, and the losses before the step."""

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from gunlearn.core.checks import check_differentiable
from gunlearn.errors import DivergenceError, InvalidInputError
from gunlearn.losses import ObjectiveValue
from gunlearn.training.optimizer_state import is_of_torch


def take_step(optimizer: Any, gradients: Callable[[], ObjectiveValue], number: int) -> dict[str, float]:
    """Take one optimiser step; return the losses before it."""
    if isinstance(optimizer, torch.optim.LBFGS):
        values: list[ObjectiveValue] = []

        def closure() -> Tensor:
            optimizer.zero_grad(set_to_none=True)
            values.append(gradients())
            return values[-1].total

        optimizer.step(closure)
        record = finite_record(values[0], number)
    else:
        record = finite_record(gradients(), number)
        _step(optimizer)
    optimizer.zero_grad(set_to_none=True)
    return record


def _step(optimizer: Any) -> None:
    """Take a step; refuse an optimiser of another class than torch's that wants more for it than gradients."""
    try:
        optimizer.step()
    except (AssertionError, TypeError) as error:
        closure = inspect.signature(optimizer.step).parameters.get("closure")
        required = closure is not None and closure.default is closure.empty
        if is_of_torch(optimizer) or not (required or "closure" in str(error) or error.args == ()):
            raise
        raise InvalidInputError(
            "Expected an optimiser that steps after a backward pass, without a closure (got "
            f"{type(optimizer).__name__}: {error or type(error).__name__})"
        ) from error


def summed(value: ObjectiveValue | Iterable[ObjectiveValue], backward: bool = False) -> ObjectiveValue:
    """Add up the pieces of a step; with `backward` accumulate each one's gradient before the next is computed."""
    pieces = []
    for piece in [value] if isinstance(value, ObjectiveValue) else value:
        if backward:
            check_differentiable(piece.total)
            piece.total.backward()
        pieces.append(ObjectiveValue(piece.total.detach(), piece.terms) if backward else piece)
    if len(pieces) == 1:
        return pieces[0]
    terms: dict[str, Tensor] = {}
    for piece in pieces:
        for name, term in piece.terms.items():
            terms[name] = terms[name] + term if name in terms else term
    return ObjectiveValue(torch.stack([piece.total for piece in pieces]).sum(), terms)


def finite_record(value: ObjectiveValue, number: int) -> dict[str, float]:
    """Return the losses of a step as numbers; refuse NaN and infinity after `number` steps."""
    record = {"loss": float(value.total.detach()), **{name: float(term) for name, term in value.terms.items()}}
    bad = [name for name, loss in record.items() if not math.isfinite(loss)]
    if bad:
        raise DivergenceError(f"Expected finite losses (got NaN or infinity in {bad} after {number} steps)")
    return record
