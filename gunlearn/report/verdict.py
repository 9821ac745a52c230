"""What the lines of one problem come to, in sentences: what ended nearest to retraining, and at what price."""

from collections.abc import Sequence
from dataclasses import dataclass

from gunlearn.metrics.run_cost import Seconds
from gunlearn.report.summary import ENDS, LOSS, Line, gaps, within_noise

DISTANCE, FLOOR, PRICE = "js_forget", "js_floor_forget", "seconds"
#: Up to so many noise floors a model is called near to retraining, which is at 1.
NEAR_FLOORS = 2.0
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
    measured = [line for line in methods if _distance(line) is not None]
    limits = _limits(lines, methods)
    if not measured and _distance(utu) is None:
        return Verdict(_without_distance(lines), limits=limits)
    if retrain is not None and retrain.said("untrained"):
        answer = "No verdict: a retrained model looks untrained (mark #), and distances to such a model say nothing."
        return Verdict(answer, limits=limits)
    counted = [line for line in measured if not (line.behind_utu or line.fails or line.said("suspicious"))]
    counted.sort(key=lambda line: (_distance(line), _price(line) or 0.0))
    floors = _floors(utu)
    told = [line for line in counted if not line.unsure]
    if utu is not None and (not counted or _is_enough(floors, told)):
        left_out = any(not line.behind_utu for line in measured if line not in counted)
        said = _taken_out(floors, counted, methods, "no method that counts" if left_out else "no method")
        return Verdict(said, limits=limits, cells=_cells(utu, utu, retrain))
    if not counted:
        return Verdict("No verdict: every method was left out, for the reasons below.", limits=limits)
    best = counted[0]
    said = _nearest(best, utu, retrain)
    more = _beside(best, counted, retrain)
    if floors is not None and round(floors, 1) <= NEAR_FLOORS:
        more.append("Taking the data out alone (utu) ends near, too, and costs next to nothing.")
    return Verdict(said, more, limits, best, _cells(best, utu, retrain))


def price_share(line: Line, retrain: Line | None) -> float | None:
    """Return the seconds of a line as a share of retraining's; `None` where one of them was not measured."""
    price, whole = _price(line), _price(retrain)
    return None if price is None or not whole else price / whole


def _is_enough(floors: float | None, told: Sequence[Line]) -> bool:
    """Return whether utu is as near as another retraining, or near and nothing is told apart from it."""
    return floors is not None and (round(floors, 1) <= 1 or (round(floors, 1) <= NEAR_FLOORS and not told))


def _taken_out(floors: float | None, counted: Sequence[Line], methods: Sequence[Line], none: str) -> str:
    if not methods:
        return f"Only taking the data out was tried (utu{_at(floors)}): no method is compared with it."
    if floors is not None and round(floors, 1) <= 1:
        return f"Taking the data out was enough: utu ended as near as another retraining would{_at(floors, ' (', ')')}."
    nearer = "nearer to retraining than utu" + (", or none by more than the noise between seeds" if counted else "")
    if floors is None or round(floors, 1) <= NEAR_FLOORS:
        return f"Taking the data out was enough: {none} ended {nearer}{_at(floors, ' (', ')')}."
    return (
        f"Nothing here comes near retraining: {none} ended {nearer}, which only takes the data out"
        f"{_at(floors, ' (', ')')}."
    )


def _nearest(best: Line, utu: Line | None, retrain: Line | None) -> str:
    floors = _floors(best)
    beside = [] if floors is None else ["another retraining: 1"]
    beside += [] if utu is None else [f"utu: {_far(utu)}"]
    away = _away(best) + (f" ({'; '.join(beside)})" if beside else "")
    said = f"{best.label} ended nearest to retraining: {away}{_cost(best, retrain)}."
    if floors is not None and round(floors, 1) > NEAR_FLOORS:
        said = f"Nothing here comes near retraining. {said}"
    return said + (" Retraining itself costs less." if _is_dear(best, retrain) else "")


def _cells(best: Line, utu: Line | None, retrain: Line | None) -> tuple[str, str, str, str, str]:
    floors = _floors(best)
    near = "-" if floors is None else "near" if round(floors, 1) <= NEAR_FLOORS else "far"
    near = "as another retraining" if floors is not None and round(floors, 1) <= 1 else near
    price = (_share_words(best, retrain) or _seconds(best)).removesuffix(" of")
    return best.label, _far(best), _far(utu), price, near


