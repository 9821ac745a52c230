"""How near could forgotten edges come if their scores alone were set, without a step? See README.md in this folder.

python -m experiments.nearest.targets --root DATA --out runs/nearest [--datasets Cora ...] [--backbones gcn ...]
    [--links 10 0.025] [--seeds 0 1 2]
"""

import itertools
import json
from dataclasses import replace
from statistics import median
from typing import Any

import tyro
from torch import Tensor, nn

from experiments.common import markdown
from experiments.nearest.__main__ import Args, grids
from gunlearn.bench.cell import Cell
from gunlearn.bench.config import GridConfig
from gunlearn.bench.models import ModelStore
from gunlearn.bench.store import atomic_write
from gunlearn.datasets.catalogue import load
from gunlearn.losses.divergences import js_divergence
from gunlearn.tasks import as_task
from gunlearn.tasks.graph.retrained_scores import retrained_scores
from gunlearn.tasks.graph.score_targets import scores

#: Shares of the gap to unseen edges that are taken away; `auto` takes a half.
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
TRUE = "true mean"


def apart(one: Tensor, other: Tensor) -> float:
    """Return the mean divergence of two models' predictions of the same edges."""
    return float(js_divergence(one.double().sigmoid(), other.double().sigmoid()).mean())


def measured(config: GridConfig, cell: Cell, references: int) -> dict[str, Any]:
    """Return a problem's distances in floors: scores less shares of the gap, and less their true mean change."""
    task, sparse = as_task(cell.task), config.recipe.backbone not in ("sage", "gin")
    data, request = cell.prepare(load(cell.dataset, config.root, sparse=sparse))
    held = ModelStore(config.models, config.recipe, task)
    base, partition = held.base(data, cell.seed), request.resolve(data)
    retrained = [held.retrained(base, partition, 1000 * k + cell.seed).model for k in range(1, references + 1)]

    def of(model: nn.Module) -> Tensor:
        return scores(task, model, partition.retain_data, partition.forget_edge_index)[0]

    own, others = of(base.model), [of(model) for model in retrained]
    floor = sum(apart(a, b) for a, b in itertools.combinations(others, 2)) / (references * (references - 1) / 2)
    half = own - retrained_scores(task, base.model, partition)
    change = (own - sum(others) / references).mean()
    shifts = {f"{share:g}": 2 * share * half for share in SHARES} | {TRUE: change}
    far = {
        name: sum(apart(own - shift, other) for other in others) / references / floor for name, shift in shifts.items()
    }
    return {"gap": float(2 * half.mean()), "change": float(change), **far}


def named(config: GridConfig, cell: Cell) -> dict[str, Any]:
    """Return what a problem is."""
    size = cell.ratio if cell.count is None else cell.count
    return {"dataset": cell.dataset, "backbone": config.recipe.backbone, "size": size, "seed": cell.seed}


def table(rows: list[dict[str, Any]]) -> str:
    """Medians over seeds; the last line has the medians over problems."""
    columns = ("gap", "change", *(f"{share:g}" for share in SHARES), TRUE)
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["dataset"], row["backbone"], f"{row['size']:g}"), []).append(row)
    middle = [[median(row[name] for row in of) for name in columns] for of in groups.values()]
    lines = [
        [*key, str(len(of)), *(f"{value:.2f}" for value in values)]
        for (key, of), values in zip(groups.items(), middle, strict=True)
    ]
    lines.append(["median", "", "", str(len(rows)), *(f"{median(of):.2f}" for of in zip(*middle, strict=True))])
    head = ("graph", "model", "size", "seeds", "gap", "change", *(f"{s:g} of the gap" for s in SHARES), TRUE)
    return markdown(head, lines, 3)


def main(args: Args) -> None:
    """Measure every link problem; write `targets.json` and print the table."""
    path = args.out / "targets.json"
    rows = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    for config in grids(replace(args, nodes=())):
        for cell in config.cells():
            names = named(config, cell)
            if not any(names.items() <= row.items() for row in rows):
                rows.append({**names, **measured(config, cell, args.references)})
                atomic_write(path, json.dumps(rows, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main(tyro.cli(Args))
