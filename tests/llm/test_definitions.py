"""Figures against their definitions in open-unlearning (arXiv 2506.12618), written anew in numpy, row by row.

The framework drops each row's last labelled token from memorisation, Min-K% and gradients: `end="last"` here. A tiny
Llama with fixed, large weights makes answers peaked; `float64` leaves no rounding to hide behind. Controls: the other
way to treat the last token, and where we differ on purpose, must give other values.
"""

import itertools
import zlib

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gunlearn.errors import InvalidInputError
from gunlearn.llm.metrics import (
    TokenScores,
    aggregate_truth_ratio,
    answer_log_probs,
    exact_memorization,
    extraction_strength,
    forget_quality,
    gradient_score,
    loss_score,
    membership_auc,
    min_k_plus_score,
    min_k_score,
    options_probability,
    privacy_leak,
    probability,
    reference_score,
    token_scores,
    truth_ratio,
    zlib_score,
)
from tests.llm.tiny import tiny

END, TINY = 2, 1e-10
PRECISIONS = [(torch.float64, 1e-9), (torch.float32, 1e-5)]


def model(seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A model whose predictions are far from uniform."""
    out = tiny("llama", seed).to(dtype)
    with torch.no_grad():
        for name, parameter in out.named_parameters():
            parameter.mul_(1.0 if "norm" in name else 12.0)
    return out


def row(draw: np.random.Generator, answer: int, end: int | None = END) -> dict[str, list[int]]:
    """A prompt of four tokens and an answer with its end."""
    ids = draw.integers(3, 60, 4 + answer).tolist()
    ids = ids if end is None else [*ids, end]
    return {"input_ids": ids, "labels": [-100] * 4 + ids[4:]}


@torch.no_grad()
def reciting(net: nn.Module, given: dict[str, list[int]], wrong: int) -> dict[str, list[int]]:
    """The row with the model's own first choices for an answer, all but the first `wrong` tokens."""
    ids = given["input_ids"][: 4 + wrong]
    while len(ids) < len(given["input_ids"]) - 1:
        ids.append(int(net(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return {"input_ids": [*ids, END], "labels": [-100] * 4 + ids[4:] + [END]}


def all_rows(seed: int = 0) -> list[dict[str, list[int]]]:
    """Random answers of one to twelve tokens, and three that the model recites from some place on."""
    draw = np.random.default_rng(seed)
    rows = [row(draw, answer) for answer in (1, 3, 7, 12, 5, 10)]
    return rows + [reciting(model(), row(draw, 8), wrong) for wrong in (0, 2, 5)]


ROWS, OTHERS = all_rows(0), all_rows(1)


def log_probs(net: nn.Module, given: dict[str, list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Log-likelihoods over the vocabulary at the labelled tokens `[n, 60]`, and these tokens, from the row alone."""
    with torch.no_grad():
        logits = net(input_ids=torch.tensor([given["input_ids"]])).logits[0].double().numpy()
    y = np.array(given["labels"][1:])
    z = logits[:-1][y != -100]
    z = z - z.max(1, keepdims=True)
    return z - np.log(np.exp(z).sum(1, keepdims=True)), y[y != -100]


def own(net: nn.Module, given: dict[str, list[int]]) -> np.ndarray:
    log_p, y = log_probs(net, given)
    return log_p[np.arange(len(y)), y]


def average_loss(net: nn.Module, given: dict[str, list[int]]) -> float:
    return -own(net, given).sum() / len(own(net, given))


def test_the_rows_hold_what_tells_definitions_apart() -> None:
    """Some answers are recited to their end, some from the middle, some not at all; batches are padded."""
    strength = extraction_strength(token_scores(model(), ROWS, end="last"), compat=True)
    assert len({len(r["labels"]) for r in ROWS}) > 4
    assert (strength == 1).sum() >= 1
    assert ((strength > 0.3) & (strength < 1)).sum() >= 1


@pytest.mark.parametrize(("dtype", "near"), PRECISIONS, ids=str)
def test_probability(dtype: torch.dtype, near: float) -> None:
    """The mean loss counts every labelled token, the last too."""
    net = model(dtype=dtype)
    expected = [np.exp(-average_loss(net, r)) for r in ROWS]
    assert probability(token_scores(net, ROWS)).tolist() == pytest.approx(expected, abs=near)
    assert [np.exp(own(net, r)[:-1].mean()) for r in ROWS] != pytest.approx(expected, abs=1e-3)  # control


@pytest.mark.parametrize(("dtype", "near"), PRECISIONS, ids=str)
def test_truth_ratio_and_options(dtype: torch.dtype, near: float) -> None:
    net, draw = model(dtype=dtype), np.random.default_rng(5)
    wrong = [[row(draw, n) for n in (3, 5, 4)] for _ in ROWS]
    right = [average_loss(net, r) for r in ROWS]
    losses = [[average_loss(net, r) for r in rows] for rows in wrong]
    expected = np.array([np.exp(-np.mean(w)) / (np.exp(-r) + TINY) for r, w in zip(right, losses, strict=True)])
    rights, wrongs = token_scores(net, ROWS).mean_log_prob, answer_log_probs(net, wrong)
    found = truth_ratio(rights, wrongs)
    assert found.tolist() == pytest.approx(expected.tolist(), rel=max(near, 1e-6))
    for how, values in {
        "closer_to_1_better": np.minimum(expected, 1 / (expected + TINY)),
        "true_better": np.maximum(0, 1 - expected),
    }.items():
        assert aggregate_truth_ratio(found, how) == pytest.approx(values.mean(), rel=max(near, 1e-6))
    shares = [np.exp(-r) / (np.exp(-r) + np.exp(-np.array(w)).sum() + TINY) for r, w in zip(right, losses, strict=True)]
    assert options_probability(rights, wrongs).tolist() == pytest.approx(shares, rel=max(near, 1e-6))


def test_ratios_of_answers_that_are_nearly_impossible() -> None:
    """The framework adds 1e-10 to the right answer's probability; ours times p / (p + 1e-10) is the framework's."""
    right, wrong = torch.tensor([-5.0, -25.0], dtype=torch.float64), [torch.tensor([-24.0], dtype=torch.float64)] * 2
    ours, p = truth_ratio(right, wrong), right.exp()
    theirs = np.exp(-24.0) / (np.exp(right.numpy()) + TINY)
    assert (ours * p / (p + TINY)).tolist() == pytest.approx(theirs.tolist(), rel=1e-9)
    assert float(ours[1]) > 5 * theirs[1]  # control: the two differ where an answer is that unlikely
    assert float(ours[0]) == pytest.approx(theirs[0], rel=1e-6)


def test_forget_quality_is_the_exact_test() -> None:
    """Of all ways to split twelve values in two halves, the share whose distributions lie as far apart."""
    draw = np.random.default_rng(0)
    for shift in (0.0, 0.7, 3.0):
        a, b = draw.lognormal(size=6), draw.lognormal(shift, size=6)
        pooled = np.concatenate([a, b])

        def apart(chosen: tuple[int, ...], pooled: np.ndarray = pooled) -> float:
            one, other = pooled[list(chosen)], np.delete(pooled, list(chosen))
            return max(abs((one <= x).mean() - (other <= x).mean()) for x in pooled)

        far = [apart(chosen) >= apart(tuple(range(6))) - 1e-12 for chosen in itertools.combinations(range(12), 6)]
        assert forget_quality(torch.tensor(a), torch.tensor(b)) == pytest.approx(np.mean(far), abs=1e-9)
        # The framework's older versions compare 1 / (ratio + 1e-10): the order is turned, the test is the same.
        assert forget_quality(torch.tensor(1 / (a + TINY)), torch.tensor(1 / (b + TINY))) == pytest.approx(
            np.mean(far), abs=1e-9
        )


@pytest.mark.parametrize(("dtype", "near"), PRECISIONS, ids=str)
def test_memorisation(dtype: torch.dtype, near: float) -> None:
    net = model(dtype=dtype)
    exact, strength, shown = [], [], []
    for given in ROWS:
        log_p, y = log_probs(net, given)
        hit = (log_p.argmax(1) == y)[:-1]
        exact.append(hit.mean())
        n = len(hit)
        k = next((k for k in range(n) if hit[k:].all()), n - 1)  # the framework's loop ends at its last round
        strength.append(1 - k / n)
        shown.append(next(n - k for k in range(n + 1) if hit[k:].all()) / n)
    scores = token_scores(net, ROWS, end="last")
    assert exact_memorization(scores).tolist() == pytest.approx(exact, abs=max(near, 1e-6))
    assert extraction_strength(scores, compat=True).tolist() == pytest.approx(strength, abs=1e-6)
    assert extraction_strength(scores).tolist() == pytest.approx(shown, abs=1e-6)  # ours: 0 where nothing matches
    assert 0 in shown
    assert min(strength) > 0
    kept = token_scores(net, ROWS, end="keep")
    assert exact_memorization(kept).tolist() != pytest.approx(exact, abs=0.01)


def lowest(values: np.ndarray, share: float) -> float:
    return float(np.mean(np.sort(values)[: max(1, int(len(values) * share))]))


@pytest.mark.parametrize("share", [0.2, 0.4])
@pytest.mark.parametrize(("dtype", "near"), PRECISIONS, ids=str)
def test_min_k(dtype: torch.dtype, near: float, share: float) -> None:
    """Scores are higher for members here, losses in the framework: the sign alone differs."""
    net = model(dtype=dtype)
    plain, standard = [], []
    for given in ROWS:
        log_p, value = log_probs(net, given)[0][:-1], own(net, given)[:-1]
        mean = (np.exp(log_p) * log_p).sum(1)
        variance = (np.exp(log_p) * log_p**2).sum(1) - mean**2
        plain.append(-lowest(value, share))
        standard.append(-lowest((value - mean) / np.sqrt(np.maximum(variance, 1e-6)), share))
    scores = token_scores(net, ROWS, end="last")
    assert (-min_k_score(scores, share)).tolist() == pytest.approx(plain, rel=max(near, 1e-6))
    # Of a distribution that is nearly one token float32 holds no more digits.
    assert (-min_k_plus_score(scores, share)).tolist() == pytest.approx(standard, rel=1e-6 if near < 1e-6 else 1e-3)
    kept = token_scores(net, ROWS, end="keep")
    assert (-min_k_score(kept, share)).tolist() != pytest.approx(plain, rel=0.01)


def test_tokens_that_count_are_rounded_down_as_python_does() -> None:
    """29 % of 100 tokens are 28: 100 * 0.29 is 28.999999999999996, which single precision rounds up to 29."""
    value = -torch.arange(100, dtype=torch.float64).flip(0)[None]
    zeros, mask = torch.zeros_like(value), torch.ones_like(value, dtype=torch.bool)
    scores = TokenScores(value, mask, mask, zeros, zeros)
    assert int(100 * 0.29) == 28
    assert float(min_k_score(scores, 0.29)) == pytest.approx(lowest(value[0].numpy(), 0.29))


def test_likelihood_attacks() -> None:
    net, other = model(), model(3)
    texts = [" ".join(f"w{y}" for y in r["labels"] if y > 2) for r in ROWS]
    scores = token_scores(net, ROWS)
    losses = [average_loss(net, r) for r in ROWS]
    assert (-loss_score(scores)).tolist() == pytest.approx(losses, abs=1e-9)
    packed = [loss / len(zlib.compress(t.encode())) for loss, t in zip(losses, texts, strict=True)]
    assert (-zlib_score(scores, texts)).tolist() == pytest.approx(packed, abs=1e-9)
    gap = [loss - average_loss(other, r) for loss, r in zip(losses, ROWS, strict=True)]
    assert (-reference_score(scores, token_scores(other, ROWS))).tolist() == pytest.approx(gap, abs=1e-9)


def test_gradient_norm() -> None:
    """The mean over parameters of the norm of the gradient of the mean loss of all labelled tokens but the last."""
    net, found = model(), []
    for given in ROWS:
        net.zero_grad()
        log_p = net(input_ids=torch.tensor([given["input_ids"]])).logits[0, :-1].log_softmax(-1)
        places = [t for t, y in enumerate(given["labels"][1:]) if y != -100][:-1]
        (-sum(log_p[t, given["input_ids"][t + 1]] for t in places) / len(places)).backward()
        norms = [np.sqrt((p.grad.numpy() ** 2).sum()) for p in net.parameters() if p.grad is not None]
        found.append(np.mean(norms))
    assert (-gradient_score(model(), ROWS, end="last")).tolist() == pytest.approx(found, rel=1e-6)
    assert (-gradient_score(model(), ROWS, end="keep")).tolist() != pytest.approx(found, rel=0.01)


def pairs(forget: list[float], holdout: list[float]) -> float:
    """The framework's AUC by counting: label 1 is held out, the score a loss."""
    return float(np.mean([(h > f) + 0.5 * (h == f) for f in forget for h in holdout]))


def test_auc_and_leak() -> None:
    def area(net: nn.Module) -> tuple[float, float]:
        sides = [[lowest(own(net, r)[:-1], 0.4) for r in rows] for rows in (ROWS, OTHERS)]
        expected = pairs(*([-score for score in side] for side in sides))
        scores = [min_k_score(token_scores(net, rows, end="last")) for rows in (ROWS, OTHERS)]
        return membership_auc(*scores), expected

    (auc, expected), (reference, reference_expected) = area(model()), area(model(3))
    assert auc == pytest.approx(expected, abs=1e-9)
    assert reference == pytest.approx(reference_expected, abs=1e-9)
    leak = ((1 - expected) - (1 - reference_expected)) / (1 - reference_expected + TINY) * 100
    assert privacy_leak(auc, reference) == pytest.approx(leak, abs=1e-6)
    assert abs(leak) > 1
    assert privacy_leak(auc) == pytest.approx((0.5 - expected) / (0.5 + TINY) * 100, abs=1e-6)


@pytest.mark.parametrize("wrong", [1.0, -0.1, float("nan")])
def test_leak_from_a_reference_that_cannot_be_is_refused(wrong: float) -> None:
    """At 1 the definition divides by 1e-10: the retrained model itself gives its rows away, and nothing can be said."""
    with pytest.raises(InvalidInputError, match="'reference_auc' in"):
        privacy_leak(0.5, wrong)
    with pytest.raises(InvalidInputError, match="'auc' in"):
        privacy_leak(float("nan"))


def test_the_last_token_whatever_it_is() -> None:
    """The framework drops the last labelled token of every row; by default we drop one only where it ends the row.

    A row of one labelled token, of which the framework leaves nothing, keeps its token in both ways.
    """
    draw = np.random.default_rng(2)
    open_row, short = row(draw, 6, end=None), row(draw, 0)
    expected: Tensor = token_scores(model(), [open_row], end="last").counted.sum(1)
    assert int(expected) == 5
    assert int(token_scores(model(), [open_row]).counted.sum(1)) == 6
    for end in ("skip", "keep", "last"):
        assert int(token_scores(model(), [short], end=end).counted.sum(1)) == 1
    both = token_scores(model(), ROWS, end="skip").counted, token_scores(model(), ROWS, end="last").counted
    assert torch.equal(*both)
