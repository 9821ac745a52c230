"""What a path between two models is good for: a dial, the method MCU, and the middle of two requests; see uses.md.

python -m experiments.mode_connectivity.uses --root DATA --out runs/uses [--smoke] [--problems nodes links digits]
    [--graphs Cora ...] [--backbones gcn sage] [--seeds 0 1 2] [--parts dials mcu requests]
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
import tyro
from torch import nn

import gunlearn as gu
from experiments.common import StudyArgs, resumed, write_results
from experiments.mode_connectivity.between import cells
from experiments.mode_connectivity.between_problems import PROBLEMS, Case
from experiments.mode_connectivity.between_rows import Row
from experiments.mode_connectivity.uses_tables import tables
from gunlearn.connectivity import connect
from gunlearn.errors import GunlearnError
from gunlearn.metrics.problem import evaluator

METHODS = ("npo", "scrub", "graddiff", "gif", "continued_training")
#: Methods that go too far or not far enough, and make the other end of MCU's curve.
BEFORE = ("graddiff", "npo")
#: Methods that forget the second request, too.
TWICE = ("npo", "scrub", "continued_training")
PARTS: tuple[Literal["dials", "mcu", "requests"], ...] = ("dials", "mcu", "requests")
POINTS = 21


@dataclass
class Args(StudyArgs):
    """What to run; a killed run goes on where it stopped.

    Attributes:
        problems: a class of nodes of every graph, links of the first two, a class of digits.
        graphs: which graphs.
        backbones: which models of nodes; links have the first.
        seeds: of the split, the request, the trainings and the runs.
        parts: which rows.
    """

    problems: tuple[str, ...] = ("nodes", "links", "digits")
    graphs: tuple[str, ...] = ("Cora", "CiteSeer", "chameleon_filtered")
    backbones: tuple[str, ...] = ("gcn", "sage")
    seeds: tuple[int, ...] = (0, 1, 2)
    parts: tuple[Literal["dials", "mcu", "requests"], ...] = PARTS


def figures(case: Case, model: nn.Module, references: Sequence[nn.Module]) -> dict[str, float | None]:
    """Distance to retraining, in noise floors, and what the model is worth."""
    judge = evaluator(case.task, case.partition, references, case.seed)
    judge.original = case.base
    row = judge.row(model)
    found = {f"floors_{part}": row[f"js_{part}"] / row[f"js_floor_{part}"] for part in ("forget", "retain", "test")}
    return {**found, "worth": row[judge.headline[0]]}


def dial_rows(case: Case, smoke: bool) -> Iterator[Row]:
    """Points that the dial chooses between the original model and an unlearned one, beside both ends and the best.

    The first retrained model is the one that may choose; the others judge.
    """
    chooser, *judges = case.references
    for name in METHODS:
        if name not in case.models:
            continue
        for path in ("linear", "bezier"):
            curve = {} if path == "linear" else {"steps": 10 if smoke else 200, **case.curve}
            dial = connect(
                case.base, case.models[name], case.data, case.partition, case.task, seed=case.seed, path=path, points=3,
                original=case.base, **curve,
            ).dial  # fmt: skip
            grid = [k / (POINTS - 1) for k in range(POINTS)]
            known = {t: figures(case, dial.at(t), judges) for t in grid}
            best = min(grid, key=lambda t: known[t]["floors_forget"])
            points = {"original": 0.0, "method": 1.0, "best": best, "chosen": dial.choose(points=POINTS)}
            try:
                points["by a retrained model"] = dial.choose(points=POINTS, references=[chooser])
            except GunlearnError as error:
                yield {"kind": "refused", "model": name, "reason": str(error)}
            for point, t in points.items():
                yield {"kind": "dial", "model": name, "path": path, "point": point, "t": t, **known[t]}


def mcu_rows(case: Case, smoke: bool) -> Iterator[Row]:
    """MCU beside the method that makes its curve's other end, and continued training."""
    for name in BEFORE:
        if name not in case.models:
            continue
        options = {"epochs": 3} if smoke else {}
        try:
            given = {"seed": case.seed, "pre_method": name, **options}
            found = gu.unlearn(case.base, case.data, case.request, "mcu", case.task, **given)
        except GunlearnError as error:
            yield {"kind": "refused", "model": f"mcu, {name}", "reason": str(error)}
            continue
        about = {"kind": "mcu", "model": f"mcu, {name}", "t": found.notes["t"]}
        yield {**about, **figures(case, found.model, case.references)}
    for name in ("original", *BEFORE, "continued_training"):
        if name in case.models:
            yield {"kind": "mcu", "model": name, **figures(case, case.models[name], case.references)}


