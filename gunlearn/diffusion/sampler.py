"""Draw images from a denoiser, by the deterministic sampler of DDIM (arXiv 2010.02502)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

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


@dataclass(frozen=True)
class Sampling:
    """Settings of the sampler, see `sample`.

    Raises:
        InvalidInputError: a guidance below 0.
    """

    num_steps: int = 20
    guidance: float = 1.0
    clip: float | None = None

    def __post_init__(self) -> None:
        check_number("guidance", self.guidance, minimum=0.0)


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
    noise = first_noise(model, y, shape, seed)
    (last,) = deque(path(model, task, y, noise, Sampling(num_steps, guidance, clip)), maxlen=1)
    return last[2]


def first_noise(model: nn.Module, y: Tensor, shape: Sequence[int], seed: int | torch.Generator) -> Tensor:
    """Return the noise `[n, *shape]` from which images of the conditions `y` `[n, ...]` are sampled.

    Raises:
        InvalidInputError: no condition.
    """
    if not y.size(0):
        raise InvalidInputError("Expected at least one condition to sample for (got none)")
    draw = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    return torch.randn((y.size(0), *shape), generator=draw).to(next(model.parameters()))


def path(
    model: nn.Module, task: Denoising, y: Tensor, noisy: Tensor, how: Sampling
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield for each step of a sampling `x_t` `[n, ...]`, the step `t` `[n]` and what comes of it, less noisy.

    What comes of the last step has no noise. `noisy` is the first noise; errors are those of `sample`.
    """
    here, schedule = next(model.parameters()), task.noise_schedule
    steps, clip = ddim_steps(task, how.num_steps).tolist(), schedule.clip if how.clip is None else how.clip
    y = y.to(here) if y.is_floating_point() else y.to(here.device)
    for now, after in zip(steps, [*steps[1:], None], strict=True):
        t = torch.full((y.size(0),), now, device=here.device)
        with torch.no_grad(), evaluating(model):
            x0, noise = schedule.split(guided(task, model, noisy, t, y, how.guidance), noisy, t)
        if clip is not None:
            x0 = x0.clamp(-clip, clip)
            noise = schedule.split(x0, noisy, t, "sample")[1]
        less = x0.to(here) if after is None else schedule.add_noise(x0, noise, torch.full_like(t, after)).to(here)
        yield noisy, t, less
        noisy = less
