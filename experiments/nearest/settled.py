"""How fast weights still grew when a training ended, and whether going on or going back ended nearer; see README.md.

python -m experiments.nearest.settled --root DATA --out runs/settled [--smoke] [--datasets Cora ...] [--seeds 0]
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import tyro

from experiments.common import markdown, resumed, write_results
from experiments.nearest.__main__ import PARTS, Args, floors, grids, size_of
from gunlearn.bench import GridConfig
from gunlearn.bench.cell import Cell
from gunlearn.bench.models import ModelStore
from gunlearn.datasets.catalogue import load
from gunlearn.tasks import as_task
from gunlearn.training.settled import growth_rate

Row = dict[str, Any]
_SAID = re.compile(r"the norm of the weights changed by ([\d.]+)% per training")
WAYS = {"going on": ("continued_training", "default"), "going back": ("replay", "default")}


def measured(config: GridConfig, cell: Cell) -> list[Row]:
    """Return the growth at the end of a base model's training, as a list of one row."""
    data, _ = cell.prepare(load(cell.dataset, config.root, sparse=config.recipe.backbone not in ("sage", "gin")))
    base = ModelStore(config.models, config.recipe, as_task(cell.task)).base(data, cell.seed)
    growth = growth_rate(base.training, base.model)
    problem = {"forget": cell.forget, "dataset": cell.dataset, "backbone": config.recipe.backbone, "seed": cell.seed}
    return [{**problem, "growth": growth}]


def runs(args: Args) -> Iterable[tuple[str, Callable[[], list[Row]]]]:
    """Yield every base model's training, one for all sizes of a request, under a name."""
    for config in grids(replace(args, nodes=args.nodes[:1], links=args.links[:1])):
        for cell in config.cells():
            name = repr((cell.forget, cell.dataset, cell.seed, config.recipe))
            yield name, partial(measured, config, cell)


def growths(rows: list[Row], trainings: list[Row]) -> dict[tuple[str, ...], set[float]]:
    """Return the growths by request, graph and model: as measured, or as `auto` said them in its rows."""
    found: dict[tuple[str, ...], set[float]] = {}
    for row in [*rows, *trainings]:
        said = _SAID.search(row.get("notes", {}).get("why", ""))
        growth = float(said[1]) / 100 if said else row.get("growth")
        if growth is not None:
            found.setdefault((row["forget"], row["dataset"], row["backbone"]), set()).add(growth)
    return found


def farthest(rows: list[Row], way: str) -> dict[tuple[str, ...], dict[float, float]]:
    """Return the farthest part, in the median over seeds, by request, graph and model, and by size."""
    seeds: dict[tuple[str, ...], dict[float, list[dict[str, float]]]] = {}
    for row in rows:
        if (row["method"], row["mode"]) == WAYS[way] and not row.get("error"):
            size = size_of(row)
            sizes = seeds.setdefault((row["forget"], row["dataset"], row["backbone"]), {})
            sizes.setdefault(size, []).append(floors(row))
    return {
        key: {size: max(median(one[part] for one in of) for part in PARTS) for size, of in sizes.items()}
        for key, sizes in seeds.items()
    }


def table(rows: list[Row], trainings: list[Row]) -> str:
    """Return one line per request, graph and model; of several sizes or seeds the smallest and the largest."""
    known, far = growths(rows, trainings), [farthest(rows, way) for way in WAYS]

    def between(values: Iterable[float], spec: str) -> str:
        low, high = min(values), max(values)
        return f"{low:{spec}}" if f"{low:{spec}}" == f"{high:{spec}}" else f"{low:{spec}} to {high:{spec}}"

    lines = []
    for key in far[0]:
        growth = between(known[key], ".3f") if key in known else "not kept"
        sizes = [", ".join(f"{value:.2f}" for _, value in sorted(of[key].items(), key=_by_number)) for of in far]
        lines.append([*key, growth, *sizes])
    return markdown(["forget", "graph", "model", "growth", *WAYS], lines, 3)


def _by_number(item: tuple[float, float]) -> tuple[bool, float]:
    """Sort sizes: numbers of items before shares."""
    return item[0] < 1, item[0]


def main(args: Args) -> None:
    """Measure base models; write `results.json` and `tables.md`."""
    rows = resumed(args.out, runs(args))
    text = markdown(["forget", "graph", "model", "seed", "growth"], [[str(v) for v in row.values()] for row in rows], 4)
    write_results(args.out, rows, text)
    print(text)


if __name__ == "__main__":
    main(tyro.cli(Args))
