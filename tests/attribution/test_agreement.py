import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gunlearn.attribution.study.agreement import (
    agreement,
    kendall,
    pearson,
    precision_at,
    recovery,
    spearman,
    spearman_interval,
)
from gunlearn.errors import InvalidInputError

TIED = st.lists(st.integers(-3, 3), min_size=3, max_size=30)


def tau_b(x, y):
    """By its definition: all pairs."""
    signs = [(np.sign(a - c), np.sign(b - d)) for (a, b), (c, d) in itertools.combinations(zip(x, y, strict=True), 2)]
    both = sum(p * q for p, q in signs)
    return both / np.sqrt(sum(p != 0 for p, _ in signs) * sum(q != 0 for _, q in signs))


def midranks(values):
    return np.array([(values < v).sum() + ((values == v).sum() + 1) / 2 for v in values])


@given(TIED, st.data())
def test_correlations_by_definition(x, data):
    x = np.array(x, dtype=float)
    y = np.array(data.draw(st.lists(st.integers(-3, 3), min_size=len(x), max_size=len(x))), dtype=float)
    figures = spearman(x, y), kendall(x, y), pearson(x, y)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert figures == (None, None, None)
        return
    assert figures[0] == pytest.approx(np.corrcoef(midranks(x), midranks(y))[0, 1], abs=1e-12)
    assert figures[1] == pytest.approx(tau_b(x, y), abs=1e-12)
    assert figures[2] == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-12)


def test_a_monotone_curve_is_rank_one_and_not_linear_and_its_negative_is_minus_one():
    x = np.arange(1.0, 51.0)
    y = np.exp(x / 4)
    assert (spearman(x, y), kendall(x, y)) == pytest.approx((1, 1))
    assert pearson(x, y) < 0.8
    assert (spearman(x, -y), kendall(x, -y)) == pytest.approx((-1, -1))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_interval_is_the_bootstrap_done_plainly(seed, ties):
    """The same draws, each resample written out and ranked anew."""
    rng = np.random.default_rng(seed)
    n, resamples = 17, 40
    x = np.sort(rng.normal(size=n))
    y = x + rng.normal(size=n)
    if ties:
        x, y = x.round(), y.round()
    drawn = np.random.default_rng(seed).integers(0, n, (resamples, n))
    plainly = [stats.spearmanr(x[i], y[i]).statistic for i in drawn if np.ptp(x[i]) > 0 and np.ptp(y[i]) > 0]
    wanted = np.quantile(plainly, [0.05, 0.95])
    assert spearman_interval(x, y, resamples, level=0.9, seed=seed) == pytest.approx(wanted, abs=1e-10)
    shuffled = rng.permutation(n)  # the order of the items is nothing to go by
    if not ties:
        assert spearman_interval(x[shuffled], y[shuffled], resamples, 0.9, seed) == pytest.approx(wanted, abs=1e-10)


def test_interval_of_blocks_is_that_of_one_block(monkeypatch):
    x, y = np.random.default_rng(0).normal(size=(2, 50))
    wanted = spearman_interval(x, y, 100)
    monkeypatch.setattr("gunlearn.attribution.study.agreement._BLOCK", 350)
    assert spearman_interval(x, y, 100) == wanted
    assert spearman_interval(x, y, 100, seed=1) != wanted


def test_precision_is_the_overlap_of_both_tops():
    rng = np.random.default_rng(0)
    truth, estimate = rng.normal(size=(2, 1000))
    estimate += 2 * truth
    for share, k in ((0.01, 10), (0.05, 50), (1e-6, 1), (1.0, 1000)):
        overlap = set(np.argsort(-truth)[:k]) & set(np.argsort(-estimate)[:k])
        assert precision_at(truth, estimate, share) == pytest.approx(len(overlap) / k)
    assert recovery(truth, estimate, [0.01, 1.0]) == [precision_at(truth, estimate), 1.0]
    assert precision_at(truth, -truth) == 0
    assert precision_at(truth, truth) == 1


def test_precision_of_ties_is_its_mean_over_random_orders():
    rng = np.random.default_rng(1)
    truth = rng.permutation(40).astype(float)
    estimate = (truth // 4 + rng.integers(0, 3, 40)).round()
    k = 6
    orders = [set(np.lexsort((rng.random(40), -estimate))[:k]) for _ in range(4000)]
    top = set(np.argsort(-truth)[:k])
    mean = np.mean([len(order & top) / k for order in orders])
    assert precision_at(truth, estimate, share=k / 40) == pytest.approx(mean, abs=0.02)
    tied = np.repeat([0.0, 1.0, 2.0], 5)
    assert precision_at(tied, tied, share=0.2) == 1


def test_signed_precision_wants_the_size_and_the_sign():
    truth = np.array([-9.0, 8.0, -1.0, 0.5, 0.2])
    assert precision_at(truth, truth, 0.4, signed=True) == 1
    assert precision_at(truth, -truth, 0.4, signed=True) == 0
    assert precision_at(truth, -truth, 0.4) == 0
    assert precision_at(truth, np.abs(truth), 0.4, signed=True) == 0.5
    assert precision_at(truth, np.abs(truth), 0.2) == 0  # unsigned, the largest is item 1


@pytest.mark.parametrize(
    ("truth", "estimate"),
    [([1.0, 1, 1, 1], [1.0, 2, 3, 4]), ([1.0, 2, 3, 4], [0.0] * 4), ([1.0, 2], [1.0, 2]), ([1.0], [1.0])],
)
def test_what_is_not_defined_is_none_and_json_knows_it(truth, estimate):
    figures = agreement(truth, estimate, num_resamples=10)
    assert set(figures) == {"spearman", "spearman_ci", "kendall", "pearson", "precision_at_1pct"}
    assert all(value is None for value in figures.values())
    json.dumps(figures, allow_nan=False)


def test_barely_varying_scores_give_no_nan():
    truth = 1 + np.arange(5) * np.finfo(float).eps
    json.dumps(agreement(truth, np.arange(5.0) * 1e-320, num_resamples=10), allow_nan=False)


def test_wrong_input():
    with pytest.raises(InvalidInputError, match="one shape"):
        spearman([1.0, 2, 3], [1.0, 2])
    with pytest.raises(InvalidInputError, match="finite"):
        pearson([1.0, 2, float("nan")], [1.0, 2, 3])
    with pytest.raises(InvalidInputError, match="resamples"):
        spearman_interval([1.0, 2, 3], [1.0, 2, 3], 0)
