"""What a step of a method costs beside one of `finetune`, on a graph of many nodes; see README.md in this folder.

python -m experiments.speed.per_step --out runs/speed [--graph arxiv/10] [--smoke]
"""

import json
import statistics
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
import tyro

import gunlearn as gu
from experiments.common import StudyArgs, markdown
from experiments.speed.requests import NODES, Steps, asked, graph_of, model_of
from gunlearn.bench.store import atomic_write
from gunlearn.errors import DivergenceError

METHODS = ("finetune", "scrub", "cognac", "megu")


@dataclass
class Args(StudyArgs):
    """What to run.

    Attributes:
        graph: a name of `experiments.speed.requests.GRAPHS`.
        rounds: how often all methods run, in turns.
    """

    graph: str = "arxiv/10"
    rounds: int = 3


def measured(data: Any, model: torch.nn.Module, method: str, request: gu.Request) -> tuple[float, float, int]:
    """Return processor seconds of the median step, of the mean one with all that surrounds it, and their number."""
    watch, start = Steps(), time.process_time()
    with suppress(DivergenceError):  # the model is hardly trained; what a step costs does not depend on it
        gu.unlearn(model, data, request, method, NODES, callbacks=[watch])
    return statistics.median(watch.each), (time.process_time() - start) / len(watch.ends), len(watch.ends)


def table(rows: list[dict[str, Any]]) -> str:
    """Seconds, and ratios to `finetune`."""
    base = next(row for row in rows if row["method"] == "finetune")
    body = [
        [row["method"], str(row["steps"])]
        + [cell for name in ("step", "mean") for cell in (f"{row[name]:.3f}", f"{row[name] / base[name]:.2f}")]
        for row in rows
    ]
    return markdown(("method", "steps", "median step, s", "ratio", "whole call per step, s", "ratio"), body)


def main(args: Args) -> None:
    """Run all methods in turns; write `per_step.json` and print the table."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    graph = "small" if args.smoke else args.graph
    data = graph_of(graph)
    model = gu.train(model_of(graph, data), data, NODES, steps=20, lr=1e-2, weight_decay=5e-4).model
    ready, (request, _) = gu.prepare(data), asked(data, 1)[NODES][0]
    found: dict[str, list[tuple[float, float, int]]] = {name: [] for name in METHODS}
    for _ in range(1 if args.smoke else args.rounds):
        for name in METHODS:
            found[name].append(measured(ready, model, name, request))
            print(name, found[name][-1], flush=True)
    rows = [
        {"graph": graph, "method": name, "steps": runs[0][2], "rounds": len(runs)}
        | {key: statistics.median(run[k] for run in runs) for k, key in enumerate(("step", "mean"))}
        for name, runs in found.items()
    ]
    atomic_write(args.out / "per_step.json", json.dumps(rows, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main(tyro.cli(Args))
