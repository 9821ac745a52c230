"""Time and memory of unlearning beside the plain PyG formulation and retraining; see README.md in this folder.

python -m experiments.speed --root DATA --out runs/speed [--device cpu|cuda] [--smoke] [--only step run scale requests]
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from experiments.common import StudyArgs
from experiments.speed.problems import absolute
from experiments.speed.report import plot, write
from experiments.speed.study import Study


@dataclass
class Args(StudyArgs):
    """What to measure; rows that are in the output folder already stay unless they are measured again.

    Attributes:
        device: where to compute.
        only: parts to run.
        datasets: of the steps and runs.
        sizes: undirected edges of the synthetic graphs.
        features: of the synthetic graphs.
        graphs: of single requests, names of `experiments.speed.requests.GRAPHS`; `products` takes 24 GiB.
        methods: of single requests.
        steps: timed steps of each side, at least 5 for a figure to report.
        runs: whole runs in default mode.
        paper_runs: whole runs in paper mode.
        models: folder of trained models, to share with other runs; `OUT/models` by default.
    """

    device: Literal["cpu", "cuda"] = "cpu"
    only: tuple[Literal["step", "run", "scale", "requests"], ...] = ("step", "run", "scale", "requests")
    datasets: tuple[str, ...] | None = None
    sizes: tuple[float, ...] | None = None
    features: tuple[int, ...] = (128,)
    graphs: tuple[str, ...] | None = None
    methods: tuple[Literal["utu", "auto"], ...] = ("utu", "auto")
    steps: int = 9
    runs: int = 5
    paper_runs: int = 3
    models: Path | None = None

    def __post_init__(self) -> None:
        self.datasets = self.datasets or (("lesmis",) if self.smoke else ("DBLP", "CS", "Photo"))
        self.sizes = self.sizes or ((1e2, 1e3) if self.smoke else (1e4, 1e5, 1e6, 1e7))
        self.graphs = self.graphs or (("small",) if self.smoke else ("arxiv", "products/10"))
        if self.smoke:
            self.features, self.steps, self.runs, self.paper_runs = (16,), 2, 1, 1

    @property
    def problem(self) -> dict[str, Any]:
        return {"root": absolute(self.root), "ratio": 0.05 if self.smoke else 0.005}

    @property
    def trained(self) -> dict[str, Any]:
        models = absolute(self.models or self.out / "models")
        return {**self.problem, "device": self.device, "models": models, "base_epochs": 50 if self.smoke else 2000}


def main(args: Args) -> None:
    """Measure, and write after every row: a study that is cut off keeps what it has."""
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "results.json"
    rows = {row["case"]: row for row in json.loads(file.read_text())} if file.is_file() else {}
    for row in Study(args).rows():
        rows[row["case"]] = row
        write(list(rows.values()), args.out)
        print({name: row[name] for name in ("case", "ours_s", "plain_s", "ratio", "ours_mb", "plain_mb", "bound_s")})
    plot(list(rows.values()), args.out)
    print((args.out / "tables.md").read_text())


if __name__ == "__main__":
    main(tyro.cli(Args))
