"""INPO on real graphs, beside retraining and the simple baselines; see README.md in this folder.

python -m experiments.inpo_edges --root DATA --out runs/inpo_edges [--smoke] [--only dblp cs cora protocol ablation]
python -m experiments.inpo_edges --root DATA --out runs/inpo_edges --only controls_cora [--seeds 0 1 2 3 4]
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from experiments.common import StudyArgs, markdown, write_results
from experiments.inpo_edges.controls import Setting, control_table, gradient_table, run_controls
from gunlearn.bench import GridConfig, ModelStore, Recipe, run_grid
from gunlearn.datasets import load
from gunlearn.methods import INPO, Callback, run_method
from gunlearn.metrics import LinkEvaluator
from gunlearn.report import markdown_table
from gunlearn.report.summary import problems
from gunlearn.requests import ForgetEdges
from gunlearn.tasks import LinkPrediction, link_split

METHODS = ("utu", "finetune", "gradient_ascent", "graddiff", "npo", "inpo")
GRIDS: dict[str, dict[str, Any]] = {
    "dblp": {"dataset": "DBLP", "methods": METHODS, "ratio": 0.005, "region": "out", "seeds": (0, 1, 2)},
    "cs": {"dataset": "CS", "methods": METHODS, "ratio": 0.005, "region": "out", "seeds": (0, 1, 2)},
    "cora": {"dataset": "Cora", "methods": METHODS, "ratio": 0.025, "region": "any", "seeds": (0, 1, 2)},
}
#: What INPO's ideas add to its stop rule, and what amplified messages do; see `controls.py`.
CONTROLS: dict[str, Setting] = {
    "controls_cora": Setting("Cora", 0.025),
    "controls_citeseer": Setting("CiteSeer", 0.025),
    "controls_dblp": Setting("DBLP", 0.005, "out"),
    "controls_photo": Setting("Photo", 0.005),
    "controls_cs": Setting("CS", 0.005, "out"),
    "controls_cora_hubs": Setting("Cora", 0.025, by="degree"),
    "controls_cora_influential": Setting("Cora", 0.025, by="influence"),
    "controls_cora_injected": Setting("Cora", 0.025, injected=True),
    "controls_cora_sage": Setting("Cora", 0.025, backbone="sage"),
    "controls_cora_gat": Setting("Cora", 0.025, backbone="gat"),
}
#: Graphs that stand for the real ones in a smoke run.
SMALL = {"dblp": "karate", "cs": "lesmis", "cora": "digits"}
PROTOCOL: dict[str, tuple[int, ...]] = {"DBLP": (42, 0, 1), "CS": (42,)}
ABLATION: dict[str, dict[str, Any]] = {
    "INPO": {},
    "NPO+GD+TE": {"scale_messages": False},
    "NPO+GD": {"scale_messages": False, "entropy_weight": 0.0},
}
LEVELS = (0.6, 0.7, 0.8, 0.85, 0.9)


@dataclass
class Args(StudyArgs):
    """What to run.

    Attributes:
        models: folder of trained models, shared between the parts.
        only: parts to run.
        seeds: of the controls.
    """

    models: Path | None = None
    only: tuple[str, ...] = (*GRIDS, "protocol", "ablation", *CONTROLS)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)


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


def grids(args: Args, shared: dict[str, Any]) -> dict[str, GridConfig]:
    """The problem of each part that compares methods."""
    official = {"methods": ("utu", "inpo:paper"), "protocol": "inpo", "ratio": 0.005, "references": False}
    asked = {name: settings for name, settings in GRIDS.items() if name in args.only}
    if "protocol" in args.only:
        asked |= {f"protocol_{name}": {"dataset": name, "seeds": PROTOCOL[name], **official} for name in PROTOCOL}
    if args.smoke:
        short = {"method_args": ("epochs=5",)}
        small = {"ratio": 0.1, "region": "any", "seeds": (0,), **short}
        asked = {name: {**asked[name], "dataset": SMALL[name], **small} for name in asked if name in SMALL}
        if "protocol" in args.only:
            asked["protocol_lesmis"] = {**official, "dataset": "lesmis", "ratio": 0.05, "seeds": (42,), **short}
    return {name: GridConfig(**settings, **shared) for name, settings in asked.items()}


def main(args: Args) -> None:
    """Run the parts asked for and write `results.json` and `tables.md`."""
    recipe = Recipe(epochs=30, eval_every=10) if args.smoke else Recipe()
    found = grids(args, {"root": args.root, "recipe": recipe, "models": args.models or args.out / "models"})
    results: dict[str, Any] = {}
    tables: list[str] = []
    if found:
        rows = run_grid(list(found.values()), args.out / "grid", progress=True)
        for (name, config), part in zip(found.items(), problems(rows), strict=True):
            results[name] = part
            title = f"official protocol, {config.dataset}" if name.startswith("protocol") else name
            tables += [f"## {title}", markdown_table(part)]
    if "ablation" in args.only:
        rows = ablation(args, recipe, "lesmis" if args.smoke else "DBLP", 5 if args.smoke else None)
        results["ablation"] = rows
        tables += ["## retain AUC where the forget AUC first reaches the level", ablation_table(rows)]
    shared = (recipe, args.out, args.models or args.out / "models", args.root)
    settings = {k: replace(v, dataset="digits", region="any") if args.smoke else v for k, v in CONTROLS.items()}
    for name in (name for name in CONTROLS if name in args.only):
        results[name] = rows = run_controls(settings[name], args.seeds[:1] if args.smoke else args.seeds, *shared)
        tables += [f"## {name}", control_table(rows), gradient_table(rows)]
    there = args.out / "results.json"  # parts that were run before stay
    before = json.loads(there.read_text(encoding="utf-8")) if there.is_file() else {}
    write_results(args.out, before | results, "\n\n".join(tables))
    print("\n\n".join(tables))


def ablation_table(rows: list[dict[str, Any]]) -> str:
    """Retain AUC at each level of the forget AUC."""
    head = ["case", *(f"{level:.2f}" for level in LEVELS)]
    cells = [[row["case"], *(_shown(row[f"retain_auc_at_{level:.2f}"]) for level in LEVELS)] for row in rows]
    return markdown(head, cells, left=len(head))


def _shown(value: float | None) -> str:
    return "never" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    main(tyro.cli(Args))
