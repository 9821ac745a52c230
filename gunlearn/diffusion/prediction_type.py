"""Does a pipeline's denoiser predict what its scheduler says? Asked before any work."""

from __future__ import annotations

import torch
from torch import Tensor

from gunlearn.core.modes import evaluating
from gunlearn.diffusion.concept_data import ConceptImages
from gunlearn.diffusion.noised_items import draw_items
from gunlearn.diffusion.pipelines import PipelineParts
from gunlearn.diffusion.prediction_kinds import refuse_another_kind, unexplained
from gunlearn.errors import UnsupportedModelError

#: Noise alone says it where no more than this share of the variance at the last step is of the image.
_NOISE = 0.1
_TRIED = 16  # images, of the caller's or of noise


def check_prediction_type(parts: PipelineParts, conditions: Tensor, images: ConceptImages | None = None) -> None:
    """Refuse a denoiser that predicts something else than the pipeline's scheduler says.

    At the last step of diffusion nearly all is noise: a model of `"epsilon"` returns its input, others do not. The
    caller's `images` are noised as well, and the predictions compared with what each kind of model would predict.

    Args:
        parts: of the pipeline.
        conditions: of concepts, `[k, ...]`.
        images: the caller's, or `None`.

    Raises:
        UnsupportedModelError: it does not fit; or the schedule ends long before noise and there are no images: then
            nothing tells what the denoiser predicts, and a sampler, which begins with noise, draws no images.
    """
    left = float(parts.task().noise_schedule.alphas_cumprod[-1])
    if left > _NOISE and images is None:
        raise UnsupportedModelError(
            f"Expected 'data', images and their concepts, for a scheduler whose last step keeps {left:.0%} of the "
            "image's variance (got none): from noise the pipeline draws no images with it, and what its denoiser "
            "predicts cannot be told; or load the scheduler that the model was trained with"
        )
    if left <= _NOISE:
        _from_noise(parts, conditions)
    if images is not None:
        _from_images(parts, images)


@torch.no_grad()
def _from_images(parts: PipelineParts, images: ConceptImages) -> None:
    task, model = parts.task(), parts.denoiser
    x0, y = images.x[:_TRIED].float(), images.y[:_TRIED]
    items = draw_items(task.noise_schedule, x0, y, generator=torch.Generator().manual_seed(0))
    with evaluating(model):
        found = task.denoise_items(model, items).cpu()
    share = unexplained(task.noise_schedule, x0, items.noisy, items.t, found)
    refuse_another_kind(share, task.noise_schedule.prediction_type)


@torch.no_grad()
def _from_noise(parts: PipelineParts, conditions: Tensor) -> None:
    task, model = parts.task(), parts.denoiser
    last = task.noise_schedule.num_steps - 1
    here = next(model.parameters())
    noise = torch.randn((_TRIED, *parts.shape), generator=torch.Generator().manual_seed(0)).to(here)
    y = conditions[:1].expand(_TRIED, *conditions.shape[1:]).to(here.device)
    with evaluating(model):
        found = task.denoise(model, noise, torch.full((_TRIED,), last, device=here.device), y)
    error = float((found - noise).float().square().mean())
    said = task.noise_schedule.prediction_type
    if error > 0.5 if said == "epsilon" else error < 0.1:
        got = "another kind of prediction" if said == "epsilon" else "'epsilon'"
        raise UnsupportedModelError(
            f"Expected a denoiser that predicts {said!r}, as the scheduler's prediction_type says (got {got}: of pure "
            f"noise it returns what differs from it by {error:.2g}, mean squared); load the scheduler that the model "
            "was trained with"
        )
