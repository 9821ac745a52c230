"""What to say instead, alone and before shrinking, on models of three seeds; see README.md in this folder.

python -m experiments.tofu_small.instead --root DATA --out runs/tofu_small [--seeds 0 1 2]
"""

import copy
import json
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import tyro
from torch import nn

from experiments.common import markdown
from experiments.tofu_small.frontier_seeds import FIGURES, spread
from experiments.tofu_small.problem import Problem, Recipe
from gunlearn.bench.store import RowStore, atomic_write
from gunlearn.llm import unlearn
from gunlearn.llm.metrics import evaluate_language_models
from gunlearn.losses import NLL, NPO, KLToReference
from gunlearn.metrics.alignment import Sampler

PERCENT, ASKED = 10, 40
RATES = (3e-4, 1e-3, 3e-3)
#: Learning rates of the passes over the retained rows, after shrinking.
SHRUNK = (1e-3, 3e-3)
#: Share of the training's epochs that the weakened teacher had, without the forgotten questions.
TAUGHT = 1 / 12
WRONG, REFUSED, TEACHER = "npo, wrong answers", "npo, refusals", "teacher"
LOSSES: dict[str, Any] = {
    WRONG: NPO(beta=0.1) + NLL(on="retain") + NLL(on="instead"),
    REFUSED: NPO(beta=0.1) + NLL(on="retain") + NLL(on="instead"),
    "wrong answers": NLL(on="instead") + NLL(on="retain"),
    TEACHER: KLToReference(on="forget") + NLL(on="retain"),
}


@dataclass
class Args:
    """What to run; a killed run goes on where it stopped.

    Attributes:
        root: folder of the data sets, with TOFU in it.
        out: folder of models and results.
        seeds: of the models: each has an original and retrained models of its own.
        smoke: a few authors and epochs, to see that everything runs.
    """

    root: Path
    out: Path
    seeds: tuple[int, ...] = (0, 1, 2)
    smoke: bool = False


def main(args: Args) -> list[dict[str, Any]]:
    """Train what is missing, unlearn, measure; writes `instead.json` and prints the table."""
    torch.set_num_threads(1)
    recipe = Recipe()
    if args.smoke:
        recipe = replace(recipe, authors=10, vocab_size=600, hidden_size=64, epochs=4)
    store = RowStore(args.out / "instead.jsonl")
    for seed in args.seeds:
        study = Study(Problem(args.root, recipe), args.out / "models", seed, args.smoke)
        for key, row in study.rows():
            told = f"{recipe}, {seed}, {key}, {args.smoke}"
            if told not in store.read():
                print(key, seed, flush=True)
                store.add({"key": told, "model": key, "seed": seed, **row()})
    rows = [{name: value for name, value in row.items() if name != "key"} for row in store.read().values()]
    atomic_write(args.out / "instead.json", json.dumps(rows, indent=1) + "\n")
    print(table(rows))
    return rows


