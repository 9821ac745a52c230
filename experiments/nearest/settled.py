"""Had a training settled, and does a gradient tell how near to retraining a result is? See README.md in this folder.

python -m experiments.nearest.settled --root DATA --out runs/nearest [--smoke] [--datasets Cora ...] [--seeds 0 1 2]
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
import tyro
from scipy.stats import spearmanr
from torch import Tensor, nn

import gunlearn as gu
from experiments.common import markdown
from experiments.nearest.__main__ import Args, floors, grids
from gunlearn.bench import GridConfig, run_grid
from gunlearn.bench.cell import Cell
from gunlearn.bench.models import ModelStore
from gunlearn.datasets.catalogue import load
from gunlearn.seed import isolated_rng
from gunlearn.tasks import as_task
from gunlearn.tasks.sampling import BatchOptions
from gunlearn.training.from_scratch import training_step
from gunlearn.training.settled import growth_rate

_DRAWS = 3


def scaled_gradient(model: nn.Module, data: Any, task: Any, decay: float, squares: list[Tensor]) -> float:
    """Root mean square of the training loss's gradient, each entry over the root of Adam's second moment."""
    model.train().requires_grad_(True)
    total = [torch.zeros_like(parameter) for parameter in model.parameters()]
    for draw in range(_DRAWS):
        with isolated_rng(draw):
            step = training_step(model, data, task, BatchOptions(None, "k_hop", None))[1]
            for one, gradient in zip(total, torch.autograd.grad(step().total, list(model.parameters())), strict=True):
                one.add_(gradient / _DRAWS)
    with torch.no_grad():
        scaled = [
            (g + decay * p) / (v.sqrt() + 1e-8) for g, p, v in zip(total, model.parameters(), squares, strict=True)
        ]
    return float(torch.cat([one.flatten() for one in scaled]).square().mean().sqrt())


def measured(config: GridConfig, cell: Cell, row: dict[str, Any]) -> tuple[str, ...]:
    """Return one line: growth at the end of the training, gradients before and after, and the distance."""
    task, sparse = as_task(cell.task), config.recipe.backbone not in ("sage", "gin")
    data, request = cell.prepare(load(cell.dataset, config.root, sparse=sparse))
    base = ModelStore(config.models, config.recipe, task).base(data, cell.seed)
    result = gu.unlearn(base.model, data, request, "continued_training", task, seed=cell.seed, training=base)
    states = base.training.optimizer["state"]
    squares = [states[k]["exp_avg_sq"] / (1 - 0.999 ** float(states[k]["step"])) for k in sorted(states)]
    kept, decay = request.resolve(data).retain_data, config.recipe.weight_decay
    at_end, before, after = (
        scaled_gradient(model, seen, task, decay, squares)
        for model, seen in ((base.model, data), (base.model, kept), (result.model, kept))
    )
    size = cell.ratio if cell.count is None else cell.count
    return (
        *(cell.forget, cell.dataset, config.recipe.backbone, f"{size:g}", str(cell.seed)),
        f"{growth_rate(base.training, base.model):.3f}",
        *(f"{before / at_end:.2f}", f"{after / at_end:.2f}", f"{max(floors(row).values()):.2f}"),
    )


def lines(args: Args) -> Iterable[tuple[str, ...]]:
    """One line per problem."""
    for config in grids(replace(args, methods=("continued_training:default",))):
        rows = run_grid([config], args.out / "grid")
        for cell in config.cells():
            row = next(r for r in rows if r["seed"] == cell.seed and r["method"] == "continued_training")
            yield measured(config, cell, row)


def main(args: Args) -> None:
    """Print the table, and the rank correlation of the gradient that is left with the distance."""
    body = list(lines(args))
    head = ("forget", "graph", "model", "size", "seed", "growth", "gradient before", "after", "floors, worst part")
    print(markdown(head, body, 5))
    rank, _ = spearmanr([float(line[7]) for line in body], [float(line[8]) for line in body])
    print(f"\nRank correlation of the gradient after with the distance: {rank:.2f} over {len(body)} problems")


if __name__ == "__main__":
    main(tyro.cli(Args))
