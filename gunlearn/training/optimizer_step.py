"""One optimiser step: gradients of the pieces of an objective, added up, and the losses before the step."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from gunlearn.core.checks import check_differentiable
from gunlearn.errors import DivergenceError
from gunlearn.losses import ObjectiveValue


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
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return record


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
