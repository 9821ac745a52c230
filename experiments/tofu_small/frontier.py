"""Each method's frontier, three rates and several epochs a method; see README.md in this folder.

python -m experiments.tofu_small.frontier --root DATA --out runs/tofu_small [--budget-minutes 60] [--methods npo dpo]
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro

from experiments.tofu_small.problem import Problem, Recipe
from gunlearn.bench.llm import TextBench, TextProblem, read_bench, run_text_bench
from gunlearn.bench.llm.bench_file import arms_of
from gunlearn.bench.store import atomic_write
from gunlearn.core.digest import state_hash
from gunlearn.report.frontier_picture import save_frontier
from gunlearn.report.frontier_table import frontier_markdown

HERE = Path(__file__).parent
HOW = ("seeds", "epochs", "batch_size", "every", "samples", "max_new_tokens", "measured_batch", "rouge")


@dataclass
class Args:
    """What to run; a killed run goes on where it stopped.

    Attributes:
        root: folder of the data sets, with TOFU in it.
        out: folder of models and results.
        methods: of `bench.yaml`; all where none are given.
        seed: of the models: each has an original and retrained models of its own.
        percent: share of the questions to forget.
        retrained: models retrained without the forgotten questions.
        budget_minutes: no run starts later.
        smoke: a few authors and epochs, to see that everything runs.
    """

    root: Path
    out: Path
    methods: tuple[str, ...] = ()
    seed: int = 0
    percent: int = 10
    retrained: int = 2
    budget_minutes: float | None = None
    smoke: bool = False


def main(args: Args) -> list[dict[str, Any]]:
    """Train what is missing, run the bench, write rows, tables and picture."""
    torch.set_num_threads(1)
    settings = read_bench(HERE / "bench.yaml")
    chosen = {n: own for n, own in settings["methods"].items() if n in args.methods or not args.methods}
    bench = TextBench(arms_of(chosen, settings["rates"]), **{name: settings[name] for name in HOW if name in settings})
    recipe, asked = Recipe(), settings["asked"]
    if args.smoke:
        recipe, asked = replace(recipe, authors=10, vocab_size=600, hidden_size=64, epochs=4), 5
        bench = replace(bench, arms=[replace(a, rates=a.rates[:1], epochs=1) for a in bench.arms], max_new_tokens=8)
    problem = Problem(args.root, recipe)
    folder = args.out / f"frontier-seed{args.seed}"
    rows = run_text_bench(compared(args, problem, asked), bench, folder, args.budget_minutes, print)
    atomic_write(folder / "frontier.md", frontier_markdown(rows))
    save_frontier(rows, folder / "frontier.png")
    atomic_write(folder / "frontier.json", json.dumps([short(row) for row in rows], separators=(",", ":")) + "\n")
    print(frontier_markdown(rows))
    return rows


def short(row: dict[str, Any]) -> dict[str, Any]:
    """A row for the folder of the study: four digits, no key."""
    points = [
        {**p, "values": {name: [float(f"{v:.4g}") for v in own] for name, own in p.get("values", {}).items()}}
        for p in row["points"]
    ]
    return {name: value for name, value in row.items() if name != "key"} | {"points": points}


def compared(args: Args, problem: Problem, asked: int) -> TextProblem:
    """The problem as the bench takes it; all models stay in memory, they are small."""
    first, models = 10 * args.seed, args.out / "models"
    original, _ = problem.train(problem.full + problem.general, first, models)
    state = {name: value.clone() for name, value in original.state_dict().items()}
    retrained = [problem.train(problem.retain(args.percent), first + 1 + i, models)[0] for i in range(args.retrained)]

    def fresh() -> Any:
        model = problem.fresh(0)
        model.load_state_dict(state)
        return model.eval()

    return TextProblem(
        fresh,
        problem.tokenizer,
        problem.forget(args.percent),
        problem.retain(args.percent),
        problem.retain_asked(asked),
        [lambda model=model: model for model in retrained],
        problem.unseen,
        {"real_authors": problem.real_authors, "world_facts": problem.world_facts},
        problem.refusals(args.percent),
        {"use_cpu": True},
        state_hash(original),
    )


if __name__ == "__main__":
    main(tyro.cli(Args))
