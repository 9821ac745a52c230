"""Ten requests, one after another: with the state that each leaves to the next, and without. See README.md here.

python -m experiments.nearest.one_after_another --root DATA --out runs/chain [--smoke] [--datasets Cora ...] [--seeds 0]
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import tyro

import gunlearn as gu
from experiments.common import StudyArgs, markdown, resumed, write_results
from experiments.nearest.__main__ import PARTS, recipe
from experiments.nearest.hard import spread
from gunlearn.bench.cell import Cell
from gunlearn.bench.models import ModelStore
from gunlearn.datasets.catalogue import load
from gunlearn.metrics.divergence import mean_divergence
from gunlearn.metrics.problem import Evaluator, evaluator
from gunlearn.tasks import as_task

WAYS = ("utu", "each from estimates", "each from the last one's state", "all at once, a tenth", "all at once, a fifth")


@dataclass
class Args(StudyArgs):
    """What to run; a killed run goes on where it stopped.

    Attributes:
        datasets: names.
        backbones: names.
        kinds: what is forgotten, "nodes" or "links".
        sizes: of each request.
        requests: how many.
        seeds: of split, draws and base model.
    """

    datasets: tuple[str, ...] = ("Cora", "CiteSeer")
    backbones: tuple[str, ...] = ("gcn", "sage")
    kinds: tuple[str, ...] = ("nodes", "links")
    sizes: tuple[int, ...] = (1, 10)
    requests: int = 10
    seeds: tuple[int, ...] = (0, 1, 2)


def chain(base: gu.Result, data: Any, requests: Sequence[Any], task: Any, known: dict[str, Any] | None) -> gu.Result:
    """Serve requests one after another; `known` of the training, `None` hands the state on."""
    result, graph = base, data
    for request in requests:
        more = {"training": result} if known is None else known
        result = gu.unlearn(result.model, graph, request, "auto", task, **more)
        graph = result.data
    return result


def gone(data: Any, left: Any, kind: str) -> Any:
    """Return what all requests took together, as one."""
    if kind == "nodes":
        return gu.ForgetNodes((data.train_mask & ~left.train_mask).nonzero().view(-1))
    keys = [edges[0] * data.num_nodes + edges[1] for edges in (data.edge_index, left.edge_index)]
    return gu.ForgetEdges(data.edge_index[:, ~torch.isin(*keys)])


def distances(judge: Evaluator, model: torch.nn.Module) -> list[float]:
    """Return the distance to the retrained models on each part, in floors."""
    view = judge.view(model, gu.Result(model, "chain"))
    floor = [mean_divergence(itertools.combinations(judge.references, 2), part) for part in PARTS]
    far = [mean_divergence(((view, other) for other in judge.references), part) for part in PARTS]
    return [a / b for a, b in zip(far, floor, strict=True)]


def measured(args: Args, kind: str, dataset: str, backbone: str, size: int, seed: int) -> list[dict[str, Any]]:
    """Return a row for each way, with its distances."""
    name = "node_classification" if kind == "nodes" else "link_prediction"
    task, trained = as_task(name), recipe(kind, backbone, args.smoke)
    cell = Cell(dataset, "random", None, size, "any", "random", seed, name, "nodes" if kind == "nodes" else "edges")
    data, _ = cell.prepare(load(dataset, args.root, sparse=backbone not in ("sage", "gin")))
    held = ModelStore(args.out / "models", trained, task)
    base = held.base(data, seed)
    draw = gu.ForgetNodes if kind == "nodes" else gu.ForgetEdges
    requests = [draw(count=size, seed=1000 * seed + k) for k in range(args.requests)]
    known = {"lr": trained.lr, "weight_decay": trained.weight_decay, "training_steps": trained.epochs}
    handed, anew = (chain(base, data, requests, task, given) for given in (None, known))
    partition = gone(data, handed.data, kind).resolve(data)
    references = [held.retrained(base, partition, 1000 * k + seed).model for k in (1, 2, 3)]
    judge = evaluator(task, partition, references, seed=seed)
    models = [base.model, anew.model, handed.model]
    for budget in (0.1, 0.2):
        once = gu.unlearn(base.model, data, gone(data, handed.data, kind), "auto", task, training=base, budget=budget)
        models.append(once.model)
    problem = {"forget": kind, "dataset": dataset, "backbone": backbone, "count": size, "requests": args.requests}
    return [
        {**problem, "way": way, "seed": seed, "floors": distances(judge, model)}
        for way, model in zip(WAYS, models, strict=True)
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """Medians over seeds, with the smallest and the largest."""
    groups: dict[tuple[str, ...], list[list[float]]] = {}
    for row in rows:
        many = f"{row['requests']} x {row['count']}"
        groups.setdefault((row["forget"], row["dataset"], row["backbone"], many, row["way"]), []).append(row["floors"])
    lines = [[*key, *(spread(part, ".2f") for part in zip(*of, strict=True))] for key, of in groups.items()]
    return markdown(["forget", "graph", "model", "requests", "way", *(f"{part}, floors" for part in PARTS)], lines, 5)


def main(args: Args) -> None:
    """Run the problems; write `results.json` and `tables.md`."""
    if args.smoke:
        args = Args(args.out, args.root, True, ("digits",), ("gcn",), ("nodes",), (2,), 2, (0,))
    problems = itertools.product(args.kinds, args.datasets, args.backbones, args.sizes, args.seeds)
    runs = [(repr((problem, args.requests, args.smoke)), partial(measured, args, *problem)) for problem in problems]
    rows = resumed(args.out, runs)
    write_results(args.out, rows, table(rows))
    print(table(rows))


if __name__ == "__main__":
    main(tyro.cli(Args))