class Study:
    """The models of one seed, and what is made of them."""

    def __init__(self, problem: Problem, models: Path, seed: int, smoke: bool) -> None:
        self.problem, self.smoke, first = problem, smoke, 10 * seed
        self.original, _ = problem.train(problem.full + problem.general, first, models)
        retain = problem.retain(PERCENT)
        self.references = [problem.train(retain, first + 1 + i, models)[0] for i in range(2)]
        short = Problem(problem.root, replace(problem.recipe, epochs=TAUGHT * problem.recipe.epochs))
        self.teacher, _ = short.train(retain, first + 5, models)
        self.made: dict[tuple[str, float], tuple[nn.Module, int]] = {}

    def rows(self) -> list[tuple[str, Callable[[], dict[str, Any]]]]:
        """The names of all rows, and what makes them."""
        found: dict[str, Callable[[], tuple[nn.Module, int]]] = {
            "original": lambda: (self.original, 0),
            "retrained": lambda: (self.references[0], 0),
            TEACHER + " itself": lambda: (self.teacher, 0),
        }
        for name in LOSSES:
            found |= {f"{name} | {rate:g}": lambda n=name, r=rate: self.instead(n, r) for rate in RATES}
        for rate in SHRUNK:
            found[f"shrunk | {rate:g}"] = lambda r=rate: self.shrunk(self.original, r)
            for name in (WRONG, TEACHER):
                found[f"{name}, then shrunk | {rate:g}"] = lambda n=name, r=rate: self.both(n, r)
        return [(name, lambda make=make: self.measured(make)) for name, make in found.items()]

    def instead(self, name: str, rate: float) -> tuple[nn.Module, int]:
        """The model of a loss after ten passes over the forgotten rows, and its steps."""
        if (name, rate) not in self.made:
            forget = self.problem.forget(PERCENT)
            wrong = self.problem.refusals(PERCENT) if name == REFUSED else [w for r in forget for w in r["perturbed"]]
            parts = {} if name == TEACHER else {"instead": [{k: r[k] for k in ("input_ids", "labels")} for r in wrong]}
            result = unlearn(
                self.original, self.problem.tokenizer, forget, self.problem.retain(PERCENT), LOSSES[name],
                parts=parts, epochs=1 if self.smoke else 10, lr=rate, batch_size=16, figure_rows=0, use_cpu=True,
                reference=self.teacher if name == TEACHER else "auto",
            )  # fmt: skip
            self.made[name, rate] = result.model, result.settings["steps"]
        return self.made[name, rate]

    def shrunk(self, model: nn.Module, rate: float) -> tuple[nn.Module, int]:
        """The setting of `bench.yaml`: matrices to .65, eight passes over the retained rows."""
        result = unlearn(
            model, self.problem.tokenizer, self.problem.forget(PERCENT), self.problem.retain(PERCENT),
            "continued_training", options={"shrink": 0.65, "optimizer": "adamw"}, epochs=1 if self.smoke else 8,
            lr=rate, batch_size=8, figure_rows=0,
        )  # fmt: skip
        return result.model, result.settings["steps"]

    def both(self, name: str, rate: float) -> tuple[nn.Module, int]:
        """The loss at the middle one of its rates, then shrinking."""
        before, steps = self.instead(name, RATES[1])
        model, more = self.shrunk(before, rate)
        return model, steps + more

    def measured(self, make: Callable[[], tuple[nn.Module, int]]) -> dict[str, Any]:
        """Figures of a model on all forgotten and asked rows."""
        began, most = time.perf_counter(), 8 if self.smoke else None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "no measurable effect|.*lost the rows to retain")
            model, steps = make()
        seconds, known = time.perf_counter() - began, any(model is other for other in (self.original, *self.references))
        (row, *_) = evaluate_language_models(
            {"model": model if not known else copy.deepcopy(model)},
            self.problem.tokenizer,
            self.problem.forget(PERCENT)[:most],
            self.problem.retain_asked(ASKED),
            references=self.references[1:] if model is self.references[0] else self.references,
            holdout_rows=self.problem.unseen[:most],
            original=None if model is self.original else self.original,
            sampler=Sampler(2),
            max_new_tokens=8 if self.smoke else 60,
            batch_size=32,
            align_on=("forget",),
            generate=False,
        )
        names = {"gain": "forget_alignment_gain"}
        found = {name: row.get(names.get(name, name)) for name in FIGURES}
        return {**found, "steps": steps, "seconds": round(seconds, 1)}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Mean over seeds with the smallest and the largest, nearest first."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["model"], []).append(row)
    body = []
    for name, of in sorted(found.items(), key=lambda item: -mean(row["gain"] or 0.0 for row in item[1])):
        model, _, rate = name.partition(" | ")
        figures = (spread([row[key] for row in of]) for key in FIGURES)
        body.append((model, rate or "-", *figures, str(of[0]["steps"]), str(len(of))))
    return markdown(("model", "rate", *FIGURES.values(), "steps", "seeds"), body)


if __name__ == "__main__":
    main(tyro.cli(Args))
