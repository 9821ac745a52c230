"""What it costs and saves to read a sample of the retained edges at each step; see README.md in this folder.

python -m experiments.retain_samples --root DATA --out runs/retain_samples [--smoke] [--datasets DBLP CS]
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import tyro
from torch import Tensor, nn

import gunlearn as gu
from experiments.common import StudyArgs, markdown, write_results
from gunlearn.bench import GridConfig, ModelStore, Recipe, run_grid
from gunlearn.datasets import load
from gunlearn.losses import NLL, as_objective
from gunlearn.methods import run_method
from gunlearn.requests import Partition
from gunlearn.seed import isolated_rng
from gunlearn.tasks import LinkPrediction, StratifiedSampler
from gunlearn.tasks.sampling import BatchOptions
from gunlearn.training.feeding import Feed

FIGURES = ("retain_auc", "forget_auc", "js_retain", "js_forget")


@dataclass
class Args(StudyArgs):
    """What to run.

    Attributes:
        datasets: which of them.
        sizes: retained edges per step.
        draws: gradient estimates per row.
        epochs: of the base model and its retrained references.
        seeds: of split, base model, forget set and run.
    """

    datasets: tuple[str, ...] = ("DBLP", "CS")
    sizes: tuple[int, ...] = (100, 300, 1000, 4000)
    draws: int = 100
    epochs: int = 300
    seeds: tuple[int, ...] = (0,)


def gradient(model: nn.Module, loss: Tensor) -> Tensor:
    grads = torch.autograd.grad(loss, list(model.parameters()))
    return torch.cat([g.flatten() for g in grads])


def retain_gradients(model: nn.Module, partition: Partition, strata: Tensor | None, size: int) -> Callable[[], tuple]:
    """One estimate of the retain term's gradient: of all retained edges, and the share of those at a forgotten node."""
    task, objective = LinkPrediction(), as_objective(NLL(on="retain_edges"))
    parts = task.parts(partition)
    distance, number = parts.strata(), parts.retain.size(1)
    drawn: list[Tensor] = []
    feed_options = BatchOptions()
    if strata is not None:
        sampler = StratifiedSampler(strata, size)

        def draw() -> tuple[Tensor, Tensor]:
            index, weight = sampler()
            drawn[:] = [index]
            return index, weight

        parts.limit(draw)
    feed = Feed(model, task, parts, objective.parts, feed_options)

    def estimate() -> tuple[Tensor, Tensor, float]:
        start = time.perf_counter()
        data, items, _ = feed.reader.read(feed.sample())
        prediction = task.decode(model, task.encode(model, data), items["retain_edges"])
        value = objective({"retain_edges": prediction}).total
        grads = torch.autograd.grad(value, list(model.parameters()), retain_graph=True)
        seconds = time.perf_counter() - start
        index = drawn[0] if drawn else torch.arange(number)
        weight = (distance[index] == 0).float() * (1.0 if prediction.weight is None else prediction.weight)
        near = -(weight * prediction.log_prob).mean()
        return torch.cat([g.flatten() for g in grads]), gradient(model, near), seconds

    return estimate


