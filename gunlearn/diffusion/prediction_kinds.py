"""Which kind of prediction explains best what a denoiser returned: epsilon, v or x0."""

from __future__ import annotations

from torch import Tensor

from gunlearn.diffusion.noise_schedule import PREDICTION_TYPES, NoiseSchedule
from gunlearn.errors import UnsupportedModelError

#: A model is taken to predict another kind where it explains that well, as a share of a guess's error, and what the
#: scheduler says badly, or so many times worse: kinds that have much in common, as on a short schedule.
_WELL, _BADLY, _TIMES = 0.25, 0.5, 4.0


def unexplained(schedule: NoiseSchedule, x0: Tensor, noisy: Tensor, t: Tensor, found: Tensor) -> dict[str, float]:
    """Return for each kind of prediction the share of a guess's squared error (zeros) that a prediction leaves.

    Args:
        schedule: of the model.
        x0: images `[n, ...]`.
        noisy: their `x_t`, at which noise was added to all.
        t: steps `[n]`.
        found: what the model returned, shaped like `noisy`.
    """
    noise = schedule.split(x0, noisy, t, "sample")[1]
    out = {}
    for kind in PREDICTION_TYPES:
        wanted = NoiseSchedule(schedule.alphas_cumprod, kind).target(x0, noise, t)
        size = float(wanted.square().mean())
        out[kind] = float((found - wanted).square().mean()) / size if size else float("inf")
    return out


def refuse_another_kind(share: dict[str, float], said: str) -> None:
    """Refuse a model of which another kind of prediction explains more than the kind that the scheduler says.

    Raises:
        UnsupportedModelError: clearly so.
    """
    best = min(share, key=lambda kind: share[kind])
    if best != said and share[best] < _WELL and share[said] > min(_BADLY, _TIMES * share[best]):
        raise UnsupportedModelError(
            f"Expected a model that predicts {said!r}, as the scheduler's prediction_type says (got one that "
            f"predicts {best!r}: of a guess's error it leaves {share[best]:.2g} there, and {share[said]:.2g} for "
            f"{said!r}); load the scheduler that the model was trained with"
        )
