"""Losses that move the predictions towards a distribution without the forgotten token, or towards a flat one."""

from dataclasses import dataclass

from torch import Tensor

from gunlearn.core.checks import check_integer
from gunlearn.errors import InvalidInputError
from gunlearn.losses import functional
from gunlearn.losses.base import POSITIVE, Loss, checked
from gunlearn.losses.prediction import Prediction


@dataclass(frozen=True, repr=False)
class UNDIAL(Loss):
    """Self-distillation with adjusted logits, `"UNDIAL" <https://arxiv.org/abs/2402.10052>`_: `functional.undial`.

    Args:
        beta: how much to lower the token's logit in the reference's prediction; 10 in open-unlearning's settings (no
            retain term, learning rate 1e-4).
    """

    name = "undial"
    summary = "teaches the reference's predictions with the forgotten token's logit lowered"
    paper = "UNDIAL: Self-Distillation with Adjusted Logits for Robust Unlearning in Large Language Models"
    arxiv = "2402.10052"
    needs_reference = True
    reads = ("logits", "label")
    checks = checked(beta=POSITIVE)

    beta: float = 10.0

    def values(self, current: Prediction, reference: Prediction) -> Tensor:
        logits, before = current.require("logits"), reference.require("logits")
        return functional.undial(logits, before, current.require("label"), self.beta)


@dataclass(frozen=True, repr=False, kw_only=True)
class CrossEntropyUnlearning(Loss):
    r"""Cross-entropy unlearning, `"CE-U" <https://arxiv.org/abs/2503.01224>`_: `functional.cross_entropy_unlearning`.

    The gradient with respect to the logits is that of :math:`-\log(1 - p_y)`.

    Args:
        skip_first: number of first labelled tokens of each sequence to leave out. 0 is the paper's formula; 1 is
            open-unlearning's setting, after a footnote of the paper: the first word of an answer is no fact. Must be 0
            on a view of a part (`on="forget:target"`), whose first token does not begin an answer.

    Raises:
        InvalidInputError: `skip_first` is no integer >= 0, or not 0 on a view.
    """

    name = "ce_unlearning"
    summary = "teaches the model's own predictions with the forgotten token ruled out"
    paper = "CE-U: Cross Entropy Unlearning"
    arxiv = "2503.01224"
    reads = ("logits", "label")

    skip_first: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("skip_first", self.skip_first, minimum=0)
        if self.skip_first and ":" in self.on:
            raise InvalidInputError(
                f"Expected 'skip_first' to be 0 on a view, whose first token begins no answer "
                f"(got {self.skip_first} on '{self.on}')"
            )

    def keep(self, mask: Tensor) -> Tensor:
        """Leave out the first tokens of each sequence; items that are no sequences stay."""
        return mask if mask.dim() < 2 else mask & (mask.long().cumsum(1) > self.skip_first)

    def values(self, current: Prediction, reference: Prediction | None = None) -> Tensor:
        return functional.cross_entropy_unlearning(current.require("logits"), current.require("label"))


@dataclass(frozen=True, repr=False, kw_only=True)
class IHL(Loss):
    """Inverted hinge loss, `"LoKU" <https://arxiv.org/abs/2408.06621>`_: `functional.inverted_hinge`."""

    name = "ihl"
    summary = "hinge loss that lowers the forgotten token and raises the likeliest other one"
    paper = "Towards Robust and Parameter-Efficient Knowledge Unlearning for LLMs"
    arxiv = "2408.06621"
    reads = ("logits", "label")

    def values(self, current: Prediction, reference: Prediction | None = None) -> Tensor:
        return functional.inverted_hinge(current.require("logits"), current.require("label"))


@dataclass(frozen=True, repr=False, kw_only=True)
class FlatLogits(Loss):
    """Flat logits, the forget loss of `"PDU" <https://arxiv.org/abs/2506.05314>`_: `functional.flat_logits`.

    PDU adds a retain loss whose weight `PrimalDual` adapts so that the retain loss stays below a bound.
    """

    name = "flat_logits"
    summary = "squared distance of the largest logit from their mean"
    paper = "Constrained Entropic Unlearning: A Primal-Dual Framework for Large Language Models"
    arxiv = "2506.05314"
    reads = ("logits",)

    def values(self, current: Prediction, reference: Prediction | None = None) -> Tensor:
        return functional.flat_logits(current.class_logits())
