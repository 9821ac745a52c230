"""Methods for language models beside retraining, on TOFU's authors; see README.md in this folder.

python -m experiments.tofu_small --root DATA --out runs/tofu_small [--smoke] [--percents 10 5 1] [--authors 40]
    [--methods npo graddiff ...] [--seeds 0 1 2]
"""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro

from experiments.tofu_small.continued import CONTINUED
from experiments.tofu_small.methods import Budget, names, run
from experiments.tofu_small.problem import Problem, Recipe
from experiments.tofu_small.relearned import relearned
from experiments.tofu_small.table import continued, markdown, reference
from gunlearn.bench.store import atomic_write
from gunlearn.llm.metrics import evaluate_language_models
from gunlearn.metrics.alignment import Sampler

COST = ("seconds", "steps")


@dataclass
class Args:
    """What to run; a killed run goes on where it stopped.

    Attributes:
        root: folder of the data sets, with TOFU in it.
        out: folder of models and results.
        percents: shares of the questions to forget.
        methods: rows of the table; all where none are given.
        authors: of TOFU's 200.
        epochs: of the models' training.
        retrained: models retrained without the forgotten questions.
        samples: answers per prompt and model for the alignment.
        asked: retained questions that are asked.
        seeds: of the models: each has an original and retrained models of its own.
        smoke: a few authors and epochs, to see that everything runs.
    """

    root: Path
    out: Path
    percents: tuple[int, ...] = (10,)
    methods: tuple[str, ...] = ()
    authors: int = 40
    epochs: int = 30
    retrained: int = 2
    samples: int = 4
    asked: int = 60
    seeds: tuple[int, ...] = (0,)
    smoke: bool = False


def main(args: Args) -> dict:
    """Train, unlearn, measure; writes `results.json` and prints the tables."""
    torch.set_num_threads(1)
    recipe, budget = Recipe(args.authors, epochs=args.epochs), Budget()
    if args.smoke:
        recipe = replace(recipe, authors=10, vocab_size=600, hidden_size=64, epochs=4)
        budget = replace(budget, epochs=1)
        args = replace(args, samples=1, asked=5)
    problem = Problem(args.root, recipe)
    path = args.out / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for seed in args.seeds:
        for percent in args.percents:
            found = one(args, problem, budget, percent, seed)
            results[f"forget{percent:02d}" + (f" seed {seed}" if seed else "")] = found
            atomic_write(path, json.dumps(results, indent=1))
            print(f"\n{percent} % of {len(problem.full)} questions, seed {seed}\n\n{markdown(found['rows'])}")
    if any(CONTINUED.keys() & {row["model"] for row in found["rows"]} for found in results.values()):
        print("\n" + continued(results))
    return results


def one(args: Args, problem: Problem, budget: Budget, percent: int, seed: int) -> dict[str, Any]:
    """The figures of all rows for one share of the questions and one seed of the models."""
    began, models, most = time.perf_counter(), args.out / "models", 8 if args.smoke else None
    known, first = problem.full + problem.general, 10 * seed
    original, trained = problem.train(known, first, models)
    pairs = [problem.train(problem.retain(percent), first + 1 + i, models) for i in range(args.retrained)]
    costs = {"original": trained} | {f"retrained {i}": history for i, (_, history) in enumerate(pairs)}
    state, unlearned = problem.path_of(known, first, models).with_suffix(".pt"), {}
    for name in args.methods or names(problem):
        unlearned[name], costs[name] = run(name, problem, original, percent, budget, args.out / "unlearned", state)
    figures = evaluate_language_models(
        unlearned,
        problem.tokenizer,
        problem.forget(percent)[:most],
        problem.retain_asked(args.asked),
        references=[model for model, _ in pairs],
        holdout_rows=problem.unseen[:most] or None,
        original=original,
        utility_rows={"real_authors": problem.real_authors[:most], "world_facts": problem.world_facts[:most]},
        sampler=Sampler(args.samples),
        max_new_tokens=8 if args.smoke else 60,
        batch_size=32,
    )
    whole = {"original": original, **{f"retrained {i}": model for i, (model, _) in enumerate(pairs)}, **unlearned}
    rows = []
    for row in figures:
        name = row["model"]
        asked = name in whole and (name in CONTINUED or reference(row))
        hidden = relearned(whole[name], problem.forget(percent)[:most]) if asked else {}
        rows.append(row | {key: costs[name].get(key) for key in COST} | hidden)
    return {"rows": rows, "recipe": vars(problem.recipe), "seconds": time.perf_counter() - began}


if __name__ == "__main__":
    main(tyro.cli(Args))
