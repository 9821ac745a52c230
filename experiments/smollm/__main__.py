"""A pretrained model learns authors and forgets some of them; see README.md in this folder.

python -m experiments.smollm --root DATA --out runs/smollm [--smoke] [--requests 1 2] [--methods npo ...]
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import nn

from experiments.smollm.base import smollm, tiny
from experiments.smollm.measured import Measure, Measured, with_forget_quality
from experiments.smollm.methods import NAMES, Budget, Request, run
from experiments.smollm.problem import Problem, Recipe
from experiments.smollm.table import tables
from gunlearn.bench.store import atomic_write


@dataclass
class Args:
    """What to run; a killed run goes on where it stopped.

    Attributes:
        root: folder of the data sets, with TOFU in it.
        out: folder of models and results.
        requests: 1 forgets one author; 2 is put to what each method made of 1, and forgets two more.
        methods: rows of the table.
        retrained: models trained without what each request forgets.
        asked: retained questions that are asked; settings are chosen on every second one.
        bf16: multiply matrices in bfloat16.
        smoke: a tiny model and one method's setting, to see that everything runs.
    """

    root: Path
    out: Path
    requests: tuple[int, ...] = (1, 2)
    methods: tuple[str, ...] = NAMES
    retrained: int = 2
    asked: int = 20
    bf16: bool = True
    smoke: bool = False


def main(args: Args) -> dict[str, Any]:
    """Train, unlearn, measure; writes `results.json` and prints the tables."""
    torch.set_num_threads(1)
    recipe, budget, how = Recipe(), Budget(), Measure()
    if args.smoke:
        recipe, budget = replace(recipe, authors=4, rank=2, epochs=1, batch_size=40), replace(budget, epochs=1)
        args, how = replace(args, asked=4, bf16=False), Measure(4, 1, 4)
    base = tiny(args.out / "base", args.root) if args.smoke else smollm(args.out / "base")
    problem = Problem(args.root, base, args.out / "models", recipe, args.bf16)
    path = args.out / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    learned, history = problem.train(problem.full, 0)
    results["recipe"] = asdict(recipe) | {"bf16": args.bf16} | history
    original = problem.merged(learned)
    starts = dict.fromkeys(args.methods, learned)
    for number in args.requests:
        pairs = [problem.train(problem.retain(number), 10 * number - 9 + i) for i in range(args.retrained)]
        first = Request(problem, number, learned, original, budget, args.asked)
        measured = Measured(first, [model for model, _ in pairs], how)
        rows, tried = fixed(measured, pairs), {}
        for name in args.methods:
            request = first if number == 1 else replace(first, start=starts[name])
            starts[name], found = run(name, request)
            tried[name] = found["tried"]
            costs = {key: found[key] for key in ("setting", "steps", "seconds")}
            rows.append(measured.of(name, starts[name], found["place"]) | costs)
            results[f"request {number}"] = {"rows": with_forget_quality(rows), "tried": tried, "unseen": first.unseen}
            atomic_write(path, json.dumps(results, indent=1))
    print("\n\n".join(f"{name}\n\n{table}" for name, table in tables(results).items()))
    return results


def fixed(measured: Measured, pairs: Sequence[tuple[nn.Module, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Figures of the models that no method made."""
    problem, original = measured.request.problem, measured.request.original
    models = {f"retrained {i}": model for i, (model, _) in enumerate(pairs)}
    models |= {"original": original, "pretrained": problem.pretrained}
    rows = [measured.of(name, model, problem.folder / name.replace(" ", "-")) for name, model in models.items()]
    for row, (_, history) in zip(rows, pairs, strict=False):
        row |= {key: history[key] for key in ("steps", "seconds")}
    return rows


if __name__ == "__main__":
    main(tyro.cli(Args))
