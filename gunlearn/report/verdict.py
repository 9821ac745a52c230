"""What the lines of one problem come to, in sentences: what ended nearest to retraining, and at what price."""

from collections.abc import Sequence
from dataclasses import dataclass

from gunlearn.report.distance_and_price import (
    DISTANCE,
    NEAR_FLOORS,
    at_floors,
    away,
    cost_words,
    distance_of,
    far,
    floors_of,
    is_dear,
    price_of,
    seconds_of,
    share_words,
)  # fmt: skip
from gunlearn.report.summary import ENDS, LOSS, Line, gaps, within_noise

#: A floor from fewer retrained models is called weak.
ENOUGH = 3


@dataclass(frozen=True)
class Verdict:
    """What to make of a table.

    Attributes:
        answer: one sentence.
        more: sentences that belong to it.
        limits: sentences that weaken it, and what else a reader must know.
        nearest: the line nearest to retraining among those that count; `None` where there is none, or no distance.
        cells: nearest method, its distance, that of `utu`, price, how near that is: for a table of several problems.
    """

    answer: str
    more: Sequence[str] = ()
    limits: Sequence[str] = ()
    nearest: Line | None = None
    cells: tuple[str, str, str, str, str] = ("-", "-", "-", "-", "no verdict")


def verdict(lines: Sequence[Line]) -> Verdict:
    """Judge the lines of one problem by their distance to retraining on what was forgotten (JS forget).

    A method counts where it is nearer than `utu`, which only takes the data out, keeps its utility, and is no nearer to
    the retrained models than can be expected.
    """
    utu, retrain = _only(lines, "utu"), _only(lines, "retrain")
    methods = [line for line in lines if line.method not in (*ENDS, "utu")]
    measured = [line for line in methods if distance_of(line) is not None]
    limits = _limits(lines, methods)
    if not measured and distance_of(utu) is None:
        return Verdict(_without_distance(lines), limits=limits)
    if retrain is not None and retrain.said("untrained"):
        answer = "No verdict: a retrained model looks untrained (mark #), and distances to such a model say nothing."
        return Verdict(answer, limits=limits)
    counted = [line for line in measured if not (line.behind_utu or line.fails or line.said("suspicious"))]
    counted.sort(key=lambda line: (distance_of(line), price_of(line) or 0.0))
    floors = floors_of(utu)
    told = [line for line in counted if not line.unsure]
    lost = utu is not None and utu.fails
    if utu is not None and methods and not measured:
        said = f"No method finished: nothing is compared with taking the data out (utu{at_floors(floors, ', ', '')})."
        return Verdict(said, limits=limits, cells=(*_cells(utu, utu, retrain)[:4], "no method finished"))
    if utu is not None and (not counted or (_is_enough(floors, told) and not lost)):
        left_out = any(not line.behind_utu for line in measured if line not in counted)
        none = "no method that counts" if left_out else "no method"
        said = _taken_out(floors, counted, methods, none, lost)
        cells = _cells(utu, utu, retrain)
        return Verdict(said, limits=limits, cells=(*cells[:4], "lost utility") if lost else cells)
    if not counted:
        return Verdict("No verdict: every method was left out, for the reasons below.", limits=limits)
    best = counted[0]
    said = _nearest(best, utu, retrain)
    more = _beside(best, counted, retrain)
    limits += [f"utu lost more than {LOSS:g} of utility against retraining."] if lost else []
    if floors is not None and round(floors, 1) <= NEAR_FLOORS and not lost:
        more.append("Taking the data out alone (utu) ends near, too, and costs next to nothing.")
    return Verdict(said, more, limits, best, _cells(best, utu, retrain))


def _is_enough(floors: float | None, told: Sequence[Line]) -> bool:
    """Return whether utu is as near as another retraining, or near and nothing is told apart from it."""
    return floors is not None and (round(floors, 1) <= 1 or (round(floors, 1) <= NEAR_FLOORS and not told))


def _taken_out(floors: float | None, counted: Sequence[Line], methods: Sequence[Line], none: str, lost: bool) -> str:
    if not methods:
        return f"Only taking the data out was tried (utu{at_floors(floors, ', ', '')}): no method is compared with it."
    if floors is not None and round(floors, 1) <= 1 and not lost:
        return f"Taking the data out was enough: utu ended as near as another retraining would{at_floors(floors)}."
    nearer = "nearer to retraining than utu" + (", or none by more than the noise between seeds" if counted else "")
    if lost:
        itself = f"which itself lost more than {LOSS:g} of utility against retraining"
        return f"Nothing here was enough: {none} ended {nearer}{at_floors(floors)}, {itself}."
    if floors is None:
        return (
            f"{none.capitalize()} ended {nearer}, which only takes the data out; how near that is takes a noise floor."
        )
    if round(floors, 1) <= NEAR_FLOORS:
        return f"Taking the data out was enough: {none} ended {nearer}{at_floors(floors)}."
    return (
        f"Nothing here comes near retraining: {none} ended {nearer}, which only takes the data out{at_floors(floors)}."
    )


