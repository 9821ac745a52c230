"""What experiments/mode_connectivity/between.md says in words, counted again from its committed rows.

Another run can make these sentences false while the generated tables stay right.
"""

import json
import re
from typing import Any

import numpy as np

from tests.conftest import REPOSITORY

Row = dict[str, Any]
STUDY = REPOSITORY / "experiments" / "mode_connectivity"
ROWS: list[Row] = json.loads((STUDY / "between.json").read_text(encoding="utf-8"))
TEXT = re.sub(r"[\s*]+", " ", (STUDY / "between.md").read_text(encoding="utf-8"))
RETRAINED = {"same start", "retrain"}


def share(found: list[bool]) -> str:
    return f"{sum(found)} of {len(found)}"


def connected(rows: list[Row]) -> str:
    return share([max(row["barrier_retain"], row["barrier_forget"]) <= 0.1 for row in rows])


def said_of_lines(rows: list[Row]) -> list[str]:
    """Sentences on lines among original and unlearned models, and to retrained ones."""
    inner = [row for row in rows if row["kind"] == "line" and not RETRAINED & {row["first"], row["second"]}]
    size, own, two = {}, {}, {}
    for name in ("nodes", "links", "digits"):
        here = [row for row in inner if row["problem"] == name]
        size[name] = len(here)
        own[name] = connected([row for row in here if row["first"] == "original"])
        two[name] = connected([row for row in here if row["first"] != "original"])
    ways = [row for row in rows if row["problem"] == "nodes" and row.get("first") == "original"]
    lines = [row for row in ways if row["kind"] == "line"]
    same, other = (
        [row["barrier_retain"] > 0.1 for row in lines if row["second"] == to] for to in ("same start", "retrain")
    )
    curves = [row["loss_retain"] for row in ways if row["kind"] == "curve"]
    under = [values[4] < min(values[0], values[-1]) for values in curves]
    kept, whole = own["nodes"].split(" of ")
    return [
        f"the largest rise is {max(row['barrier_retain'] for row in inner):.2f} nats".replace("0.", "."),
        f"over {size['nodes']} lines of nodes, {size['links']} of links and {size['digits']} of digits",
        f"of {whole} lines from the original to an unlearned model of nodes {kept} are",
        f"between two methods {two['nodes']}",
        f"digits: {own['digits']} and {two['digits']}; links, which forget little: {own['links']} and {two['links']}",
        f"leaves that valley in {share(same)} cases of nodes",
        f"From other weights in {share(other)} cases",
        f"below both in {share(under)} cases",
    ]


def said_of_conditions(rows: list[Row]) -> list[str]:
    """Sentences on SophiaG, and on means of weights."""
    order = [row for row in rows if row.get("condition") == "order"]
    apart = {
        name: share([row["barrier_forget"] > 0.1 for row in order if row["problem"] == name])
        for name in ("nodes", "digits")
    }
    return [f"by more than .1 in {apart['nodes']} cases of nodes and {apart['digits']} of digits"]


def said_of_means(rows: list[Row]) -> list[str]:
    """Sentences on relearning of means along a curve, and of the control: the ends after as many plain steps."""

    def steps(found: list[Row], *names: str) -> np.ndarray:
        return np.array([[row[f"{name}_relearn_steps"] for name in names] for row in found])

    means = {
        name: [row for row in rows if row["kind"] == "mean" and row["problem"] == name] for name in ("nodes", "links")
    }
    slower = {k: steps(own, "mean")[:, 0] > steps(own, "first", "second").max(1) for k, own in means.items()}
    control = {k: [row for row in own if "first_trained_relearn_steps" in row] for k, own in means.items()}
    trained = {k: steps(own, "first_trained", "second_trained") for k, own in control.items()}
    beaten = trained["nodes"].min(1) > steps(control["nodes"], "mean")[:, 0]
    said = {k: "{:.0f}, {:.0f} and {:.0f} steps".format(
        np.median(steps(own, "first", "second")), np.median(steps(own, "mean")), np.median(trained[k])
    ) for k, own in control.items()}  # fmt: skip
    return [
        f"than both ends in {share(slower['nodes'].tolist())} cases",
        f"slower than the mean in {share(beaten.tolist())} cases",
        f"(ends, means and trained ends: {said['nodes']})",
        f"(links: {said['links']})",
    ]


def said(rows: list[Row]) -> list[str]:
    return [*said_of_lines(rows), *said_of_conditions(rows), *said_of_means(rows)]


def test_the_answers_say_what_the_rows_say() -> None:
    assert [sentence for sentence in said(ROWS) if sentence not in TEXT] == []


def test_other_rows_make_every_sentence_false() -> None:
    """The control: with fewer cases, barriers twice as high and more steps of relearning, no sentence stands."""
    changed = [
        {key: 2 * value + 0.01 if re.match("barrier|.*_relearn_steps", key) else value for key, value in row.items()}
        for row in ROWS
        if row["graph"] not in ("Cora", "digits") or row["seed"]
    ]
    assert [sentence for sentence in said(changed) if sentence in TEXT] == []
