"""Losses that keep a model close to the one before unlearning."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from torch import Tensor

from gunlearn.core.checks import check_choice
from gunlearn.losses import functional
from gunlearn.losses.base import Loss
from gunlearn.losses.divergences import DIRECTIONS
from gunlearn.losses.prediction import Prediction


@dataclass(frozen=True, repr=False)
class KLToReference(Loss):
    r"""Kullback-Leibler divergence from the reference's predictions, as in `"TOFU" <https://arxiv.org/abs/2401.06121>`_.

    .. math:: KL(p_{ref} \| p) = \sum_c p_{ref}(c) \log\frac{p_{ref}(c)}{p(c)}

    Logits shaped like `log_prob` are Bernoulli (an edge, each label of a multi-label node), others categorical.

    Args:
        direction: `"forward"` as above, or `"reverse"`, :math:`KL(p \| p_{ref})`.

    Example:
        >>> KLToReference(direction="reverse")
        KLToReference(direction='reverse', on='retain')
    """

    name = "kl_to_reference"
    summary = "divergence of the predicted distribution from the reference's"
    paper = "TOFU: A Task of Fictitious Unlearning for LLMs"
    arxiv = "2401.06121"
    needs_reference = True
    reads = ("logits",)

    direction: str = "forward"
    _: KW_ONLY
    on: str = "retain"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("direction", self.direction, DIRECTIONS)

    def values(self, current: Prediction, reference: Prediction) -> Tensor:
        logits = current.require("logits")
        bernoulli = logits.shape == current.log_prob.shape
        return functional.kl_divergence(logits, reference.require("logits"), self.direction, bernoulli)


@dataclass(frozen=True, repr=False, kw_only=True)
class MSEToReference(Loss):
    """Squared distance from the reference, the retain loss of RMU in `"WMDP" <https://arxiv.org/abs/2403.03218>`_.

    The value of an item (of a token, where each has an embedding) is a mean over features and end points of an edge.

    Args:
        field: `"embeddings"` or `"logits"`.

    Example:
        >>> MSEToReference(field="logits")
        MSEToReference(on='retain', field='logits')
    """

    name = "mse_to_reference"
    summary = "squared distance from the reference's embeddings or logits"
    paper = "The WMDP Benchmark: Measuring and Reducing Malicious Use With Unlearning"
    arxiv = "2403.03218"
    needs_reference = True
    level = ("item", "token", "embedding")

    on: str = "retain"
    field: str = "embeddings"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("field", self.field, ("embeddings", "logits"))

    @property
    def reads(self) -> tuple[str, ...]:
        """The field that is compared."""
        return (self.field,)

    def values(self, current: Prediction, reference: Prediction) -> Tensor:
        return functional.mse(current.require(self.field), reference.require(self.field), current.item_dims(self.field))
