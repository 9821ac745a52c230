"""Correlations, shares and maps of barriers between unlearned models against other ways to compute them."""

import json
import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr, ttest_1samp

from experiments.mode_connectivity import between_picture, statements
from experiments.mode_connectivity.barrier_correlations import bootstrap, by_graph, by_problem, joined, mean_of, student
from experiments.mode_connectivity.between_rows import barrier
from experiments.mode_connectivity.findings import control_table, equal_table, group_table, mean_table, tables
from tests.conftest import REPOSITORY

KEYS = ("relearn_steps", "loss_retain", "loss_forget")
WHERE = ("problem", "graph", "backbone", "seed")


def case(graph: str, barriers: list[float], far: list[float], seed: int = 0) -> list[dict[str, Any]]:
    where = dict(zip(WHERE, ("nodes", graph, "gcn", seed), strict=True))
    return [{**where, "model": str(k), "b": b, "f": f} for k, (b, f) in enumerate(zip(barriers, far, strict=True))]


def within(rows: list[dict[str, Any]]) -> float | None:
    return mean_of(by_graph(rows, "b", "f").values())


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
    assert bootstrap(by_graph(alike, "b", "f")) == pytest.approx((0.8, 0.8))
    mixed = []
    for seed in range(8):
        mixed += case("A", [1, 2, 3, 4], [1, 2, 3, 4], seed) + case("B", [1, 2, 3, 4], [4, 3, 2, 1], seed)
    found = by_graph(mixed, "b", "f")
    assert bootstrap(found) == pytest.approx((-1, 1))  # one graph twice in half of the draws
    cases = {("nodes", f"{name}{k}"): [value] for (_, name), own in found.items() for k, value in enumerate(own)}
    low, high = bootstrap(cases)  # control: sixteen cases drawn one by one
    assert max(abs(low), abs(high)) < 0.8


def test_a_problem_has_correlations_of_its_own() -> None:
    """Signs that differ between problems are not averaged away."""
    rows = case("A", [1, 2, 3, 4], [1, 2, 3, 4])
    rows += [{**row, "problem": "links"} for row in case("A", [1, 2, 3, 4], [4, 3, 2, 1])]
    assert within(rows) == pytest.approx(0)  # control: pooled
    assert {p: mean_of(of.values()) for p, of in by_problem(rows, "b", "f").items()} == {"nodes": 1, "links": -1}


def test_intervals_by_other_ways() -> None:
    """Student's of SciPy; Fisher's z of SciPy, whose deviation is that of Pearson's correlation."""
    values = [0.1, -0.3, 0.5, 0.2, 0.4]
    found = student({("nodes", str(k)): [value] for k, value in enumerate(values)})
    assert found == pytest.approx(tuple(ttest_1samp(values, 0).confidence_interval(0.95)))
    a, b = np.random.default_rng(0).normal(size=(2, 9))
    known = pearsonr(a, b)
    low, high = np.arctanh(statements.rank_interval(known.statistic, 9)) - np.arctanh(known.statistic)
    other = np.arctanh(tuple(known.confidence_interval(0.95))) - np.arctanh(known.statistic)
    assert (low, high) == pytest.approx(tuple(other * 1.06**0.5), rel=1e-3)
    assert statements.rank_interval(0.9, 3) == (-1, 1)


def test_a_barrier_is_what_an_evaluation_calls_one() -> None:
    assert barrier([1.0, 3.0, 5.0]) == 0
    assert barrier([1.0, 3.5, 2.0, 4.0]) == pytest.approx(1.5)


def graphs_of(line: dict[str, float], **more: Any) -> list[dict[str, Any]]:
    return [
        {"graph": name, "backbone": kind, "line": [value], "aligned": [value], "curve": [0.0], "curve_val": [], **more}
        for name, value in line.items()
        for kind in ("gcn", "sage")
    ]


def test_a_count_of_graphs_is_sure_from_six_of_six_on() -> None:
    """Clopper and Pearson: the lower end of n of n is .025 to the power 1 / n."""
    for size in (5, 6):
        found = statements.most(graphs_of({str(k): 0.2 for k in range(size)}), "line", lambda v: v > 0.1)
        assert (found["graphs"], found["cases"]) == (f"{size} of {size}", f"{2 * size} of {2 * size}")
        assert found["low"] == pytest.approx(0.025 ** (1 / size), abs=1e-6)
        assert (found["low"] > 0.5) is (size == 6)


def test_smoothness_is_told_by_a_loss_that_the_curve_did_not_lower() -> None:
    rows = graphs_of({"Cora": 0.3, "CS": 0.5})
    assert statements.smooth(rows)[-1].startswith("cannot be told")
    for row in rows:
        row["curve_val"] = [0.2 if row["graph"] == "CS" else 0.0]
    assert statements.smooth(rows)[-1] == "confirmed"
    rows[0]["curve_val"] = [0.3]
    assert statements.smooth(rows)[-1] == "not seen"


