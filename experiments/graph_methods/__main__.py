"""Every graph method on one footing; see README.md in this folder.

python -m experiments.graph_methods --root DATA --out runs/graph_methods [--smoke] [--tasks links nodes features]
    [--datasets Cora ...] [--backbones gcn ...] [--seeds 0 1 2] [--methods utu ...] [--n-jobs 1]
"""

from dataclasses import dataclass
from typing import Any, Literal

import tyro

from experiments.common import StudyArgs, write_results
from gunlearn.bench import GridConfig, Recipe, run_grid, suite
from gunlearn.methods import METHODS
from gunlearn.report import markdown_table

DATASETS = ("Cora", "CiteSeer", "DBLP", "CS", "Photo")
BACKBONES = ("gcn", "sage", "gat", "gin")
RATIOS = {"links": (0.005, 0.025, 0.05), "nodes": (0.05, 0.1), "features": (0.1,)}
REGIONS = ("in", "out", "any")
HEADS = ("graph_editor", "cgu", "scalegun")  # for a linear head; experiments.graph_methods.heads runs them
#: Fields that plots alone need, or that say the same in every row.
LEFT_OUT = ("curve", "hist_forget", "recipe", "options", "versions")


@dataclass
class Args(StudyArgs):
    """What to run; a killed run goes on where it stopped.

    Attributes:
        tasks: link prediction with edge requests; node classification with node, or with feature requests.
        datasets: names.
        backbones: names.
        ratios: shares to forget; the protocol's where none are given.
        regions: where forgotten edges lie.
        seeds: one run each.
        methods: `name` (every variant) or `name:variant`; all that take the task where none are given.
        references: retrain twice for each problem; without, there are no distances.
        n_jobs: processes.
    """

    tasks: tuple[Literal["links", "nodes", "features"], ...] = ("links", "nodes", "features")
    datasets: tuple[str, ...] = DATASETS
    backbones: tuple[str, ...] = BACKBONES
    ratios: tuple[float, ...] = ()
    regions: tuple[str, ...] = REGIONS
    seeds: tuple[int, ...] = (0, 1, 2)
    methods: tuple[str, ...] = ()
    references: bool = True
    n_jobs: int | None = None


def recipe(task: str, backbone: str, smoke: bool) -> Recipe:
    """How base models are trained."""
    if task == "links":
        return Recipe(epochs=20 if smoke else 2000, eval_every=10 if smoke else 50, backbone=backbone)
    epochs = 20 if smoke else 500
    return Recipe(epochs, 1e-2, 5e-4, eval_every=10 if smoke else 50, hidden_channels=64, backbone=backbone)


def methods_of(task: str) -> tuple[str, ...]:
    """Every method that takes the task's requests, but for those of linear heads and the references."""
    name, forgets = ("link_prediction", "edges") if task == "links" else ("node_classification", task)
    return tuple(
        key
        for key, cls in METHODS.items()
        if key not in (*HEADS, "retrain")
        and (not cls.tasks or name in cls.tasks)
        and (not cls.requests or forgets in cls.requests)
    )


def penalty(methods: tuple[str, ...]) -> tuple[str, ...]:
    """The training's penalty for those methods that have one."""
    takes = [name for name in {m.partition(":")[0] for m in methods} if "weight_decay" in METHODS[name].options()]
    return ("weight_decay=0.0005",) if takes else ()


def grids(args: Args) -> list[GridConfig]:
    """Every problem of the protocol."""
    datasets, regions, found = args.datasets, args.regions, []
    if args.smoke:
        datasets, regions = ("digits",), ("any",)
    for task in args.tasks:
        links, methods = task == "links", args.methods or methods_of(task)
        found += suite(
            recipe=[recipe(task, backbone, args.smoke) for backbone in args.backbones],
            dataset=datasets,
            ratio=(0.05,) if args.smoke else args.ratios or RATIOS[task],
            region=regions if links else "any",
            methods=methods,
            root=args.root,
            seeds=args.seeds,
            models=args.out / "models",
            task="link_prediction" if links else "node_classification",
            forget="edges" if links else task,
            references=args.references,
            # The training's own penalty goes on, where a method has one.
            method_args=() if links else penalty(methods),
        )
    return found


def name_of(row: dict[str, Any]) -> str:
    """A row's problem."""
    task = "links" if row["forget"] == "edges" else row["forget"]
    return "_".join(map(str, (task, row["backbone"], row["dataset"], row["ratio"], row["region"])))


def main(args: Args) -> None:
    """Run all problems as one suite; write `results.json` and `tables.md`."""
    results: dict[str, list[dict[str, Any]]] = {}
    for row in run_grid(grids(args), args.out / "grid", progress=True, n_jobs=args.n_jobs):
        kept = {name: value for name, value in row.items() if name not in LEFT_OUT}
        results.setdefault(name_of(row), []).append(kept)
    tables = "\n\n".join(f"## {name}\n\n{markdown_table(rows)}" for name, rows in results.items())
    write_results(args.out, results, tables)
    print(tables)


if __name__ == "__main__":
    main(tyro.cli(Args))
