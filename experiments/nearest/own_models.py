"""Models as users bring them: dropout, few labels, short trainings, learning rates that fall. See README.md here.

python -m experiments.nearest.own_models --root DATA --out runs/own_models [--smoke] [--seeds 0 1 2]
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from statistics import median
from typing import Any

import torch
import tyro
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch_geometric.nn import GATConv, GCNConv, SAGEConv

import gunlearn as gu
from experiments.common import StudyArgs, markdown, resumed, write_results
from experiments.nearest.__main__ import PARTS
from experiments.nearest.hard import spread
from experiments.nearest.one_after_another import distances
from gunlearn.datasets.catalogue import load
from gunlearn.metrics.problem import evaluator
from gunlearn.tasks import as_task

TASK = "node_classification"
LAYERS: dict[str, Any] = {"gcn": GCNConv, "sage": SAGEConv, "gat": GATConv}
#: Row of the table -> method and its options beside the state of the training.
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "a twentieth": ("continued_training", {"budget": 0.05}),
    "an eighth": ("continued_training", {"budget": 0.125}),
    "auto": ("auto", {}),
    "replay, a twentieth": ("replay", {"budget": 0.05}),
    "replay, a fifth": ("replay", {"budget": 0.2}),
}
#: Where a scheduler lowered the rate, also at its highest.
HIGHEST: dict[str, tuple[str, dict[str, Any]]] = {"at the highest rate": ("continued_training", {"lr": 1e-2})}


@dataclass(frozen=True)
class Case:
    """A model, how it was trained, and on which labels: Planetoid's 20 of each class, or four fifths of the nodes."""

    dataset: str
    layer: str
    steps: int
    labels: str = "public"
    cosine: bool = False
    batch_norm: bool = False
    dropout: bool = True


CASES = (
    Case("Cora", "gcn", 200),
    Case("Cora", "gcn", 500),
    Case("CiteSeer", "gcn", 200),
    Case("Cora", "sage", 200),
    Case("Cora", "gat", 200),
    Case("Cora", "gcn", 200, "random"),
    Case("Cora", "gcn", 500, "random"),
    Case("Cora", "sage", 200, cosine=True),
    Case("Cora", "gcn", 500, "random", cosine=True),
    Case("Cora", "gcn", 200, cosine=True),
    Case("Cora", "gcn", 150, "random", cosine=True, dropout=False),
    Case("CiteSeer", "gcn", 150, "random", cosine=True, dropout=False),
    Case("Cora", "gcn", 200, batch_norm=True),
    Case("Cora", "gcn", 500, "random", batch_norm=True),
    Case("CiteSeer", "gcn", 200, batch_norm=True),
    Case("Cora", "sage", 200, batch_norm=True),
)


@dataclass
class Args(StudyArgs):
    """What to run; a killed run goes on where it stopped.

    Attributes:
        seeds: of split, draw and base model.
        count: nodes to forget.
        cosine: only the cases whose learning rate falls to 0.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    count: int = 10
    cosine: bool = False


class Net(nn.Module):
    """Two layers, with dropout of a half as in PyG's examples, or without."""

    def __init__(self, case: Case, num_features: int, num_classes: int) -> None:
        super().__init__()
        layer = LAYERS[case.layer]
        self.first, self.second, self.dropout = (
            layer(num_features, 32),
            layer(32, num_classes),
            nn.Dropout(0.5 * case.dropout),
        )
        self.norm = nn.BatchNorm1d(32) if case.batch_norm else nn.Identity()

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        hidden = self.norm(self.first(self.dropout(x), edge_index)).relu()
        return self.second(self.dropout(hidden), edge_index)


def trained(case: Case, data: Any, seed: int, steps: int) -> gu.Result:
    """Adam, rate 1e-2, weight decay 5e-4, to the last step."""
    torch.manual_seed(seed)
    model = Net(case, data.num_features, int(data.y.max()) + 1)
    falls: Callable[[Any], Any] | None = (lambda made: CosineAnnealingLR(made, steps)) if case.cosine else None
    options = {"epochs": steps, "lr": 1e-2, "weight_decay": 5e-4, "eval_every": steps, "seed": seed}
    return gu.train(model, data, TASK, scheduler=falls, **options)


def measured(args: Args, case: Case, seed: int) -> list[dict[str, Any]]:
    """Return a row for each way, with distances and price."""
    data, steps = load("digits" if args.smoke else case.dataset, args.root), 40 if args.smoke else case.steps
    if case.labels == "random" or args.smoke:
        data = gu.node_split(data, seed=seed)
    base, request = trained(case, data, seed, steps), gu.ForgetNodes(count=args.count, seed=seed)
    partition = request.resolve(data)
    references = [trained(case, partition.retain_data, 1000 * k + seed, steps).model for k in (1, 2, 3)]
    judge = evaluator(as_task(TASK), partition, references, seed=seed)
    found = {"utu": (distances(judge, base.model), 0.0)}
    for way, (method, options) in (WAYS | (HIGHEST if case.cosine else {})).items():
        result = gu.unlearn(base.model, data, request, method, TASK, seed=seed, training=base, **options)
        found[way] = distances(judge, result.model), result.notes["price"]
    shared = {**vars(case), "seed": seed}
    return [{**shared, "way": way, "floors": far, "price": price} for way, (far, price) in found.items()]


def named(case: Case) -> Sequence[str]:
    """Return the first columns of a line."""
    how = [
        word
        for word, has in (("dropout", case.dropout), ("batch norm", case.batch_norm), ("cosine", case.cosine))
        if has
    ]
    return (case.dataset, case.layer, case.labels, str(case.steps), ", ".join(how))


def table(rows: list[dict[str, Any]]) -> str:
    """Medians over seeds, with the smallest and the largest; rows hold a case's fields, way, seed, floors and price."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        case = Case(**{field.name: row[field.name] for field in fields(Case) if field.name in row})
        groups.setdefault((*named(case), row["way"]), []).append(row)
    lines = []
    for key, of in groups.items():
        cells = [spread(part, ".2f") for part in zip(*(row["floors"] for row in of), strict=True)]
        lines.append([*key, *cells, f"{median(row['price'] for row in of):.3f}"])
    head = ["graph", "layers", "labels", "steps", "with", "way", *(f"{part}, floors" for part in PARTS), "price"]
    return markdown(head, lines, 6)


def main(args: Args) -> None:
    """Run the cases; write `results.json` and `tables.md`."""
    cases, seeds = (CASES[:1], args.seeds[:1]) if args.smoke else (CASES, args.seeds)
    cases = tuple(case for case in cases if case.cosine or not args.cosine)
    runs = [
        (repr((case, seed, args.count, args.smoke)), partial(measured, args, case, seed))
        for case in cases
        for seed in seeds
    ]
    rows = resumed(args.out, runs)
    write_results(args.out, rows, table(rows))
    print(table(rows))


if __name__ == "__main__":
    main(tyro.cli(Args))
