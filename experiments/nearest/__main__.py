"""How near to retraining, at what price: continued training, replay, shrinking; see README.md in this folder.

python -m experiments.nearest --root DATA --out runs/nearest [--smoke] [--datasets Cora ...] [--backbones gcn ...]
    [--requests 1 10 0.1] [--links 10 0.025] [--seeds 0 1 2] [--methods ...] [--n-jobs 1] [--device cuda]
"""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any

import tyro

from experiments.common import StudyArgs, markdown, write_results
from gunlearn.bench import GridConfig, Recipe, run_grid, suite

PARTS = ("forget", "retain", "test")
#: Fields of the rows that are written.
KEPT = (
    *("dataset", "task", "forget", "ratio", "count", "num_forget", "seed", "backbone", "method", "mode", "notes"),
    *("epochs", "price", "seconds", "device", "error", "unchanged", "retain_acc", "test_acc", "retain_auc"),
    *("js_forget", "js_retain", "js_test", "js_floor_forget", "js_floor_retain", "js_floor_test", "utility_floor"),
)
METHODS = ("continued_training:default", "continued_training:estimated", "replay", "finetune", "auto")


@dataclass
class Args(StudyArgs):
    """What to run; a killed run goes on where it stopped.

    Attributes:
        datasets: names.
        backbones: names.
        nodes: numbers of nodes to forget, shares below 1.
        links: numbers of edges to forget under link prediction, shares below 1.
        seeds: of split, draw and base model.
        methods: `name` (every variant) or `name:variant`; `utu` is added.
        references: retrained models per problem.
        n_jobs: processes.
        device: `cpu`, `cuda` or `auto`.
    """

    datasets: tuple[str, ...] = ("Cora", "CiteSeer", "DBLP", "CS", "Photo")
    backbones: tuple[str, ...] = ("gcn", "sage", "gat")
    nodes: tuple[float, ...] = (1, 10, 0.1)
    links: tuple[float, ...] = (10, 0.025)
    seeds: tuple[int, ...] = (0, 1, 2)
    methods: tuple[str, ...] = METHODS
    references: int = 3
    n_jobs: int | None = None
    device: str = "cpu"


def recipe(task: str, backbone: str, smoke: bool) -> Recipe:
    """How base models and references are trained: to the last step, which is what continued training goes on from."""
    if task == "links":
        return Recipe(epochs=40 if smoke else 1000, eval_every=None, backbone=backbone)
    return Recipe(40 if smoke else 500, 1e-2, 5e-4, eval_every=None, hidden_channels=64, backbone=backbone)


def grids(args: Args) -> Iterable[GridConfig]:
    """One configuration per problem."""
    for task, sizes in (("nodes", args.nodes), ("links", args.links)):
        links = task == "links"
        for size in sizes:
            yield from suite(
                recipe=[recipe(task, backbone, args.smoke) for backbone in args.backbones],
                dataset=("digits",) if args.smoke else args.datasets,
                ratio=size if size < 1 else None,
                count=None if size < 1 else int(size),
                methods=args.methods,
                root=args.root,
                seeds=args.seeds,
                models=args.out / "models",
                task="link_prediction" if links else "node_classification",
                forget="edges" if links else "nodes",
                references=args.references,
                method_args=given(recipe(task, "gcn", args.smoke), args.methods),
                device=args.device,
            )


def given(how: Recipe, methods: tuple[str, ...]) -> tuple[str, ...]:
    """What a user who kept no state of the training still knows: its steps and its rate."""
    if not any(name.startswith("continued_training") for name in methods):
        return ()
    return (f"continued_training.lr={how.lr}", f"continued_training.training_steps={how.epochs}")


def size_of(row: dict[str, Any]) -> float:
    """Return how much a row forgets: a number of items, or their share."""
    return float(row["ratio"] if row.get("count") is None else row["count"])


def floors(row: dict[str, Any]) -> dict[str, float]:
    """Distances to retraining in noise floors, by part."""
    return {part: row[f"js_{part}"] / row[f"js_floor_{part}"] for part in PARTS if row.get(f"js_{part}") is not None}


def price(row: dict[str, Any]) -> float | None:
    """Steps and gradient passes of estimates as a share of the training's steps."""
    if row["epochs"] is None:
        return None
    return float(row["epochs"] + row["notes"].get("passes", 0)) / row["recipe"]["epochs"]


def table(rows: list[dict[str, Any]]) -> str:
    """Medians over seeds, one line per problem and method."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        if row["method"] in ("original", "retrain"):
            continue
        size = size_of(row)
        key = (row["forget"], row["dataset"], row["backbone"], f"{size:g}", row["method"], row["mode"])
        groups.setdefault(key, []).append(row)
    lines = []
    for key, members in groups.items():
        good = [row for row in members if not row.get("error")]
        if not good:
            lines.append((*key, "", "", "", members[0]["error"][:60], "", ""))
            continue
        far = [floors(row) for row in good]
        cells = []
        for part in PARTS:
            values = sorted(one[part] for one in far if part in one)
            cells.append(f"{median(values):.2f} ({values[0]:.2f}, {values[-1]:.2f})" if values else "")
        cells += [
            f"{median(row['price'] for row in good):.3f}",
            f"{median(row['seconds'] for row in good):.2f}",
            str(len(good)),
        ]
        lines.append((*key, *cells))
    head = (
        "forget",
        "graph",
        "model",
        "size",
        "method",
        "mode",
        *(f"{p}, floors" for p in PARTS),
        "price",
        "s",
        "seeds",
    )
    return markdown(head, lines, 6)


def counts(rows: list[dict[str, Any]]) -> str:
    """In how many problems is the worst part, in the median over seeds, within so many floors?"""
    cells: dict[tuple[Any, ...], list[dict[str, float]]] = {}
    for row in rows:
        if row["method"] not in ("original", "retrain") and not row.get("error"):
            size = size_of(row)
            key = (row["forget"], row["method"], row["mode"], row["dataset"], row["backbone"], size)
            cells.setdefault(key, []).append(floors(row))
    worst: dict[tuple[Any, ...], list[float]] = {}
    for key, seeds in cells.items():
        medians = [median(one[part] for one in seeds) for part in PARTS if all(part in one for one in seeds)]
        worst.setdefault(key[:3], []).append(max(medians))
    lines = [
        (*key, str(len(far)), *(str(sum(x <= bound for x in far)) for bound in (1.5, 2.0)), f"{max(far):.1f}")
        for key, far in worst.items()
    ]
    return markdown(("forget", "method", "mode", "problems", "within 1.5", "within 2", "farthest"), lines, 3)


def main(args: Args) -> None:
    """Run all problems as one suite; write `results.json` and `tables.md`."""
    rows = run_grid(list(grids(args)), args.out / "grid", progress=True, n_jobs=args.n_jobs)
    rows = [{**row, "price": price(row)} for row in rows]
    text = counts(rows) + "\n\n" + table(rows)
    write_results(args.out, [{name: row[name] for name in KEPT if row.get(name) is not None} for row in rows], text)
    print(text)


if __name__ == "__main__":
    main(tyro.cli(Args))
