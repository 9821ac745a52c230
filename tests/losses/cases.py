"""One row per loss: a configured loss and, as its oracle, the value of one item in plain numpy and `math`.

`tests/losses/test_contract.py` runs every row through all contract tests and fails where a registered loss has none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from gunlearn.losses import (
    NLL,
    NPO,
    Distillation,
    GradientAscent,
    KLToReference,
    Loss,
    MSEToReference,
    Prediction,
    SigmoidNLL,
    TopologicalEntropy,
)

Item = dict[
    str, np.ndarray
]  # what one item holds: log_prob (number), logits (number or [classes]), embeddings [2, dim]


@dataclass(frozen=True)
class Case:
    """A loss and the value of one item `(current, reference) -> float`, written without torch."""

    loss: Loss
    oracle: Callable[[Item, Item], float]

    def __str__(self) -> str:
        return repr(self.loss)


def softmax(scores: np.ndarray) -> list[float]:
    total = sum(math.exp(s) for s in scores)
    return [math.exp(s) / total for s in scores]


def distribution(logits: np.ndarray) -> list[float]:
    if np.ndim(logits) == 0:
        return [1 / (1 + math.exp(-logits)), 1 / (1 + math.exp(logits))]
    return softmax(logits)


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def mean_square(x: np.ndarray, y: np.ndarray) -> float:
    x, y = np.ravel(x), np.ravel(y)
    return sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) / len(x)


def cross_entropy(z: np.ndarray, reference: np.ndarray) -> float:
    rows = [
        -sum(q * math.log(p) for q, p in zip(softmax(b), softmax(a), strict=True))
        for a, b in zip(z, reference, strict=True)
    ]
    return sum(rows) / len(rows)


def npo(beta: float, offset: float = 0.0) -> Callable[[Item, Item], float]:
    def value(c: Item, r: Item) -> float:
        ratio = math.exp(c["log_prob"]) / math.exp(r["log_prob"])
        return 2 / beta * math.log(1 + (ratio + offset) ** beta)

    return value


def softened(temperature: float) -> Callable[[Item, Item], float]:
    def value(c: Item, r: Item) -> float:
        teacher, student = (distribution(p["logits"] / temperature) for p in (r, c))
        return temperature**2 * kl(teacher, student)

    return value


CASES = [
    Case(NLL(), lambda c, r: -c["log_prob"]),
    Case(GradientAscent(), lambda c, r: c["log_prob"]),
    Case(SigmoidNLL(), lambda c, r: math.log(1 + math.exp(-math.exp(c["log_prob"])))),
    Case(NPO(), npo(0.1)),
    Case(NPO(beta=5), npo(5)),
    Case(NPO(beta=5, ratio_offset=1e-4, per="token"), npo(5, 1e-4)),
    Case(KLToReference(), lambda c, r: kl(distribution(r["logits"]), distribution(c["logits"]))),
    Case(KLToReference("reverse"), lambda c, r: kl(distribution(c["logits"]), distribution(r["logits"]))),
    Case(Distillation(), softened(1.0)),
    Case(Distillation(temperature=4.0), softened(4.0)),
    Case(MSEToReference(), lambda c, r: mean_square(c["embeddings"], r["embeddings"])),
    Case(MSEToReference(field="logits"), lambda c, r: mean_square(c["logits"], r["logits"])),
    Case(TopologicalEntropy(), lambda c, r: cross_entropy(c["embeddings"], r["embeddings"])),
]

FIELDS = ("log_prob", "logits", "embeddings")


def make_prediction(
    seed: int,
    num_items: int = 5,
    num_tokens: int | None = None,
    num_classes: int | None = 4,
    dtype: torch.dtype = torch.float64,
) -> Prediction:
    """Random items: two embeddings each (one per token where there are tokens); no classes means Bernoulli logits."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num_items,) if num_tokens is None else (num_items, num_tokens)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*shape, *size, generator=generator, dtype=torch.float64).to(dtype)

    return Prediction(
        log_prob=-normal().abs(),
        logits=normal() if num_classes is None else normal(num_classes),
        embeddings=normal(2, 3) if num_tokens is None else normal(3),
    )


def with_grad(prediction: Prediction) -> Prediction:
    """Leaves that collect gradients, for all fields that losses read."""
    leaves = {name: getattr(prediction, name).detach().clone().requires_grad_() for name in FIELDS}
    return prediction.replace(**leaves)


def expected(case: Case, current: Prediction, reference: Prediction) -> list[float]:
    """The oracle, item by item."""

    def item(prediction: Prediction, i: int) -> Item:
        return {name: getattr(prediction, name)[i].detach().numpy() for name in FIELDS}

    return [float(case.oracle(item(current, i), item(reference, i))) for i in range(current.num_items)]
