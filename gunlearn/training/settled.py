"""Whether a training had settled when it ended."""

from __future__ import annotations

import math

from torch import nn

from gunlearn.training.training_state import TrainingState

#: Growth above which a training had not settled. Measured in `experiments/nearest`.
GROWING = 0.1


def growth_rate(state: TrainingState, model: nn.Module) -> float | None:
    r"""Return how fast the norm of a model's weights still changed at the end of its training.

    .. math:: \frac{1}{s} \left| \ln \frac{\lVert \theta \rVert}{\lVert \theta_s \rVert} \right|

    with :math:`\theta_s` the checkpoint farthest back, a share :math:`s` of the training's steps before the end: 0.1 is
    a tenth per training as long as this one. Where weights grow on, as without a penalty, going on with the training
    leads away from what a training of the same length gives.

    Args:
        state: of the training of `model`.
        model: with its final weights.

    Returns:
        The rate, without unit; `None` without a checkpoint, or with weights of zero.
    """
    if not state.moments:
        return None
    moment = min(state.moments, key=lambda one: one.step)
    share = (state.steps - moment.step) / state.steps
    now, before = (
        sum(float(weights[name].detach().double().square().sum()) for name, _ in model.named_parameters())
        for weights in (dict(model.named_parameters()), moment.weights)
    )
    return None if not (share and now and before) else abs(math.log(now / before)) / 2 / share
