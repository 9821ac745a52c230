"""Losses that prefer something else to the forgotten answer: anything, another answer, or a reference point."""

from dataclasses import KW_ONLY, dataclass

from torch import Tensor

from gunlearn.core.checks import check_name, check_number, check_same_shape
from gunlearn.losses import functional
from gunlearn.losses.base import NOT_NEGATIVE, POSITIVE, Loss, checked, one_of
from gunlearn.losses.prediction import Prediction
from gunlearn.losses.reduction import fit_mask, reduce_values


@dataclass(frozen=True, repr=False)
class NPO(Loss):
    r"""Negative preference optimisation, `"Negative Preference Optimization" <https://arxiv.org/abs/2404.05868>`_.

    Gradient ascent (`functional.npo`) that fades out once an item is less likely than under the reference: it
    multiplies the gradient of ascent by :math:`2 p^\beta / (p^\beta + p_{ref}^\beta)`, item by item.

    Args:
        beta: inverse temperature; 0.1 in the paper (language models), 5 in INPO's code (edges). Towards 0 the gradient
            is that of `GradientAscent`.
        ratio_offset: constant added to the ratio; INPO's code has 1e-4.
        per: the unit of a preference where `log_prob` is `[num_items, num_tokens]`: `"item"` adds up the tokens of a
            sequence first, as the paper does; `"token"` takes each token by itself.

    Example:
        >>> import torch
        >>> same = Prediction(log_prob=torch.tensor([0.9, 0.2]).log())
        >>> NPO(beta=5)(same, same)  # 2 ln 2 / 5
        tensor(0.2773)
    """

    name = "npo"
    summary = "lowers the likelihood of the forgotten data relative to the reference, ever more slowly"
    paper = "Negative Preference Optimization: From Catastrophic Collapse to Effective Unlearning"
    arxiv = "2404.05868"
    needs_reference = True
    checks = checked(beta=POSITIVE, ratio_offset=NOT_NEGATIVE, per=one_of("item", "token"))

    beta: float = 0.1
    ratio_offset: float = 0.0
    _: KW_ONLY
    per: str = "item"

    @property
    def whole_items(self) -> bool:
        return self.per == "item"

    def values(self, current: Prediction, reference: Prediction) -> Tensor:
        now, before = current.log_prob, reference.log_prob
        if self.per == "item":
            now, before = (functional.sum_tokens(x, current.mask) for x in (now, before))
        return functional.npo(now, before, self.beta, self.ratio_offset)


@dataclass(frozen=True, repr=False)
class SimNPO(Loss):
    """Length-normalised NPO without a reference, `"Simplicity Prevails" <https://arxiv.org/abs/2410.07163>`_.

    The gradient of an item fades out once its loss per token is well above `delta`: `functional.sim_npo`.

    Args:
        beta: inverse temperature; 4.5 in the authors' and open-unlearning's settings for TOFU (weight of the term 0.125
            beside 1 for the retained data), 1 by default in open-unlearning's class.
        delta: threshold of the loss per token, 0 in the paper and the code.
    """

    name = "sim_npo"
    summary = "lowers the likelihood per token of the forgotten data, ever more slowly, without a reference"
    paper = "Simplicity Prevails: Rethinking Negative Preference Optimization for LLM Unlearning"
    arxiv = "2410.07163"
    whole_items = True
    checks = checked(beta=POSITIVE, delta=check_number)

    beta: float = 4.5
    delta: float = 0.0

    def values(self, current: Prediction, reference: Prediction | None = None) -> Tensor:
        return functional.sim_npo(functional.mean_tokens(current.log_prob, current.mask), self.beta, self.delta)


