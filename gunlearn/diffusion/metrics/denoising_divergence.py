r"""How far apart two denoisers are at images that one of them drew: both read the same noisy images.

A diffusion model has no likelihood in closed form, but bounds. With :math:`x_t` the image :math:`x_0` of :math:`p`
noised by :math:`\epsilon`, and :math:`\epsilon_p, \epsilon_q` the noise that the models see in it,

.. math:: \text{elbo: } w_t \big(\|\epsilon - \epsilon_q\|^2 - \|\epsilon - \epsilon_p\|^2\big), \qquad
    \text{epsilon: } w_t \|\epsilon_p - \epsilon_q\|^2

The first is the difference of the models' bounds on the negative log-likelihood, and can be negative; the second the
divergence of their reverse steps, which is never negative and varies less. Where :math:`p` denoises its own images as
well as can be done both have the same mean. Reconstructed from descriptions of FADE for images
(`arXiv:2510.12981 <https://arxiv.org/abs/2510.12981>`_), whose formula is not known here.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from gunlearn.core.checks import check_choice, check_integer
from gunlearn.errors import InvalidInputError
from gunlearn.metrics.alignment import StepTerms

FORMS = ("epsilon", "elbo")
WEIGHTINGS = ("simple", "kl")
#: A denoiser: it sees the noise in `x_t` `[n, ...]` at the steps `t` `[n]`, under the conditions `y` `[n, ...]`.
Denoiser = Callable[[Tensor, Tensor, Tensor], Tensor]


def step_weights(alphas_cumprod: Tensor, weighting: str = "simple") -> Tensor:
    r"""Return the weight of each step of diffusion, `[num_steps]` in float64.

    .. math:: w_t = \frac{\beta_t^2}{2 \sigma_t^2 \alpha_t (1 - \bar\alpha_t)}, \qquad \sigma_t^2 = \beta_t

    for `"kl"`; the variance of the reverse steps is DDPM's larger choice, at the last of them too. `"simple"` is 1.
    With squared-cosine schedules the few noisiest steps make up nearly all of `"kl"`.

    Args:
        alphas_cumprod: :math:`\bar\alpha_t` `[num_steps]`, falling.
        weighting: one of `WEIGHTINGS`.

    Raises:
        InvalidInputError: another weighting; for `"kl"` a schedule that ends at a signal of zero.
    """
    check_choice("weighting", weighting, WEIGHTINGS)
    bar = alphas_cumprod.double()
    if weighting == "simple":
        return torch.ones_like(bar)
    if float(bar[-1]) <= 0:
        raise InvalidInputError(
            "Expected a schedule that leaves some signal at its last step for weighting 'kl' (got none, a weight of "
            "infinity); take weighting 'simple'"
        )
    alpha = bar / torch.cat([bar.new_ones(1), bar[:-1]])
    return (1 - alpha) / (2 * alpha * (1 - bar))


@torch.no_grad()
def denoising_terms(
    x0: Tensor,
    y: Tensor,
    p: Denoiser,
    q: Denoiser,
    alphas_cumprod: Tensor,
    *,
    form: str = "epsilon",
    weighting: str = "simple",
    num_draws: int = 8,
    timesteps: tuple[int, int] | None = None,
    seed: int = 0,
    batch_size: int = 256,
) -> StepTerms:
    r"""Return estimates of :math:`D(p \| q)` at images of `p`, `[num_images, num_draws, 1]`.

    Each draw is of a step and a noise per image, the same for all models under one seed. With `"kl"` an estimate is a
    sum over pixels and over all steps, in nats per image; with `"simple"` a mean over pixels and steps. A model
    compared with itself has exactly 0.

    Args:
        x0: images that `p` drew, `[num_images, channels, height, width]`, or any other shape per image.
        y: the conditions that they were drawn for, `[num_images, ...]`.
        p: sees the noise in images, shaped like them.
        q: the model to compare with.
        alphas_cumprod: the schedule of both models, `[num_steps]`.
        form: one of `FORMS`.
        weighting: one of `WEIGHTINGS`.
        num_draws: per image.
        timesteps: first step and the one behind the last; `None` for all.
        seed: of the draws, on the CPU; the global random state does not change.
        batch_size: images at a time.

    Raises:
        InvalidInputError: unknown names, no image, steps outside the schedule, or NaN.
    """
    check_choice("form", form, FORMS)
    check_integer("num_draws", num_draws, minimum=1)
    weight = step_weights(alphas_cumprod, weighting)
    low, high = timesteps or (0, weight.numel())
    if not 0 <= low < high <= weight.numel():
        raise InvalidInputError(f"Expected 'timesteps' within 0 and {weight.numel()} (got {timesteps})")
    if not x0.size(0) or y.size(0) != x0.size(0):
        raise InvalidInputError(f"Expected images and a condition for each (got {x0.size(0)} and {y.size(0)})")
    generator, bar = torch.Generator().manual_seed(seed), alphas_cumprod.double()
    ones, columns = (1,) * (x0.dim() - 1), []
    for _ in range(num_draws):
        steps = torch.randint(low, high, (x0.size(0),), generator=generator)
        noise = torch.randn(x0.shape, generator=generator)
        signal, sigma = (part.sqrt().float().view(-1, *ones) for part in (bar[steps], 1 - bar[steps]))
        parts = []
        for rows in torch.arange(x0.size(0)).split(batch_size):
            here = [part[rows].to(x0.device) for part in (signal, sigma, noise, steps)]
            noisy = (here[0] * x0[rows].float() + here[1] * here[2]).to(x0.dtype)
            seen, other = (model(noisy, here[3], y[rows]).double() for model in (p, q))
            gap = (seen - other).square()
            if form == "elbo":
                gap = (here[2].double() - other).square() - (here[2].double() - seen).square()
            gap = gap.flatten(1)
            parts.append((gap.sum(1) * (high - low) if weighting == "kl" else gap.mean(1)).cpu())
        columns.append(torch.cat(parts) * weight[steps])
    values = torch.stack(columns, 1).unsqueeze(-1)
    return StepTerms(values, torch.ones_like(values, dtype=torch.bool))
