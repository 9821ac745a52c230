"""Draw images from a denoiser, by the deterministic sampler of DDIM (arXiv 2010.02502)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gunlearn.core.checks import check_integer, check_number
from gunlearn.core.modes import evaluating
from gunlearn.errors import InvalidInputError

if TYPE_CHECKING:
    from gunlearn.diffusion.denoising import Denoising


def guided(task: Denoising, model: nn.Module, noisy: Tensor, t: Tensor, y: Tensor, guidance: float = 1.0) -> Tensor:
    r"""Return the prediction with guidance, :math:`e_0 + g \, (e_y - e_0)`, in float32; 1 is the model's own.

    `noisy` is `[n, channels, height, width]`, `t` `[n]`, `y` the conditions. All kinds of prediction are linear in each
    other at one `x_t`, so it makes no difference which one is mixed.
    """
    if guidance == 1:
        return task.denoise(model, noisy, t, y).float()
    both = task.denoise(model, torch.cat([noisy, noisy]), torch.cat([t, t]), torch.cat([y, task.null_like(y)]))
    own, null = both.float().chunk(2)
    return null + guidance * (own - null)


def ddim_steps(task: Denoising, num_steps: int) -> Tensor:
    """Return the steps of diffusion that sampling visits, falling, `[num_steps]`."""
    total = task.noise_schedule.num_steps
    check_integer("num_steps", num_steps, minimum=1)
    if num_steps > total:
        raise InvalidInputError(f"Expected 'num_steps' of at most {total} (got {num_steps})")
    return torch.linspace(0, total - 1, num_steps).round().long().flip(0)


def sample(
    model: nn.Module,
    task: Denoising,
    y: Tensor,
    shape: Sequence[int],
    *,
    num_steps: int = 20,
    guidance: float = 1.0,
    seed: int | torch.Generator = 0,
    clip: float | None = None,
) -> Tensor:
    """Return images `[n, channels, height, width]`, one for each condition; the same seed gives the same noise.

    Args:
        model: the denoiser, read in evaluation mode.
        task: says how it is called and what it predicts.
        y: conditions `[n, ...]`, see `DenoisingItems`.
        shape: channels, height and width.
        num_steps: of the sampler.
        guidance: 1 samples from the model itself; other values need `task.null`.
        seed: of the first noise, drawn on the CPU; or a generator.
        clip: clamp the predicted image to plus and minus this value at each step; `None` does what the scheduler does.

    Raises:
        InvalidInputError: no condition, more steps than the schedule has, or guidance without `task.null`.
    """
    how: dict[str, Any] = {"num_steps": num_steps, "guidance": guidance, "seed": seed, "clip": clip}
    return list(path(model, task, y, shape, **how, ends=True))[-1][0]


def path(
    model: nn.Module,
    task: Denoising,
    y: Tensor,
    shape: Sequence[int],
    *,
    num_steps: int = 20,
    guidance: float = 1.0,
    seed: int | torch.Generator = 0,
    clip: float | None = None,
    ends: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the noisy images `[n, channels, height, width]` of a sampling and their steps `[n]`, from noise on.

    With `ends` the images without noise come last, with the step 0. Arguments and errors are those of `sample`.
    """
    check_number("guidance", guidance, minimum=0.0)
    if not y.size(0):
        raise InvalidInputError("Expected at least one condition to sample for (got none)")
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    here, schedule = next(model.parameters()), task.noise_schedule
    steps, clip = ddim_steps(task, num_steps).tolist(), schedule.clip if clip is None else clip
    with torch.no_grad(), evaluating(model):
        noisy = torch.randn((y.size(0), *shape), generator=generator).to(here)
        y = y.to(here) if y.is_floating_point() else y.to(here.device)
        for now, after in zip(steps, [*steps[1:], None], strict=True):
            t = torch.full((y.size(0),), now, device=here.device)
            yield noisy, t
            x0, noise = schedule.split(guided(task, model, noisy, t, y, guidance), noisy, t)
            if clip is not None:
                x0 = x0.clamp(-clip, clip)
                noise = schedule.split(x0, noisy, t, "sample")[1]
            noisy = x0.to(here) if after is None else schedule.add_noise(x0, noise, torch.full_like(t, after)).to(here)
        if ends:
            yield noisy, torch.zeros_like(t)
