"""Does a high forget AUC mean nearer to retraining? FADE on a graph's links; see README.md in this folder.

python -m experiments.fade_graphs --root DATA --out runs/fade_graphs [--smoke] [--seeds 0 1 2]
"""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

import tyro

from experiments.common import StudyArgs, markdown, sides, write_results
from gunlearn.bench import GridConfig, Recipe, run_grid
from gunlearn.metrics import ALIGNMENT

METHODS = (
    *("continued_training:estimated", "finetune", "scrub", "gif:default", "bad_teacher", "inpo"),
    *("npo:default", "graddiff", "gradient_ascent", "gnndelete:default", "random_label"),
)
#: Fields of the rows that are written.
KEPT = (
    *("dataset", "task", "forget", "ratio", "num_forget", "seed", "method", "mode", "epochs", "seconds", "error"),
    *("forget_auc", "retain_auc", "js_forget", "js_floor_forget", *ALIGNMENT),
)
#: A forget AUC from which a method looks as if it had forgotten.
LOOKS_FORGOTTEN = 0.9


@dataclass
class Args(StudyArgs):
    """What to run; a killed run goes on where it stopped.

    Attributes:
        dataset: name of the graph.
        ratio: share of the training edges to forget.
        seeds: of split, draw, base model and methods.
        methods: `name` (every variant) or `name:variant`; `utu` is added.
        references: retrained models per seed.
    """

    dataset: str = "Cora"
    ratio: float = 0.025
    seeds: tuple[int, ...] = (0, 1, 2)
    methods: tuple[str, ...] = METHODS
    references: int = 3


def config(args: Args) -> GridConfig:
    """The problem under every seed."""
    return GridConfig(
        dataset="digits" if args.smoke else args.dataset,
        methods=args.methods,
        root=args.root,
        ratio=args.ratio,
        seeds=args.seeds[:1] if args.smoke else args.seeds,
        recipe=Recipe(epochs=40 if args.smoke else 1000, eval_every=None),
        method_args=("continued_training.lr=0.001", f"continued_training.training_steps={40 if args.smoke else 1000}"),
        references=args.references,
        metrics=ALIGNMENT,
    )


def verdict(runs: list[dict[str, Any]]) -> str:
    """In how many of the runs the gain's interval is on one side of 0, and what the forget AUC makes one believe."""
    said = sides([(run["gain_low_forget"], run["gain_high_forget"]) for run in runs])
    looks = mean(run["forget_auc"] for run in runs) > LOOKS_FORGOTTEN
    return f"looks forgotten, {said}" if looks else said


def table(rows: Iterable[dict[str, Any]]) -> str:
    """Means over seeds; of the gain each seed's interval by its ends, the lowest and the highest."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["method"], row["mode"]), []).append(row)
    lines = []
    for (method, mode), runs in groups.items():
        name = method if mode in ("default", "full graph", "given") else f"{method} ({mode})"
        good = [run for run in runs if not run.get("error")]
        if not good:
            lines.append((name, *[""] * 6, runs[0]["error"][:60]))
            continue

        def cell(key: str, spec: str, good: list[dict[str, Any]] = good) -> str:
            values = [run[key] for run in good]
            return f"{mean(values):{spec}}" + (f" ± {stdev(values):{spec}}" if len(values) > 1 else "")

        low, high = min(run["gain_low_forget"] for run in good), max(run["gain_high_forget"] for run in good)
        floors = mean(run["alignment_forget"] for run in good) / mean(run["alignment_floor_forget"] for run in good)
        cells = [cell("forget_auc", ".3f"), cell("retain_auc", ".3f"), cell("alignment_forget", ".3g"), f"{floors:.3g}"]
        cells += [cell("gain_forget", ".2f"), f"{low:.2f} to {high:.2f}", f"{mean(r['gain_retain'] for r in good):.2f}"]
        says = "" if method in ("original", "utu", "retrain") else verdict(good)
        lines.append((name, *cells, says))
    head = ("method", "forget AUC", "retain AUC", "alignment, forgotten", "in floors", "gain", "its interval")
    return markdown((*head, "gain, retained", "verdict"), lines)


def main(args: Args) -> None:
    """Run the grid; write `results.json` and `tables.md`."""
    rows = run_grid([config(args)], args.out / "grid", progress=True, n_jobs=1)
    kept = [{name: row[name] for name in KEPT if row.get(name) is not None} for row in rows]
    text = table(kept)
    write_results(args.out, kept, text)
    print(text)


if __name__ == "__main__":
    main(tyro.cli(Args))
