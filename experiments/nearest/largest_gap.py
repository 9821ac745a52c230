"""Nodes with the largest gap between models that saw their labels and models that did not. See README.md here.

python -m experiments.nearest.largest_gap --root DATA --out runs/largest_gap [--smoke] [--seeds 0 1 2] [--models 16]
"""

import copy
import itertools
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
import tyro
from torch import Tensor

import gunlearn as gu
from experiments.common import StudyArgs, markdown, resumed, write_results
from experiments.nearest.__main__ import PARTS
from experiments.nearest.hard import ATTACKS, spread
from gunlearn.datasets.catalogue import load
from gunlearn.metrics.problem import evaluator
from gunlearn.nn import backbone
from gunlearn.seed import isolated_rng
from gunlearn.tasks import NodeClassification

FIGURES = ("forget_prob", *ATTACKS)
#: Row of the table -> method and its options beside the state of the training.
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "auto": ("auto", {}),
    "continued training, a tenth": ("continued_training", {"budget": 0.1}),
    "replay, a tenth": ("replay", {"budget": 0.1}),
}


@dataclass
class Args(StudyArgs):
    """What to run; a killed run goes on where it stopped.

    Attributes:
        backbones: names.
        decays: weight decay of the trainings.
        seeds: of split, subsets and base model.
        count: nodes to forget.
        models: how many are trained, each on 70 % of the training labels, to find them.
    """

    backbones: tuple[str, ...] = ("gcn", "sage")
    decays: tuple[float, ...] = (5e-4, 0.0)
    seeds: tuple[int, ...] = (0, 1, 2)
    count: int = 30
    models: int = 16


def gaps(training: Any, data: Any, models: int, seed: int) -> Tensor:
    """Return for each training node `[k]` how much more probable its label is where it was trained on.

    The subset estimator of arXiv 2008.03703, eq. (3): models trained on random 70 % of the labels, those that hold the
    node against those that do not. The graph stays whole, so labels alone are hidden.
    """
    nodes = data.train_mask.nonzero().view(-1)
    draws = torch.rand(models, len(nodes), generator=torch.Generator().manual_seed(seed))
    held = draws.argsort(dim=1).argsort(dim=1) < int(0.7 * len(nodes))
    probabilities = []
    for k, inside in enumerate(held):
        some = copy.copy(data)
        some.train_mask = torch.zeros_like(data.train_mask).index_fill(0, nodes[inside], True)
        model = training(some, 5000 + 100 * seed + k).model.eval()
        with torch.no_grad():
            probabilities.append(model(data.x, data.edge_index)[nodes].softmax(1).gather(1, data.y[nodes, None])[:, 0])
    known = torch.stack(probabilities)
    with_it, without = (torch.where(of, known, 0).sum(0) / of.sum(0).clamp(min=1) for of in (held, ~held))
    return torch.where(
        held.any(0) & ~held.all(0), with_it - without, -1
    )  # a node that all have, or none, tells nothing


def measured(args: Args, kind: str, decay: float, seed: int) -> list[dict[str, Any]]:
    """Return a row for each way, with distances, what the weights still know, and the price."""
    data, steps = (
        gu.node_split(load("digits" if args.smoke else "Cora", args.root), seed=seed),
        40 if args.smoke else 500,
    )

    def training(on: Any, at: int) -> gu.Result:
        with isolated_rng(at):
            model = backbone(kind, data.num_features, 64, int(data.y.max()) + 1)
        recipe = {"epochs": steps, "lr": 1e-2, "weight_decay": decay, "eval_every": steps, "seed": at}
        return gu.train(model, on, "node_classification", **recipe)

    gap = gaps(training, data, args.models, seed)
    largest = gap.topk(args.count)
    request = gu.ForgetNodes(data.train_mask.nonzero().view(-1)[largest.indices])
    base, partition = training(data, seed), request.resolve(data)
    references = [training(partition.retain_data, 1000 * k + seed).model for k in (1, 2, 3)]
    task = NodeClassification()
    judge = evaluator(task, partition, references, seed, ATTACKS)
    judge.original = base.model
    alone = evaluator(task, partition, references[1:], seed, ATTACKS)
    alone.original = base.model
    found = {"retrain": (alone.row(references[0]), 1.0), "utu": (judge.row(base.model), 0.0)}
    for way, (method, options) in WAYS.items():
        result = gu.unlearn(base.model, data, request, method, task, seed=seed, training=base, **options)
        found[way] = judge.row(result.model), result.notes["price"]
    shared = {"backbone": kind, "decay": decay, "seed": seed, "gap": float(largest.values.mean())}
    shared["gap_of_all"] = float(gap.mean())
    return [
        {
            **{name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in shared.items()},
            "way": way,
            **{f"floors_{part}": row[f"js_{part}"] / row[f"js_floor_{part}"] for part in PARTS},
            **{name: row[name] for name in FIGURES},
            "price": price,
        }
        for way, (row, price) in found.items()
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """Medians over seeds, with the smallest and the largest."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["backbone"], f"{row['decay']:g}", row["way"]), []).append(row)
    lines = []
    for key, of in groups.items():
        cells = [spread((row[f"floors_{part}"] for row in of), ".2f") for part in PARTS]
        for name, spec in zip(FIGURES, (".2f", ".2f", ".0f"), strict=True):
            cells.append(spread((row[name] for row in of if row[name] is not None), spec))
        lines.append([*key, *cells, f"{median(row['price'] for row in of):.3f}", str(len(of))])
    head = [
        "model",
        "decay",
        "way",
        *(f"{part}, floors" for part in PARTS),
        "forget prob.",
        "item MIA",
        "relearn steps",
    ]
    return markdown([*head, "price", "seeds"], lines, 3)


def main(args: Args) -> None:
    """Run the cases; write `results.json` and `tables.md`."""
    if args.smoke:
        args = Args(args.out, args.root, True, ("gcn",), (5e-4,), (0,), 5, 4)
    cases = itertools.product(args.backbones, args.decays, args.seeds)
    runs = [(repr((case, args.count, args.models, args.smoke)), partial(measured, args, *case)) for case in cases]
    rows = resumed(args.out, runs)
    write_results(args.out, rows, table(rows))
    print(table(rows))


if __name__ == "__main__":
    main(tyro.cli(Args))