def _is_dear(line: Line, retrain: Line | None) -> bool:
    part = price_share(line, retrain)
    return part is not None and part >= 1


def _cost(line: Line, retrain: Line | None) -> str:
    """Return the price in words: as a share of retraining's time, and of its epochs where both have some."""
    price = _share_words(line, retrain)
    if price is None or retrain is None:
        return "" if _price(line) is None else f", in {_seconds(line)}"
    own, whole = line.mean("epochs"), retrain.mean("epochs")
    epochs = f"; {own:.0f} epochs of {whole:.0f}" if own and whole else ""
    return f", for {price} retraining's time ({_seconds(line)} of {_seconds(retrain)}{epochs})"


def _beside(best: Line, counted: Sequence[Line], retrain: Line | None) -> list[str]:
    """Return the sentences about the noise between seeds, and about a cheaper line that is as near, or cheap enough."""
    said = ["Its lead over utu is within the noise between seeds."] if best.unsure else []
    price = _price(best)
    cheaper = [line for line in counted[1:] if price and (_price(line) or price) < price]
    alike = [line for line in cheaper if within_noise(gaps(line, [best], DISTANCE))]
    if alike:
        other = min(alike, key=lambda line: _price(line) or 0.0)
        said.append(
            f"{other.label} is cheaper, and seeds do not tell its distance from that: {_away(other)}"
            f"{_cost(other, retrain)}."
        )
    elif _is_dear(best, retrain) and (rest := [line for line in cheaper if not _is_dear(line, retrain)]):
        said.append(f"Of what costs less, {rest[0].label} ended nearest: {_away(rest[0])}{_cost(rest[0], retrain)}.")
    return said


def _limits(lines: Sequence[Line], methods: Sequence[Line]) -> list[str]:
    said = []
    if methods and all(line.runs == 1 for line in methods):
        each = " of each method" if len(methods) > 1 else ""
        said.append(f"One run{each}: under another seed small differences may turn.")
    number, floors = retrainings(lines), [line for line in lines if _floors(line) is not None]
    if floors and 0 < number < ENOUGH:
        said.append(
            f"The noise floor is weak: it comes from {number} retrained models, so it is one number whose own noise is "
            "unknown."
        )
    whole = next((price for line in lines if line.method == "retrain" and (price := _price(line))), None)
    if whole is not None and whole < 1:
        said.append("Retraining took less than a second: shares of so short a time are rough.")
    if any(_distance(line) is not None for line in methods) and not floors:
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


def _distance(line: Line | None) -> float | None:
    """Return the distance in floors, or in nats where there is no floor."""
    if line is None:
        return None
    return line.mean(DISTANCE) if (floors := _floors(line)) is None else floors


def _floors(line: Line | None) -> float | None:
    return None if line is None else line.floors(DISTANCE, FLOOR)


def _price(line: Line | None) -> float | None:
    return None if line is None else line.mean(PRICE)


def _far(line: Line | None) -> str:
    floors, distance = _floors(line), _distance(line)
    if distance is None:
        return "-"
    return f"{distance:.2g} nats" if floors is None else _number(floors)


def _away(line: Line) -> str:
    return _far(line) + ("" if _floors(line) is None else " floors")


def _number(floors: float) -> str:
    return f"{floors:.1f}" if floors < 100 else f"{floors:,.0f}"


def _at(floors: float | None, before: str = ", ", after: str = "") -> str:
    return "" if floors is None else f"{before}{_number(floors)} floors{after}"


def _seconds(line: Line | None) -> str:
    price = _price(line)
    return "-" if price is None else f"{Seconds().cell(price, None)} s"


def _share_words(line: Line, retrain: Line | None) -> str | None:
    """Return the share of retraining's time in words: `"12 % of"`, `"1.6 times"`."""
    part = price_share(line, retrain)
    if part is None:
        return None
    if part >= 1:
        return f"{part:.1f} times" if part < 10 else f"{part:.0f} times"
    return f"{100 * part:.0f} % of" if part >= 0.01 else f"{100 * part:.1g} % of"
