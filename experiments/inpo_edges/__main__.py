"""INPO on real graphs, beside retraining and the simple baselines; see README.md in this folder.

python -m experiments.inpo_edges --root DATA --out runs/inpo_edges [--smoke] [--only dblp cs cora protocol ablation]
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from gunlearn.bench import GridConfig, ModelStore, Recipe, run_grid
from gunlearn.datasets import load
from gunlearn.methods import INPO, Callback, run_method
from gunlearn.metrics import LinkEvaluator
from gunlearn.report import markdown_table
from gunlearn.requests import ForgetEdges
from gunlearn.tasks import LinkPrediction, link_split

METHODS = ("utu", "finetune", "gradient_ascent", "graddiff", "npo", "inpo")
GRIDS: dict[str, dict[str, Any]] = {
    "dblp": {"dataset": "DBLP", "methods": METHODS, "ratio": 0.005, "region": "out", "seeds": (0, 1, 2)},
    "cs": {"dataset": "CS", "methods": METHODS, "ratio": 0.005, "region": "out", "seeds": (0, 1, 2)},
    "cora": {"dataset": "Cora", "methods": METHODS, "ratio": 0.025, "region": "any", "seeds": (0, 1, 2)},
}
PROTOCOL: dict[str, tuple[int, ...]] = {"DBLP": (42, 0, 1), "CS": (42,)}
ABLATION: dict[str, dict[str, Any]] = {
    "INPO": {},
    "NPO+GD+TE": {"scale_messages": False},
    "NPO+GD": {"scale_messages": False, "entropy_weight": 0.0},
}
LEVELS = (0.6, 0.7, 0.8, 0.85, 0.9)


@dataclass
class Args:
    """What to run.

    Attributes:
        out: folder of the outputs.
        root: folder of the data sets.
        models: folder of trained models, shared between the parts.
        only: parts to run.
        smoke: a few epochs on a small graph, to see that everything runs.
    """

    out: Path
    root: Path | None = None
    models: Path | None = None
    only: tuple[str, ...] = (*GRIDS, "protocol", "ablation")
    smoke: bool = False


class Curve(Callback):
    """Forget AUC and retain AUC every few epochs."""

    def __init__(self, evaluator: LinkEvaluator, every: int) -> None:
        self.evaluator, self.every, self.points = evaluator, every, []

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.epoch % self.every == 0:
            view = self.evaluator.view(kwargs["model"])
            self.points.append((state.epoch, view["forget_auc"], view["retain_auc"]))

    def retain_auc_at(self, level: float) -> float | None:
        """Retain AUC where the forget AUC first reaches `level`, interpolated; `None` if it never does."""
        for (_, low, before), (_, high, after) in zip(self.points, self.points[1:], strict=False):
            if low < level <= high:
                return before + (after - before) * (level - low) / (high - low)
        return None


def ablation(args: Args, recipe: Recipe, dataset: str, epochs: int | None) -> list[dict[str, Any]]:
    """Retain AUC at equal forget AUC for the parts of INPO, under the official protocol."""
    seed, task = 42, LinkPrediction()
    data = link_split(load(dataset, args.root), seed=seed, protocol="inpo")
    partition = ForgetEdges(ratio=0.005 if not args.smoke else 0.05, seed=seed, protocol="inpo").resolve(data)
    base = ModelStore(args.models or args.out / "models", recipe, task).base(data, seed)
    evaluator, rows = LinkEvaluator(task, partition, seed=seed), []
    for name, options in ABLATION.items():
        curve = Curve(evaluator, every=3)
        method = INPO(mode="paper", dataset=dataset, epochs=epochs, **options)
        result = run_method(method, base.model, partition, task, seed, [curve])
        at = {f"retain_auc_at_{level:.2f}": curve.retain_auc_at(level) for level in LEVELS}
        rows.append({"case": name, "dataset": dataset, "seed": seed, "seconds": result.seconds, **at})
    return rows


def main(args: Args) -> None:
    """Run the parts asked for and write `results.json` and `tables.md`."""
    args.out.mkdir(parents=True, exist_ok=True)
    recipe = Recipe(epochs=30, eval_every=10) if args.smoke else Recipe()
    models = args.models or args.out / "models"
    results: dict[str, Any] = {}
    tables: list[str] = []
    for name, settings in GRIDS.items():
        if name in args.only:
            if args.smoke:
                settings = {**settings, "dataset": "karate", "ratio": 0.1, "region": "any", "seeds": (0,)}
                settings["method_args"] = ("epochs=5",)
            config = GridConfig(**settings, root=args.root, recipe=recipe, models=models)
            results[name] = run_grid(config, args.out / name, progress=True)
            tables += [f"## {name}", markdown_table(results[name])]
    if "protocol" in args.only:
        for dataset, seeds in PROTOCOL.items() if not args.smoke else [("lesmis", (42,))]:
            config = GridConfig(
                dataset, ("utu", "inpo:paper"), root=args.root, protocol="inpo", ratio=0.05 if args.smoke else 0.005,
                seeds=seeds, recipe=recipe, models=models,
                references=False, method_args=("epochs=5",) if args.smoke else (),
            )  # fmt: skip
            rows = run_grid(config, args.out / f"protocol_{dataset}", progress=True)
            results[f"protocol_{dataset}"] = rows
            tables += [f"## official protocol, {dataset}", markdown_table(rows)]
    if "ablation" in args.only:
        rows = ablation(args, recipe, "lesmis" if args.smoke else "DBLP", 5 if args.smoke else None)
        results["ablation"] = rows
        head = ["case", *(f"{level:.2f}" for level in LEVELS)]
        cells = [[row["case"], *(_shown(row[f"retain_auc_at_{level:.2f}"]) for level in LEVELS)] for row in rows]
        lines = ["| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *cells]]
        tables += ["## retain AUC where the forget AUC first reaches the level", "\n".join(lines)]
    (args.out / "results.json").write_text(json.dumps(results, indent=1))
    (args.out / "tables.md").write_text("\n\n".join(tables) + "\n")
    print("\n\n".join(tables))


def _shown(value: float | None) -> str:
    return "never" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    main(tyro.cli(Args))
