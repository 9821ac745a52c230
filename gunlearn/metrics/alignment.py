r"""Functional alignment: the divergence between the outputs (texts, images, classes) of two models, both ways.

.. math:: A(p, q) = \frac{1}{|X|} \sum_x KL_x(p \| q) + KL_x(q \| p)

for prompts `x`, the model `p` to judge and a model `q` retrained without the forgotten data. Lower is better; 0: the
models agree on `X`. Reconstructed from descriptions of FADE (`arXiv:2510.12981 <https://arxiv.org/abs/2510.12981>`_),
whose normalisation and decoding are unknown. A `Supplier` draws and scores samples: for texts
`gunlearn.llm.metrics.TextAlignment`; a diffusion model supplies the Gaussian divergence of each step.
"""

import math
import warnings
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from gunlearn.core.checks import check_choice
from gunlearn.errors import InvalidInputError
from gunlearn.losses.divergences import kl_divergence

KL_ESTIMATORS = ("rao_blackwell", "monte_carlo")
PER = ("sequence", "token")


@dataclass(frozen=True)
class Sampler:
    """Settings of the draws from a language model. Other kinds of models derive a class that overrides `exact`.

    Args:
        n_samples: samples per prompt.
        temperature: 1 draws from the model itself.
        top_k: draw among the `top_k` likeliest; 0 draws among all.
        top_p: draw among the likeliest that together have this probability; 1 draws among all.
        seed: of the draws, the same for every model.

    Raises:
        InvalidInputError: a value outside its range.
    """

    n_samples: int = 16
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_samples < 1 or self.temperature <= 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise InvalidInputError(
                f"Expected n_samples >= 1, temperature > 0, top_k >= 0 and top_p in (0, 1] (got {self})"
            )

    @property
    def exact(self) -> bool:
        """Whether samples follow the distribution that is scored."""
        return self.temperature == 1 and self.top_k == 0 and self.top_p == 1


@dataclass(frozen=True, eq=False)
class StepTerms:
    r"""The terms of :math:`KL(p \| q)` per step, at samples of `p`.

    Args:
        values: `[num_prompts, num_samples, num_steps]` in nats: log-ratios (`"monte_carlo"`) or the exact divergence
            of each step (`"rao_blackwell"`). The sum over steps has the expectation :math:`KL_x(p \| q)` either way.
        mask: boolean, same shape: the steps of each sample.
        truncated: share of samples that were cut off before they ended.

    Raises:
        InvalidInputError: shapes disagree, a sample without steps, or NaN.
    """

    values: Tensor
    mask: Tensor
    truncated: float = 0.0

    def __post_init__(self) -> None:
        if self.values.dim() != 3 or self.values.shape != self.mask.shape or not self.values.numel():
            raise InvalidInputError(
                "Expected 'values' and 'mask' [num_prompts, num_samples, num_steps] "
                f"(got {tuple(self.values.shape)} and {tuple(self.mask.shape)})"
            )
        if not bool(self.mask.any(-1).all()):
            raise InvalidInputError("Expected at least one step in each sample (got a sample with none)")
        if bool(self.values[self.mask].isnan().any()):
            raise InvalidInputError("Expected likelihoods without NaN (got some); the model is broken")

    def per_sample(self, per: str = "sequence") -> Tensor:
        """Return sums over steps, or means for `"token"`, `[num_prompts, num_samples]` in float64."""
        check_choice("per", per, PER)
        total = torch.where(self.mask, self.values, 0).double().sum(-1)
        return total / self.mask.sum(-1) if per == "token" else total


class Supplier(Protocol):
    """Draws samples and scores them under two models."""

    sampler: Sampler | None
    estimator: str

    def draw(self, model: Any) -> Any:
        """Return samples of a model, as `terms` reads them."""

    def terms(self, samples: Any, p: Any, q: Any) -> StepTerms:
        r"""Return the terms of :math:`KL(p \| q)` at samples of `p`."""


@dataclass(frozen=True, eq=False)
class Alignment:
    r"""A model compared with another; lower is better.

    Args:
        precision: mean :math:`KL_x(p \| q)`, in nats: large where the model produces what the other finds unlikely.
        recall: mean :math:`KL_x(q \| p)`, in nats: large where the model misses what the other produces.
        items: `precision + recall` of each prompt, `[num_prompts]` in float64.
        interval: bootstrap interval of `value` over prompts; `None` with one prompt.
        error: standard error of `value` over samples of these prompts; `None` with one sample.
        truncated: share of samples that were cut off; `value` compares what comes before the cut.
        estimator: `"rao_blackwell"` or `"monte_carlo"`, or `"closed_form"` without samples.
        per: `"sequence"`, or `"token"` where each sample was divided by its length.
        sampler: how samples were drawn.
    """

    precision: float
    recall: float
    items: Tensor
    interval: tuple[float, float] | None
    error: float | None
    truncated: float
    estimator: str
    per: str
    sampler: Sampler | None

    @property
    def value(self) -> float:
        """The symmetric divergence, `precision + recall`."""
        return self.precision + self.recall

    def __repr__(self) -> str:
        interval = None if self.interval is None else tuple(float(f"{bound:.4g}") for bound in self.interval)
        return (
            f"Alignment(value={self.value:.4g}, interval={interval}, precision={self.precision:.4g}, "
            f"recall={self.recall:.4g}, per={self.per!r})"
        )