@dataclass(frozen=True, repr=False)
class DPO(Loss):
    """Direct preference optimisation of another answer, `"DPO" <https://arxiv.org/abs/2305.18290>`_: `functional.dpo`.

    The part `on` holds the rejected answers, `preferred` the preferred ones; item `i` of both answers the same
    question. With refusals it is IdkDPO (TOFU, arXiv 2401.06121), with other plausible answers AltPO. Log-likelihoods
    are of whole sequences. An item without a preferred answer reduces to NPO; one without a forgotten answer does not
    count.

    Args:
        beta: inverse temperature; 0.1 in the paper and in open-unlearning.
        scale: multiplies the value by `scale / beta`; `None` (factor 1) is the paper's and TRL's, 2 is
            open-unlearning's, comparable with `NPO`.
        preferred: name of the part with the preferred answers.

    Example:
        >>> DPO(scale=2).on_parts
        ('forget', 'alternative')
    """

    name = "dpo"
    summary = "prefers another answer to the forgotten one, relative to the reference"
    paper = "Direct Preference Optimization: Your Language Model is Secretly a Reward Model"
    arxiv = "2305.18290"
    needs_reference = True
    whole_items = True
    checks = checked(beta=POSITIVE, scale=POSITIVE, preferred=check_name)

    beta: float = 0.1
    scale: float | None = None
    preferred: str = "alternative"

    @property
    def on_parts(self) -> tuple[str, ...]:
        return (self.on, self.preferred)

    @property
    def aligned_parts(self) -> tuple[str, ...]:
        return self.on_parts

    def values(
        self, current: Prediction, reference: Prediction, preferred: Prediction, preferred_reference: Prediction
    ) -> Tensor:
        won, lost = log_ratio(preferred, preferred_reference), log_ratio(current, reference)
        check_same_shape(f"items of {self.label}", won, lost)
        return functional.dpo(won, lost, self.beta, self.scale)


@dataclass(frozen=True, repr=False)
class KTO(Loss):
    r"""The undesirable half of Kahneman-Tversky optimisation, after `"KTO" <https://arxiv.org/abs/2402.01306>`_.

    .. math:: 1 - \sigma\Big(\beta\, \Big(z_0 - \log\frac{p(y)}{p_{ref}(y)}\Big)\Big), \qquad
        z_0 = \max\Big(0, \frac1m \sum_j \log\frac{p(y'_j)}{p_{ref}(y'_j)}\Big)

    The forgotten data are undesirable, nothing is desirable, and :math:`\lambda_U` is the weight of the term. Unlike
    NPO it saturates on both sides: an item far more likely than under the reference has hardly any gradient.

    Args:
        beta: inverse temperature, 0.1 in the paper.
        point: name of the part that :math:`z_0` is computed on, without gradient; in the paper questions paired with
            answers to others. `None` is :math:`z_0 = 0`. It is a mean over the items of one call: a batch given in
            shares has another value than the whole batch.

    Example:
        >>> KTO(point="mismatched").on_parts
        ('forget', 'mismatched')
    """

    name = "kto"
    summary = "makes the forgotten answer undesirable relative to the reference, with saturation"
    paper = "KTO: Model Alignment as Prospect Theoretic Optimization"
    arxiv = "2402.01306"
    needs_reference = True
    whole_items = True
    checks = checked(beta=POSITIVE, point=check_name)

    beta: float = 0.1
    point: str | None = None

    @property
    def on_parts(self) -> tuple[str, ...]:
        return (self.on,) if self.point is None else (self.on, self.point)

    def values(self, current: Prediction, reference: Prediction, *others: Prediction) -> Tensor:
        point: Tensor | float = 0.0
        if others:
            ratio = log_ratio(*others).detach()
            point = reduce_values(ratio, fit_mask(others[0].mask, ratio)).clamp_min(0)
        return functional.kto(log_ratio(current, reference), self.beta, point)


def log_ratio(current: Prediction, reference: Prediction) -> Tensor:
    """Return the log-likelihood of each whole item minus that under the reference, in nats, `[num_items]`."""
    now, before = (functional.sum_tokens(x.log_prob, current.mask) for x in (current, reference))
    return now - before
