"""One row per loss: a configured loss and, as its oracle, the value of one item in plain numpy and `math`.

`tests/losses/test_contract.py` runs every row through all contract tests and fails where a registered loss has none.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from gunlearn.losses import (
    DPO,
    IHL,
    KTO,
    NLL,
    NPO,
    RMU,
    UNDIAL,
    WGA,
    BoundedAscent,
    CrossEntropyUnlearning,
    Distillation,
    FlatLogits,
    GradientAscent,
    JSDToReference,
    JSDToRefusal,
    KLToReference,
    Loss,
    MaskedVocabulary,
    MSEToReference,
    Prediction,
    PrimalDual,
    SatImp,
    SigmoidNLL,
    SimNPO,
    TopologicalEntropy,
)

# What one item holds: log_prob (number), logits (number or [classes]), embeddings [2, dim], label (number).
Item = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """A loss and the value of one item `(current, reference) -> float`, written without torch.

    Args:
        loss: the loss.
        oracle: its value of one item, or of one token.
        slope: where the loss holds a part of itself constant, its derivative by `log_prob` (a number) or by the logits
            `[classes]`; such a loss is no function that finite differences could check.
        categorical: whether it needs logits of classes and refuses Bernoulli ones.
    """

    loss: Loss
    oracle: Callable[[Item, Item], float]
    slope: Callable[[Item, Item], np.ndarray] | None = None
    categorical: bool = False

    def __str__(self) -> str:
        return repr(self.loss)

    def __call__(
        self, current: Prediction, reference: Prediction | None = None, count: float | None = None
    ) -> torch.Tensor:
        """The loss; further parts that it reads say half of what the first one does."""
        return self.loss(self.by_part(current), self.by_part(reference), count)

    def by_part(self, prediction: Prediction | None) -> Prediction | dict[str, Prediction] | None:
        """What the loss takes: a bare prediction, or one for each part that it reads."""
        if prediction is None or len(self.loss.on_parts) == 1:
            return prediction
        return dict(zip(self.loss.on_parts, (prediction, half(prediction)), strict=True))

    def values(self, current: Prediction, reference: Prediction) -> torch.Tensor:
        """The values of its items."""
        more = (half(current), half(reference)) if len(self.loss.on_parts) > 1 else ()
        return self.loss.values(current, reference, *more)


def half(prediction: Prediction) -> Prediction:
    return prediction.replace(log_prob=0.5 * prediction.log_prob)


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
        for a, b in zip(np.atleast_2d(z), np.atleast_2d(reference), strict=True)
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


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def one_hot(label: int, size: int) -> list[float]:
    return [float(v == label) for v in range(size)]


def ascent(a: float, b: float) -> Case:
    loss = WGA(beta=a) if b == 0 else SatImp(a, b)

    def weight(c: Item) -> float:
        p = math.exp(c["log_prob"])
        return p**a * (1 - p) ** b

    return Case(loss, lambda c, r: weight(c) * c["log_prob"], lambda c, r: weight(c))


def soft_cross_entropy(q: list[float], p: list[float]) -> float:
    return -sum(a * math.log(b) for a, b in zip(q, p, strict=True))


def undial(beta: float) -> Callable[[Item, Item], float]:
    def value(c: Item, r: Item) -> float:
        target = softmax([z - beta * (v == c["label"]) for v, z in enumerate(r["logits"])])
        return soft_cross_entropy(target, softmax(c["logits"]))

    return value


def without(item: Item, banned: list[int], zero: bool = False) -> list[float]:
    """Probabilities with some classes ruled out, or at logit 0."""
    scores = [0.0 if v in banned else z for v, z in enumerate(item["logits"])]
    weights = [0.0 if v in banned and not zero else math.exp(z) for v, z in enumerate(scores)]
    return [w / sum(weights) for w in weights]


def ceu_case(skip: int) -> Case:
    def target(c: Item) -> list[float]:
        return without(c, [int(c["label"])])

    return Case(
        CrossEntropyUnlearning(skip_first=skip),
        lambda c, r: soft_cross_entropy(target(c), softmax(c["logits"])),
        lambda c, r: np.subtract(softmax(c["logits"]), target(c)),
        categorical=True,
    )


def masked(banned: tuple[int, ...], mode: str, target: str) -> Case:
    def other(c: Item, r: Item) -> list[float]:
        return without(r if target == "reference" else c, list(banned), mode == "zero_logit")

    def value(c: Item, r: Item) -> float:
        return sum(p * math.log(p / q) for p, q in zip(other(c, r), softmax(c["logits"]), strict=True) if p > 0)

    def slope(c: Item, r: Item) -> np.ndarray:
        return np.subtract(softmax(c["logits"]), other(c, r))

    loss = MaskedVocabulary(banned, mode, target)
    return Case(loss, value, slope if target == "current" else None, categorical=True)


def hinge(c: Item, r: Item) -> float:
    p = softmax(c["logits"])
    return 1 + p[int(c["label"])] - max(q for v, q in enumerate(p) if v != c["label"])


def js(p: list[float], q: list[float]) -> float:
    middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    return sum(a / 2 * math.log(a / m) for x in (p, q) for a, m in zip(x, middle, strict=True) if a > 0)


def js_of_label(c: Item, r: Item) -> float:
    p = math.exp(c["log_prob"])
    return js([p, 1 - p], [1.0, 0.0])


def misdirected(coefficient: float, seed: int) -> Callable[[Item, Item], float]:
    def value(c: Item, r: Item) -> float:
        h = c["embeddings"]
        u = torch.rand(h.shape[-1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64).numpy()
        return mean_square(h, np.broadcast_to(coefficient * u / math.sqrt(sum(u**2)), h.shape))

    return value


def dpo(beta: float, factor: float) -> Callable[[Item, Item], float]:
    # The preferred answer's log-likelihoods are half of the forgotten one's, see `half`.
    return lambda c, r: -factor * math.log(sigmoid(beta * (0.5 - 1) * float(c["log_prob"] - r["log_prob"])))


CASES = [
    Case(NLL(), lambda c, r: -c["log_prob"]),
    Case(GradientAscent(), lambda c, r: c["log_prob"]),
    Case(BoundedAscent(bound=0.9), lambda c, r: -min(-c["log_prob"], 0.9)),
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
    Case(SimNPO(), lambda c, r: -2 / 4.5 * math.log(sigmoid(-4.5 * c["log_prob"]))),
    Case(SimNPO(2.5, delta=0.4), lambda c, r: -2 / 2.5 * math.log(sigmoid(2.5 * (-c["log_prob"] - 0.4)))),
    Case(DPO(), dpo(0.1, 1.0)),
    Case(DPO(beta=0.5, scale=2), dpo(0.5, 2 / 0.5)),
    Case(KTO(), lambda c, r: 1 - sigmoid(0.1 * float(r["log_prob"] - c["log_prob"]))),
    ascent(1.0, 0.0),
    ascent(5.0, 1.0),
    ascent(0.5, 0.3),
    Case(UNDIAL(), undial(10.0), categorical=True),
    Case(UNDIAL(beta=1.5), undial(1.5), categorical=True),
    ceu_case(0),
    ceu_case(1),
    Case(IHL(), hinge, categorical=True),
    Case(FlatLogits(), lambda c, r: (max(c["logits"]) - sum(c["logits"]) / len(c["logits"])) ** 2, categorical=True),
    Case(RMU(), misdirected(6.5, 0)),
    Case(RMU(coefficient=2.0, seed=3), misdirected(2.0, 3)),
    Case(JSDToRefusal(), js_of_label),
    Case(JSDToRefusal((2,), on="forget"), lambda c, r: js(softmax(c["logits"]), one_hot(2, 4)), categorical=True),
    Case(JSDToReference(), lambda c, r: js(softmax(c["logits"]), softmax(r["logits"])), categorical=True),
    masked((1, 3), "ninf", "current"),
    masked((3,), "ninf", "reference"),
    masked((1, 3), "zero_logit", "current"),
]

#: Settings that are refused, and the field that the error names; the last ones where values are computed.
REFUSED: list[tuple[Callable[[], object], str]] = [
    *((lambda beta=beta: NPO(beta=beta), "beta") for beta in (0, -1.0, math.nan, math.inf, "0.1", None, True)),
    (lambda: NPO(ratio_offset=-1e-4), "ratio_offset"),
    (lambda: NPO(ratio_offset=math.inf), "ratio_offset"),
    (lambda: NPO(per="sequence"), "per"),
    (lambda: KLToReference("backward"), "direction"),
    (lambda: MSEToReference(field="log_prob"), "field"),
    (lambda: SimNPO(beta=0), "beta"),
    (lambda: SimNPO(delta=math.inf), "delta"),
    (lambda: DPO(scale=0), "scale"),
    (lambda: DPO(preferred=""), "preferred"),
    (lambda: KTO(point=3), "point"),
    (lambda: WGA(beta=-1), "beta"),
    (lambda: BoundedAscent(bound=0), "bound"),
    (lambda: SatImp(beta2=-1), "beta2"),
    (lambda: UNDIAL(beta=0), "beta"),
    (lambda: CrossEntropyUnlearning(skip_first=1.5), "skip_first"),
    (lambda: CrossEntropyUnlearning(skip_first=1, on="forget:target"), "skip_first"),
    (lambda: RMU(coefficient=-1), "coefficient"),
    (lambda: RMU(seed=0.5), "seed"),
    (lambda: JSDToRefusal(()), "token_ids"),
    (lambda: MaskedVocabulary([1]), "token_ids"),
    (lambda: MaskedVocabulary((-1,)), "token_ids"),
    (lambda: MaskedVocabulary((1,), "zero"), "mask_mode"),
    (lambda: MaskedVocabulary((1,), target="retain"), "target"),
    (lambda: PrimalDual(epsilon=math.nan), "epsilon"),
    (lambda: PrimalDual(epsilon=1, step=0), "step"),
    (lambda: PrimalDual(epsilon=1, warmup=-1), "warmup"),
    (lambda: PrimalDual(epsilon=1, weight=-1), "weight"),
    (lambda: PrimalDual(epsilon=1).update(math.inf), "retain_value"),
    (lambda: JSDToRefusal((4,), on="forget")(make_prediction(0)), "token_ids"),
    (lambda: MaskedVocabulary((4,))(make_prediction(0)), "token_ids"),
    (lambda: MaskedVocabulary((0, 1, 2, 3))(make_prediction(0)), "token_ids"),
]

FIELDS = ("log_prob", "logits", "embeddings")  # what gradients flow into


def make_prediction(
    seed: int,
    num_items: int = 5,
    num_tokens: int | None = None,
    num_classes: int | None = 4,
    dtype: torch.dtype = torch.float64,
) -> Prediction:
    """Random items: two embeddings each (one per token where there are tokens); no classes means Bernoulli logits.

    `log_prob` is that of `label` under `logits`.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (num_items,) if num_tokens is None else (num_items, num_tokens)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*shape, *size, generator=generator, dtype=torch.float64)

    logits = normal() if num_classes is None else normal(num_classes)
    label = torch.randint(num_classes or 2, shape, generator=generator)
    if num_classes is None:
        log_prob = torch.nn.functional.logsigmoid(torch.where(label == 1, logits, -logits))
    else:
        log_prob = logits.log_softmax(-1).gather(-1, label.unsqueeze(-1)).squeeze(-1)
    return Prediction(
        log_prob=log_prob.to(dtype),
        logits=logits.to(dtype),
        embeddings=(normal(2, 3) if num_tokens is None else normal(3)).to(dtype),
        label=label,
    )


def with_grad(prediction: Prediction) -> Prediction:
    """Leaves that collect gradients, for all fields that losses read."""
    given = {name: getattr(prediction, name) for name in FIELDS if getattr(prediction, name) is not None}
    leaves = {name: value.detach().clone().requires_grad_() for name, value in given.items()}
    return prediction.replace(**leaves)


def item(prediction: Prediction, i: int) -> Item:
    """One item of a prediction in numpy."""
    return {name: getattr(prediction, name)[i].detach().numpy() for name in (*FIELDS, "label")}


def slopes(case: Case, current: Prediction, reference: Prediction) -> np.ndarray:
    """The derivatives of a case, item by item."""
    return np.array([case.slope(item(current, i), item(reference, i)) for i in range(current.num_items)])


def expected(case: Case, current: Prediction, reference: Prediction) -> list[float]:
    """The oracle, item by item."""
    return [float(case.oracle(item(current, i), item(reference, i))) for i in range(current.num_items)]
