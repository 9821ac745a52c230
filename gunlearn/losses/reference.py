"""Losses that compare a model with the one before unlearning, or with another teacher."""

from dataclasses import KW_ONLY, dataclass

from torch import Tensor

from gunlearn.losses import functional
from gunlearn.losses.base import POSITIVE, Loss, checked, one_of
from gunlearn.losses.divergences import DIRECTIONS
from gunlearn.losses.prediction import Prediction


@dataclass(frozen=True, repr=False)
class KLToReference(Loss):
    r"""Kullback-Leibler divergence from the reference's predictions, as in `"TOFU" <https://arxiv.org/abs/2401.06121>`_.

    See `functional.kl_divergence`. Logits shaped like `log_prob` are Bernoulli (an edge, each label of a multi-label
    node), means of a regression Gaussian, others categorical.

    Args:
        direction: `"forward"`, :math:`KL(p_{ref} \| p)`, or `"reverse"`, :math:`KL(p \| p_{ref})`.
    """

    name = "kl_to_reference"
    summary = "divergence of the predicted distribution from the reference's"
    paper = "TOFU: A Task of Fictitious Unlearning for LLMs"
    arxiv = "2401.06121"
    needs_reference = True
    reads = ("logits",)
    checks = checked(direction=one_of(*DIRECTIONS))

    direction: str = "forward"
    _: KW_ONLY
    on: str = "retain"

    def values(self, current: Prediction, reference: Prediction) -> Tensor:
        logits, before = current.require("logits"), reference.require("logits")
        if current.gaussian:
            return functional.gaussian_kl(logits, before)
        return functional.kl_divergence(logits, before, self.direction, current.bernoulli)


@dataclass(frozen=True, repr=False, kw_only=True)
class MSEToReference(Loss):
    """Squared distance from the reference, the retain loss of RMU in `"WMDP" <https://arxiv.org/abs/2403.03218>`_.

    It is a mean over features and end points of an edge, per item or (where each has an embedding) per token.

    Args:
        field: `"embeddings"` or `"logits"`.
    """

    name = "mse_to_reference"
    summary = "squared distance from the reference's embeddings or logits"
    paper = "The WMDP Benchmark: Measuring and Reducing Malicious Use With Unlearning"
    arxiv = "2403.03218"
    needs_reference = True
    level = ("item", "token", "embedding")
    checks = checked(field=one_of("embeddings", "logits"))

    on: str = "retain"
    field: str = "embeddings"

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.field,)

    def values(self, current: Prediction, reference: Prediction) -> Tensor:
        return functional.mse(current.require(self.field), reference.require(self.field), current.item_dims(self.field))


@dataclass(frozen=True, repr=False)
class Distillation(Loss):
    """Divergence from a teacher's softened predictions, `"Distilling the Knowledge" <https://arxiv.org/abs/1503.02531>`_.

    SCRUB's distance `d` (arXiv 2302.09880), which it lowers on the retained data and raises on the forgotten. The
    distance (`functional.distillation`) has no upper bound. It also grows where the student becomes *more* certain of
    the true class than the teacher, and the more so the higher the temperature. Logits are read as by `KLToReference`.

    Args:
        temperature: divides both models' logits; 1 is `KLToReference`.
    """

    name = "distillation"
    summary = "divergence from a teacher's predictions, both softened by a temperature"
    paper = "Distilling the Knowledge in a Neural Network"
    arxiv = "1503.02531"
    needs_reference = True
    reads = ("logits",)
    checks = checked(temperature=POSITIVE)

    temperature: float = 1.0

    def values(self, current: Prediction, reference: Prediction) -> Tensor:
        logits, before = current.require("logits"), reference.require("logits")
        if current.gaussian:  # T^2 KL of means divided by T is the same for every T
            return functional.gaussian_kl(logits, before)
        return functional.distillation(logits, before, self.temperature, current.bernoulli)


@dataclass(frozen=True, repr=False, kw_only=True)
class TopologicalEntropy(Loss):
    """Cross-entropy with the reference's embeddings, L_TE of `"INPO" <https://arxiv.org/abs/2510.19479>`_.

    Keeps the local structure around forgotten edges: the embeddings of their end points, read as distributions over
    features, stay the same (`functional.topological_entropy`). INPO weighs it with 0.5 to 0.8. Its minimum is not 0.
    """

    name = "topological_entropy"
    summary = "cross-entropy of the softmax of embeddings with the reference's"
    paper = "Graph Unlearning Meets Influence-aware Negative Preference Optimization"
    arxiv = "2510.19479"
    needs_reference = True
    level = ("embedding",)
    reads = ("embeddings",)

    def values(self, current: Prediction, reference: Prediction) -> Tensor:
        embeddings, before = current.require("embeddings"), reference.require("embeddings")
        return functional.topological_entropy(embeddings, before, current.item_dims("embeddings"))


@dataclass(frozen=True, repr=False, kw_only=True)
class JSDToReference(Loss):
    """The retain loss of `"JensUn" <https://arxiv.org/abs/2509.02820>`_: `functional.js_to_reference`."""

    name = "jsd_to_reference"
    summary = "bounded divergence of the predicted distribution from the reference's"
    paper = "Unlearning That Lasts: Utility-Preserving, Robust, and Almost Irreversible Forgetting in LLMs"
    arxiv = "2509.02820"
    needs_reference = True
    reads = ("logits",)

    on: str = "retain"

    def values(self, current: Prediction, reference: Prediction) -> Tensor:
        return functional.js_to_reference(current.class_logits(), reference.require("logits"))
