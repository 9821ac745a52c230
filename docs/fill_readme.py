"""Writes the generated tables into README.md and docs/: `python docs/fill_readme.py [RESULTS.json]`.

The tables of methods, losses, figures and estimators come from the classes, the table of speed from the committed rows
of `experiments/speed`, the table of results from the rows that `gunlearn run` wrote.
"""

import json
import re
import sys
from pathlib import Path

from gunlearn.report import estimators_table, figures_table, losses_table, markdown_table, methods_table

README = Path(__file__).parent.parent / "README.md"
INFLUENCE = Path(__file__).parent / "influence.md"
METRICS = Path(__file__).parent / "metrics.md"

SPEED = README.parent / "experiments" / "speed" / "results.json"
CASES = {
    "step-DBLP": "INPO step, DBLP", "step-CS": "INPO step, CS", "step-CS-default": "INPO step (default mode), CS",
    "run-DBLP": "INPO run, DBLP", "run-CS": "INPO run, CS", "run-CS-default": "INPO run (default mode), CS",
    "retrain-DBLP-default": "INPO run (default mode) against retraining, DBLP",
    "retrain-CS-default": "INPO run (default mode) against retraining, CS",
    "scale-1e6": "INPO step, power-law graph", "scale-1e7": "INPO step, power-law graph",
}  # fmt: skip


def speed_table() -> str:
    """The committed rows that the README shows, in markdown."""
    rows = {row["case"]: row for row in json.loads(SPEED.read_text())}
    lines = ["| what | undirected edges | ours, s | other, s | ratio | ours, MiB | other, MiB |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for case, label in CASES.items():
        if case in rows:
            row = rows[case]
            shown = [_number(row[k]) for k in ("ours_s", "plain_s", "ratio", "ours_mb", "plain_mb")]
            lines.append(f"| {label} | {row['edges']:,} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def filled(text: str, tables: dict[str, str]) -> str:
    """`text` with each named table between its marks."""
    for name, table in tables.items():
        pattern = rf"(<!-- table:{name} -->\n).*?(<!-- end -->)"
        text, count = re.subn(pattern, lambda match, t=table: f"{match[1]}\n{t}\n\n{match[2]}", text, flags=re.S)
        if count != 1:
            raise SystemExit(f"Expected the marks of table '{name}' once (got {count})")
    return text


def main(results: str | None) -> None:
    """Rewrite the files."""
    METRICS.write_text(filled(METRICS.read_text(), {"figures": figures_table().strip()}))
    estimators = {"estimators": estimators_table().strip()}
    INFLUENCE.write_text(filled(INFLUENCE.read_text(), estimators))
    tables = {"methods": methods_table().strip(), "losses": losses_table().strip(), **estimators}
    if SPEED.is_file():
        tables["speed"] = speed_table()
    if results is not None:
        tables["dblp"] = markdown_table(json.loads(Path(results).read_text())).strip()
    README.write_text(filled(README.read_text(), tables))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
