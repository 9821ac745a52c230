"""Correlations, shares and maps of barriers between unlearned models against other ways to compute them."""

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from experiments.mode_connectivity import barrier_correlations, between_picture, over_graphs

WHERE = ("problem", "graph", "backbone", "seed")


def case(graph: str, barriers: list[float], far: list[float]) -> list[dict[str, Any]]:
    where = dict(zip(WHERE, ("nodes", graph, "gcn", 0), strict=True))
    return [{**where, "model": str(k), "b": b, "f": f} for k, (b, f) in enumerate(zip(barriers, far, strict=True))]


def within(rows: list[dict[str, Any]]) -> float | None:
    return barrier_correlations.mean_of(barrier_correlations.by_graph(rows, "b", "f").values())


def test_ranks_are_compared_within_a_case_and_not_across() -> None:
    first, second = case("A", [1, 2, 3, 4], [1, 2, 4, 3]), case("B", [11, 12, 13, 14], [-4, -3, -1, -2])
    rows = first + second
    own = [spearmanr([r["b"] for r in part], [r["f"] for r in part]).statistic for part in (first, second)]
    assert within(rows) == pytest.approx(np.mean(own))
    pooled = spearmanr([r["b"] for r in rows], [r["f"] for r in rows]).statistic
    assert pooled < 0 < np.mean(own)  # control: what differs between graphs would turn the sign


def test_too_few_or_equal_values_say_nothing() -> None:
    assert within(case("A", [1, 2, 3], [1, 2, 3])) is None
    assert within(case("A", [1, 1, 1, 1], [1, 2, 3, 4])) is None


def test_the_interval_is_drawn_over_graphs() -> None:
    alike = [row for name in "ABCD" for row in case(name, [1, 2, 3, 4], [1, 2, 4, 3])]
    mixed = [row for name in "AB" for row in case(name, [1, 2, 3, 4], [1, 2, 3, 4])]
    mixed += [row for name in "CD" for row in case(name, [1, 2, 3, 4], [4, 3, 2, 1])]
    assert barrier_correlations.bootstrap(barrier_correlations.by_graph(alike, "b", "f")) == pytest.approx((0.8, 0.8))
    # Of -1 and 1 with four draws; rows drawn alone would be tighter.
    low, high = barrier_correlations.bootstrap(barrier_correlations.by_graph(mixed, "b", "f"))
    assert low == pytest.approx(-1)
    assert high == pytest.approx(1)


@pytest.mark.parametrize("which", ["graph", "model"])
def test_all_variance_belongs_to_what_alone_differs(which: str) -> None:
    values = {(g, k): float(ord(g if which == "graph" else k)) for g in "ABC" for k in "xy"}
    values["D", "x"] = 1e9  # not measured with both models
    found = over_graphs.shares(values)
    assert found[which] == pytest.approx(1)
    assert sum(found.values()) == pytest.approx(1)
    assert math.isnan(over_graphs.shares({(g, k): 1.0 for g in "AB" for k in "xy"})["graph"])


def test_the_map_holds_medians_both_ways() -> None:
    rows = [
        {"kind": "line", "problem": "nodes", "first": "a", "second": second, "barrier_retain": value}
        for second, values in {"b": (0.1, 0.2, 0.9), "c": (0.4, 0.4, 0.5)}.items()
        for value in values
    ]
    names, found = between_picture.heat(rows, "nodes")
    assert names == ["a", "b", "c"]
    assert found[0, 1] == found[1, 0] == 0.2
    assert found[0, 2] == 0.4
    assert np.isnan(found[1, 2])
