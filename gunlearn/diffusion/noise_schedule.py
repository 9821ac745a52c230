"""How much noise a step of diffusion adds, and what a denoiser predicts: epsilon, v or x0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gunlearn.core.checks import check_choice
from gunlearn.errors import InvalidInputError, InvalidTypeError

#: diffusers' names: the noise, the velocity of Salimans and Ho (arXiv 2202.00512), the image.
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    r"""A variance-preserving diffusion, with what its denoiser predicts.

    .. math:: x_t = \sqrt{\bar\alpha_t} \, x_0 + \sqrt{1 - \bar\alpha_t} \, \epsilon, \qquad
        v = \sqrt{\bar\alpha_t} \, \epsilon - \sqrt{1 - \bar\alpha_t} \, x_0

    Args:
        alphas_cumprod: :math:`\bar\alpha_t` `[num_steps]`, in [0, 1], falling.
        prediction_type: one of `PREDICTION_TYPES`.
        clip: what a sampler clamps predicted images to, plus and minus; `None` for none (latents).

    Raises:
        InvalidInputError: another prediction type, or values that do not fall within [0, 1].
    """

    alphas_cumprod: Tensor
    prediction_type: str = "epsilon"
    clip: float | None = None

    def __post_init__(self) -> None:
        check_choice("prediction_type", self.prediction_type, PREDICTION_TYPES)
        bar = self.alphas_cumprod
        if bar.dim() != 1 or not bool(((bar >= 0) & (bar <= 1)).all()) or bool((bar.diff() > 0).any()):
            raise InvalidInputError(
                f"Expected 'alphas_cumprod' [num_steps] that fall within [0, 1] (got {tuple(bar.shape)}, "
                f"{bar.flatten()[:3].tolist()}, ...)"
            )

    @classmethod
    def of(cls, scheduler: Any) -> NoiseSchedule:
        """Return the schedule of a scheduler of diffusers: DDPM, DDIM, DPM-Solver, Euler, PNDM and their kind.

        Raises:
            InvalidTypeError: no scheduler, or one without `alphas_cumprod` (flow matching, consistency models).
        """
        if isinstance(scheduler, cls):
            return scheduler
        bar = getattr(scheduler, "alphas_cumprod", None)
        if not isinstance(bar, Tensor):
            raise InvalidTypeError(
                "Expected a scheduler of diffusers with 'alphas_cumprod', such as pipeline.scheduler of a DDPM or DDIM "
                f"(got {type(scheduler).__name__}); models of flow matching and consistency models are not supported"
            )
        config = getattr(scheduler, "config", {})
        clip = float(config.get("clip_sample_range") or 1.0) if config.get("clip_sample") else None
        return cls(bar.detach().cpu().double(), config.get("prediction_type") or "epsilon", clip)

    @property
    def num_steps(self) -> int:
        """Number of steps of diffusion."""
        return self.alphas_cumprod.numel()

    def scales(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the factors of image and noise at the steps `t` `[n]`, shaped to multiply `like` `[n, ...]`."""
        bar = self.alphas_cumprod.to(like.device)[t].view(-1, *(1,) * (like.dim() - 1))
        dtype = torch.promote_types(like.dtype, torch.float32)
        return bar.sqrt().to(dtype), (1 - bar).sqrt().to(dtype)

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return `x_t`, of the type of `x0`; all are `[n, ...]`, `t` is `[n]`."""
        signal, sigma = self.scales(t, x0)
        return (signal * x0 + sigma * noise).to(x0.dtype)

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return what the denoiser should predict of `x_t`."""
        if self.prediction_type == "sample":
            return x0
        if self.prediction_type == "epsilon":
            return noise
        signal, sigma = self.scales(t, x0)
        return signal * noise - sigma * x0

    def split(self, prediction: Tensor, noisy: Tensor, t: Tensor, kind: str | None = None) -> tuple[Tensor, Tensor]:
        """Return the image and the noise `[n, ...]` that a prediction of a `kind` (default: the schedule's) says.

        Raises:
            InvalidInputError: an image from the noise where nothing of it is left in `x_t` (a schedule that ends at a
                signal of zero), or noise from an image where none was added.
        """
        kind = kind or self.prediction_type
        check_choice("kind", kind, PREDICTION_TYPES)
        signal, sigma = self.scales(t, noisy)
        prediction, noisy = prediction.to(signal.dtype), noisy.to(signal.dtype)
        if kind == "v_prediction":
            return signal * noisy - sigma * prediction, sigma * noisy + signal * prediction
        divisor, lost = (signal, "image") if kind == "epsilon" else (sigma, "noise")
        if bool((divisor == 0).any()):
            raise InvalidInputError(
                f"Expected steps at which x_t holds some {lost} (got t={int(t[divisor.flatten() == 0][0])}, where it "
                f"holds none); leave it out with 'timesteps'"
            )
        if kind == "epsilon":
            return (noisy - sigma * prediction) / signal, prediction
        return prediction, (noisy - signal * prediction) / sigma

    def convert(self, prediction: Tensor, noisy: Tensor, t: Tensor, to: str, kind: str | None = None) -> Tensor:
        """Return a prediction `[n, ...]` of one kind (default: the schedule's) as another, in float32 at least."""
        check_choice("to", to, PREDICTION_TYPES)
        if to == (kind or self.prediction_type):
            return prediction
        x0, noise = self.split(prediction, noisy, t, kind)
        return NoiseSchedule(self.alphas_cumprod, to).target(x0, noise, t)

    def __repr__(self) -> str:
        return f"NoiseSchedule({self.num_steps} steps, {self.prediction_type!r})"
