"""What experiments/mode_connectivity/between.md says of what barriers foretell and of arXiv 2502.12608."""

from statistics import mean, median
from typing import Any

from experiments.mode_connectivity.barrier_correlations import bootstrap, by_problem, joined, mean_of, ranges, student
from experiments.mode_connectivity.between_rows import TOLERANCE, of
from experiments.mode_connectivity.over_graphs import PATHS, over_graphs
from experiments.mode_connectivity.statements import RELATED, barrier_on, most, of_citation, related, shares
from tests.answers import check_said, check_unsaid, page, rows_of, short

Row = dict[str, Any]
ROWS: list[Row] = rows_of("mode_connectivity", "between")
TEXT = page("mode_connectivity", "between")
PROBLEMS = ("nodes", "links", "digits")


def share(found: list[bool]) -> str:
    return f"{sum(found)} of {len(found)}"


def within(row: Row) -> bool:
    return max(row["barrier_retain"], row["barrier_forget"]) <= TOLERANCE


def case(row: Row) -> tuple[Any, ...]:
    return row["problem"], row["graph"], row["backbone"], row["seed"]


def said_of_alignment(rows: list[Row]) -> list[str]:
    """Sentences on retraining from the same weights and from others, on matching, and on curves."""
    same = {p: of(rows, kind="line", problem=p, first="original", second="same start") for p in PROBLEMS}
    other = {p: of(rows, kind="line", problem=p, first="original", second="retrain") for p in PROBLEMS}
    left = {p: [row["barrier_retain"] > TOLERANCE for row in same[p]] for p in PROBLEMS}
    graphs = dict.fromkeys(row["graph"] for row in same["nodes"])
    by_graph = {g: [row["barrier_retain"] > TOLERANCE for row in of(same["nodes"], graph=g)] for g in graphs}
    leaving = ", ".join(f"{graph} {share(found)}" for graph, found in by_graph.items() if any(found))
    lines = {(*case(row), row["first"]): row["barrier_retain"] for row in of(rows, kind="line", second="retrain")}
    aligned = {p: of(rows, kind="aligned", problem=p) for p in PROBLEMS}
    kept = {
        p: [row["barrier_retain"] / lines[(*case(row), row["first"])] for row in aligned[p]]
        for p in ("links", "digits")
    }
    most_left = max(aligned["nodes"], key=lambda row: row["barrier_retain"])
    digits = sorted(row["barrier_retain"] for row in aligned["digits"])
    curves = {p: [row["barrier_retain"] <= TOLERANCE for row in of(rows, kind="curve", problem=p)] for p in PROBLEMS}
    joined_by = share(curves["nodes"] + curves["links"]), share(curves["digits"])
    ways = [row["loss_retain"] for row in of(rows, kind="curve", problem="nodes", first="original")]
    depth = median(losses[4] / mean((losses[0], losses[-1])) for losses in ways)
    apart = [share([row["barrier_retain"] > TOLERANCE for row in other[p]]) for p in ("links", "digits")]
    return [
        f"cases of nodes ({leaving}), of links and digits in none ({share(left['links'])}, {share(left['digits'])})",
        f"of links and digits in all ({', '.join(apart)})",
        f"largest left {short(most_left['barrier_retain'])} nats, on {most_left['graph']}",
        f"{short(median(kept['links']))} of it stays in the median",
        f"digits ({short(digits[0])} to {short(digits[-1])} nats stay)",
        "({} cases at most .1), and on digits in {} cases".format(*joined_by),
        f"is {short(depth)} of that at its ends",
    ]


def said_of_photo(rows: list[Row]) -> list[str]:
    """A destroyed model whose line has no barrier either."""
    found = {
        name: [
            short(median(row["retain_acc"] for row in of(rows, kind="model", graph="Photo", model=name, backbone=kind)))
            for kind in ("gcn", "sage")
        ]
        for name in ("graddiff", "original")
    }
    return [
        "{} (GCN) and {} (SAGE)".format(*found["graddiff"]) + " of the original's {} and {}".format(*found["original"])
    ]


def said_of_conditions(rows: list[Row]) -> list[str]:
    """What connects and what SophiaG had forgotten."""
    near = []
    for problem in PROBLEMS:
        found = of(rows, kind="condition", problem=problem)
        cases = {case(row): True for row in found}
        for row in found:
            if row["condition"] != "order":
                cases[case(row)] &= within(row)
        near.append(share(list(cases.values())))
    weak = of(rows, kind="model", model="sophia_g")
    sure = [
        short(median(row["forget_acc"] for row in of(weak, problem=p, graph=g)))
        for p, g in (("digits", "digits"), ("nodes", "Cora"))
    ]
    return [f"SCRUB ({', '.join(near)};", "forget accuracy of digits {}, of Cora {}".format(*sure)]


def said_of_correlations(rows: list[Row]) -> list[str]:
    """Sentences on what the barrier foretells within a case."""
    found = joined(rows)

    def value(barrier: str, what: str, problem: str = "nodes") -> str:
        return short(mean_of(by_problem(found, barrier, what)[problem].values()))

    def interval(barrier: str, what: str, by: Any = bootstrap) -> str:
        return ", ".join(map(short, by(by_problem(found, barrier, what)["nodes"])))

    same, aligned = (f"{value(b, 'far')} ({interval(b, 'far')})" for b in ("same start", "aligned"))
    links, digits = (" and ".join(value(b, "far", p) for b in ("same start", "aligned")) for p in PROBLEMS[1:])
    spans = {barrier: ranges(rows, barrier) for barrier in ("same start", "aligned")}
    wide, tight = (short(median(span for span, _ in spans[barrier])) for barrier in spans)
    low = share([largest < 0.01 for _, largest in spans["aligned"]])
    least = student(by_problem(found, "aligned", "relearn_steps")["nodes"])[0]
    holds = "holds" if least <= 0 else "barely leaves out" if least < 0.05 else "leaves out"
    return [
        f"is {same} from the same start and {aligned} aligned",
        f"on links, two data sets, {links}, on digits, one, {digits}",
        f"their range is {wide} nats in the median (aligned {tight})",
        f"in {low} cases all aligned ones are below .01",
        f"nothing on nodes ({value('other start', 'far')}; {interval('other start', 'far')})",
        f"is higher ({value('same start', 'relearn_steps')}; {interval('same start', 'relearn_steps')})",
        f"is {value('aligned', 'relearn_steps')} ({interval('aligned', 'relearn_steps')})",
        f"{holds} 0 there ({interval('aligned', 'relearn_steps', student)}; same start "
        f"{interval('same start', 'relearn_steps', student)})",
    ]


