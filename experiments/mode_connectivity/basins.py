"""Which unlearned models a line or a curve of low loss connects, on digits and on Cora; see README.md.

python -m experiments.mode_connectivity.basins --root DATA --out runs/basins [--smoke] [--parts digits cora speed]
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import tyro
from torch import nn

import gunlearn as gu
from experiments.common import StudyArgs, markdown, resumed, write_results
from experiments.digits_scrub.problem import TASK, cnn, forgotten_class, train
from experiments.digits_scrub.settings import SCRUB
from gunlearn.connectivity import BezierPath, CurveSettings, LinearPath, connect, evaluate_path, find_curve
from gunlearn.nn import backbone
from gunlearn.seed import isolated_rng

NODES = "node_classification"
Row = dict[str, Any]


@dataclass
class Args(StudyArgs):
    """What to run; a killed run goes on where it stopped.

    Attributes:
        seeds: of the split, the trainings and the runs.
        parts: which of the parts.
        pairs: names of pairs; all where none are given.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    parts: tuple[str, ...] = ("digits", "cora", "speed")
    pairs: tuple[str, ...] = ()


@dataclass
class Models:
    """The models of a problem, and what they are judged on.

    Attributes:
        curve: settings of curves between models from different initial weights.
        short: settings of curves that begin at the original model.
    """

    original: nn.Module
    scrub: list[nn.Module]
    retrained: nn.Module
    problem: dict[str, Any]
    curve: dict[str, Any]
    short: dict[str, Any]


def digits(seed: int, args: Args) -> Models:
    """A class of digits, three convolutions."""
    data, mask = forgotten_class(seed)
    request = gu.ForgetItems(mask=mask)
    partition, make = request.resolve(data), partial(cnn, 8)
    recipe = {"epochs": 4 if args.smoke else 12, "lr": 3e-3}
    base = train(make, data, seed, **recipe).model
    options = {**SCRUB, "epochs": 4 if args.smoke else 20, "temperature": 1.0, "forget_batch_size": 32}
    unlearned = [gu.unlearn(base, data, request, "scrub", TASK, seed=s, **options).model for s in (1, 2)]
    other = train(make, partition.retain_data, 100 + seed, **recipe).model
    problem = {"data": data, "request": partition, "task": TASK, "points": 11}
    steps = 20 if args.smoke else 600
    return Models(
        base,
        unlearned,
        other,
        problem,
        {"steps": steps, "lr": 5e-3, "batch_size": 64},
        {"steps": min(steps, 150), "lr": 3e-4, "batch_size": 64},
    )


def graph_model(data: Any, on: Any, seed: int, epochs: int) -> nn.Module:
    """Two layers of GCN with dropout, 64 hidden units, trained on `on`."""
    with isolated_rng(seed):
        model = backbone("gcn", data.num_features, 64, int(data.y.max()) + 1, dropout=0.5)
    return gu.train(model, on, NODES, epochs=epochs, lr=0.01, eval_every=1000, seed=seed).model


def graph_problem(name: str, seed: int, args: Args, epochs: int = 200) -> Models:
    """A class of nodes."""
    data = gu.node_split(gu.load("digits" if args.smoke else name, args.root), seed=seed)
    request = gu.ForgetNodes((data.train_mask & (data.y == 3)).nonzero().view(-1))
    partition, epochs = request.resolve(data), 20 if args.smoke else epochs
    base = graph_model(data, data, seed, epochs)
    options = {"epochs": 5 if args.smoke else 40, "lr": 5e-3}
    unlearned = [gu.unlearn(base, data, request, "scrub", NODES, seed=s, **options).model for s in (1, 2)]
    other = graph_model(data, partition.retain_data, 100 + seed, epochs)
    problem = {"data": data, "request": partition, "task": NODES, "points": 11}
    steps = 20 if args.smoke else 600
    return Models(base, unlearned, other, problem, {"steps": steps, "lr": 1e-2}, {"steps": min(steps, 300), "lr": 1e-3})


def pairs(models: Models) -> Iterator[tuple[str, Any, Any, dict[str, Any]]]:
    """Every pair with its path, and settings of the curve."""
    one, two = models.scrub
    yield "scrub, scrub: line", one, two, {}
    yield "original, scrub: line", models.original, one, {}
    yield "scrub, retrain: line", one, models.retrained, {}
    curve = {"path": "bezier", "original": models.original}
    yield "scrub, retrain: curve", one, models.retrained, {**curve, **models.curve}
    authors = {"t": "normal", "start": "original"}
    yield "scrub, retrain: authors' curve", one, models.retrained, {**curve, **models.curve, **authors}
    short = {**curve, **models.short, "start": "original"}
    yield "scrub, scrub: curve from the original", one, two, short
    yield "scrub, scrub: the same, forgetting", one, two, {**short, "forgetting": 0.1}
    yield "scrub, scrub: the same, forgetting a little", one, two, {**short, "forgetting": 0.003}
    long = {**curve, **models.curve, "start": "original"}
    yield "scrub, scrub: long curve from the original", one, two, long
    yield "scrub, scrub: long, forgetting a little", one, two, {**long, "forgetting": 0.003}


