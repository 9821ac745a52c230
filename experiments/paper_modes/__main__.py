"""Paper modes beside the authors' own code; see README.md in this folder.

python -m experiments.paper_modes --root DATA --out runs/paper_modes [--smoke] [--seeds 0 1 2 3 4] [--tasks nodes links]
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal

import tyro

from experiments.common import StudyArgs, markdown, write_results
from gunlearn.bench import GridConfig, Recipe, run_grid, suite

#: What the authors' code gave: see README.md.
AUTHORS = json.loads((Path(__file__).parent / "authors.json").read_text())
#: Rows by task: label, method, options, and whether it stands for the authors' code.
ROWS: dict[str, list[tuple[str, str, tuple[str, ...]]]] = {
    "nodes": [
        ("megu:paper", "megu:paper", ()),
        ("megu:paper, Adam at 1e-2 (before)", "megu:paper", ("megu.optimizer=adam", "megu.lr=0.01")),
        ("cognac:paper", "cognac:paper", ()),
        ("cognac:paper, no contrast", "cognac:paper", ("cognac.contrast_steps=0", "cognac.epochs=200")),
        ("cognac:paper, the last model", "cognac:paper", ("cognac.keep=last",)),
        ("cognac:paper, one Adam", "cognac:paper", ("cognac.shared_optimizer=true",)),
        ("cognac:paper (before)", "cognac:paper", (
            "cognac.epochs=60", "cognac.lr=0.001", "cognac.rounds=1", "cognac.margin=1", "cognac.alpha=1",
            "cognac.read=original", "cognac.keep=last",
        )),
        ("etr:paper", "etr:paper", ()),
        ("etr:paper, the items' own rows", "etr:paper", ("etr.rows=own",)),
        ("etr:paper (before)", "etr:paper", ("etr.rows=own", "etr.rectify=original")),
    ],
    "links": [
        ("gnndelete:paper, 500 epochs", "gnndelete:paper", ("gnndelete.epochs=500",)),
        ("gnndelete:paper, 500 epochs, own losses alone", "gnndelete:paper", (
            "gnndelete.epochs=500", "gnndelete.leftover=false",
        )),
    ],
}  # fmt: skip
CONTROLS = ("retrain", "utu")
#: Retrained models per problem.
REFERENCES = {"nodes": 3, "links": 2}
UTILITY = {"nodes": "test_acc", "links": "retain_auc"}
KEPT = (
    "dataset",
    "task",
    "seed",
    "method",
    "mode",
    "options",
    "test_acc",
    "retain_auc",
    "js_forget",
    "js_floor_forget",
)


@dataclass
class Args(StudyArgs):
    """What to run; a killed run goes on where it stopped.

    Attributes:
        tasks: 10 % of Cora's training nodes, or 5 % of its edges under link prediction.
        seeds: of split, draw and base model.
        n_jobs: processes.
    """

    tasks: tuple[Literal["nodes", "links"], ...] = ("nodes", "links")
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    n_jobs: int | None = None


def recipe(task: str, smoke: bool) -> Recipe:
    """How base models and references are trained."""
    if task == "links":
        return Recipe(epochs=20 if smoke else 2000, eval_every=10 if smoke else 50)
    return Recipe(20 if smoke else 500, 1e-2, 5e-4, eval_every=None, hidden_channels=64)


def grids(args: Args, task: str) -> Iterable[tuple[str, GridConfig]]:
    """Each row's label, and its problems; the first one's hold the controls too."""
    for number, (label, method, options) in enumerate(ROWS[task]):
        for config in suite(
            recipe=[recipe(task, args.smoke)],
            dataset=("digits",) if args.smoke else ("Cora",),
            ratio=0.05 if task == "links" else 0.1,
            methods=(*CONTROLS, method) if number == 0 else (method,),
            method_args=options,
            root=args.root,
            seeds=args.seeds[:2] if args.smoke else args.seeds,
            models=args.out / "models",
            task="link_prediction" if task == "links" else "node_classification",
            forget="edges" if task == "links" else "nodes",
            references=REFERENCES[task],
        ):
            yield label, config


def label_of(row: dict[str, Any], label: str) -> str | None:
    """Return the row's label in the table; `None` for rows that every grid has."""
    if row["method"] in CONTROLS:
        return row["method"]
    return None if row["method"] == "original" else label


def spread(values: list[float]) -> str:
    """Return mean and standard deviation."""
    return f"{mean(values):.4f} ± {stdev(values):.4f}" if len(values) > 1 else f"{values[0]:.4f}"


def within(ours: list[float], theirs: float) -> bool:
    """Return whether a figure lies within two standard deviations of ours."""
    return len(ours) > 1 and abs(mean(ours) - theirs) <= 2 * stdev(ours)


def table(task: str, rows: dict[str, dict[int, dict[str, Any]]]) -> str:
    """One line per row, with the authors' figures where there are some."""
    lines = []
    for label, by_seed in rows.items():
        good = [row for row in by_seed.values() if not row.get("error")]
        if not good:
            lines.append((label, "", next(iter(by_seed.values()))["error"][:60], "", "", "", ""))
            continue
        ours = {key: [row[key] for row in good] for key in (UTILITY[task], "js_forget")}
        cells = [spread(values) for values in ours.values()]
        known = AUTHORS[task].get(label) if good[0]["dataset"] == "Cora" else None  # not in the short form
        if known is None:
            lines.append((label, str(len(good)), *cells, "", "", ""))
            continue
        quoted, again = known["quoted"], known["again"]
        inside = all(within(ours[key], quoted[key]) for key in ours)
        beside = [" / ".join(f"{quoted[key]:.4f}" for key in ours)] if quoted else [""]
        beside.append(" / ".join(spread(again[key]) for key in ours) if all(again.values()) else "")
        lines.append((label, str(len(good)), *cells, *beside, "yes" if inside else "**no**"))
    head = (
        *("row", "seeds", "AUC" if task == "links" else "accuracy", "JS forget"),
        *("authors' code, quoted", "authors' code, on our weights", "quoted within 2 s.d."),
    )
    return markdown(head, lines)


def kept(row: dict[str, Any]) -> dict[str, Any]:
    """Return what is written of a row of the grid."""
    chosen = row["notes"].get("chosen")  # the step that Cognac returns
    found = {key: row[key] for key in KEPT if row.get(key) is not None}
    return found if chosen is None else found | {"chosen": chosen}


def tables(results: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    """A table per task from the rows that are written."""
    found = {}
    for task, rows in results.items():
        by_row: dict[str, dict[int, dict[str, Any]]] = {}
        for row in rows:
            by_row.setdefault(row["row"], {})[row["seed"]] = row
        found[task] = table(task, by_row)
    return found


def main(args: Args) -> None:
    """Run all problems; write `results.json` and `tables.md`."""
    results: dict[str, list[dict[str, Any]]] = {}
    for task in args.tasks:
        rows: dict[str, dict[int, dict[str, Any]]] = {}
        for label, config in grids(args, task):
            for row in run_grid([config], args.out / "grid", progress=True, n_jobs=args.n_jobs):
                name = label_of(row, label)
                if name is not None:
                    rows.setdefault(name, {})[row["seed"]] = row
        order = [*CONTROLS, *[label for label, *_ in ROWS[task]]]
        results[task] = [{"row": name, **kept(row)} for name in order for row in rows.get(name, {}).values()]
    text = "\n\n".join(f"### {task}\n\n{of}" for task, of in tables(results).items())
    write_results(args.out, results, text)
    print(text)


if __name__ == "__main__":
    main(tyro.cli(Args))
