"""Every graph method on one footing; see README.md in this folder.

python -m experiments.graph_methods --root DATA --out runs/graph_methods [--smoke] [--tasks links nodes features]
    [--datasets Cora ...] [--backbones gcn ...] [--seeds 0 1 2] [--methods utu ...] [--n-jobs 1]
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from gunlearn.bench import GridConfig, Recipe, run_grid
from gunlearn.bench.store import atomic_write
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
class Args:
    """What to run; a killed run goes on where it stopped.

    Attributes:
        out: folder of the outputs.
        root: folder of the data sets.
        tasks: link prediction with edge requests; node classification with node, or with feature requests.
        datasets: names.
        backbones: names.
        ratios: shares to forget; the protocol's where none are given.
        regions: where forgotten edges lie.
        seeds: one run each.
        methods: `name` (every variant) or `name:variant`; all that take the task where none are given.
        references: retrain twice for each problem; without, distances are not had.
        n_jobs: processes.
        smoke: a few epochs on small graphs, to see that everything runs.
    """

    out: Path
    root: Path | None = None
    tasks: tuple[Literal["links", "nodes", "features"], ...] = ("links", "nodes", "features")
    datasets: tuple[str, ...] = DATASETS
    backbones: tuple[str, ...] = BACKBONES
    ratios: tuple[float, ...] = ()
    regions: tuple[str, ...] = REGIONS
    seeds: tuple[int, ...] = (0, 1, 2)
    methods: tuple[str, ...] = ()
    references: bool = True
    n_jobs: int | None = None
    smoke: bool = False


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


def grids(args: Args) -> Iterator[tuple[str, GridConfig]]:
    """A folder's name and a grid for each problem."""
    for task in args.tasks:
        for backbone in args.backbones:
            for dataset in args.datasets:
                for ratio in args.ratios or RATIOS[task]:
                    for region in args.regions if task == "links" else ("any",):
                        if args.smoke:
                            dataset, ratio, region = "digits", 0.05, "any"
                        yield (
                            f"{task}_{backbone}_{dataset}_{ratio}_{region}",
                            GridConfig(
                                dataset,
                                args.methods or methods_of(task),
                                root=args.root,
                                ratio=ratio,
                                region=region,
                                seeds=args.seeds,
                                recipe=recipe(task, backbone, args.smoke),
                                models=args.out / "models",
                                task="link_prediction" if task == "links" else "node_classification",
                                forget="edges" if task == "links" else task,
                                references=args.references,
                                # The training's own penalty goes on, where a method has one.
                                method_args=penalty(args.methods or methods_of(task)) if task != "links" else (),
                            ),
                        )


def main(args: Args) -> None:
    """Run all problems; write `results.json` and `tables.md` anew after each."""
    results: dict[str, list[dict[str, Any]]] = {}
    for name, config in dict(grids(args)).items():
        rows = run_grid(config, args.out / name, progress=True, n_jobs=args.n_jobs)
        results[name] = [{k: v for k, v in row.items() if k not in LEFT_OUT} for row in rows]
        atomic_write(args.out / "results.json", json.dumps(results, indent=0) + "\n")
        tables = [f"## {key}\n\n{markdown_table(rows)}" for key, rows in results.items()]
        atomic_write(args.out / "tables.md", "\n\n".join(tables) + "\n")
        print(tables[-1], flush=True)


if __name__ == "__main__":
    main(tyro.cli(Args))
