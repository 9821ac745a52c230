"""Functional alignment of denoisers: both draw images for the same conditions, and both denoise all of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gunlearn.core.checks import check_choice
from gunlearn.core.modes import evaluating
from gunlearn.diffusion.metrics.denoising_divergence import FORMS, WEIGHTINGS, denoising_terms
from gunlearn.diffusion.sampler import sample
from gunlearn.errors import InvalidInputError
from gunlearn.metrics.alignment import Alignment, Sampler, StepTerms, align

if TYPE_CHECKING:
    from gunlearn.diffusion.denoising import Denoising

FAR = 30.0  # values that neither images in [-1, 1] nor latents of variance 1 have


@dataclass(frozen=True)
class ImageSampler(Sampler):
    """Settings of the draws from a denoiser, by DDIM.

    Args:
        num_steps: of the sampler.
        guidance: 1 draws from the model itself; above, samples are of no distribution that is scored.
        clip: see `gunlearn.diffusion.sample`; `None` does what the scheduler does.

    Raises:
        InvalidInputError: a value outside its range.
    """

    n_samples: int = 64
    num_steps: int = 20
    guidance: float = 1.0
    clip: float | None = None

    @property
    def exact(self) -> bool:
        return super().exact and self.guidance == 1


@dataclass(eq=False)
class ImageAlignment:
    """Supply `gunlearn.metrics.alignment` with images and their terms.

    An item is an image: `sampler.n_samples` of each condition, from the same first noise for every model. Intervals are
    over images; `Alignment.error` is the standard error over draws of step and noise, given the images.

    Args:
        task: says how models are called and what they predict.
        conditions: what to draw images of, `[num_conditions, ...]`.
        shape: channels, height and width.
        sampler: how to draw, an `ImageSampler`.
        estimator: `"epsilon"` or `"elbo"`, see `denoising_terms`.
        weighting: `"simple"` for mean squared differences, `"kl"` for nats.
        num_draws: of step and noise per image.
        batch_size: images at a time.

    Raises:
        InvalidInputError: unknown names, or no condition.

    Example:
        >>> supplier = ImageAlignment(task, torch.tensor([3]), (1, 8, 8))  # doctest: +SKIP
        >>> standings({"esd": unlearned}, [first, second], supplier, original)["esd"].gain  # doctest: +SKIP
    """

    task: Denoising
    conditions: Tensor
    shape: tuple[int, int, int]
    sampler: Sampler | None = None
    estimator: str = "epsilon"
    weighting: str = "simple"
    num_draws: int = 8
    batch_size: int = 256

    def __post_init__(self) -> None:
        check_choice("estimator", self.estimator, FORMS)
        check_choice("weighting", self.weighting, WEIGHTINGS)
        if not self.conditions.size(0):
            raise InvalidInputError("Expected at least one condition to draw images of (got none)")
        self.how = self.sampler if isinstance(self.sampler, ImageSampler) else ImageSampler()
        self.sampler = self.how

    @property
    def asked(self) -> Tensor:
        """The condition of each image, `[num_images, ...]`."""
        return self.conditions.repeat_interleave(self.how.n_samples, 0)

    def draw(self, model: nn.Module) -> Tensor:
        """Return images `[num_images, channels, height, width]`.

        Warns:
            UserWarning: they leave the range of any images or latents.
        """
        how = self.how
        more: dict[str, Any] = {"num_steps": how.num_steps, "guidance": how.guidance, "clip": how.clip}
        noise = torch.Generator().manual_seed(how.seed)
        batches = self.asked.split(self.batch_size)
        drawn = torch.cat([sample(model, self.task, y, self.shape, seed=noise, **more) for y in batches])
        far = float(drawn.abs().max())
        if far > FAR:
            warnings.warn(
                f"Images that a model drew reach values of {far:.3g}: the sampler left the training images' range, "
                "and distances there say little; pass ImageSampler(clip=1.0) for images in [-1, 1]",
                stacklevel=2,
            )
        return drawn

    def terms(self, samples: Tensor, p: nn.Module, q: nn.Module) -> StepTerms:
        y = self.asked.to(samples.device)
        y = y.to(samples.dtype) if y.is_floating_point() else y
        with evaluating(p), evaluating(q):
            return denoising_terms(
                samples,
                y,
                self.sees(p),
                self.sees(q),
                self.task.noise_schedule.alphas_cumprod,
                form=self.estimator,
                weighting=self.weighting,
                num_draws=self.num_draws,
                timesteps=self.task.timesteps,
                seed=self.how.seed + 1,
                batch_size=self.batch_size,
            )

    def sees(self, model: nn.Module) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """Return the model as a function that sees the noise, whatever it predicts."""
        schedule = self.task.noise_schedule

        def noise_in(noisy: Tensor, t: Tensor, y: Tensor) -> Tensor:
            found = self.task.denoise(model, noisy, t, y).float()
            return schedule.convert(found, noisy, t, "epsilon")

        return noise_in


def image_alignment(
    current: nn.Module,
    reference: nn.Module,
    task: Denoising,
    conditions: Tensor,
    shape: tuple[int, int, int],
    sampler: ImageSampler | None = None,
    estimator: str = "epsilon",
    weighting: str = "simple",
    num_draws: int = 8,
) -> Alignment:
    """Return the alignment of two denoisers; 0 where they agree, and exactly 0 for a model and its copy.

    `reference` was retrained without the forgotten images; other arguments are those of `ImageAlignment`. To compare
    several models with several retrained ones, with a noise floor, give an `ImageAlignment` to
    `gunlearn.metrics.standings`.
    """
    supplier = ImageAlignment(task, conditions, shape, sampler, estimator, weighting, num_draws)
    precision = supplier.terms(supplier.draw(current), current, reference)
    recall = supplier.terms(supplier.draw(reference), reference, current)
    return align(precision, recall, estimator, "sequence", supplier.sampler)