def categorical_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    r"""Return the exact divergence :math:`\sum_v p_v (\log p_v - \log q_v)` of each step, `[...]` in nats.

    It is infinite where `q` excludes what `p` does not.

    Args:
        log_p: log-probabilities (or logits) `[..., num_classes]`.
        log_q: the same of the other model.

    Raises:
        InvalidInputError: shapes differ.
    """
    if log_p.shape != log_q.shape:
        raise InvalidInputError(f"Expected both models' classes alike (got {tuple(log_p.shape)}, {tuple(log_q.shape)})")
    return kl_divergence(log_p, log_q, "reverse", bernoulli=False).clamp_min(0)  # rounding can go below 0


def categorical_alignment(log_p: Tensor, log_q: Tensor, confidence: float = 0.95, seed: int = 0) -> Alignment:
    """Return the alignment of two classifiers in closed form, without samples.

    Args:
        log_p: log-probabilities (or logits) of the model to judge, `[num_items, num_classes]`.
        log_q: the same of the retrained one.
        confidence: of the bootstrap interval over items.
        seed: of the bootstrap.

    Raises:
        InvalidInputError: shapes differ, or NaN.
    """
    forth, back = (categorical_kl(a, b).reshape(-1, 1, 1) for a, b in ((log_p, log_q), (log_q, log_p)))
    every = torch.ones_like(forth, dtype=torch.bool)
    return align(StepTerms(forth, every), StepTerms(back, every), "closed_form", confidence=confidence, seed=seed)


def align(
    precision: StepTerms,
    recall: StepTerms,
    estimator: str = "rao_blackwell",
    per: str = "sequence",
    sampler: Sampler | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Alignment:
    r"""Return the alignment of two models from the terms of both directions.

    Warns where the sampler is truncated or tempered: the mean is no divergence then, and log-ratios can make it
    negative.

    Args:
        precision: :math:`KL(p \| q)` at samples of `p`, the model to judge.
        recall: :math:`KL(q \| p)` at as many samples of `q`.
        estimator: kept in the result.
        per: `"sequence"`, or `"token"` to divide each sample by its length (a rate, no divergence).
        sampler: kept too.
        confidence: of the bootstrap interval over prompts.
        seed: of the bootstrap.

    Raises:
        InvalidInputError: numbers of prompts or samples differ.
    """
    if sampler is not None and not sampler.exact:
        warnings.warn(
            f"Samples were not drawn from the models themselves ({sampler}): their mean is no divergence",
            stacklevel=2,
        )
    halves = [terms.per_sample(per).cpu() for terms in (precision, recall)]
    if halves[0].shape != halves[1].shape:
        raise InvalidInputError(
            f"Expected as many prompts and samples both ways (got {[tuple(h.shape) for h in halves]})"
        )
    # Sum first, then take the variance: samples of both models share their draws and are not independent.
    both = halves[0] + halves[1]
    prompts, samples = both.shape
    error = float((both.var(1) / samples).sum().sqrt() / prompts) if samples > 1 else None
    return Alignment(
        precision=float(halves[0].mean()),
        recall=float(halves[1].mean()),
        items=both.mean(1),
        interval=bootstrap(both.mean(1), confidence, seed=seed),
        error=error,
        truncated=(precision.truncated + recall.truncated) / 2,
        estimator=estimator,
        per=per,
        sampler=sampler,
    )


def bootstrap(items: Tensor, confidence: float = 0.95, draws: int = 1000, seed: int = 0) -> tuple[float, float] | None:
    """Return the percentile interval of the mean over items drawn with replacement; `None` with fewer than two items.

    Args:
        items: `[num_items]`; values may be infinite.
        confidence: share of the means inside the interval, refused outside (0, 1).
        draws: number of means.
        seed: of the draws; the global random state does not change.
    """
    if not 0 < confidence < 1:
        raise InvalidInputError(f"Expected 'confidence' between 0 and 1 (got {confidence})")
    if items.numel() < 2:
        return None
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(items.numel(), (draws, items.numel()), generator=generator)
    means = items.cpu()[chosen].mean(1).sort().values
    outside = (1 - confidence) / 2
    low, high = math.floor(outside * (draws - 1)), math.ceil((1 - outside) * (draws - 1))
    return float(means[low]), float(means[high])
