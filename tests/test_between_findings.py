"""Correlations, shares and maps of barriers between unlearned models against other ways to compute them."""

import json
import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from experiments.mode_connectivity import between_picture, over_graphs
from experiments.mode_connectivity.barrier_correlations import bootstrap, by_graph, joined, mean_of
from experiments.mode_connectivity.findings import control_table, group_table, mean_table, tables
from tests.conftest import REPOSITORY

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


def test_every_row_of_a_table_has_a_cell_for_each_heading() -> None:
    rows = json.loads((REPOSITORY / "experiments" / "mode_connectivity" / "between.json").read_text(encoding="utf-8"))
    for name, table in tables(rows).items():
        head, _, *body = (line.count(" |") for line in table.splitlines())
        assert set(body) == {head}, name
