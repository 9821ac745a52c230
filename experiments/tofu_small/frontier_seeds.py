"""The frontiers of several seeds side by side: each method at equal retention."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from experiments.common import markdown
from gunlearn.bench.llm.frontier import ArmSetting
from gunlearn.report.frontier_table import at_equal_retention, by_method, compared_models, three_digits

FIGURES = {"forget_prob": "forget prob", "gain": "gain", "retain_prob": "retain prob", "mia_min_k": "MIA AUC"}
Rows = Sequence[Mapping[str, Any]]


def table(seeds: Sequence[Rows]) -> str:
    """Mean over seeds, with the smallest and the largest, of the methods that every seed has.

    `kept`: in how many seeds a setting keeps what is retained; in the others the one that keeps most counts.
    """
    found: dict[str, list[tuple[bool, Mapping[str, float | None]]]] = {}
    for rows in seeds:
        for name, figures in compared_models(rows).items():
            found.setdefault(name, []).append((True, figures))
        every = by_method(rows)
        for name, setting in at_equal_retention(rows).items():
            found.setdefault(name, []).append((setting is not None, (setting or most(every[name])).reported))
    whole = {name: of for name, of in found.items() if len(of) == len(seeds)}
    models = [name for name in whole if name == "original" or name.startswith("retrained")]
    methods = sorted(set(whole) - set(models), key=lambda name: -mean(f["gain"] or 0.0 for _, f in whole[name]))
    body = [
        (f"`{name}`", *(spread([f[key] for _, f in whole[name]]) for key in FIGURES), kept(name, whole, models))
        for name in (*models, *methods)
    ]
    return markdown(("method", *FIGURES.values(), "kept"), body)


def by_rate(seeds: Sequence[Rows], method: str) -> str:
    """Every setting of one method: mean over seeds, with the smallest and the largest."""
    found: dict[tuple[float | None, int], list[Mapping[str, float | None]]] = {}
    for rows in seeds:
        for setting in by_method(rows)[method]:
            found.setdefault((setting.rate, setting.epoch), []).append(setting.reported)
    body = [
        (f"{rate:g}", str(epoch), *(spread([figures[key] for figures in of]) for key in FIGURES), str(len(of)))
        for (rate, epoch), of in found.items()
    ]
    return markdown(("rate", "passes", *FIGURES.values(), "seeds"), body)


def kept(name: str, whole: Mapping[str, Sequence[tuple[bool, Any]]], models: Sequence[str]) -> str:
    """In how many seeds a setting keeps what is retained."""
    return "-" if name in models else f"{sum(own for own, _ in whole[name])} of {len(whole[name])}"


def most(settings: Sequence[ArmSetting]) -> ArmSetting:
    """The setting that keeps most."""
    return max(settings, key=lambda setting: setting.chosen["retain_prob"] or 0.0)


def spread(values: Sequence[float | None]) -> str:
    """Mean, smallest and largest."""
    numbers = [value for value in values if value is not None]
    if not numbers:
        return "-"
    return f"{three_digits(mean(numbers))} ({three_digits(min(numbers))} to {three_digits(max(numbers))})"
