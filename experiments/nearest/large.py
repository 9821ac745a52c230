"""How many steps one node of a large graph is worth; see README.md in this folder.

python -m experiments.nearest.large --out runs/large [--edges 5e5] [--smoke]
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from itertools import combinations
from typing import Any

import torch
import tyro
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import GCN

import gunlearn as gu
from experiments.common import StudyArgs, markdown, resumed, write_results
from experiments.speed.synthetic import power_law_graph
from gunlearn.losses.divergences import js_to_reference
from gunlearn.seed import isolated_rng

TASK, CLASSES, HIDDEN, RATE = "node_classification", 40, 64, 1e-2
DECAYS = (5e-4, 0.0)
STEPS = (4, 8, 10, 16, 25)
PARTS = ("forgotten", "neighbours", "test")


@dataclass
class Args(StudyArgs):
    """The graph and the trainings; a killed run goes on with the node where it stopped.

    Attributes:
        edges: undirected ones, a tenth as many nodes.
        steps: of a training.
        references: models retrained without the node.
    """

    edges: float = 5e5
    steps: int = 200
    references: int = 3

    def __post_init__(self) -> None:
        if self.smoke:
            self.edges, self.steps, self.references = 2e3, 20, 2


def graph(edges: int) -> tuple[Data, Tensor]:
    """A power-law graph with classes that follow from the features around a node, and which labels were then drawn."""
    data, draw = power_law_graph(edges), torch.Generator().manual_seed(0)
    row, col = data.edge_index
    size = torch.bincount(row, minlength=data.num_nodes).clamp(min=1)[:, None].sqrt()
    around = torch.zeros_like(data.x).index_add_(0, row, data.x[col]) / size
    data.y = ((data.x + around) @ torch.randn(data.num_features, CLASSES, generator=draw)).argmax(dim=1)
    flipped = torch.rand(data.num_nodes, generator=draw) < 0.1
    data.y[flipped] = torch.randint(CLASSES, (int(flipped.sum()),), generator=draw)
    part = torch.rand(data.num_nodes, generator=draw)
    data.train_mask, data.val_mask, data.test_mask = part < 0.54, (part >= 0.54) & (part < 0.71), part >= 0.71
    return data, flipped


def trained(data: Data, seed: int, decay: float, steps: int) -> gu.Result:
    with isolated_rng(seed):
        model = GCN(data.num_features, HIDDEN, 2, CLASSES)
    return gu.train(model, data, TASK, steps=steps, lr=RATE, weight_decay=decay, seed=seed, eval_every=steps)


class Distance:
    """Mean divergences of two models on a node where it still is, on its neighbours and on test nodes, in nats."""

    def __init__(self, data: Data, retain: Data, node: int) -> None:
        self.data, self.retain, self.node = data, retain, node
        row, col = data.edge_index
        self.rows = {"neighbours": col[row == node].unique(), "test": retain.test_mask.nonzero().view(-1)}

    @torch.no_grad()
    def outputs(self, model: nn.Module) -> dict[str, Tensor]:
        model.eval()
        stays = model(self.retain.x, self.retain.edge_index).double()
        asked = model(self.data.x, self.data.edge_index).double()[[self.node]]
        return {"forgotten": asked, **{part: stays[rows] for part, rows in self.rows.items()}}

    def __call__(self, one: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, float]:
        return {part: float(js_to_reference(one[part], other[part]).mean()) for part in PARTS}


def mean(found: list[dict[str, float]]) -> dict[str, float]:
    return {part: statistics.mean(each[part] for each in found) for part in PARTS}


def measured(
    args: Args, data: Data, base: Callable[[float], gu.Result], kind: str, node: int, decay: float
) -> list[dict[str, Any]]:
    """Return a row for each way to forget one node."""
    request, trained_on_all = gu.ForgetNodes([node]), base(decay)
    retain = request.resolve(data).retain_data
    distance = Distance(data, retain, node)
    references = [distance.outputs(trained(retain, s + 1, decay, args.steps).model) for s in range(args.references)]
    floor = mean([distance(one, other) for one, other in combinations(references, 2)])

    def unlearned(method: str, **options: Any) -> gu.Result:
        return gu.unlearn(trained_on_all.model, data, request, method, TASK, training=trained_on_all, **options)

    models = {"utu": (trained_on_all.model, 0)}
    for steps in STEPS:
        result = unlearned("continued_training", steps=steps)
        models[f"continued_training, {steps} steps"] = result.model, steps + result.notes["passes"]
    result = unlearned("auto")
    models["auto"] = result.model, round(result.notes["price"] * args.steps)
    degree, found = int((data.edge_index[0] == node).sum()), []
    for name, (model, passes) in models.items():
        own = distance.outputs(model)
        far = mean([distance(own, other) for other in references])
        row = {"node": kind, "neighbours_of_it": degree, "decay": decay, "method": name, "passes": passes}
        found.append({**row, **{part: far[part] / floor[part] for part in PARTS}})
    return found


def table(found: list[dict[str, Any]]) -> str:
    """Distances in floors."""
    names = ("node", "neighbours_of_it", "decay", "method", "passes", *PARTS)
    shown = ([f"{row[name]:.2f}" if name in PARTS else str(row[name]) for name in names] for row in found)
    return markdown(["node", "degree", "weight decay", "method", "passes", *PARTS], shown)


def main(args: Args) -> None:
    """Run both nodes, the first one without weight decay too; write `results.json` and `tables.md`."""
    torch.set_num_threads(1)
    data, flipped = graph(int(args.edges))
    degree = torch.bincount(data.edge_index[0], minlength=data.num_nodes)
    nodes = {"a wrong label": int((data.train_mask & flipped).nonzero().view(-1)[3])}
    nodes["most neighbours"] = int((degree * data.train_mask).argmax())
    base = cache(lambda decay: trained(data, 0, decay, args.steps))
    runs = [
        (
            repr((kind, decay, args.edges, args.steps, args.references)),
            partial(measured, args, data, base, kind, node, decay),
        )
        for decay in DECAYS
        for kind, node in list(nodes.items())[: None if decay else 1]
    ]
    rows = resumed(args.out, runs)
    write_results(args.out, rows, table(rows))
    print(table(rows))


if __name__ == "__main__":
    main(tyro.cli(Args))
