"""Means over seeds, and paired differences with their intervals.

`python -m experiments.influence_in_inpo.report DIR` puts the rows in DIR, finished or not, into this folder.
"""

import json
import math
import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from scipy.stats import t as student

from experiments.common import markdown
from experiments.influence_in_inpo.cases import CASES
from experiments.influence_in_inpo.cell import LEVELS
from gunlearn.bench import ROWS_FILE, RowStore

Rows = Sequence[dict[str, Any]]
#: Column -> figure; JS divergences in multiples of what two retrainings differ by.
COLUMNS = {
    "retain AUC": "retain_auc",
    "forget AUC": "forget_auc",
    "JS forget": "floors_forget",
    "JS test": "floors_test",
    "JS retain": "floors_retain",
    "seconds": "seconds",
}
#: Where the forget AUC has come a share of its way to 1, see `cell.LEVELS`.
AT = {
    f"{label} at {share:.0%}": f"at_{share}_{name}"
    for share in LEVELS
    for label, name in (("retain AUC", "retain_auc"), ("JS forget", "floors_forget"), ("JS retain", "floors_retain"))
}


def figure(row: dict[str, Any], name: str) -> float | None:
    """A figure of a row; `floors_*`, with whatever stands before, is a divergence divided by the cell's own floor."""
    prefix, found, which = name.partition("floors_")
    if not found:
        return row.get(name)
    value, floor = row.get(f"{prefix}js_{which}"), row.get(f"js_floor_{which}")
    return value / floor if value is not None and floor else None


def paired(rows: Rows, against: Rows, name: str) -> tuple[float, float, int] | None:
    """Mean difference over seeds, half width of its 95 % t interval, number of seeds.

    Each seed has its own split, base model, forget sets and references, so that seeds are independent; the differences
    of its forget sets are averaged first. Cells where a side has no such figure are left out.
    """
    base = {_cell(row): figure(row, name) for row in against}
    differences: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        one, two = figure(row, name), base.get(_cell(row))
        if one is not None and two is not None:
            differences[row["seed"]].append(one - two)
    per_seed = [mean(values) for values in differences.values()]
    n = len(per_seed)
    if n < 2:
        return None
    return mean(per_seed), float(student.ppf(0.975, n - 1)) * stdev(per_seed) / math.sqrt(n), n


def _cell(row: dict[str, Any]) -> tuple[int, str]:
    return row["seed"], row["forget"]


def select(rows: Rows, **wanted: Any) -> list[dict[str, Any]]:
    return [r for r in rows if all(r[name] == value for name, value in wanted.items())]


def means(rows: Rows, cases: Sequence[str], columns: dict[str, str]) -> str:
    """Mean figures of each case; in front how many cells went in, in brackets where only some have the figure."""
    cells = []
    for case in cases:
        of_case = select(rows, case=case)
        shown = [case, str(len(of_case))]
        for name in columns.values():
            values = [v for v in (figure(r, name) for r in of_case) if v is not None]
            part = "" if len(values) == len(of_case) else f" ({len(values)})"
            shown.append(_shown(mean(values), name) + part if values else "-")
        cells.append(shown)
    return markdown(["score", "runs", *columns], cells)


def differences(rows: Rows, cases: Sequence[str], against: str, columns: dict[str, str]) -> str:
    """Paired differences of each case from one; bold where the interval leaves out 0."""
    base, cells = select(rows, case=against), []
    for case in cases:
        if case == against:
            continue
        cells.append([case, *(_difference(paired(select(rows, case=case), base, n), n) for n in columns.values())])
    return markdown([f"minus {against}", *columns], cells)


def ablation(rows: Rows) -> str:
    """NORA's scales in force while training, while evaluating, in both, in neither."""
    cells = []
    for training in ("none", "nora"):
        for scaled in (False, True):
            of_case = select(rows, case=training)
            shown = ["no" if training == "none" else "yes", "yes" if scaled else "no"]
            for name in list(COLUMNS.values())[:-1]:
                values = [figure(r, f"scaled_{name}" if scaled else name) for r in of_case]
                shown.append("-" if not values or None in values else _shown(mean(values), name))
            cells.append(shown)
    return markdown(["scaled in training", "in evaluation", *list(COLUMNS)[:-1]], cells)


def report(rows: Rows, cases: Sequence[str]) -> str:
    """All tables as markdown."""
    parts = []
    for dataset in dict.fromkeys(r["dataset"] for r in rows):
        here = select(rows, dataset=dataset)
        reference = select(here, mode="-")
        for mode in ("default", "paper"):
            of_mode = select(here, mode=mode)
            if not of_mode:
                continue
            had = [c for c in cases if select(of_mode, case=c)]
            columns = {**COLUMNS, **AT}
            both = [*of_mode, *(r for r in reference if _cell(r) in {_cell(m) for m in of_mode})]
            parts += [f"## {dataset}, {mode} mode", means(both, ["retrain", "utu", *had], columns)]
            for against in ("none", "constant", "nora"):
                parts += [f"### {dataset}, {mode} mode: paired differences from {against}",
                          differences(of_mode, had, against, columns)]  # fmt: skip
            parts += [f"### {dataset}, {mode} mode: where INPO's scales act", ablation(of_mode)]
            for forget in dict.fromkeys(r["forget"] for r in of_mode):
                part = select(of_mode, forget=forget)
                parts += [f"### {dataset}, {mode} mode, forget set of {forget} influence: differences from none",
                          differences(part, had, "none", columns)]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def summary(rows: Rows, cases: Sequence[str]) -> str:
    """The tables of the README: means, differences from no scaling and from constant scales, where scales act."""
    headings = ("", ": paired differences from none", ": paired differences from constant", ": where INPO's scales act")
    parts = re.split(r"^(?=##)", report(rows, cases), flags=re.MULTILINE)
    return "".join(part for part in parts if any(re.match(rf"##+ \w+, \w+ mode{h}$", part, re.M) for h in headings))


def main(directory: Path) -> None:
    """Write `results.json` beside this file and the tables between the README's marks."""
    here, rows = Path(__file__).parent, list(RowStore(directory / ROWS_FILE).read().values())
    short = [{k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    (here / "results.json").write_text("[\n" + ",\n".join(json.dumps(row) for row in short) + "\n]\n")
    rows = json.loads((here / "results.json").read_text())  # the tables are those of the rounded rows
    before, _, rest = (here / "README.md").read_text().partition("<!-- tables -->")
    after = rest.partition("<!-- end of tables -->")[2]
    text = f"{before}<!-- tables -->\n\n{summary(rows, tuple(CASES)).strip()}\n\n<!-- end of tables -->{after}"
    (here / "README.md").write_text(text)


def _shown(value: float, name: str) -> str:
    return f"{value:.4f}" if "auc" in name else f"{value:.3g}"


def _difference(found: tuple[float, float, int] | None, name: str) -> str:
    if found is None:
        return "-"
    value, half, _ = found
    text = f"{value:+.4f} ± {half:.4f}" if "auc" in name else f"{value:+.2f} ± {half:.2f}"
    return f"**{text}**" if abs(value) > half else text


if __name__ == "__main__":
    main(Path(sys.argv[1]))
