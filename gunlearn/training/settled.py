"""Whether a training had settled when it ended."""

from __future__ import annotations

import math

from torch import nn

from gunlearn.training.checkpoint_weights import weights_for
from gunlearn.training.inner_model import inner_model
from gunlearn.training.training_state import TrainingState

#: Growth above which a training had not settled. Measured in `experiments/nearest`.
GROWING = 0.1
_BACK, _FARTHEST = 0.2, 0.35  # shares of a training: where a checkpoint should lie, and from where it says too little


def growth_rate(state: TrainingState, model: nn.Module) -> float | None:
    r"""Return how fast the norm of a model's weights still changed at the end of its training.

    .. math:: \frac{1}{s} \left| \ln \frac{\lVert \theta \rVert}{\lVert \theta_s \rVert} \right|

    over the parameters that learn, with :math:`\theta_s` the checkpoint nearest to a fifth of the training before the
    end, a share :math:`s` of all its steps: 0.1 is a tenth per training as long as this one. Where weights grow on, as
    without a penalty, going on with the training leads away from what a training of the same length gives.

    Args:
        state: of the training of `model`.
        model: with its final weights.

    Returns:
        The rate, without unit; without checkpoints the one that the state names. `None` without such a checkpoint in
        the last third, or of other weights.
    """
    if not (state.moments and state.steps):
        return state.growth
    shares = {moment.step: (state.steps - moment.step) / state.total for moment in state.moments}
    moment = min(state.moments, key=lambda one: abs(shares[one.step] - _BACK), default=None)
    if moment is None or not 0 < shares[moment.step] <= _FARTHEST:
        return None
    model = inner_model(model)
    weights = weights_for(moment.weights, model)
    learns = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if any(name not in weights or weights[name].shape != own.shape for name, own in learns.items()):
        return None
    now, before = (
        sum(float(values[name].detach().double().square().sum()) for name in learns) for values in (learns, weights)
    )
    return None if not (now and before) else abs(math.log(now / before)) / 2 / shares[moment.step]


def grows(rate: float | None) -> bool:
    """Return whether such a rate, where it is known, says that the training had not settled."""
    return rate is not None and rate > GROWING