def other_request(case: Case) -> Any:
    """As many items of another class; edges drawn under another seed."""
    if isinstance(case.request, gu.ForgetEdges):
        return gu.ForgetEdges(ratio=0.025, seed=case.seed + 10)
    return gu.ForgetNodes((case.data.train_mask & (case.data.y == 2)).nonzero().view(-1))


def request_rows(case: Case, smoke: bool) -> Iterator[Row]:
    """Two models that each forgot one request: what their middle and their sum forget, beside both requests at once.

    Models that were retrained without either judge all of them.
    """
    second = other_request(case)
    both = case.request + second
    partition = both.resolve(case.data)
    judges = [case.train(partition.retain_data, 200 + case.seed + k).model for k in range(3)]
    joint = replace(case, request=both, partition=partition)
    for name in TWICE:
        if name not in case.models:
            continue
        options = {"training": case.training} if name == "continued_training" else {"epochs": 3} if smoke else {}
        other, at_once = (
            gu.unlearn(case.base, case.data, asked, name, case.task, seed=case.seed, **options).model
            for asked in (second, both)
        )
        first = case.models[name]
        line = connect(first, other, case.data, partition, case.task, seed=case.seed, original=case.base, points=9)
        made = {"original": case.base, "first": first, "second": other, "middle": line.dial.at(0.5)}
        made |= {"sum": summed(case.base, first, other), "at once": at_once}
        barriers = {f"barrier_{part}": getattr(line.evaluation, f"barrier_{part}") for part in ("retain", "forget")}
        for which, model in made.items():
            yield {"kind": "requests", "model": name, "which": which, **figures(joint, model, judges), **barriers}


def summed(base: nn.Module, *models: nn.Module) -> nn.Module:
    """The original model with all that the others changed, as task vectors are added (arXiv 2212.04089)."""
    total, weights = copy.deepcopy(base), base.state_dict()
    changed = [model.state_dict() for model in models]
    total.load_state_dict({n: w + sum(of[n] - w for of in changed) for n, w in weights.items()})
    return total


def measured(problem: str, graph: str, backbone: str, seed: int, args: Args) -> list[Row]:
    """All rows of a case."""
    case = PROBLEMS[problem](graph, backbone, seed, args.root, args.smoke, torch.device("cpu"))
    about = {"problem": problem, "graph": graph, "backbone": backbone, "seed": seed}
    parts = {"dials": dial_rows, "mcu": mcu_rows, "requests": request_rows}
    wanted = [name for name in args.parts if name != "requests" or problem != "digits"]
    rows = [row for name in wanted for row in parts[name](case, args.smoke)]
    print(*about.values(), flush=True)
    return [{**about, **{k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in row.items()}} for row in rows]


def main(args: Args) -> None:
    """Run what is not there yet, and write `results.json` and `tables.md`."""
    torch.set_num_threads(1)
    some = () if args.parts == PARTS else args.parts  # whose rows stand under a key of their own
    runs = ((" ".join(map(str, (*cell, *some))), partial(measured, *cell, args)) for cell in cells(args))
    found = resumed(args.out, runs)
    text = "\n\n".join(tables(found).values())
    write_results(args.out, found, text)
    print(text)


if __name__ == "__main__":
    main(tyro.cli(Args))