def estimates(args: Args, model: nn.Module, partition: Partition, dataset: str) -> list[dict[str, Any]]:
    """Relative error of sampled gradients, one row per sample size and way of sampling."""
    model = model.eval().requires_grad_()
    distance = LinkPrediction().parts(partition).strata()
    full = retain_gradients(model, partition, None, 0)
    truth, near, _ = full()
    seconds = sorted(full()[2] for _ in range(9))[4]
    population = torch.bincount(distance, minlength=4).tolist()
    rows = [
        {"dataset": dataset, "sampling": "all", "size": distance.numel(), "error": 0.0, "near_error": 0.0,
         "near_edges": population[0], "seconds": seconds, "strata": population}
    ]  # fmt: skip
    for size in args.sizes:
        if size >= distance.numel():
            continue
        for name, strata in (("uniform", torch.zeros_like(distance)), ("stratified", distance)):
            with isolated_rng(0):
                estimate = retain_gradients(model, partition, strata, size)
                got = [estimate() for _ in range(args.draws)]
            error = torch.stack([(g - truth).square().sum() for g, _, _ in got]).mean().sqrt() / truth.norm()
            near_error = torch.stack([(g - near).square().sum() for _, g, _ in got]).mean().sqrt() / near.norm()
            expected = size * population[0] / distance.numel()
            near_edges = int(StratifiedSampler(strata, size).count[0]) if name == "stratified" else expected
            rows.append(
                {"dataset": dataset, "sampling": name, "size": size, "error": float(error),
                 "near_error": float(near_error), "near_edges": near_edges,
                 "seconds": sorted(s for _, _, s in got)[len(got) // 2]}
            )  # fmt: skip
    return rows


def grids(args: Args, dataset: str) -> list[GridConfig]:
    """INPO with each sample size, and with all retained edges."""
    size = {"count": 4} if args.smoke else {"ratio": 0.005, "region": "out"}
    shared: dict[str, Any] = {
        **size, "dataset": dataset, "root": args.root, "seeds": args.seeds, "recipe": recipe(args),
        "models": args.out / "models",
    }  # fmt: skip
    sampled = [(f"inpo.retain_samples={size}",) for size in args.sizes]
    return [GridConfig(methods=("inpo:default",), method_args=given, **shared) for given in (*sampled, ())]


def recipe(args: Args) -> Recipe:
    """How base models are trained."""
    return Recipe(epochs=args.epochs, eval_every=min(50, args.epochs))


def row_of(row: dict[str, Any]) -> dict[str, Any]:
    """What the table shows of a row of the grid."""
    kept = {name: row[name] for name in ("dataset", "seed", "epochs", "seconds", *FIGURES, "js_floor_forget")}
    per_step = row["seconds"] / max(row["epochs"], 1)
    size, graph = row["options"]["retain_samples"], row["notes"]["graph"]
    return {**kept, "retain_samples": size, "seconds_per_step": per_step, "graph": graph}


def study(args: Args, dataset: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The errors of gradients under the first seed, and a row per run of INPO."""
    configs = grids(args, dataset)
    rows = run_grid(configs, args.out / "grid" / dataset, progress=True)
    results = {row["key"]: row_of(row) for row in rows if row["method"] == "inpo"}
    cell, task = configs[0].cells()[0], LinkPrediction()
    data = cell.split(load(dataset, args.root, sparse=True))
    partition, store = cell.request().resolve(data), ModelStore(args.out / "models", recipe(args), task)
    base = store.base(data, cell.seed).model
    # Where the retain term pulls: half way through unlearning.
    half = gu.methods.INPO(epochs=10, until="end", retain_weight=0.0)
    gradients = estimates(args, run_method(half, base, partition, task, cell.seed).model, partition, dataset)
    return gradients, list(results.values())


def table(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> str:
    def cell(value: Any) -> str:
        return "all" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)

    return markdown(columns, ([cell(row.get(name)) for name in columns] for row in rows), left=len(columns))


def tables(found: dict[str, list[dict[str, Any]]]) -> tuple[str, str]:
    """The errors of sampled gradients, and where runs with them end."""
    columns = ("dataset", "seed", "retain_samples", "epochs", "seconds", "seconds_per_step", *FIGURES, "graph")
    errors = ("dataset", "sampling", "size", "near_edges", "error", "near_error", "seconds")
    return table(found["gradients"], errors), table(found["results"], columns)


def main(args: Args) -> None:
    if args.smoke:
        args = replace(args, datasets=("karate",), sizes=(10, 30), draws=5, epochs=20)
    gradients, results = [], []
    for dataset in args.datasets:
        more = study(args, dataset)
        gradients += more[0]
        results += more[1]
    found = {"gradients": gradients, "results": results}
    write_results(args.out, found, "\n\n".join(tables(found)))
    print(*tables(found), sep="\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(tyro.cli(Args))
