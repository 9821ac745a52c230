"""Does the certificate's bound hold, request after request? See README.md in this folder.

python -m experiments.graph_methods.heads --root DATA --out runs/heads [--requests 50] [--datasets Cora]
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

import gunlearn as gu
from experiments.common import markdown
from gunlearn.bench.store import atomic_write
from gunlearn.methods import fit_linear_head
from gunlearn.methods.linear_head.convex import Logistic, one_vs_rest
from gunlearn.methods.linear_head.propagation import propagated
from gunlearn.nn import LinearHead

KINDS = (gu.ForgetNodes, gu.ForgetEdges, gu.ForgetFeatures)


@dataclass
class Args:
    """What to run.

    Attributes:
        out: folder of the outputs.
        root: folder of the data sets.
        datasets: names.
        words: so many of the most frequent features, for exact retraining after each request.
        requests: one after the other, of nodes, edges, features in turn.
        lams: ridge per training node.
        alpha: standard deviation of the perturbation.
    """

    out: Path
    root: Path | None = None
    datasets: tuple[str, ...] = ("Cora", "CiteSeer")
    words: int = 200
    requests: int = 50
    lams: tuple[float, ...] = (1e-2, 1e-3)
    alpha: float = 5.0


def run(args: Args, dataset: str, lam: float, method: str) -> dict[str, Any]:
    """A chain of requests, each result unlearned again; exact gradient and exact optimum beside the stated bound."""
    data = gu.node_split(gu.load(dataset, args.root), seed=0)
    data.x = data.x[:, data.x.sum(0).argsort(descending=True)[: args.words]]
    head = fit_linear_head(LinearHead(args.words, int(data.y.max()) + 1), data, lam=lam, alpha=args.alpha)
    statuses: dict[str, int] = {}
    worst_gradient = worst_distance = seconds = exact_seconds = 0.0
    for i in range(args.requests):
        request = KINDS[i % 3](count=1 + i % 4, seed=i)
        result = gu.unlearn(head, data, request, method, "node_classification")
        certificate = result.notes["certificate"]
        statuses[certificate["status"]] = statuses.get(certificate["status"], 0) + 1
        head, data, seconds = result.model, result.data, seconds + result.seconds
        start = time.perf_counter()
        rows = data.train_mask.nonzero().view(-1)
        z = propagated(data, rows, head.hops, True)
        exact = Logistic(z, one_vs_rest(data.y[rows], int(head.lin.weight.size(0))), lam, head.perturbation.t())
        w = head.lin.weight.detach().double().t()
        optimum = exact.minimise(w, 1e-10)
        exact_seconds += time.perf_counter() - start
        if certificate["status"] != "uncertified" and certificate["spent"] > 0:
            worst_gradient = max(worst_gradient, float(exact.gradient(w).norm()) / certificate["spent"])
            bound = certificate["spent"] / (lam * rows.numel())  # the problem is so much strictly convex
            worst_distance = max(worst_distance, float((optimum - w).norm()) / bound)
    return {
        "dataset": dataset, "lam": lam, "alpha": args.alpha, "method": method, "requests": args.requests,
        "statuses": statuses, "worst_gradient_over_bound": worst_gradient, "worst_distance_over_bound": worst_distance,
        "seconds": seconds, "exact_seconds": exact_seconds,
    }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """How often which status was given, and how much of the bounds was needed."""
    body = []
    for row in rows:
        shown = ", ".join(f"{count} {status}" for status, count in row["statuses"].items())
        figures = [f"{row[f'worst_{what}_over_bound']:.3f}" for what in ("gradient", "distance")]
        body.append([row["dataset"], f"{row['lam']:g}", f"`{row['method']}`", shown, *figures])
    head = ("data set", "lambda", "method", "statuses", "worst gradient / bound", "worst distance / bound")
    return markdown(head, body, 4)


def main(args: Args) -> None:
    """All chains; write `heads.json` and print the table."""
    rows = []
    for dataset in args.datasets:
        for lam in args.lams:
            for method in ("cgu", "scalegun"):
                rows.append(run(args, dataset, lam, method))
                print(rows[-1], flush=True)
    atomic_write(args.out / "heads.json", json.dumps(rows, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(tyro.cli(Args))