def pair(first: str, second: str, retain: float, forget: float, kind: str = "line", **more: Any) -> dict[str, Any]:
    where = dict(zip(WHERE, ("nodes", "A", "gcn", 0), strict=True))
    names = {"first": first, "second": second, "barrier_retain": retain, "barrier_forget": forget}
    return {**where, "kind": kind, **names, **more}


def test_a_model_is_joined_to_its_own_barriers() -> None:
    """Floors divide distances, an attack counts from one half, and the original is no unlearned model."""
    rows = [pair(name, "same start", 0.1 + k, 9) for k, name in enumerate(("original", "npo"))]
    rows += [pair(name, "retrain", 0.2 + k, 9) for k, name in enumerate(("original", "npo"))]
    rows += [pair(name, "retrain", 0.3 + k, 9, "aligned") for k, name in enumerate(("original", "npo"))]
    known = {"js_forget": 0.6, "js_floor_forget": 0.2, "relearn_steps": 7, "mia_acc": 0.4}
    models = [{**rows[0], "kind": "model", "first": None, "model": name, **known} for name in ("original", "npo")]
    (found,) = joined(rows + models + [{**models[1], "graph": "B"}])
    assert [found[name] for name in ("same start", "other start", "aligned")] == [1.1, 1.2, 1.3]
    assert found["model"] == "npo"
    assert (found["far"], found["relearn_steps"], found["attack"]) == (pytest.approx(3), 7, pytest.approx(0.1))


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_connected_are_lines_with_both_barriers_within_the_tolerance() -> None:
    rows = [pair("npo", "scrub", *both) for both in ((0.1, 0.1), (0.0, 0.2), (0.2, 0.0), (0.0, 0.0))]
    rows += [pair("original", "npo", 0.0, 0.2), pair("npo", "retrain", 0.2, 0.2), pair("same start", "retrain", 0, 0)]
    found = {line[1]: line[4:] for line in cells(group_table(rows))}
    assert found == {
        "two methods": ["3", "3", "2", "4"],
        "original, unlearned": ["1", "0", "0", "1"],
        "unlearned, retrain": ["0", "0", "0", "1"],
    }


def test_means_are_slower_than_both_ends_or_not() -> None:
    """Equal is not slower; rows without the control are no case of it."""
    keys = ("first", "second", "middle", "mean", "first_trained", "second_trained")
    steps = [(5, 6, 5, 7, 8, 6), (5, 6, 5, 6, 5, 5), (9, 6, 5, 7, 6, 6)]
    rows = [
        pair(
            "npo",
            "scrub",
            0,
            0,
            "mean",
            **{f"{key}_relearn_steps": value for key, value in zip(keys, own, strict=True)},
        )
        for own in steps
    ]
    for row in rows:
        row |= {f"{key}_loss_{part}": 1.0 for key in keys for part in ("retain", "forget")}
    (line,) = cells(mean_table([*rows, {**rows[0], "first_trained_relearn_steps": None}]))
    assert line[-1] == "2 of 4"
    (line,) = cells(control_table([*rows, {**rows[0], "first_trained_relearn_steps": None}]))
    assert line[-1] == "2 of 3"
    for row, taken in zip(rows, ((5, 10), (10, 20), (0, 30)), strict=True):
        row |= {f"{end}_equal_steps": steps for end, steps in zip(("first", "second"), taken, strict=True)}
        row |= {f"{end}_equal_{key}": row[f"{end}_trained_{key}"] for end in ("first", "second") for key in KEYS}
    (line,) = cells(equal_table([*rows, {**rows[0], "first_equal_relearn_steps": None}]))
    assert (line[5], line[-1]) == ("10 (0, 30)", "2 of 3")


@pytest.mark.parametrize("which", ["graph", "model"])
def test_all_variance_belongs_to_what_alone_differs(which: str) -> None:
    values = {(g, k): float(ord(g if which == "graph" else k)) for g in "ABC" for k in "xy"}
    values["D", "x"] = 1e9  # not measured with both models
    found = statements.shares(values)
    assert found[which] == pytest.approx(1)
    assert sum(found.values()) == pytest.approx(1)
    assert math.isnan(statements.shares({(g, k): 1.0 for g in "AB" for k in "xy"})["graph"])


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


def test_every_row_of_a_table_has_a_cell_for_each_heading() -> None:
    rows = json.loads((REPOSITORY / "experiments" / "mode_connectivity" / "between.json").read_text(encoding="utf-8"))
    for name, table in tables(rows).items():
        head, _, *body = (line.count(" |") for line in table.splitlines())
        assert set(body) == {head}, name