def said_of_statements(rows: list[Row]) -> list[str]:
    """Sentences on arXiv 2502.12608."""
    graphs = over_graphs(rows)
    lines = most(graphs, "line", lambda v: v > TOLERANCE)
    curves = most(graphs, "curve", lambda v: v <= TOLERANCE)
    barely = sorted(value for row in of(graphs, graph="chameleon_filtered") for value in row["line"])
    parts = shares({(row["graph"], row["backbone"]): median(row["line"]) for row in graphs})
    names = dict.fromkeys(row["graph"] for row in graphs)
    highest = {max(names, key=lambda name, kind=kind: barrier_on(graphs, kind, name)) for kind in ("line", "aligned")}
    seeds = {row["seed"] for row in of(rows, problem="nodes", graph="CS")}
    val = {kind: share([v <= TOLERANCE for row in graphs for v in row[f"{kind}_val"]]) for kind in PATHS}
    over = [value for row in graphs for value in row["curve_val"]]
    citation, cs = of_citation(graphs, "curve_val")
    *found, told = (related(graphs, name)[0] for name in RELATED)
    apart = "; aligned ".join("{}; {}, {}".format(*map(short, told[kind])) for kind in ("line", "aligned"))
    values = {kind: [short(of_graphs[kind][0]) for of_graphs in found] for kind in ("line", "aligned")}
    holds = all(low < 0 < high for of_graphs in found for _, low, high in of_graphs.values())
    return [
        f"independent models fail ({lines['graphs']} graphs, {lines['cases']} cases;",
        f"at {short(barely[0])} to {short(barely[-1])} nats",
        f"Curves connect ({curves['graphs']}, {curves['cases']})",
        f"trained to lower; by that of validation nodes it does in {val['curve']} cases, and the aligned line in "
        f"{val['aligned']}",
        f"rises above the line between its ends by up to {short(max(over))} nats",
        f"within .1 there in {val['line']} cases",
        f"barriers of up to {short(max(citation))} nats on citation graphs and of at most "
        f"{short(max(cs, default=1.0))} on CS",
        f"{short(parts['graph'])} of the line's variance against {short(parts['model'])}",
        f"after alignment {' and '.join(sorted(highest))} has the highest barriers",
        f"of the {len(names)} graphs ({len(seeds)} seed",
        f"barrier goes up ({apart}), one of eight",
        "line of {}, {} and {}, aligned of {}, {} and {}".format(*values["line"], *values["aligned"])
        + (", whose intervals all hold 0" if holds else ""),
    ]


def said(rows: list[Row]) -> list[str]:
    parts = said_of_alignment, said_of_photo, said_of_conditions, said_of_correlations, said_of_statements
    return [sentence for part in parts for sentence in part(rows)]


def test_what_barriers_foretell_is_said_as_the_rows_say() -> None:
    check_said(said(ROWS), TEXT)


def test_words_without_numbers_hold() -> None:
    foretold = joined(ROWS)
    for barrier in ("same start", "other start", "aligned"):
        low, high = bootstrap(by_problem(foretold, barrier, "attack")["nodes"])
        assert low < 0 < high  # "of the attack's success no barrier says anything"
    lines = {(*case(row), row["first"]): row["barrier_retain"] for row in of(ROWS, kind="line", second="retrain")}
    digits = of(ROWS, kind="aligned", problem="digits")
    assert all(row["barrier_retain"] < lines[(*case(row), row["first"])] / 3 for row in digits)  # "two thirds or more"


def other(row: Row) -> Row:
    """Another row of the same case: ranks turned round, lower barriers on lines, others higher and in another order."""
    changed = {**row}
    for name in ("js_forget", "relearn_steps", "mia_acc", "mia_auc", "retain_acc", "forget_acc"):
        if row.get(name) is not None:
            changed[name] = 1 / (1.5 + row[name])
    odd = len(row.get("first") or "") % 2
    for name in ("barrier_retain", "barrier_forget"):
        if name in row:
            line, sage = row["kind"] == "line", row.get("backbone") == "sage"
            changed[name] = row[name] / 4 + 0.01 * odd + 0.05 * sage if line else 3 * row[name] + 0.06 + 0.05 * odd
    for part in ("retain", "forget"):
        if f"loss_{part}" in row:
            changed[f"loss_{part}"] = [2 * loss + 1 + 0.1 * (k > 0) for k, loss in enumerate(row[f"loss_{part}"])]
    if "loss_val" in row:
        changed["loss_val"] = [2 * loss + 0.3 * (k == 4) for k, loss in enumerate(row["loss_val"])]
    return changed


def test_other_rows_make_every_sentence_on_what_is_foretold_false() -> None:
    """The control: other figures, one seed of digits and CS missing."""
    rows = [other(row) for row in ROWS if (row["graph"], row["seed"]) != ("digits", 0) and row["graph"] != "CS"]
    check_unsaid(said(rows), TEXT)
