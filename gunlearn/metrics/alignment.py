r"""Functional alignment: the divergence between the outputs (texts, images, classes) of two models, both ways.

.. math:: A(p, q) = \frac{1}{|X|} \sum_x KL_x(p \| q) + KL_x(q \| p)

for prompts `x`, the model `p` to judge and a model `q` retrained without the forgotten data. Lower is better; 0: the
models agree on `X`. Reconstructed from descriptions of FADE (`arXiv:2510.12981 <https://arxiv.org/abs/2510.12981>`_),
whose normalisation and decoding are unknown. A `Supplier` draws and scores samples: for texts
`gunlearn.llm.metrics.TextAlignment`. Classifiers and models of edges need no samples:
`gunlearn.metrics.prediction_alignment`.
"""

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from gunlearn.core.checks import check_choice
from gunlearn.errors import InvalidInputError
from gunlearn.losses.divergences import kl_divergence

KL_ESTIMATORS = ("rao_blackwell", "monte_carlo")
PER = ("sequence", "token")
MOST_DRAWN = 2**22  # items that a bootstrap draws at a time


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
        interval: bootstrap interval of `value` over prompts; `None` with one prompt, or where none was asked for.
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


def bernoulli_kl(logit_p: Tensor, logit_q: Tensor) -> Tensor:
    r"""Return the exact divergence of yes and no, `[num_items]` in nats, from the logits of "yes" `[num_items]`.

    Raises:
        InvalidInputError: shapes differ.
    """
    return kl_divergence(logit_p, logit_q, "reverse", bernoulli=True).clamp_min(0)


def categorical_alignment(log_p: Tensor, log_q: Tensor, confidence: float | None = 0.95, seed: int = 0) -> Alignment:
    """Return the alignment of two classifiers in closed form, without samples: each samples the label of every item.

    Args:
        log_p: log-probabilities (or logits) of the model to judge, `[num_items, num_classes]`.
        log_q: the same of the retrained one.
        confidence: of the bootstrap interval over items; `None` for no interval.
        seed: of the bootstrap.

    Raises:
        InvalidInputError: shapes differ, or NaN.
    """
    return _closed_form(categorical_kl(log_p, log_q), categorical_kl(log_q, log_p), confidence, seed)


def bernoulli_alignment(logit_p: Tensor, logit_q: Tensor, confidence: float | None = 0.95, seed: int = 0) -> Alignment:
    """Return the alignment of two models of pairs in closed form: each samples whether a pair is an edge.

    Arguments and errors are those of `categorical_alignment`, with the logit of each pair, `[num_items]`.
    """
    return _closed_form(bernoulli_kl(logit_p, logit_q), bernoulli_kl(logit_q, logit_p), confidence, seed)


def _closed_form(forth: Tensor, back: Tensor, confidence: float | None, seed: int) -> Alignment:
    halves = [half.reshape(-1, 1, 1) for half in (forth, back)]
    precision, recall = (StepTerms(half, torch.ones_like(half, dtype=torch.bool)) for half in halves)
    return align(precision, recall, "closed_form", confidence=confidence, seed=seed)


def align(
    precision: StepTerms,
    recall: StepTerms,
    estimator: str = "rao_blackwell",
    per: str = "sequence",
    sampler: Sampler | None = None,
    confidence: float | None = 0.95,
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
        confidence: of the bootstrap interval over prompts; `None` for no interval.
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
        interval=None if confidence is None else bootstrap(both.mean(1), confidence, seed=seed),
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
    _check_confidence(confidence)
    if items.numel() < 2:
        return None
    means = torch.cat([*_means(items.cpu()[None], draws, seed)], dim=1)[0]
    return _percentiles(means, confidence)


def gain_interval(
    items: Tensor, original: Tensor, confidence: float = 0.95, draws: int = 1000, seed: int = 0
) -> tuple[float, float] | None:
    """Return the percentile interval of `1 - mean(items) / mean(original)`: both means are of the same drawn items.

    Args:
        items: alignment of each item under the model to judge, `[num_items]`.
        original: the same under the untouched model.
        confidence: see `bootstrap`.
        draws: number of gains.
        seed: of the draws; the global random state does not change.

    Returns:
        `None` with fewer than two items, or where a drawn ratio is undefined (0 / 0, or both means infinite).
    """
    _check_confidence(confidence)
    if items.shape != original.shape:
        raise InvalidInputError(f"Expected the same items (got {tuple(items.shape)} and {tuple(original.shape)})")
    if items.numel() < 2:
        return None
    both = torch.stack([items.cpu(), original.cpu()])
    gains = torch.cat([1 - means[0] / means[1] for means in _means(both, draws, seed)])
    return None if bool(gains.isnan().any()) else _percentiles(gains, confidence)


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise InvalidInputError(f"Expected 'confidence' between 0 and 1 (got {confidence})")


def _means(values: Tensor, draws: int, seed: int) -> Iterator[Tensor]:
    """Yield means `[rows, k]` over columns of `values` `[rows, num_items]` drawn with replacement, `draws` in all."""
    generator, number = torch.Generator().manual_seed(seed), values.size(1)
    step = max(1, MOST_DRAWN // number)
    for start in range(0, draws, step):
        chosen = torch.randint(number, (min(step, draws - start), number), generator=generator)
        yield values[:, chosen].mean(-1)


def _percentiles(values: Tensor, confidence: float) -> tuple[float, float]:
    values, outside = values.sort().values, (1 - confidence) / 2
    last = values.numel() - 1
    return float(values[math.floor(outside * last)]), float(values[math.ceil((1 - outside) * last)])
