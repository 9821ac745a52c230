"""What experiments/mode_connectivity/between.md says in words, counted again from its committed rows.

Another run can make these sentences false while the generated tables stay right.
"""

import re
from typing import Any

import numpy as np

from tests.answers import check_said, check_unsaid, page, rows_of

Row = dict[str, Any]
ROWS: list[Row] = rows_of("mode_connectivity", "between")
TEXT = page("mode_connectivity", "between")
METHODS = {"continued_training", "npo", "scrub", "graddiff", "gif"}
RISING = "barrier|.*relearn_steps|js_forget|mia_acc"
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


def said_of_models(rows: list[Row]) -> list[str]:
    """Sentences on how much the methods of one case differ."""
    cases: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row["kind"] == "model" and row["problem"] == "nodes" and row["model"] in METHODS:
            cases.setdefault((row["graph"], row["backbone"], row["seed"]), []).append(row)
    far, steps, attack = (
        [[row[name] for row in case] for case in cases.values()] for name in ("js_forget", "relearn_steps", "mia_acc")
    )
    times = [np.median([max(own) / max(least, min(own)) for own in values]) for values, least in ((far, 0), (steps, 1))]
    apart = f"{np.median([max(own) - min(own) for own in attack]):.2f}".lstrip("0")
    return [
        f"is {times[0]:.1f} times as far as the nearest",
        f"takes {times[1]:.1f} times the steps of the fastest",
        f"accuracy differs by {apart} (medians over cases)",
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
    slower, beaten, steps, between = {}, {}, {}, []
    for name in ("nodes", "links", "digits"):
        means = [row for row in rows if row["kind"] == "mean" and row["problem"] == name]
        ends, mean, trained, middle = (
            np.array([[row.get(f"{model}_relearn_steps", np.nan) for model in models] for row in means])
            for models in (("first", "second"), ("mean",), ("first_trained", "second_trained"), ("middle",))
        )
        known = ~np.isnan(trained[:, 0])
        slower[name] = share((mean[:, 0] > ends.max(1)).tolist())
        beaten[name] = share((trained.min(1) > mean[:, 0])[known].tolist())
        steps[name] = "{:.0f}, {:.0f} and {:.0f} steps".format(*(np.median(of[known]) for of in (ends, mean, trained)))
        between += ((ends.min(1) <= middle[:, 0]) & (middle[:, 0] <= ends.max(1))).tolist()
    equal = [row for row in rows if row.get("second_equal_relearn_steps") is not None]
    both = "first_equal", "second_equal"
    ends, mean, plain = (
        np.array([[row[f"{model}_{figure}"] for model in models] for row in equal])
        for models, figure in ((both, "relearn_steps"), (("mean",), "relearn_steps"), (both, "steps"))
    )
    as_good = [
        f"as well ({np.median(plain):.0f} steps in the median; Cora, CiteSeer, chameleon) they are still slower than "
        f"it in {share((ends.min(1) > mean[:, 0]).tolist())} cases",
        f"({np.median(mean):.0f} steps of relearning for the mean, {np.median(ends):.0f} for the ends)",
    ]
    return [
        *as_good,
        f"more slowly than both ends in {slower['nodes']} cases",
        f"slower than the mean in {beaten['nodes']} cases",
        f"(ends, means and trained ends: {steps['nodes']})",
        f"slower than both ends in {slower['digits']} cases",
        f"slower than the mean in {beaten['digits']}, at much the same",
        f"(links: {steps['links']})",
        f"between its ends in {share(between)} cases",
    ]


def said(rows: list[Row]) -> list[str]:
    return [*said_of_lines(rows), *said_of_models(rows), *said_of_conditions(rows), *said_of_means(rows)]


def test_the_answers_say_what_the_rows_say() -> None:
    check_said(said(ROWS), TEXT)


def test_other_rows_make_every_sentence_false() -> None:
    """The control: with fewer cases, higher barriers and figures farther apart, no sentence stands."""
    changed = [
        {key: value + 2 * value**2 + 0.01 if value and re.match(RISING, key) else value for key, value in row.items()}
        for row in ROWS
        if row["graph"] not in ("Cora", "digits") or row["seed"]
    ]
    check_unsaid(said(changed), TEXT)