def _nearest(best: Line, utu: Line | None, retrain: Line | None) -> str:
    floors = floors_of(best)
    beside = [] if floors is None else ["another retraining: 1"]
    beside += [] if utu is None else [f"utu: {far(utu)}"]
    where = away(best) + (f" ({'; '.join(beside)})" if beside else "")
    said = f"{best.label} ended nearest to retraining: {where}{cost_words(best, retrain)}."
    if floors is not None and round(floors, 1) > NEAR_FLOORS:
        said = f"Nothing here comes near retraining. {said}"
    return said + (" Retraining itself costs less." if is_dear(best, retrain) else "")


def _cells(best: Line, utu: Line | None, retrain: Line | None) -> tuple[str, str, str, str, str]:
    floors = floors_of(best)
    near = "-" if floors is None else "near" if round(floors, 1) <= NEAR_FLOORS else "far"
    near = "as another retraining" if floors is not None and round(floors, 1) <= 1 else near
    price = (share_words(best, retrain) or seconds_of(best)).removesuffix(" of")
    return best.label, far(best), far(utu), price, near


def _beside(best: Line, counted: Sequence[Line], retrain: Line | None) -> list[str]:
    """Return the sentences about the noise between seeds, and about a cheaper line that is as near, or cheap enough."""
    said = ["Its lead over utu is within the noise between seeds."] if best.unsure else []
    price = price_of(best)
    cheaper = [line for line in counted[1:] if price and (price_of(line) or price) < price]
    alike = [line for line in cheaper if not line.unsure and within_noise(gaps(line, [best], DISTANCE))]
    if alike:
        other = min(alike, key=lambda line: price_of(line) or 0.0)
        said.append(
            f"{other.label} is cheaper, and seeds do not tell its distance from that: {away(other)}"
            f"{cost_words(other, retrain)}."
        )
    elif is_dear(best, retrain) and (rest := [line for line in cheaper if not is_dear(line, retrain)]):
        said.append(
            f"Of what costs less, {rest[0].label} ended nearest: {away(rest[0])}{cost_words(rest[0], retrain)}."
        )
    return said


def _limits(lines: Sequence[Line], methods: Sequence[Line]) -> list[str]:
    said = []
    if methods and all(line.runs == 1 for line in methods):
        each = " of each method" if len(methods) > 1 else ""
        said.append(f"One run{each}: under another seed small differences may turn.")
    number, floors = retrainings(lines), [line for line in lines if floors_of(line) is not None]
    if floors and 0 < number < ENOUGH:
        said.append(
            f"The noise floor is weak: it comes from {number} retrained models, so it is one number whose own noise is "
            "unknown."
        )
    whole = next((price for line in lines if line.method == "retrain" and (price := price_of(line))), None)
    if whole is not None and whole < 1:
        said.append("Retraining took less than a second: shares of so short a time are rough.")
    if any(distance_of(line) is not None for line in methods) and not floors:
        said.append("Distances are in nats per item: a noise floor takes two retrained models.")
    lists = {
        f"left out, having lost more than {LOSS:g} of utility against retraining (mark !)": [
            line for line in methods if line.fails
        ],
        "left out, nearer to the retrained models than can be expected (mark ?)": [
            line for line in methods if line.said("suspicious")
        ],
    }
    said += [f"{', '.join(line.label for line in found)}: {words}." for words, found in lists.items() if found]
    failed = [f"{line.label} ({line.failed} of {line.runs})" for line in methods if line.failed]
    if failed:
        said.append(f"Runs that failed, for the reason below the table: {', '.join(failed)}.")
    return said


def _without_distance(lines: Sequence[Line]) -> str:
    if all(not line.rows for line in lines if line.method not in ENDS):
        return "No verdict: every run failed."
    if retrainings(lines) or _only(lines, "retrain") is not None:
        return "No verdict: nothing that was forgotten has a prediction in which models could differ."
    return (
        "No verdict: no model was retrained without the data, so nothing is known of the distance to retraining. It "
        "takes train= or references= of gunlearn.evaluate, or a grid with references."
    )


def retrainings(lines: Sequence[Line]) -> int:
    """Return the number of retrained models that the lines of a problem are compared with; 0 where rows do not tell."""
    found = [sum(row.get("references") or 0 for row in line.rows) for line in lines if line.method not in ENDS]
    return max(found, default=0)


def _only(lines: Sequence[Line], method: str) -> Line | None:
    return next((line for line in lines if line.method == method and line.rows), None)
