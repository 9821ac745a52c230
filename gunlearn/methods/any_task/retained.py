"""What holds a model in place on the retained data."""

from __future__ import annotations

from typing import Any

from gunlearn.core.checks import check_choice, check_number
from gunlearn.losses import NLL, JSDToReference, KLToReference, Loss, MSEToReference, Objective

#: Losses on the retained data by name, for methods that let one choose.
RETAIN_LOSSES: dict[str, Loss] = {
    "nll": NLL(on="retain"),
    "kl": KLToReference(on="retain"),
    "jsd": JSDToReference(on="retain"),
    "hidden": MSEToReference(on="retain"),
    "logits": MSEToReference(on="retain", field="logits"),
}


def held(method: Any, forget: Loss, *more: tuple[float, Loss]) -> Objective:
    """Return a method's forget loss, its retain loss and further terms, without those that weigh nothing.

    Args:
        method: with options `forget_weight`, `retain_weight` and `retain_loss`.
        forget: the forget loss.
        more: weights and losses of further terms.

    Raises:
        InvalidInputError: a weight below 0, or an unknown retain loss.
    """
    for name in ("forget_weight", "retain_weight"):
        check_number(name, getattr(method, name), minimum=0.0)
    check_choice("retain_loss", method.retain_loss, tuple(RETAIN_LOSSES))
    terms = ((method.forget_weight, forget), (method.retain_weight, RETAIN_LOSSES[method.retain_loss]), *more)
    return Objective(tuple((float(weight), loss) for weight, loss in terms if weight))
