"""A loss that moves hidden representations elsewhere."""

from dataclasses import dataclass

from torch import Tensor

from gunlearn.core.checks import check_integer
from gunlearn.losses import functional
from gunlearn.losses.base import NOT_NEGATIVE, Loss, checked
from gunlearn.losses.prediction import Prediction


@dataclass(frozen=True, repr=False)
class RMU(Loss):
    r"""Representation misdirection, the forget loss of `"WMDP" <https://arxiv.org/abs/2403.03218>`_.

    .. math:: \tfrac1d \| h - c\, u \|^2

    Moves the hidden states of forgotten tokens to one random point: :math:`u` has uniform random entries and unit norm.
    The retain loss beside it is `MSEToReference`. The task chooses the layer that is read (`CausalLM(layer=8)` reads
    the output of `model.layers[7]`), the optimiser the parameters; the paper trains three layers, up to the one read.

    Args:
        coefficient: the norm :math:`c` of the point; 6.5 in the authors' settings for a 7B model (retain weight 1200),
            2 and 20 in open-unlearning's settings and class. Raise it with the norms of the hidden states.
        seed: of the direction.
    """

    name = "rmu"
    summary = "moves hidden states of the forgotten data to one random point"
    paper = "The WMDP Benchmark: Measuring and Reducing Malicious Use With Unlearning"
    arxiv = "2403.03218"
    level = ("token", "embedding")
    reads = ("embeddings",)
    checks = checked(coefficient=NOT_NEGATIVE, seed=check_integer)

    coefficient: float = 6.5
    seed: int = 0

    def values(self, current: Prediction, reference: Prediction | None = None) -> Tensor:
        h = functional.full_precision(current.require("embeddings"))
        point = self.coefficient * functional.control_vector(h.size(-1), self.seed).to(h)
        return functional.mse(h, point.expand_as(h), current.item_dims("embeddings"))
