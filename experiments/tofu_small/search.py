"""How the shrunk row's setting was found, on seed 0 alone; see README.md in this folder.

python -m experiments.tofu_small.search --root DATA --out runs/tofu_small "shrink=0.7 batch=8" "shrink=0.4 gains=0.4"

A setting is `key=value` pairs: `shrink` (factor on matrices), `gains` (on the norms' gains; `reset` puts them to 1),
`start` (factor to which each matrix's norm comes, in units of its norm before training), `lr`, `rise` (share of the
steps), `batch`, `beta2`, `decay` (AdamW's). 7.5 epochs over the retained questions, batches of rows of like length, as
in training; the package's loop, which the table's rows run in, draws rows at random.
"""

import copy
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import nn

from experiments.tofu_small.problem import Problem, Recipe
from gunlearn.llm import CausalLM, PartCollator
from gunlearn.llm.metrics import TextAlignment
from gunlearn.llm.metrics.row_figures import figures
from gunlearn.metrics import standings
from gunlearn.metrics.alignment import Sampler

EPOCHS, PERCENT, ASKED = 7.5, 10, 40


@dataclass
class Args:
    """What to try.

    Attributes:
        settings: see above.
        root: folder of the data sets, with TOFU in it.
        out: folder of models, and of `search.jsonl`, which a line per setting is added to.
        seed: of the models.
    """

    settings: Annotated[tuple[str, ...], tyro.conf.Positional]
    root: Path
    out: Path
    seed: int = 0


def main(args: Args) -> None:
    """Shrink, go on with the retained questions, measure."""
    torch.set_num_threads(1)
    problem, models, first = Problem(args.root, Recipe()), args.out / "models", 10 * args.seed
    original, _ = problem.train(problem.full + problem.general, first, models)
    references = [problem.train(problem.retain(PERCENT), first + 1 + i, models)[0] for i in range(2)]
    for setting in args.settings:
        options = dict(pair.split("=") for pair in setting.split())
        model = copy.deepcopy(original)
        shrunk(model, problem.fresh(5), options)
        go_on(model, problem, args.seed + 100, options)
        found = {"seed": args.seed, "setting": setting, **measured(model.eval(), references, problem)}
        print(json.dumps(found), flush=True)
        with (args.out / "search.jsonl").open("a") as file:
            file.write(json.dumps(found) + "\n")


@torch.no_grad()
def shrunk(model: nn.Module, fresh: nn.Module, options: Mapping[str, str]) -> None:
    """Shrink a model in place; `fresh` is an untrained one."""
    untrained = dict(fresh.named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            start = options.get("start")
            size = float(untrained[name].norm() / parameter.norm())
            parameter.mul_(float(options.get("shrink", 1)) if start is None else min(1.0, float(start) * size))
        elif options.get("gains") == "reset":
            parameter.fill_(1.0)
        else:
            parameter.mul_(float(options.get("gains", 1)))


def go_on(model: nn.Module, problem: Problem, seed: int, options: Mapping[str, str]) -> None:
    """Train on the retained questions: AdamW, a rate that rises and then falls in a line to 0."""
    task, collate, draw, rows = CausalLM(("log_prob",)), PartCollator(0), random.Random(seed), problem.retain(PERCENT)
    size, lr, decay = int(options.get("batch", 16)), float(options.get("lr", 3e-3)), float(options.get("decay", 0))
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]["input_ids"]))
    batches = [order[i : i + size] for i in range(0, len(order), size)]
    total, betas = int(EPOCHS * len(batches)), (0.9, float(options.get("beta2", 0.98)))
    rise = float(options.get("rise", 0.05)) * total
    optimizer = torch.optim.AdamW(model.parameters(), lr, betas=betas, weight_decay=decay, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / rise) * max(0.0, 1 - step / total)
    )
    model.train()
    for step in range(total):
        if step % len(batches) == 0:
            draw.shuffle(batches)
        p = task.decode(model, None, collate([rows[i] for i in batches[step % len(batches)]]))
        (-p.log_prob.sum() / p.mask.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()


def measured(model: nn.Module, references: list[Any], problem: Problem) -> dict[str, float]:
    """Probability and alignment of forgotten and retained questions."""
    out = {}
    for name, rows in (("forget", problem.forget(PERCENT)), ("retain", problem.retain_asked(ASKED))):
        supplier = TextAlignment(rows, problem.tokenizer, Sampler(2), max_new_tokens=60, batch_size=128)
        out[f"{name}_prob"] = figures(model, {name: rows}, batch_size=32)[name]["prob"]
        out[f"{name}_alignment"] = standings({"model": model}, references, supplier)["model"].value
    return {key: round(value, 4) for key, value in out.items()}


if __name__ == "__main__":
    main(tyro.cli(Args))
