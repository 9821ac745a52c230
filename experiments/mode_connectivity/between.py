"""Barriers between models that were unlearned in different ways, retrained and original, over graphs; see between.md.

python -m experiments.mode_connectivity.between --root DATA --out runs/between [--smoke] [--problems nodes links digits]
    [--graphs Cora ...] [--backbones gcn sage] [--seeds 0 1 2] [--device cuda]
    [--parts models pairs means]
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import tyro
from torch import nn

import gunlearn as gu
from experiments.common import StudyArgs, resumed, write_results
from experiments.mode_connectivity.between_picture import draw
from experiments.mode_connectivity.between_problems import PROBLEMS, Case, graph_figures
from experiments.mode_connectivity.between_rows import RETRAINED, Row
from experiments.mode_connectivity.findings import tables
from experiments.mode_connectivity.held_out import held_out_losses
from gunlearn.connectivity import connect
from gunlearn.core.devices import resolve_device
from gunlearn.metrics.problem import evaluator

#: The basic attack needs classes; of links the rank of forgotten ones among others stands in its place.
ATTACKS = {"links": ("relearn_steps",), "nodes": ("mia_acc", "relearn_steps"), "digits": ("mia_acc", "relearn_steps")}
POINTS = 9
#: Steps of plain training among which the fewest are taken that know what stays as well as a mean of weights.
STEPS = (2, 5, 10, 15, 20, 30, 40, 60, 80, 100)
#: What is kept along paths from the original to retraining; `loss_val` is that of nodes of classes that stay.
ALONG = ("loss_retain", "loss_forget", "loss_val")
PARTS: tuple[Literal["models", "pairs", "means"], ...] = ("models", "pairs", "means")
#: Pairs of one method under the conditions of arXiv 2504.06407.
CONDITIONS = {
    "seeds": (("npo", "npo, seed 1"), ("scrub", "scrub, seed 1"), ("gnndelete", "gnndelete, seed 1")),
    "methods": (("npo", "scrub"),),
    "curriculum": (("plain", "curriculum"),),
    "order": (("plain", "sophia_g"),),
}


@dataclass
class Args(StudyArgs):
    """What to run; a killed run goes on where it stopped.

    Attributes:
        problems: nodes of every graph, links of two, a class of digits.
        graphs: which graphs.
        backbones: which models.
        seeds: of the split, the request, the trainings and the runs.
        device: `cpu`, `cuda` or `auto`, of graphs; digits stay on the CPU.
        parts: which rows: of models, of pairs, of means of weights.
    """

    problems: tuple[str, ...] = ("nodes", "links", "digits")
    graphs: tuple[str, ...] = ("Cora", "CiteSeer", "chameleon_filtered", "DBLP", "Photo", "CS")
    backbones: tuple[str, ...] = ("gcn", "sage")
    seeds: tuple[int, ...] = (0, 1, 2)
    device: str = "cpu"
    parts: tuple[Literal["models", "pairs", "means"], ...] = PARTS


def model_rows(case: Case, attacks: Sequence[str]) -> Iterator[Row]:
    """Distances to retraining and attacks, for each model."""
    judge = evaluator(case.task, case.partition, case.references, case.seed, attacks)
    judge.original = case.base
    for name, model in case.models.items():
        if name in RETRAINED:
            continue
        found = judge.row(model)
        kept = {key: value for key, value in found.items() if key.startswith(("js_", "forget_", "retain_", "test_"))}
        attacked = {key: found.get(key) for key in ("mia_acc", "mia_auc", "relearn_steps")}
        yield {"kind": "model", "model": name, **kept, **attacked}
    yield {"kind": "refused", **case.refused}


def line(case: Case, first: str, second: str, kind: str = "line", **options: Any) -> Row:
    """One pair: barriers, and losses along the path."""
    begin = time.perf_counter()
    options = {"points": POINTS, **options}
    connection = connect(
        case.models[first], case.models[second], case.data, case.partition, case.task, seed=case.seed,
        original=case.base, **options,
    )  # fmt: skip
    found, more = connection.evaluation, {}
    if hasattr(case.request, "nodes") and (first, second) == ("original", "retrain"):
        losses = held_out_losses(connection.dial, case, [row["t"] for row in found.rows])
        more = {"loss_val": [round(loss, 4) for loss in losses]}
    return {
        "kind": kind,
        "first": first,
        "second": second,
        "barrier_retain": found.barrier_retain,
        "barrier_forget": found.barrier_forget,
        **{name: [round(row[name], 4) for row in found.rows] for name in ALONG[:2]},
        **more,
        "seconds": round(time.perf_counter() - begin, 2),
    }


def pair_rows(case: Case, smoke: bool) -> Iterator[Row]:
    """Lines between all models of the map, aligned lines and curves to retraining, pairs of a condition."""
    names = case.mapped
    for k, first in enumerate(names):
        for second in names[k + 1 :]:
            yield line(case, first, second)
    for name in names:
        if name not in RETRAINED:
            yield line(case, name, "retrain", "aligned", align="weights")
    curve = {"path": "bezier", "steps": 20 if smoke else 200, **case.curve}
    for name in ("original", "scrub"):
        yield line(case, name, "retrain", "curve", **curve)
    for condition, pairs in CONDITIONS.items():
        for first, second in pairs:
            if first in case.models and second in case.models:
                yield {**line(case, first, second, "condition"), "condition": condition}


def mean_rows(case: Case, smoke: bool) -> Iterator[Row]:
    """How fast means of weights learn again what was forgotten: of a line's ends, and along a curve between them.

    The controls of the curve are its ends after as many plain steps on what stays, by the same optimiser and rate, and
    after the fewest with which what stays is known as well as by the mean.
    """
    training = {"steps": 10 if smoke else 100, **case.curve}
    for first, second in (("npo", "npo, seed 1"), ("npo", "scrub")):
        ends = case.models[first], case.models[second]
        given = {"seed": case.seed, "original": case.base, "points": 3}
        line = connect(*ends, case.data, case.partition, case.task, **given).dial
        curve = {"path": "bezier", "start": "original", **training}
        along = connect(*ends, case.data, case.partition, case.task, **given, **curve).dial
        made = {"first": line.at(0), "second": line.at(1), "middle": line.at(0.5), "mean": along.mean()}
        goal, taken = line.losses.losses(made["mean"], ["retain"])["retain"], {}
        for name, end in zip(("first", "second"), ends, strict=True):
            made[f"{name}_trained"] = plainly_trained(case, end, training)
            for steps in (0, *STEPS):
                model = plainly_trained(case, end, {**training, "steps": steps}) if steps else end
                if line.losses.losses(model, ["retain"])["retain"] <= goal:
                    made[f"{name}_equal"], taken[f"{name}_equal_steps"] = model, steps
                    break
        found = {name: line.figures(model, ["relearn_steps"], case.references) for name, model in made.items()}
        keys = ("relearn_steps", "js_forget", "loss_retain", "loss_forget")
        yield {
            "kind": "mean",
            "first": first,
            "second": second,
            **{f"{name}_{key}": of.get(key) for name, of in found.items() for key in keys},
            **taken,
        }


def plainly_trained(case: Case, model: nn.Module, training: dict[str, Any]) -> nn.Module:
    """A model after some plain steps on what stays."""
    return gu.unlearn(model, case.data, case.request, "finetune", case.task, seed=case.seed, **training).model


def measured(problem: str, graph: str, backbone: str, seed: int, args: Args) -> list[Row]:
    """All rows of a case."""
    case = PROBLEMS[problem](graph, backbone, seed, args.root, args.smoke, resolve_device(args.device))
    about = {"problem": problem, "graph": graph, "backbone": backbone, "seed": seed}
    parts = {
        "models": partial(model_rows, case, ATTACKS[problem]),
        "pairs": partial(pair_rows, case, args.smoke),
        "means": partial(mean_rows, case, args.smoke),
    }
    rows = [row for name in args.parts for row in parts[name]()]
    if "pairs" in args.parts and problem == "nodes" and seed == 0 and backbone == "gcn":
        rows.append({"kind": "graph", **graph_figures(case.data)})
    print(*about.values(), flush=True)
    return [{**about, **row} for row in rows]


def kept_fields(row: Row) -> Row:
    """A row as it is committed: losses along the path of the pairs that are drawn alone."""
    drawn = (row.get("first"), row.get("second")) == ("original", "retrain")
    short = {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in row.items()}
    return {key: value for key, value in short.items() if drawn or key not in ALONG}


def cells(args: Args) -> Iterator[tuple[str, str, str, int]]:
    """Every case, the first seed of all graphs first."""
    for seed in args.seeds[:1] if args.smoke else args.seeds:
        for problem in args.problems:
            if problem == "digits":
                yield problem, "digits", "cnn", seed
                continue
            graphs = args.graphs[:1] if args.smoke else args.graphs if problem == "nodes" else args.graphs[:2]
            for graph in graphs:
                for backbone in args.backbones[:1] if args.smoke else args.backbones:
                    yield problem, graph, backbone, seed


def main(args: Args) -> None:
    """Run what is not there yet, and write `results.json` and `tables.md`."""
    torch.set_num_threads(1)
    some = () if args.parts == PARTS else args.parts  # whose rows stand under a key of their own
    runs = ((" ".join(map(str, (*cell, *some))), partial(measured, *cell, args)) for cell in cells(args))
    found = [kept_fields(row) for row in resumed(args.out, runs)]
    text = "\n\n".join(tables(found).values())
    write_results(args.out, found, text)
    draw(found, args.out)
    print(text)


if __name__ == "__main__":
    main(tyro.cli(Args))
