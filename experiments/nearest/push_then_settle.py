"""A short push away from what was forgotten, and continued training after it: both, and each alone. See README.md here.

python -m experiments.nearest.push_then_settle --root DATA --out runs/push [--smoke] [--datasets Cora ...] [--seeds 0 1 2]
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import tyro
from torch import nn

import gunlearn as gu
from experiments.common import StudyArgs, markdown, resumed, write_results
from experiments.nearest.__main__ import PARTS
from experiments.nearest.hard import recipe, spread
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
_KINDS = {"flipped_labels": "node_classification", "planted_edges": "link_prediction"}


@dataclass
class Args(StudyArgs):
    """What to run; a killed run goes on where it stopped.

    Attributes:
        datasets: names.
        backbones: names.
        kinds: what is forgotten, "flipped_labels" of nodes or "planted_edges".
        decays: weight decays of the training of nodes; that of links has none.
        count: labels or edges to forget.
        seeds: of split, draw and base model.
    """

    datasets: tuple[str, ...] = ("Cora", "CiteSeer")
    backbones: tuple[str, ...] = ("gcn", "sage")
    kinds: tuple[str, ...] = ("flipped_labels", "planted_edges")
    decays: tuple[float, ...] = (5e-4, 0.0)
    count: int = 30
    seeds: tuple[int, ...] = (0, 1, 2)


def pushed(run: Any, base: gu.Result, push: str, strength: float) -> tuple[nn.Module, int]:
    """Return the model after a push, and the passes that it took."""
    if push == "gif":
        result = run(base.model, push)
        return result.model, 2 * result.notes["iterations"] + 1  # a product with the curvature is two passes
    return run(base.model, push, epochs=int(strength)).model, int(strength)


def measured(args: Args, kind: str, dataset: str, backbone: str, decay: float, seed: int) -> list[dict[str, Any]]:
    """Return the rows of a problem."""
    trained = recipe(_KINDS[kind], backbone, decay, args.smoke)
    task, name = as_task(_KINDS[kind]), "digits" if args.smoke else dataset
    cell = Cell(name, "random", None, args.count, "any", "random", seed, task.name, kind)
    data, request = cell.prepare(load(name, args.root, sparse=backbone not in ("sage", "gin")))
    held, partition = ModelStore(args.out / "models", trained, task), request.resolve(data)
    base = held.base(data, seed)
    references = [held.retrained(base, partition, 1000 * k + seed).model for k in (1, 2, 3)]
    judge, losses = evaluator(task, partition, references, seed=seed), PartLosses(task, partition, base.model)

    def run(model: nn.Module, method: str, **options: Any) -> gu.Result:
        return gu.unlearn(model, data, request, method, task, seed=seed, **options)

    room = int(SHARE * trained.epochs)
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
                both = run(base.model, "continued_training", training=base, budget=SHARE, shrink=strength)
                rows.append(row(push, strength, True, both.model, room))
                continue
            moved, passes = pushed(run, base, push, strength)
            rows.append(row(push, strength, False, moved, passes))
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


def ways(rows: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the ways of a problem under one seed by their names in the table: controls, pushes alone, both."""
    for push, name in (("utu", "nothing"), ("none", "settled alone"), ("auto", "`auto`")):
        yield name, next(row for row in rows if row["push"] == push)
    for push in PUSHES:
        own = [row for row in rows if row["push"] == push]
        alone = [row for row in own if not row["settled"]]
        if alone:
            yield f"{push} alone, strongest", alone[-1]
        both = [row for row in own if row["settled"]]
        if both:
            yield f"{push}, settled: chosen", chosen(rows, push) or next(row for row in rows if row["push"] == "none")
            yield f"{push}, settled: nearest", min(both, key=lambda row: max(row[part] for part in PARTS))


def table(rows: list[dict[str, Any]]) -> str:
    """Medians over seeds with the smallest and the largest; a push that none is chosen of counts as settling alone."""
    lines = []
    for (kind, dataset, backbone, decay), seeds in by_problem(rows).items():
        found: dict[str, list[dict[str, Any]]] = {}
        for of in seeds.values():
            for name, row in ways(of):
                found.setdefault(name, []).append(row)
        for name, of in found.items():
            cells = [spread((row[part] for row in of), ".1f") for part in PARTS]
            price = f"{median(row['price'] for row in of):.2f}"
            lines.append([kind.replace("_", " "), dataset, backbone, f"{decay:g}", name, *cells, price])
    head = ["forget", "graph", "model", "decay", "way", *(f"{part}, floors" for part in PARTS), "price"]
    return markdown(head, lines, 5)


def main(args: Args) -> None:
    """Measure every problem, and write `results.json` and `tables.md`."""
    if args.smoke:
        args = Args(args.out, args.root, True, ("digits",), ("gcn",), ("flipped_labels",), (0.0,), 5, (0,))
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
