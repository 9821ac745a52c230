"""Agreement of estimated with true scores: correlations, precision at the top, intervals."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from gunlearn.errors import InvalidInputError

_BLOCK = 2**16  # numbers per block of resamples: vectorised, and within the processor's cache


def agreement(
    truth: ArrayLike, estimate: ArrayLike, signed: bool = False, num_resamples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Return all figures of one estimate, given true and estimated scores `[num_items]`, as fields of a row.

    These are `spearman`, `spearman_ci` (95 %), `kendall`, `pearson` and `precision_at_1pct`; each is `None` where
    undefined (fewer than three items, constant scores). `signed`: see `precision_at`.
    """
    return {
        "spearman": spearman(truth, estimate),
        "spearman_ci": spearman_interval(truth, estimate, num_resamples, seed=seed),
        "kendall": kendall(truth, estimate),
        "pearson": pearson(truth, estimate),
        "precision_at_1pct": precision_at(truth, estimate, signed=signed),
    }


def spearman(truth: ArrayLike, estimate: ArrayLike) -> float | None:
    """Spearman's rank correlation, ties at their mean rank; `None` where one side is constant."""
    return _correlation(stats.spearmanr, truth, estimate)


def kendall(truth: ArrayLike, estimate: ArrayLike) -> float | None:
    """Kendall's tau-b; `None` where one side is constant."""
    return _correlation(stats.kendalltau, truth, estimate)


def pearson(truth: ArrayLike, estimate: ArrayLike) -> float | None:
    """Pearson's correlation; `None` where one side is constant."""
    return _correlation(stats.pearsonr, truth, estimate)


def precision_at(truth: ArrayLike, estimate: ArrayLike, share: float = 0.01, signed: bool = False) -> float | None:
    """Return the share of the most influential items that the estimate finds.

    Of the estimate's top `k` items (a `share` of all, at least one), those whose true score is at least the k-th
    largest count as found. Without ties this is the overlap of both top sets. Ties at the estimate's k-th place count
    with the chance that a random order gives them; constant scores give `None`. `signed` ranks by absolute score and
    counts only items with the right sign.
    """
    truth, estimate = _pair(truth, estimate)
    if _undefined(truth, estimate):
        return None
    size, guess = (np.abs(truth), np.abs(estimate)) if signed else (truth, estimate)
    k = max(1, round(share * truth.size))
    found = size >= np.partition(size, -k)[-k]
    if signed:
        found &= np.sign(truth) == np.sign(estimate)
    last = np.partition(guess, -k)[-k]
    first, tied = guess > last, guess == last
    places = k - first.sum()  # for tied items
    return float((found[first].sum() + places * found[tied].mean()) / k)


def recovery(truth: ArrayLike, estimate: ArrayLike, shares: ArrayLike, signed: bool = False) -> list[float | None]:
    """Return `precision_at` each of the shares."""
    return [precision_at(truth, estimate, share, signed) for share in np.asarray(shares, dtype=float)]


def spearman_interval(
    truth: ArrayLike, estimate: ArrayLike, num_resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> list[float] | None:
    """Return the percentile bootstrap interval of Spearman's correlation over items: lower, upper; `None` if undefined.

    A resample is a count of each item; running sums of counts in the whole sample's order give its ranks without
    another sort: `O(num_items)` per resample. Use one `seed` for all estimates to compare their intervals. No resample
    or a `level` outside (0, 1) raises `InvalidInputError`.
    """
    if num_resamples < 1 or not 0 < level < 1:
        raise InvalidInputError(f"Expected resamples and 0 < level < 1 (got {num_resamples}, {level})")
    truth, estimate = _pair(truth, estimate)
    if _undefined(truth, estimate):
        return None
    n, rng = truth.size, np.random.default_rng(seed)
    first = np.argsort(truth, kind="stable")  # in this order one side reads memory sequentially
    sides = [_Ranks(truth[first]), _Ranks(estimate[first])]
    found = []
    block = max(1, _BLOCK // n)
    for start in range(0, num_resamples, block):
        size = min(block, num_resamples - start)
        drawn = rng.integers(0, n, (size, n)) + n * np.arange(size)[:, None]
        count = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)
        x, y = (side.centred(count) for side in sides)
        weighted = count * x
        spread = np.sqrt((weighted * x).sum(axis=1) * (count * y * y).sum(axis=1))
        defined = spread > 0  # a resample of ties alone has no correlation
        found.append((weighted * y).sum(axis=1)[defined] / spread[defined])
    values = np.concatenate(found)
    tail = (1 - level) / 2
    return [float(end) for end in np.quantile(values, [tail, 1 - tail])] if values.size else None


class _Ranks:
    """Ranks of one side's items within resamples."""

    def __init__(self, values: NDArray[np.float64]) -> None:
        _, self.group = np.unique(values, return_inverse=True)  # equal values share a group
        self.order = np.argsort(self.group, kind="stable")
        self.start = np.flatnonzero(np.diff(self.group[self.order], prepend=-1))

    def centred(self, count: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return mean ranks minus their mean, `[num_resamples, num_items]`, for counts of the same shape."""
        held = np.take(count, self.order, axis=1)
        if self.start.size < self.order.size:  # ties
            held = np.add.reduceat(held, self.start, axis=1)
        return np.take(held.cumsum(axis=1) - held / 2, self.group, axis=1) - count.shape[1] / 2


def _correlation(function: Callable[..., Any], truth: ArrayLike, estimate: ArrayLike) -> float | None:
    truth, estimate = _pair(truth, estimate)
    if _undefined(truth, estimate):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.NearConstantInputWarning)
        value = float(function(truth, estimate).statistic)
    return value if np.isfinite(value) else None  # nearly constant: the spread underflows


def _undefined(truth: NDArray[np.float64], estimate: NDArray[np.float64]) -> bool:
    return truth.size < 3 or bool(np.ptp(truth) == 0 or np.ptp(estimate) == 0)


def _pair(truth: ArrayLike, estimate: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = np.asarray(truth, dtype=np.float64), np.asarray(estimate, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape:
        raise InvalidInputError(f"Expected scores of one shape [num_items] (got {first.shape}, {second.shape})")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise InvalidInputError("Expected finite scores (got NaN or infinity)")
    return first, second
