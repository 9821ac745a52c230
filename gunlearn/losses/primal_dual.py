"""The weight of a retain loss that must stay below a bound."""

from gunlearn.core.checks import check_integer, check_number


class PrimalDual:
    r"""The multiplier of `"PDU" <https://arxiv.org/abs/2506.05314>`_: rises while the retain loss is above its bound.

    .. math:: \lambda \leftarrow \max\big(0, \lambda + \eta\, (R - \epsilon)\big)

    The model descends on :math:`F + \lambda (R - \epsilon)`; this is the ascent on :math:`\lambda`. In open-unlearning
    the weight starts at 50 to 100 and stays there for five epochs.

    Args:
        epsilon: the bound on the retain loss, in its units.
        step: :math:`\eta`, positive.
        warmup: number of first updates that leave the weight unchanged.
        weight: initial :math:`\lambda`.

    Raises:
        InvalidInputError: a number out of range.

    Example:
        >>> dual = PrimalDual(epsilon=0.5, step=2.0, weight=1.0)
        >>> dual.update(0.75), dual.update(0.0), dual.update(0.0)
        (1.5, 0.5, 0.0)
    """

    def __init__(self, epsilon: float, step: float = 1.0, warmup: int = 0, weight: float = 50.0) -> None:
        check_number("epsilon", epsilon)
        check_number("step", step, positive=True)
        check_number("weight", weight, minimum=0.0)
        check_integer("warmup", warmup, minimum=0)
        self.epsilon, self.step, self.warmup, self.weight = float(epsilon), float(step), warmup, float(weight)
        self.updates = 0

    def update(self, retain_value: float) -> float:
        """Update with the retain loss of one step (or epoch); return the weight of the next."""
        check_number("retain_value", retain_value)
        self.updates += 1
        if self.updates > self.warmup:
            self.weight = max(0.0, self.weight + self.step * (retain_value - self.epsilon))
        return self.weight

    def state_dict(self) -> dict[str, float]:
        """Return the weight and the number of updates so far."""
        return {"weight": self.weight, "updates": self.updates}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore what `state_dict` returned."""
        self.weight, self.updates = float(state["weight"]), int(state["updates"])
