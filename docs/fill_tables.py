"""Writes the generated tables into docs/: `python docs/fill_tables.py`.

The tables of methods, losses, figures and estimators come from the classes, the table of speed from the committed rows
of `experiments/speed`. `python -m experiments.tables` writes the measured tables of the front page and the studies.
"""

import json
import re
from pathlib import Path

from gunlearn.llm.metrics.figure_legends import legends_table
from gunlearn.methods import settings_listing
from gunlearn.report import estimators_table, figures_table, losses_table, methods_table
from gunlearn.report.listing import listing_markdown

DOCS = Path(__file__).parent
SPEED = DOCS.parent / "experiments" / "speed" / "results.json"
CASES = {
    "step-DBLP": "INPO step, DBLP", "step-CS": "INPO step, CS", "step-Photo": "INPO step, Photo",
    "step-DBLP-default": "INPO step (default mode), DBLP", "step-CS-default": "INPO step (default mode), CS",
    "step-Photo-default": "INPO step (default mode), Photo",
    "run-DBLP": "INPO run, DBLP", "run-CS": "INPO run, CS", "run-CS-default": "INPO run (default mode), CS",
    "retrain-DBLP": "INPO run against retraining, DBLP", "retrain-CS": "INPO run against retraining, CS",
    "retrain-DBLP-default": "INPO run (default mode) against retraining, DBLP",
    "retrain-CS-default": "INPO run (default mode) against retraining, CS",
    "scale-1e6": "INPO step, power-law graph", "scale-1e7": "INPO step, power-law graph",
}  # fmt: skip


def speed_table() -> str:
    """The committed rows that the README shows, in markdown."""
    rows = {row["case"]: row for row in json.loads(SPEED.read_text())}
    head = "what | undirected edges | ours, s | other, s | ratio | PyG on CSR, s | ratio | ours, MiB | other, MiB"
    lines = [f"| {head} |", "| --- |" + " ---: |" * head.count("|")]
    for case, label in CASES.items():
        if case in rows:
            row = rows[case]
            columns = "ours_s", "plain_s", "ratio", "csr_s", "csr_ratio", "ours_mb", "plain_mb"
            shown = [_number(row.get(k)) for k in columns]
            lines.append(f"| {label} | {row['edges']:,} | {' | '.join(shown)} |")
    return "\n".join(lines)


def llm_settings_table() -> str:
    """The settings published for language models, as `gunlearn llm-methods` prints them, in markdown."""
    (_, *head), body = settings_listing()
    return listing_markdown(head, [row for task, *row in body if task == "causal_lm"])


def llm_figures_table() -> str:
    """The figures of an evaluation of one language model, in markdown."""
    head, body = legends_table()
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body))


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


#: Tables by their name: the file that shows one, and the function that makes it.
TABLES = {
    "methods": (DOCS / "methods.md", methods_table),
    "losses": (DOCS / "losses.md", losses_table),
    "estimators": (DOCS / "influence.md", estimators_table),
    "figures": (DOCS / "metrics.md", figures_table),
    "speed": (DOCS / "scaling.md", speed_table),
    "llm_settings": (DOCS / "llm.md", llm_settings_table),
    "llm_figures": (DOCS / "llm_eval.md", llm_figures_table),
}


def main() -> None:
    """Rewrite the files."""
    for name, (file, table) in TABLES.items():
        file.write_text(filled(file.read_text(encoding="utf-8"), {name: table().strip()}), encoding="utf-8")


if __name__ == "__main__":
    main()
