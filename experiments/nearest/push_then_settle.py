"""A short push away from what was forgotten, and continued training after it: both, and each alone. See README.md here.

python -m experiments.nearest.push_then_settle --root DATA --out runs/push [--smoke] [--kinds classes ...] [--seeds 0]
"""

import itertools
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import tyro
from torch import nn

import gunlearn as gu
from experiments.common import StudyArgs, markdown, resumed, write_results
from experiments.nearest.__main__ import PARTS
from experiments.nearest.hard import recipe
from experiments.nearest.one_after_another import distances
from gunlearn.bench.cell import Cell
from gunlearn.bench.models import ModelStore
from gunlearn.connectivity.part_losses import PartLosses
from gunlearn.datasets.catalogue import load
from gunlearn.metrics.problem import evaluator
from gunlearn.tasks import as_task

#: Steps of push and settling together, as a share of the training's.
SHARE = 0.2
#: Push -> its strengths, from weak to strong: passes of a method, or the factor on the weights.
PUSHES: dict[str, tuple[float, ...]] = {
    "npo": (5, 15, 40),
    "scrub": (5, 15, 40),
    "inpo": (5, 15, 40),
    "gif": (1,),
    "shrink": (0.8, 0.6, 0.4),
}
#: The strongest push is taken whose losses on retained and on validation items, once settled, are within this factor of
#: those of settling alone: both can be measured without retraining.
WITHIN = 1.05
#: What is forgotten -> the task, and how many.
_KINDS = {
    "flipped_labels": ("node_classification", 30),
    "classes": ("node_classification", 1),
    "planted_edges": ("link_prediction", 30),
}


@dataclass
class Args(StudyArgs):
    """What to run; a killed run goes on where it stopped.

    Attributes:
        datasets: names.
        backbones: names.
        kinds: what is forgotten: 30 "flipped_labels" of nodes, one of the "classes", or 30 "planted_edges".
        decays: weight decays of the training of nodes; that of links has none.
        seeds: of split, draw and base model.
    """

    datasets: tuple[str, ...] = ("Cora", "CiteSeer")
    backbones: tuple[str, ...] = ("gcn", "sage")
    kinds: tuple[str, ...] = tuple(_KINDS)
    decays: tuple[float, ...] = (5e-4, 0.0)
    seeds: tuple[int, ...] = (0, 1, 2)


def pushed(run: Any, base: gu.Result, push: str, strength: float) -> tuple[nn.Module, int]:
    """Return the model after a push, and the passes that it took."""
    if push == "gif":
        result = run(base.model, push)
        return result.model, 2 * result.notes["iterations"] + 1  # a product with the curvature is two passes
    return run(base.model, push, epochs=int(strength)).model, int(strength)


def measured(args: Args, kind: str, dataset: str, backbone: str, decay: float, seed: int) -> list[dict[str, Any]]:
    """Return the rows of a problem."""
    named, count = _KINDS[kind]
    trained = recipe(named, backbone, decay, args.smoke)
    task, name = as_task(named), "digits" if args.smoke else dataset
    cell = Cell(name, "random", None, 5 if args.smoke else count, "any", "random", seed, task.name, kind)
    data, request = cell.prepare(load(name, args.root, sparse=backbone not in ("sage", "gin")))
    held, partition = ModelStore(args.out / "models", trained, task), request.resolve(data)
    base = held.base(data, seed)
    references = [held.retrained(base, partition, 1000 * k + seed).model for k in (1, 2, 3)]
    judge, losses = evaluator(task, partition, references, seed=seed), PartLosses(task, partition, base.model)

    def run(model: nn.Module, method: str, **options: Any) -> gu.Result:
        return gu.unlearn(model, data, request, method, task, seed=seed, **options)

    share = 0.9 if args.smoke else SHARE
    room = int(share * trained.epochs)
    problem = {"kind": kind, "dataset": dataset, "backbone": backbone, "decay": decay, "seed": seed}

    def row(push: str, strength: float, settled: bool, model: nn.Module, passes: float) -> dict[str, Any]:
        told = {"push": push, "strength": strength, "settled": settled, "price": passes / trained.epochs}
        far = dict(zip(PARTS, distances(judge, model), strict=True))
        return {**problem, **told, **far, "losses": losses.losses(model, ("retain", "val"))}

    def settle(model: nn.Module, left: int) -> nn.Module:
        known = {"optimizer": base.training.optimizer, "training_steps": trained.epochs}
        return run(model, "continued_training", budget=left / trained.epochs, **known).model

    rows = [row("utu", 0, False, base.model, 0), row("none", 0, True, settle(base.model, room), room)]
    own = run(base.model, "auto", training=base)
    rows.append(row("auto", 0, True, own.model, own.notes["price"] * trained.epochs))
    for push, strengths in PUSHES.items():
        for strength in strengths if push != "inpo" or kind == "planted_edges" else ():
            if push == "shrink":
                both = run(base.model, "continued_training", training=base, budget=share, shrink=strength)
                rows.append(row(push, strength, True, both.model, room))
                continue
            moved, passes = pushed(run, base, push, strength)
            rows.append(row(push, strength, False, moved, passes))
            if passes < room:
                rows.append(row(push, strength, True, settle(moved, room - passes), room))
    return rows


