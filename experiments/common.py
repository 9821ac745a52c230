"""What the studies share: options, tables, files."""

import json
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gunlearn.bench.store import ROWS_FILE, RowStore, atomic_write


@dataclass
class StudyArgs:
    """What to run.

    Attributes:
        out: folder of the outputs.
        root: folder of the data sets.
        smoke: a small graph and a few epochs, to see that everything runs.
    """

    out: Path
    root: Path | None = None
    smoke: bool = False


def markdown(head: Sequence[str], body: Iterable[Sequence[str]], left: int = 1) -> str:
    """A markdown table; the first `left` columns are aligned to the left, the others to the right."""
    rule = ["---" if k < left else "---:" for k in range(len(head))]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *body))


def resumed(out: Path, runs: Iterable[tuple[str, Callable[[], list[dict[str, Any]]]]]) -> list[dict[str, Any]]:
    """Rows of all runs, of those too that `rows.jsonl` in `out` has from before: a run that was killed goes on."""
    out.mkdir(parents=True, exist_ok=True)
    kept = out / ROWS_FILE
    rows = {key: line["rows"] for key, line in RowStore(kept).read().items()}
    for key, run in runs:
        if key in rows:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rows[key] = run()
        with kept.open("a") as file:
            file.write("\n" + json.dumps({"key": key, "rows": rows[key]}) + "\n")  # ends a line that was torn
    return [row for of in rows.values() for row in of]


def write_results(out: Path, results: Any, tables: str) -> None:
    """Write `results.json` and `tables.md`."""
    atomic_write(out / "results.json", json.dumps(results, indent=1) + "\n")
    atomic_write(out / "tables.md", tables + "\n")


def sides(intervals: Sequence[tuple[float | None, float | None]]) -> str:
    """Return in how many runs the interval of a gain over the untouched model lies on one side of 0."""
    counts = {
        "farther": sum(high is not None and high < 0 for _, high in intervals),
        "nearer": sum(low is not None and low > 0 for low, _ in intervals),
    }
    said = [f"{word} in {count} of {len(intervals)}" for word, count in counts.items() if count]
    return ", ".join(said) or "undecided"
