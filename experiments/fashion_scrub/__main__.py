"""Every method over items on Fashion-MNIST beside three retrainings; see README.md in this folder.

python -m experiments.fashion_scrub --root DATA --out runs/fashion_scrub [--smoke] [--seeds 0]
"""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import tyro

import gunlearn as gu
from experiments.common import StudyArgs, write_results
from experiments.fashion_scrub.model import small_resnet
from experiments.fashion_scrub.problems import PROBLEMS, Problem, digits, figures, images
from experiments.fashion_scrub.tables import KEPT, tables
from gunlearn.bench.store import atomic_write
from gunlearn.errors import GunlearnError

BATCH = 100
#: Training: epochs, rate, weight decay.
RECIPE = {"epochs": 6, "lr": 3e-3, "weight_decay": 5e-4, "batch_size": BATCH}
#: A row each: the method and its options. `training` stands for the result of the training.
ROWS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("finetune", {"epochs": 1, "batch_size": BATCH}),
    ("l1_sparse", {"epochs": 1, "batch_size": BATCH}),
    ("continued_training", {"training": True}),
    ("replay", {"training": True}),
    ("auto", {"training": True}),
    ("gradient_ascent", {"steps": 10, "batch_size": BATCH, "lr": 1e-4}),
    ("graddiff", {"epochs": 1, "batch_size": BATCH, "lr": 1e-4}),
    ("npo", {"epochs": 1, "batch_size": BATCH}),
    ("random_label", {"epochs": 1, "batch_size": BATCH}),
    ("salun", {"epochs": 1, "batch_size": BATCH}),
    ("bad_teacher", {"epochs": 1, "batch_size": BATCH}),
    ("scrub:small", {"epochs": 2, "max_epochs": 1, "batch_size": BATCH}),
    ("scrub", {"steps": 120, "batch_size": BATCH}),
    ("imu", {"steps": 60, "batch_size": BATCH}),
    ("ssd", {"probes": 8}),
    ("gif", {}),
)


@dataclass
class Args(StudyArgs):
    """What to run; a killed run goes on where it stopped.

    Attributes:
        seeds: of the images, the draw and the models.
        train: number of training images.
        test: number of test images.
    """

    seeds: tuple[int, ...] = (0,)
    train: int = 10_000
    test: int = 2_000


def trained(data: Any, seed: int, folder: Path, recipe: dict[str, Any]) -> gu.Result:
    """Return a trained model, from its folder where it was trained before."""
    torch.manual_seed(seed)
    model = small_resnet(data.x.size(1), int(data.y.max()) + 1)
    if not folder.exists():
        gu.train(model, data, "image_classification", seed=seed, **recipe).save(folder)
    return gu.Result.load(folder, model)


def problems(args: Args) -> list[tuple[int, Problem]]:
    """Return every problem under every seed."""
    found = []
    for seed in args.seeds:
        data = digits(seed) if args.smoke else images(args.root, args.train, args.test, seed)
        found += [(seed, make(data, seed)) for make in PROBLEMS.values()]
    return found


class Study:
    """The rows of one problem under one seed, measured once each.

    Attributes:
        rows: all rows of the study by their key; written to a file as they come.
    """

    def __init__(self, args: Args, seed: int, problem: Problem, rows: dict[str, dict[str, Any]]) -> None:
        self.args, self.seed, self.problem, self.rows = args, seed, problem, rows
        recipe = {**RECIPE, "epochs": 2} if args.smoke else RECIPE
        folder = args.out / "models" / f"{problem.name}-{seed}"
        self.base = trained(problem.data, seed, folder / "original", recipe)
        retained = problem.request.resolve(problem.data).retain_data
        self.references = [trained(retained, 100 * seed + k, folder / f"retrained{k}", recipe).model for k in (1, 2, 3)]
        self.steps = recipe["epochs"] * -(-int((~problem.data.test_mask).sum()) // BATCH)

    def add(self, method: str, options: dict[str, Any]) -> None:
        """Unlearn by a method and compare with the retrained models; a refusal is a row too."""
        problem, start = self.problem, perf_counter()
        options = {name: self.base if name == "training" else value for name, value in options.items()}
        try:
            result = gu.unlearn(
                self.base.model,
                problem.data,
                problem.request,
                method,
                "image_classification",
                seed=self.seed,
                **options,
            )
        except GunlearnError as error:
            self._keep(method, {"error": str(error)})
            return
        seconds, price = perf_counter() - start, len(result.history) / self.steps
        found = gu.evaluate(result, references=self.references, seed=self.seed, metrics=figures(problem))
        if not self._has("utu"):  # what is not the method's own is measured once
            for line in found.drawn:
                self._keep(line["method"], line | {"price": float(line["method"] == "retrain")}, others=True)
        own = next(line for line in found.drawn if line["method"] not in ("original", "retrain", "utu"))
        self._keep(method, own | {"seconds": seconds, "price": price})

    def missing(self) -> list[tuple[str, dict[str, Any]]]:
        return [(method, options) for method, options in ROWS if not self._has(method)]

    def _key(self, method: str) -> str:
        return f"{self.problem.name} {self.seed} {method}"

    def _has(self, method: str) -> bool:
        return self._key(method) in self.rows

    def _keep(self, method: str, line: dict[str, Any], others: bool = False) -> None:
        if others and method not in ("original", "retrain", "utu"):
            return
        number = sum(key.startswith(self._key(method)) for key in self.rows) if method == "retrain" else 0
        row = {"problem": self.problem.name, "seed": self.seed, "method": method, "error": line.get("error") or ""}
        row |= {name: line.get(name) for name in ("price", "seconds", *KEPT)}
        self.rows[self._key(method) + (f" {number}" if number else "")] = row
        atomic_write(self.args.out / "rows.json", json.dumps(self.rows, indent=1) + "\n")


def main(args: Args) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)
    path = args.out / "rows.json"
    rows = json.loads(path.read_text()) if path.exists() else {}
    for seed, problem in problems(args):
        study = Study(args, seed, problem, rows)
        for method, options in study.missing():
            study.add(method, options)
            print(problem.name, seed, method, flush=True)
    shown = tables(list(rows.values()))
    write_results(args.out, list(rows.values()), "\n\n".join(f"### {name}\n\n{text}" for name, text in shown.items()))


if __name__ == "__main__":
    main(tyro.cli(Args))
