"""Lines between LoRA adapters that unlearned a tenth of TOFU's authors, and to a model retrained without them.

python -m experiments.mode_connectivity.adapters --root DATA --out runs/adapters [--smoke] [--seeds 0 1 2]

The models are those of `experiments.tofu_small`, which `--models` names where they are trained already; see between.md.
"""

import copy
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

import torch
import tyro
from torch import nn

import gunlearn as gu
from experiments.common import StudyArgs, markdown, resumed, write_results
from experiments.mode_connectivity.between_rows import TOLERANCE, of, spread
from experiments.tofu_small.problem import Problem, Recipe
from gunlearn.llm import unlearn

Row = dict[str, Any]
PERCENT, POINTS = 10, 7
#: Rows of the table: a method, its seed, and its learning rate.
RUNS = {
    "npo": ("npo", 0, 2e-3),
    "npo, seed 1": ("npo", 1, 2e-3),
    "graddiff": ("graddiff", 0, 2e-3),
    "simnpo": ("simnpo", 0, 2e-3),
}


@dataclass
class Args(StudyArgs):
    """What to run; a killed run goes on where it stopped.

    Attributes:
        seeds: of the models and the methods.
        models: folder of trained models; inside `out` by default.
        kept: retained questions that are measured, evenly spaced.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    models: Path | None = None
    kept: int = 100


def without_adapter(model: nn.Module) -> nn.Module:
    """A plain copy with the adapter's change in its weights."""
    merge: Any = getattr(copy.deepcopy(model), "merge_and_unload", None)
    return model if merge is None else merge()


def models_of(args: Args, draw: int) -> tuple[dict[str, nn.Module], Problem]:
    """Original, retrained (another start) and unlearned models, by name; ten draws apart from those of other seeds."""
    recipe = Recipe()
    if args.smoke:
        recipe = replace(recipe, authors=10, vocab_size=600, hidden_size=64, epochs=4)
    problem, folder = Problem(args.root or Path("data"), recipe), args.models or args.out / "models"
    original, _ = problem.train(problem.full + problem.general, 10 * draw, folder)
    models: dict[str, nn.Module] = {"original": original}
    for name, (method, seed, lr) in RUNS.items():
        result = unlearn(
            original, problem.tokenizer, problem.forget(PERCENT), problem.retain(PERCENT), method, peft="lora",
            epochs=1 if args.smoke else 10, lr=lr, batch_size=16, seed=10 * draw + seed, figure_rows=0, use_cpu=True,
        )  # fmt: skip
        models[name] = without_adapter(result.model).eval()
    models["retrain"] = problem.train(problem.retain(PERCENT), 10 * draw + 1, folder)[0]
    return models, problem


def measured(args: Args, draw: int) -> list[Row]:
    """A row for each pair."""
    models, problem = models_of(args, draw)
    forget = problem.forget(PERCENT)
    rows = forget + problem.retain_asked(5 if args.smoke else args.kept)
    texts = [{name: row[name] for name in ("input_ids", "labels")} for row in rows]
    request, found = gu.ForgetItems(index=list(range(len(forget)))), []
    for first, second in combinations(models, 2):
        path = gu.connect(models[first], models[second], texts, request, "causal_lm", points=POINTS).evaluation
        losses = {f"loss_{part}": [round(row[f"loss_{part}"], 4) for row in path.rows] for part in ("retain", "forget")}
        barriers = {f"barrier_{part}": getattr(path, f"barrier_{part}") for part in ("retain", "forget")}
        found.append({"seed": draw, "first": first, "second": second, **barriers, **losses})
    return found


def table(rows: list[Row]) -> str:
    """One line per pair: medians over seeds, smallest and largest in brackets; of losses at the ends the medians."""
    body = []
    for first, second in dict.fromkeys((row["first"], row["second"]) for row in rows):
        own = of(rows, first=first, second=second)
        ends = [
            " to ".join(f"{median(row[f'loss_{part}'][k] for row in own):.2f}" for k in (0, -1))
            for part in ("retain", "forget")
        ]
        barriers = [[row[f"barrier_{part}"] for row in own] for part in ("retain", "forget")]
        near = sum(max(pair) <= TOLERANCE for pair in zip(*barriers, strict=True))
        body.append([f"{first}, {second}", *map(spread, barriers), *ends, f"{near} of {len(own)}"])
    head = ["pair", "barrier, retained", "barrier, forgotten", "retained loss, ends", "forgotten loss, ends"]
    return markdown([*head, "connected"], body)


def main(args: Args) -> None:
    """Write `results.json` and `tables.md`."""
    torch.set_num_threads(1)
    seeds = args.seeds[:1] if args.smoke else args.seeds
    rows = resumed(args.out, [(str(seed), partial(measured, args, seed)) for seed in seeds])
    write_results(args.out, rows, table(rows))
    print(table(rows))


if __name__ == "__main__":
    main(tyro.cli(Args))