def measured(part: str, seed: int, models: Models, wanted: tuple[str, ...] = ()) -> list[Row]:
    """A row for each pair."""
    rows = []
    for name, first, second, options in pairs(models):
        if wanted and name not in wanted:
            continue
        begin = time.perf_counter()
        found = connect(first, second, seed=seed, **models.problem, **options).evaluation
        middle = [row for row in found.rows if 0.3 <= row["t"] <= 0.7]
        rows.append(
            {
                "part": part,
                "seed": seed,
                "pair": name,
                "barrier_retain": found.barrier_retain,
                "barrier_forget": found.barrier_forget,
                "max_loss_retain": max(row["loss_retain"] for row in found.rows),
                "max_error_retain": 1 - min(row["retain_acc"] for row in found.rows),
                "middle_forget_acc": max(row["forget_acc"] for row in middle),
                "middle_loss_retain": max(row["loss_retain"] for row in middle),
                "ends_forget_acc": [found.rows[k]["forget_acc"] for k in (0, -1)],
                "forget_acc": [row["forget_acc"] for row in found.rows],
                "seconds": time.perf_counter() - begin,
            }
        )
    return rows


def speed(args: Args) -> list[Row]:
    """Seconds of evaluations at 31 points and of a curve of 600 steps on DBLP, by one thread."""
    torch.set_num_threads(1)
    models = graph_problem("dblp", 0, args, epochs=30)
    partition, task = models.problem["request"], gu.NodeClassification()
    other = graph_model(models.problem["data"], partition.retain_data, 200, 5 if args.smoke else 30)
    more: dict[str, Any] = {"references": [models.retrained, other], "original": models.original}
    found: Row = {"part": "speed"}
    for name, options in (
        ("evaluation", {}),
        ("referred", more),
        ("attacked", {**more, "metrics": ["mia_acc"]}),
        ("relearned", {**more, "metrics": ["mia_acc", "relearn_steps"]}),
    ):
        begin = time.perf_counter()
        evaluate_path(LinearPath(models.scrub[0], models.retrained), task, partition, **options)
        found[name] = time.perf_counter() - begin
    path, begin = BezierPath(models.scrub[0], models.retrained), time.perf_counter()
    find_curve(path, task, partition, settings=CurveSettings(steps=20 if args.smoke else 600))
    return [{**found, "curve": time.perf_counter() - begin}]


def table(rows: list[Row]) -> str:
    """Means over seeds, with the worst seed in brackets."""
    head = [
        "",
        "pair",
        "barrier, retained",
        "largest retained loss",
        "retained loss, middle",
        "largest retained error",
        "forget acc., middle",
        "n",
    ]
    body = []
    for part, pair in dict.fromkeys((row["part"], row["pair"]) for row in rows if "pair" in row):
        own = [row for row in rows if (row["part"], row.get("pair")) == (part, pair)]
        cells = []
        for name in (
            "barrier_retain",
            "max_loss_retain",
            "middle_loss_retain",
            "max_error_retain",
            "middle_forget_acc",
        ):
            values = [row[name] for row in own]
            cells.append(f"{sum(values) / len(values):.3f} ({max(values):.3f})")
        body.append([part, pair, *cells, str(len(own))])
    return markdown(head, body, 2)


def speed_table(rows: list[Row]) -> str:
    """Seconds on DBLP."""
    names = {
        "evaluation": "evaluation of a pair at 31 points",
        "referred": "the same beside two retrained models",
        "attacked": "the same with the attack `mia_acc`",
        "relearned": "the same with `relearn_steps`",
        "curve": "curve of 600 steps",
    }
    row = next(row for row in rows if row["part"] == "speed")
    return markdown(["on DBLP, one thread", "s"], [[text, f"{row[name]:.1f}"] for name, text in names.items()])


def runs(args: Args) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    """Every run by its name."""
    made = {"digits": digits, "cora": partial(graph_problem, "cora")}
    for part in args.parts:
        for seed in args.seeds[:1] if args.smoke or part == "speed" else args.seeds:
            of_part = partial(speed, args) if part == "speed" else partial(judged, part, seed, made[part], args)
            yield f"{part} {seed}", of_part


def judged(part: str, seed: int, problem: Callable[[int, Args], Models], args: Args) -> list[Row]:
    """Make the models of a problem, and measure them."""
    return measured(part, seed, problem(seed, args), args.pairs)


def main(args: Args) -> None:
    """Run what is not there yet, and write `results.json` and `tables.md`."""
    found = resumed(args.out, runs(args))
    text = table(found) + (f"\n\n{speed_table(found)}" if "speed" in args.parts else "")
    write_results(args.out, found, text)
    print(text)


if __name__ == "__main__":
    main(tyro.cli(Args))
