"""Trainings that had not settled, of which the optimiser alone is at hand; see README.md here.

python -m experiments.nearest.optimizer_alone --root DATA --out runs/optimizer_alone [--smoke] [--datasets Cora ...]
    [--backbones gcn sage] [--seeds 0 1 2]
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
from experiments.nearest.__main__ import PARTS
from experiments.nearest.hard import spread
from experiments.nearest.one_after_another import distances
from gunlearn.datasets.catalogue import load
from gunlearn.metrics.problem import evaluator
from gunlearn.nn import backbone
from gunlearn.seed import isolated_rng
from gunlearn.training.mean_step import growth_by_memory
from gunlearn.training.settled import growth_rate
from gunlearn.training.training_state import TrainingState

#: Trainings by name: steps, settings of the optimiser, and dropout.
TRAININGS: dict[str, tuple[int, dict[str, Any], float]] = {
    "Adam 2e-3, 200": (200, {"lr": 2e-3, "weight_decay": 5e-4}, 0.5),
    "Adam 1e-3, 200": (200, {"lr": 1e-3, "weight_decay": 5e-4}, 0.0),
    "AdamW 3e-3, 100": (100, {"lr": 3e-3, "weight_decay": 1e-2, "optimizer": "adamw"}, 0.5),
    "Adam 1e-2, 500, no decay": (500, {"lr": 1e-2}, 0.0),
    "Adam 1e-2, 500": (500, {"lr": 1e-2, "weight_decay": 5e-4}, 0.5),
}
WAYS = ("utu", "going on", "back and on", "auto, optimiser alone", "auto, state")


@dataclass
class Args(StudyArgs):
    """What to run; a killed run goes on where it stopped.

    Attributes:
        datasets: names.
        backbones: names.
        sizes: of the request, shares below 1.
        seeds: of split, draw and base model.
    """

    datasets: tuple[str, ...] = ("Cora", "CiteSeer")
    backbones: tuple[str, ...] = ("gcn", "sage")
    sizes: tuple[float, ...] = (10, 0.1)
    seeds: tuple[int, ...] = (0, 1, 2)


def without_checkpoints(state: TrainingState) -> dict[str, Any]:
    """Return what a user has who kept the optimiser's `state_dict` alone."""
    return {"optimizer": state.optimizer, "training_steps": state.total}


def measured(args: Args, dataset: str, kind: str, training: str, size: float, seed: int) -> list[dict[str, Any]]:
    """Return a row for each way, with its distances."""
    steps, settings, dropout = TRAININGS[training]
    steps = 20 if args.smoke else steps
    data, task = gu.node_split(load(dataset, args.root, sparse=kind != "sage"), seed=seed), gu.NodeClassification()

    def train(on: Any, at: int) -> gu.Result:
        with isolated_rng(at):
            model = backbone(kind, data.num_features, 64, int(data.y.max()) + 1, dropout=dropout)
        return gu.train(model, on, task, epochs=steps, eval_every=steps, seed=at, **settings)

    base = train(data, seed)
    request = gu.ForgetNodes(count=int(size), seed=seed) if size >= 1 else gu.ForgetNodes(ratio=size, seed=seed)
    partition = request.resolve(data)
    references = [train(partition.retain_data, 1000 * k + seed).model for k in (1, 2, 3)]
    judge = evaluator(task, partition, references, seed=seed)
    assert base.training is not None
    run = partial(gu.unlearn, base.model, data, request, task=task, seed=seed)
    known = without_checkpoints(base.training)
    back = run("continued_training", **known)
    models = {"utu": base.model, "back and on": back.model}
    models["going on"] = run("continued_training", optimizer=known["optimizer"], steps=back.epochs).model
    models["auto, optimiser alone"] = run("auto", **known).model
    models["auto, state"] = run("auto", training=base).model
    remembered = growth_by_memory(known["optimizer"], base.model, steps)
    about = {"dataset": dataset, "backbone": kind, "training": training, "size": size, "seed": seed}
    about |= {"growth": growth_rate(base.training, base.model), "remembered": remembered, "start": back.notes["start"]}
    return [{**about, "way": way, "floors": distances(judge, models[way])} for way in WAYS]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Medians over seeds, with the smallest and the largest."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        key = (row["dataset"], row["backbone"], row["training"], f"{row['size']:g}", row["way"])
        groups.setdefault(key, []).append(row)
    lines = []
    for key, of in groups.items():
        growths = [spread([row[name] for row in of if row[name] is not None], ".2f") for name in _GROWTHS]
        far = [spread(part, ".2f") for part in zip(*(row["floors"] for row in of), strict=True)]
        lines.append([*key, *growths, *far])
    head = ["graph", "model", "training", "size", "way", "growth", "remembered", *(f"{part}, floors" for part in PARTS)]
    return markdown(head, lines, 5)


_GROWTHS = ("growth", "remembered")


def main(args: Args) -> None:
    """Run the problems; write `results.json` and `tables.md`."""
    torch.set_num_threads(1)
    if args.smoke:
        args = Args(args.out, args.root, True, ("digits",), ("gcn",), (2,), (0,))
    problems = itertools.product(args.datasets, args.backbones, TRAININGS, args.sizes, args.seeds)
    rows = resumed(
        args.out, [(repr((*problem, args.smoke)), partial(measured, args, *problem)) for problem in problems]
    )
    write_results(args.out, rows, table(rows))
    print(table(rows))


if __name__ == "__main__":
    main(tyro.cli(Args))