def chosen(rows: list[dict[str, Any]], push: str) -> dict[str, Any] | None:
    """Return the strongest push whose losses after settling stay near those of settling alone; `None` for none."""
    alone = next(row for row in rows if row["push"] == "none")["losses"]
    near = [
        row
        for row in rows
        if row["push"] == push
        and row["settled"]
        and all(row["losses"][part] <= WITHIN * alone[part] for part in ("retain", "val") if alone[part] is not None)
    ]
    return near[-1] if near else None


def by_problem(rows: list[dict[str, Any]]) -> dict[tuple[Any, ...], dict[int, list[dict[str, Any]]]]:
    """Return the rows by problem and seed."""
    groups: dict[tuple[Any, ...], dict[int, list[dict[str, Any]]]] = {}
    for row in rows:
        key = row["kind"], row["dataset"], row["backbone"], row["decay"]
        groups.setdefault(key, {}).setdefault(row["seed"], []).append(row)
    return groups


def cell(problem: list[list[dict[str, Any]]], push: str) -> str:
    """Return the farthest part of a push alone (the strongest), settled with the chosen strength, and with the nearest.

    Each is the median over seeds; a seed in which none is chosen counts as settling alone.
    """
    alone, taken, nearest = [], [], []
    for rows in problem:
        own = [row for row in rows if row["push"] == push]
        pushes, both = ([row for row in own if row["settled"] == settled] for settled in (False, True))
        if not both:
            return ""
        alone += [pushes[-1]] if pushes else []
        taken.append(chosen(rows, push) or next(row for row in rows if row["push"] == "none"))
        nearest.append(min(both, key=lambda row: max(row[part] for part in PARTS)))
    return " / ".join(f"{farthest(of):.1f}" if of else "-" for of in (alone, taken, nearest))


def farthest(rows: list[dict[str, Any]]) -> float:
    """Return the largest of the medians of the three parts, in floors."""
    return max(median(row[part] for row in rows) for part in PARTS)


def table(rows: list[dict[str, Any]]) -> str:
    """One line per problem: the farthest part, in floors, of the controls and of each push; see `cell`."""
    lines = []
    for (kind, dataset, backbone, decay), seeds in by_problem(rows).items():
        of = list(seeds.values())
        controls = [[row for one in of for row in one if row["push"] == way] for way in ("utu", "none", "auto")]
        told = [kind.replace("_", " "), dataset, backbone, f"{decay:g}", *(f"{farthest(way):.1f}" for way in controls)]
        lines.append([*told, *(cell(of, push) for push in PUSHES), str(len(of))])
    head = ["forget", "graph", "model", "decay", "nothing", "settled alone", "`auto`", *PUSHES, "seeds"]
    return markdown(head, lines, 4)


def main(args: Args) -> None:
    """Measure every problem, and write `results.json` and `tables.md`."""
    if args.smoke:
        args = Args(args.out, args.root, True, ("digits",), ("gcn",), ("flipped_labels",), (0.0,), (0,))
    every = itertools.product(args.kinds, args.datasets, args.backbones, args.decays, args.seeds)
    runs = [
        ("-".join(map(str, one)), partial(measured, args, *one))
        for one in every
        if one[0] != "planted_edges" or one[3] == 0
    ]
    rows = resumed(args.out, runs)
    write_results(args.out, rows, table(rows))
    print(table(rows))


if __name__ == "__main__":
    main(tyro.cli(Args))
