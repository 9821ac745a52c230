"""A training's learning rates once more."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from gunlearn.training.optimizers import SchedulerSpec


def repeated(rates: Tensor, start: int) -> SchedulerSpec:
    """Return a scheduler that repeats a training's learning rates `[steps, num_groups]` from a step on."""
    last = rates.size(0) - 1

    def factor(column: int) -> Callable[[int], float]:
        return lambda step: float(rates[min(start + step, last), column])

    def make(optimizer: Any) -> LambdaLR:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] = 1.0
        return LambdaLR(optimizer, [factor(column) for column in range(rates.size(1))])

    return make
