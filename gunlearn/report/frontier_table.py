"""The tables of a bench: each method at equal retention, and each method's frontier."""

from collections.abc import Mapping, Sequence
from typing import Any

from gunlearn.bench.llm.frontier import ArmSetting, arm_settings, chosen, counted_seeds, halves_of, non_dominated
from gunlearn.report.listing import listing_markdown

#: Columns of both tables, by figure.
COLUMNS = {
    "forget_prob": "forget prob",
    "forget_rouge": "forget ROUGE",
    "forget_alignment": "alignment",
    "gain": "gain",
    "retain_prob": "retain prob",
    "mia_min_k": "MIA AUC",
    "utility": "utility",
}
MAY_LOSE = 0.01


def compared_models(rows: Sequence[Mapping[str, Any]], seed: int = 0) -> dict[str, Mapping[str, float | None]]:
    """Return the figures of the original and the retrained models, on the half that is reported."""
    _, report = halves_of(rows, seed)
    values = {row["method"]: row["points"][0] for row in rows if "rate" not in row and "values" in row["points"][0]}
    first = values["original"]["values"]
    return {
        name: report.figures(point["values"], first) | {"utility": point.get("utility")}
        for name, point in values.items()
    }


def by_method(rows: Sequence[Mapping[str, Any]], seed: int = 0) -> dict[str, list[ArmSetting]]:
    """Return the settings of each method, in the order in which they ran."""
    out: dict[str, list[ArmSetting]] = {}
    for setting in arm_settings(rows, seed):
        out.setdefault(setting.method, []).append(setting)
    return out


def at_equal_retention(
    rows: Sequence[Mapping[str, Any]], tolerance: float = MAY_LOSE, by: str = "gain", seed: int = 0
) -> dict[str, ArmSetting | None]:
    """Return for each method the setting that `chosen` takes; `None` where none keeps what is retained.

    `tolerance` is how much retained probability may be lost, of the original model's.
    """
    choose, _ = halves_of(rows, seed)
    original = next(row for row in rows if row["method"] == "original")["points"][0]["values"]
    least = (choose.mean(original, "retain_prob") or 0.0) - tolerance
    return {name: chosen(settings, least, by) for name, settings in by_method(rows, seed).items()}


def frontier_markdown(rows: Sequence[Mapping[str, Any]], tolerance: float = MAY_LOSE, seed: int = 0) -> str:
    """Return the tables as markdown: at equal retention, by gain and by forgotten probability, and all frontiers."""
    head, ends = ["method", "rate", "epoch"], compared_models(rows, seed)
    present = [name for name in COLUMNS if any(figures.get(name) is not None for figures in ends.values())]
    head += [COLUMNS[name] for name in present]
    lines = [[name, "-", "-", *(three_digits(figures.get(key)) for key in present)] for name, figures in ends.items()]
    said = ["Figures are of the half of the rows on which nothing was chosen."]
    if "gain" not in present:
        said.append(
            "No retrained models were given: there is no gain, and settings are chosen by forgotten probability."
        )
    every = by_method(rows, seed)
    if any(len(setting.seeds) > 1 for own in every.values() for setting in own):
        said.append("Figures are means over seeds, gains with the lowest and the highest of them.")
    said.append("Methods with ! have no setting that keeps so much; shown is the one that keeps most.")
    seeds = counted_seeds(rows)
    bare = sorted(name for name in seeds.keys() - every.keys() if seeds[name][0])
    if bare:
        said.append(f"No model that can be measured came out of {', '.join(bare)}.")
    dropped = [f"{', '.join(map(str, others))} of {name}" for name, (_, others) in seeds.items() if others]
    if dropped:
        said.append(f"Left out, since not every rate of the method has run with them: seeds {'; '.join(dropped)}.")
    blocks = [" ".join(said)]
    for by, words in (("gain", "nearest to retraining"), ("forget_prob", "lowest forgotten probability")):
        if by == "gain" and "gain" not in present:
            continue
        body = [*lines]
        for name, setting in _sorted(at_equal_retention(rows, tolerance, by, seed)):
            most = max(every[name], key=lambda s: s.chosen["retain_prob"] or 0.0)
            body.append(_line(name if setting else f"{name} !", setting or most, present))
        title = f"At equal retention (at most {tolerance:g} of retained probability lost), {words}:"
        blocks += [title, listing_markdown(head, body)]
    body = [_line(s.method, s, present) for own in every.values() for s in non_dominated(own)]
    return "\n\n".join([*blocks, "Each method's frontier:", listing_markdown(head, lines + body)]) + "\n"


def _sorted(found: Mapping[str, ArmSetting | None]) -> list[tuple[str, ArmSetting | None]]:
    """Return the methods that kept what is retained first, the nearest (or least known) before the others."""

    def place(entry: tuple[str, ArmSetting | None]) -> tuple[bool, float]:
        setting = entry[1]
        if setting is None:
            return True, 0.0
        gain = setting.reported.get("gain")
        return False, -gain if gain is not None else setting.reported["forget_prob"] or 0.0

    return sorted(found.items(), key=place)


def _line(name: str, setting: ArmSetting, present: Sequence[str]) -> list[str]:
    shown = [three_digits(setting.reported.get(key)) for key in present]
    low, high = setting.reported.get("gain_low"), setting.reported.get("gain_high")
    if len(setting.seeds) > 1:
        low, high = setting.spread.get("gain", (None, None))
    if "gain" in present and low is not None:
        shown[present.index("gain")] += f" ({three_digits(low)} to {three_digits(high)})"
    return [name, "-" if setting.rate is None else f"{setting.rate:g}", str(setting.epoch), *shown]


def three_digits(value: float | None) -> str:
    """Return a value in a table's cell; probabilities close to 0 in powers of ten."""
    if value is None:
        return "-"
    if value == 0 or 1e-3 <= abs(value) < 1000:
        return f"{value:.3g}"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.0e}"
