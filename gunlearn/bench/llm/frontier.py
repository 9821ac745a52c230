"""The frontier of a method: settings that no other one beats, and the one to take at equal retention."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gunlearn.bench.llm.row_halves import HALVED, Half, halves
from gunlearn.core.checks import check_choice
from gunlearn.errors import InvalidInputError

#: Figures of a frontier and the sign that makes more of them better.
AXES = {"forget_prob": -1.0, "gain": 1.0, "retain_prob": 1.0}
Figures = Mapping[str, float | None]


@dataclass(frozen=True)
class ArmSetting:
    """A method with one rate at one epoch, its figures the means over seeds.

    Attributes:
        method: its name.
        rate: the learning rate; `None` of a method without.
        epoch: passes done.
        chosen: figures on the half of the rows that settings are chosen on.
        reported: figures on the other half.
        seeds: the seeds that ran.
        seconds: of training, the mean.
        spread: lowest and highest figure over seeds, on the reported half.
    """

    method: str
    rate: float | None
    epoch: float
    chosen: Figures
    reported: Figures
    seeds: tuple[int, ...] = (0,)
    seconds: float = 0.0
    spread: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def halves_of(rows: Sequence[Mapping[str, Any]], seed: int = 0) -> tuple[Half, Half]:
    """Return the halves of the measured rows of a bench; the row of the original model tells how many there are."""
    values = _first(rows)["values"]
    sizes = {name: len(values[key]) for name in HALVED for key in values if key.startswith(name) and key.count("prob")}
    if "holdout_min_k" in values:
        sizes["holdout"] = len(values["holdout_min_k"])
    return halves(sizes, seed)


def arm_settings(rows: Sequence[Mapping[str, Any]], seed: int = 0) -> list[ArmSetting]:
    """Return all settings of the rows of a bench, those of the original and the retrained models aside.

    Means are over the seeds that all rates of the method have run with (`counted_seeds`). Settings that one of these
    seeds does not have, and points of broken models, are left out.

    Args:
        rows: what `run_text_bench` returned.
        seed: of the halves.
    """
    choose, report = halves_of(rows, seed)
    original, found = _first(rows)["values"], dict[tuple[str, float | None, float], dict[int, Mapping[str, Any]]]()
    seeds = counted_seeds(rows)
    for row in rows:
        if "rate" not in row or row["seed"] not in seeds[row["method"]][0]:
            continue
        for point in row["points"]:
            if "values" in point:
                found.setdefault((row["method"], row["rate"], point["epoch"]), {})[row["seed"]] = point
    out = []
    for (method, rate, epoch), points in found.items():
        if set(points) != set(seeds[method][0]):
            continue
        both = [[half.figures(p["values"], original) for p in points.values()] for half in (choose, report)]
        utilities = [p["utility"] for p in points.values() if "utility" in p]
        reported = _mean(both[1]) | ({"utility": sum(utilities) / len(utilities)} if utilities else {})
        seconds = sum(p.get("seconds", 0.0) for p in points.values()) / len(points)
        out.append(ArmSetting(method, rate, epoch, _mean(both[0]), reported, tuple(points), seconds, _spread(both[1])))
    return out


def counted_seeds(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[list[int], list[int]]]:
    """Return for each method the seeds that all its rates have run with, and the other ones.

    A bench that is not done has further seeds of some rates only: means over these would compare rates by chance.
    """
    ran: dict[str, dict[float | None, set[int]]] = {}
    for row in rows:
        if "rate" in row:
            ran.setdefault(row["method"], {}).setdefault(row["rate"], set()).add(row["seed"])
    out = {}
    for method, of_rate in ran.items():
        shared = set.intersection(*of_rate.values())
        out[method] = sorted(shared), sorted(set.union(*of_rate.values()) - shared)
    return out


def dominates(one: Figures, other: Figures) -> bool:
    """Return whether one setting is at least as good by all `AXES` that both have, and better by one."""
    known = [name for name in AXES if one.get(name) is not None and other.get(name) is not None]
    gaps = [AXES[name] * (one[name] - other[name]) for name in known]  # type: ignore[operator]
    return bool(gaps) and min(gaps) >= 0 and max(gaps) > 0


def non_dominated(settings: Iterable[ArmSetting]) -> list[ArmSetting]:
    """Return the settings that no other one beats on the half to choose on, by forgotten probability, lowest first."""
    every = list(settings)
    kept = [one for one in every if not any(dominates(other.chosen, one.chosen) for other in every)]
    return sorted(kept, key=lambda s: (s.chosen["forget_prob"], s.rate or 0.0, s.epoch))


def chosen(settings: Sequence[ArmSetting], least: float, by: str = "gain") -> ArmSetting | None:
    """Return the best setting that keeps what is retained; `None` where none does.

    Only figures on the half to choose on are read.

    Args:
        settings: of one method.
        least: mean probability of retained rows that a setting must keep.
        by: `"gain"`, the highest, or `"forget_prob"`, the lowest.

    Raises:
        InvalidInputError: another `by`, or `"gain"` where nobody retrained a model.
    """
    check_choice("by", by, ("gain", "forget_prob"))
    kept = [s for s in settings if (s.chosen["retain_prob"] or 0.0) >= least]
    if any(s.chosen.get(by) is None for s in kept):
        raise InvalidInputError(f"Expected settings with '{by}' to choose by (got some without)")
    return max(kept, key=lambda s: (AXES[by] * s.chosen[by], -s.epoch), default=None)  # type: ignore[operator]


def _first(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the point of the original model."""
    for row in rows:
        if row["method"] == "original" and "values" in row["points"][0]:
            return row["points"][0]
    raise InvalidInputError("Expected a row of the original model, measured (got none)")


def _mean(figures: Sequence[Figures]) -> dict[str, float | None]:
    out: dict[str, float | None] = {}
    for name in figures[0]:
        known = [value for f in figures if (value := f.get(name)) is not None]
        out[name] = sum(known) / len(known) if len(known) == len(figures) else None
    return out


def _spread(figures: Sequence[Figures]) -> dict[str, tuple[float, float]]:
    out: dict[str, tuple[float, float]] = {}
    for name in figures[0]:
        known = [value for f in figures if (value := f.get(name)) is not None]
        if known:
            out[name] = (min(known), max(known))
    return out
