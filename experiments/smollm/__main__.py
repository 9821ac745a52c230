"""A pretrained model learns authors and forgets some of them; see README.md in this folder.

python -m experiments.smollm --root DATA --out runs/smollm [--smoke] [--requests 1 2] [--methods npo ...]
    [--seeds 0 1 2] [--device cuda]
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from filelock import FileLock

from experiments.smollm.base import smollm, tiny
from experiments.smollm.measured import Measure
from experiments.smollm.methods import NAMES, Budget
from experiments.smollm.pieces import Plan, share
from experiments.smollm.problem import Problem, Recipe
from experiments.smollm.study import Study
from experiments.smollm.table import tables
from gunlearn.core.devices import resolve_device


@dataclass
class Args:
    """What to run; a killed run goes on where it stopped.

    The same command may run several times at once on one folder: each process takes what no other has taken.

    Attributes:
        root: folder of the data sets, with TOFU in it.
        out: folder of models and results.
        requests: 1 forgets one author; 2 is put to what each method made of 1, and forgets two more.
        methods: rows of the table.
        seeds: of models and methods, each with results of its own.
        device: "cpu", "cuda", or "auto", which is CUDA where there is one.
        retrained: models trained without what each request forgets.
        asked: retained questions that are asked; settings are chosen on every second one.
        bf16: multiply matrices in bfloat16.
        minutes: after so long nothing new is begun.
        skip_failed: leave out what failed in another process.
        smoke: a tiny model and one method's setting, to see that everything runs.
    """

    root: Path
    out: Path
    requests: tuple[int, ...] = (1, 2)
    methods: tuple[str, ...] = NAMES
    seeds: tuple[int, ...] = (0,)
    device: str = "cpu"
    retrained: int = 2
    asked: int = 20
    bf16: bool = True
    minutes: float | None = None
    skip_failed: bool = False
    smoke: bool = False


def main(args: Args) -> dict[int, dict[str, Any]]:
    """Train, unlearn, measure; writes `results.json`, one more per further seed, and prints the tables."""
    until = None if args.minutes is None else time.monotonic() + 60 * args.minutes
    torch.set_num_threads(1)
    study = make_study(args)
    left = share(study.plan, study.done, study.work, args.out / "locks", until, args.skip_failed)
    found = {seed: study.put_together(seed) for seed in args.seeds}
    print("\n\n".join(f"{name}\n\n{table}" for name, table in tables(*found.values()).items()))
    if left:
        print(f"Not done: {', '.join(piece.file for piece in left)}")
    return found


def make_study(args: Args) -> Study:
    """Return the study that the arguments ask for."""
    recipe, budget, how = Recipe(), Budget(), Measure()
    if args.smoke:
        recipe, budget = replace(recipe, authors=4, rank=2, epochs=1, batch_size=40), replace(budget, epochs=1)
        args, how = replace(args, asked=4, bf16=False), Measure(4, 1, 4)
    (args.out / "locks").mkdir(parents=True, exist_ok=True)
    with FileLock(args.out / "locks" / "base.lock"):
        base = tiny(args.out / "tiny", args.root) if args.smoke else smollm(args.out / "base")
    device = resolve_device(args.device)
    problem = Problem(args.root, base, args.out / "models", recipe, args.bf16, args.seeds[0], device)
    plan = Plan(args.seeds, args.requests, args.methods, args.retrained)
    return Study(problem, plan, args.out, budget, how, args.asked, kept=2 if device.type == "cpu" else 3)


if __name__ == "__main__":
    main(tyro.cli(Args))
