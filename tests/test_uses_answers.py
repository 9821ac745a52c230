"""What experiments/mode_connectivity/uses.md says in words, counted again from the committed rows."""

import copy
from statistics import median
from typing import Any

from experiments.mode_connectivity.between_rows import of
from experiments.mode_connectivity.uses import BEFORE, METHODS
from experiments.mode_connectivity.uses_tables import dial_choice, mcu_pairs
from tests.answers import check_said, check_unsaid, ends, page, rows_of, short

Row = dict[str, Any]
USES = rows_of("mode_connectivity", "uses")
TEXT = page("mode_connectivity", "uses")


def middle(rows: list[Row], figure: str = "floors_forget", **fields: Any) -> float:
    return median(row[figure] for row in of(rows, **fields))


def said_of_dials(rows: list[Row]) -> list[str]:
    """Sentences on the point that a dial chooses."""
    rows = of(rows, kind="dial")
    line, curve = ({"path": path} for path in ("linear", "bezier"))
    whole = of(rows, problem="nodes", point="chosen", **line)
    far = {
        kind: {
            point: [
                middle(rows, problem=kind, point=point, model=name, **line) for name in ("npo", "scrub", "graddiff")
            ]
            for point in ("original", "method", "best", "chosen", "by a retrained model")
        }
        for kind in ("nodes", "links")
    }
    links, nodes = far["links"], far["nodes"]
    stopped = median(row["t"] for row in of(whole, model="graddiff"))
    bent = {
        kind: [[middle(rows, problem=kind, point=p, model=m, **curve) for m in METHODS] for p in ("best", "method")]
        for kind in ("nodes", "links")
    }
    early = of(rows, problem="nodes", point="chosen", **curve)
    seen, unseen = (
        next(row for row in dial_choice(rows) if row["problem"] == "nodes" and row["seen"] is s) for s in (True, False)
    )
    return [
        f"in {sum(row['t'] == 1 for row in whole)} of {len(whole)} cases it does",
        f"within a tenth of the best in {seen['within a tenth']} of {seen['n']} cases of Cora and CiteSeer and in "
        f"{unseen['within a tenth']} of {unseen['n']} of chameleon, where the end itself is in "
        f"{seen['end within a tenth']} and {unseen['end within a tenth']}",
        f"stopped at {short(stopped)} of it, {nodes['chosen'][2]:.0f} floors, its end {nodes['method'][2]:.0f}, "
        f"the best point {nodes['best'][2]:.0f}",
        f"ends at {', '.join(f'{value:.1f}' for value in links['chosen'])} floors (NPO, SCRUB, GradDiff), where doing "
        f"nothing is at {links['original'][0]:.1f} and the best point of the line at {ends(links['best'], 1)}",
        f"One retrained model as a reference finds points at {ends(links['by a retrained model'], 1)}",
        f"links {ends(bent['links'][0], 1)} floors where the methods end at {ends(bent['links'][1], 1)} and the "
        f"original is at {links['original'][0]:.1f}",
        f"nodes {ends(bent['nodes'][0], 0)} where they end at {ends(bent['nodes'][1], 0)}",
        f"stops at {short(median(row['t'] for row in early))} of the curve of nodes in the median",
    ]


def said_of_mcu(rows: list[Row]) -> list[str]:
    """Sentences on MCU and what makes the other end of its curve."""
    rows = of(rows, kind="mcu")

    def both(kind: str, *names: str) -> str:
        return " and ".join(f"{middle(rows, problem=kind, model=name):.1f}" for name in names)

    taken = of(rows, problem="nodes", model="mcu, npo")
    pairs = {(row["problem"], row["before"]): row for row in mcu_pairs(rows)}

    def counts(before: str, problem: str) -> str:
        return " / ".join(map(str, pairs[problem, before]["end, forget"]))

    def share(problem: str, than: str, which: int) -> str:
        own = [pairs[problem, before] for before in BEFORE]
        return f"{sum(row[than][which] for row in own)} of {sum(row['n'] for row in own)}"

    retained = pairs["nodes", "npo"]["end, retain"]
    return [
        "GradDiff {} on nodes, {} on links, {} on digits".format(
            *(counts("graddiff", problem) for problem in ("nodes", "links", "digits"))
        ),
        "NPO {}, {} and {}".format(*(counts("npo", problem) for problem in ("nodes", "links", "digits"))),
        f"farther there in {retained[2]} of {sum(retained)} cases, nearer in {retained[0]}",
        f"is nearer than MCU in {share('nodes', 'continued, forget', 2)} cases of nodes and "
        f"{share('links', 'continued, forget', 2)} of links; on digits MCU is nearer in "
        f"{share('digits', 'continued, forget', 0)}",
        f"doing nothing is nearer in {share('links', 'nothing, forget', 2)} cases",
        f"nodes {both('nodes', 'mcu, graddiff', 'mcu, npo')} floors (its other end GradDiff, NPO: "
        f"{both('nodes', 'graddiff', 'npo')}; continued training {both('nodes', 'continued_training')})",
        *(
            f"{problem} {both(problem, 'mcu, graddiff', 'mcu, npo')} ({both(problem, 'graddiff', 'npo')}; "
            f"{both(problem, 'continued_training')}; doing nothing {both(problem, 'original')})"
            for problem in ("links", "digits")
        ),
        f"NPO it returns the model that was made before in {sum(row['t'] == 1 for row in taken)} of {len(taken)} cases",
    ]


def said_of_requests(rows: list[Row]) -> list[str]:
    """Sentences on two models that each forgot one of two requests."""
    rows = of(rows, kind="requests")

    def ways(kind: str, name: str) -> list[float]:
        return [middle(rows, problem=kind, model=name, which=way) for way in ("sum", "middle", "at once", "original")]

    barriers = [row["barrier_retain"] for row in rows]
    return [
        "continued training {:.0f} floors (their middle {:.0f}, both at once {:.0f}, the original {:.0f})".format(
            *ways("nodes", "continued_training")
        ),
        "NPO {:.0f} ({:.0f}, {:.0f}, {:.0f})".format(*ways("nodes", "npo")),
        "SCRUB {:.0f} ({:.0f}, {:.0f}, {:.0f})".format(*ways("nodes", "scrub")),
        "On links the sum overshoots: NPO {:.1f} ({:.1f}, {:.1f}, {:.1f})".format(*ways("links", "npo")),
        f"the retained loss rises by at most {short(max(barriers), 3)} nats on the line between the two",
    ]


def said(rows: list[Row]) -> list[str]:
    return [*said_of_dials(rows), *said_of_mcu(rows), *said_of_requests(rows)]


def test_the_answers_on_uses_say_what_the_rows_say() -> None:
    check_said(said(USES), TEXT)


def test_other_rows_make_every_sentence_on_uses_false() -> None:
    """The control: points a third farther along and everything farther away, MCU's models most."""
    changed = copy.deepcopy(USES)
    for row in changed:
        times = 3 if row["model"].startswith("mcu") else 1.5
        row |= {key: times * value + 0.5 for key, value in row.items() if key.startswith(("floors_", "barrier_"))}
        if row.get("t") is not None:
            row["t"] = 0.3 + 0.6 * row["t"]
    check_unsaid(said(changed), TEXT)


def test_every_case_has_its_rows() -> None:
    """A run that was killed leaves fewer; nobody refused."""
    cells = {(row["problem"], row["graph"], row["backbone"], row["seed"]) for row in USES}
    assert len(cells) == 3 * (6 + 4) + 3
    assert of(USES, kind="refused") == []
