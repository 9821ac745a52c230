"""What INPO's ideas add to its stop rule: the same stop rule for other methods, and INPO without its ideas."""

import math
from statistics import fmean, stdev
from typing import Any

from scipy.stats import t as student

from experiments.common import markdown
from gunlearn.bench import GridConfig, run_grid

#: INPO's bound on steps and its rate where edges end at the score of unseen ones.
_SAME = {"epochs": 200, "lr": 3e-4}
_UNSEEN = {"until": "unseen"}
INPO = "INPO until unseen"
#: Row of the table -> method and its options.
CONTROLS: dict[str, tuple[str, dict[str, Any]]] = {
    "utu": ("utu:default", {}),
    "fine-tuning": ("finetune:default", {}),
    "fine-tuning, INPO's steps and rate": ("finetune:default", _SAME),
    INPO: ("inpo:unseen", {}),
    "INPO without scaled messages": ("inpo:unseen", {"scale_messages": False}),
    "INPO without entropy loss": ("inpo:unseen", {"entropy_weight": 0.0}),
    "INPO without KL": ("inpo:unseen", {"kl_weight": 0.0}),
    "INPO without all three": ("inpo:unseen", {"scale_messages": False, "entropy_weight": 0.0, "kl_weight": 0.0}),
    "NPO until unseen": ("npo:default", {**_UNSEEN, **_SAME}),
    "GradDiff until unseen": ("graddiff:default", {**_UNSEEN, **_SAME}),
    "gradient ascent until unseen": ("gradient_ascent:default", {**_UNSEEN, **_SAME}),
    "NPO until unseen, own rate": ("npo:default", {**_UNSEEN, "epochs": 200}),
    "GradDiff until unseen, own rate": ("graddiff:default", {**_UNSEEN, "epochs": 200}),
    "gradient ascent until unseen, own rate": ("gradient_ascent:default", {**_UNSEEN, "epochs": 200}),
    "INPO's default": ("inpo:default", {}),
}
PARTS = ("forget", "test", "retain")


def run_controls(out: Any, progress: bool = True, **settings: Any) -> list[dict[str, Any]]:
    """Return the rows of all controls under each seed, `mode` being the row of the table.

    A grid takes one set of options per method, so each control is a grid of its own; they share models and rows.
    """
    configs = [
        GridConfig(
            methods=(spec,), method_args=tuple(f"{spec.split(':')[0]}.{k}={v}" for k, v in options.items()), **settings
        )
        for spec, options in CONTROLS.values()
    ]
    # Seed by seed: a run that is stopped early has whole tables of the first seeds.
    seeds, rows = settings["seeds"], []
    for seed in seeds:
        for name, config in zip(CONTROLS, configs, strict=True):
            found = run_grid(_of_seed(config, seed), out, progress)
            rows += [] if rows and rows[-1]["seed"] == seed else [row | {"mode": ""} for row in found[:2]]
            rows.append(found[-1] | {"mode": name})
    return rows


def _of_seed(config: GridConfig, seed: int) -> GridConfig:
    return GridConfig(**{**vars(config), "seeds": (seed,)})


def control_table(rows: list[dict[str, Any]]) -> str:
    """Means over seeds; the difference to INPO's own row is paired by seed, with a 95 % t interval."""
    lines = []
    inpo = {row["seed"]: _floors(row, "forget") for row in rows if row["mode"] == INPO and not row["error"]}
    for name in CONTROLS:
        of = [row for row in rows if row["mode"] == name]
        good = [row for row in of if not row["error"]]
        if not good:
            lines += [[name, of[0]["error"], *[""] * 7]] if of else []
            continue
        cells = [spread([_floors(row, part) for row in good]) for part in PARTS]
        gaps = [_floors(row, "forget") - inpo[row["seed"]] for row in good if row["seed"] in inpo]
        cells.insert(1, "" if name == INPO else interval(gaps))
        cells += [f"{fmean(row[figure] for row in good):.3f}" for figure in ("retain_auc", "forget_auc")]
        cells += [f"{fmean(row['epochs'] or 0 for row in good):.0f}", f"{fmean(row['seconds'] for row in good):.1f}"]
        lines.append([name, *cells])
    head = ["method", "forget, floors", "beside INPO", "test, floors", "retain, floors"]
    return markdown([*head, "AUC retain", "AUC forget", "steps", "s"], lines)


def _floors(row: dict[str, Any], part: str) -> float:
    return row[f"js_{part}"] / row[f"js_floor_{part}"]


def spread(values: list[float], digits: int = 2) -> str:
    """Mean, and standard deviation where there are several."""
    return f"{fmean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def interval(gaps: list[float]) -> str:
    """Mean with a 95 % t interval; bold where it leaves out 0."""
    if len(gaps) < 2:
        return f"{gaps[0]:+.2f}" if gaps else ""
    mean, half = fmean(gaps), float(student.ppf(0.975, len(gaps) - 1)) * stdev(gaps) / math.sqrt(len(gaps))
    text = f"{mean:+.2f} ± {half:.2f}"
    return f"**{text}**" if abs(mean) > half else text
