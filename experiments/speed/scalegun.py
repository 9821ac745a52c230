"""`scalegun` on a graph of a million edges: time, memory, and its bound against the exact gradient; see README.md.

python -m experiments.speed.scalegun --out runs/scalegun [--edges 1e6] [--timed 11] [--requests 50] [--smoke]
"""

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
import tyro
from torch_geometric.data import Data

import gunlearn as gu
from experiments.common import markdown, write_results
from experiments.speed.clocks import Memory
from experiments.speed.synthetic import power_law_graph
from gunlearn.methods import fit_linear_head
from gunlearn.nn import LinearHead


@dataclass
class Args:
    """What to measure.

    Attributes:
        out: folder of the outputs.
        edges: undirected edges of the power-law graph.
        features: of each node.
        classes: of the linear head.
        timed: requests of one edge, one after the other, whose time is taken; the first one propagates the graph.
        requests: one after the other, each held against the exact gradient.
        smoke: a small graph, to see that everything runs.
        step: run one measurement in this process: `prepare`, `time`, `control` or `bound`.
    """

    out: Path
    edges: float = 1e6
    features: int = 128
    classes: int = 5
    timed: int = 11
    requests: int = 50
    smoke: bool = False
    step: str = ""

    def __post_init__(self) -> None:
        if self.smoke:
            self.edges, self.features, self.timed, self.requests = 2000, 16, 3, 4


def prepare(args: Args) -> dict[str, Any]:
    """A graph, half of its nodes for training, and a head at the optimum, as files: making them uses more memory."""
    data, draw = power_law_graph(int(args.edges), args.features), torch.Generator().manual_seed(1)
    data.y = (data.x @ torch.randn(args.features, args.classes, generator=draw)).argmax(dim=1)
    data.train_mask = torch.rand(int(data.num_nodes), generator=draw) < 0.5
    head = fit_linear_head(LinearHead(args.features, args.classes), data, lam=1e-4, alpha=1.0)
    torch.save({"data": data.to_dict(), "head": head.state_dict()}, args.out / "problem.pt")
    return {}


def loaded(args: Args) -> tuple[Data, LinearHead]:
    kept = torch.load(args.out / "problem.pt", weights_only=True)
    head = LinearHead(args.features, args.classes)
    head.load_state_dict(kept["head"])
    return Data(**kept["data"]), head.eval()


def requests(args: Args, number: int) -> Any:
    """Yield the results of so many requests of one random edge, each on the last one's model and graph, and seconds."""
    data, head = loaded(args)
    data = gu.prepare(data) if hasattr(gu, "prepare") else data
    draw = torch.Generator().manual_seed(2)
    for _ in range(number):
        edge = data.edge_index[:, torch.randint(0, data.num_edges, (1,), generator=draw)]
        start = time.perf_counter()
        result = gu.unlearn(head, data, gu.ForgetEdges(edge), "scalegun", "node_classification")
        wall = time.perf_counter() - start
        head, data = result.model, result.data
        yield result, wall


def measure_time(args: Args) -> dict[str, Any]:
    """Seconds of the method and of the whole call, peaks of memory above the imports."""
    memory, rows = Memory("cpu"), []
    for result, wall in requests(args, args.timed):
        memory.end("first" if not rows else "later")
        found = result.notes["propagation"]
        rows.append(
            {"seconds": result.seconds, "wall": wall, "pushed": found["pushed"], "scratch": found["from_scratch"]}
        )
    later = {name: [row[name] for row in rows[1:]] for name in ("seconds", "wall", "pushed")}
    medians = {name: statistics.median(values) for name, values in later.items()}
    return {"mb": memory.phases, "first": rows[0], "later": later, "median": medians}


def exact_gradient(data: Data, head: LinearHead) -> float:
    """Norm of the gradient of the perturbed loss, by the whole propagation in float64 and autograd."""
    n, (row, col) = int(data.num_nodes), data.edge_index.numpy()
    a = sp.csr_matrix((np.ones(row.size), (col, row)), shape=(n, n)) + sp.eye(n, format="csr")
    root = sp.diags(np.asarray(a.sum(axis=1)).ravel() ** -0.5)
    x = data.x.double().numpy()
    z = x / np.linalg.norm(x, axis=1, keepdims=True)
    for _ in head.hops[1:]:
        z = root @ (a @ (root @ z))
    z, label = torch.from_numpy(z)[data.train_mask], data.y[data.train_mask]
    sign = torch.where(label[:, None] == torch.arange(head.lin.out_features), 1.0, -1.0).double()
    w = head.lin.weight.detach().double().requires_grad_()
    loss = torch.nn.functional.softplus(-sign * (z @ w.t())).sum()
    loss = loss + float(head.lam) * z.size(0) / 2 * w.square().sum() + (head.perturbation * w).sum()
    return float(torch.autograd.grad(loss, w)[0].norm())


def measure_bound(args: Args) -> dict[str, Any]:
    """Exact gradients over the stated bounds; as a control over bounds that leave the last request's share out."""
    rows: list[dict[str, Any]] = []
    for result, _ in requests(args, args.requests):
        certificate = result.notes["certificate"]
        exact = exact_gradient(result.data, result.model)
        unmoved = exact_gradient(result.data, result.original)
        rows.append(
            {"status": certificate["status"], "spent": certificate["spent"], "exact": exact, "unmoved": unmoved}
        )
    return {
        "requests": rows,
        "held": sum(row["exact"] <= row["spent"] for row in rows),
        "worst": max(row["exact"] / row["spent"] for row in rows),
        "control": sum(row["unmoved"] > row["spent"] for row in rows),
    }


STEPS = {"prepare": prepare, "time": measure_time, "bound": measure_bound}


def apart(args: Args, step: str) -> dict[str, Any]:
    """Run one step in a process of its own with one thread."""
    spec = {**asdict(args), "out": str(args.out.resolve())}
    command = [sys.executable, __file__, json.dumps({**spec, "smoke": False, "step": step})]
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    env = {**os.environ, **threads, "PYTHONPATH": os.pathsep.join([*sys.path[:1], os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def table(found: dict[str, Any]) -> str:
    time_, bound = found["time"], found["bound"]
    row = [
        f"{time_['median']['seconds']:.3f}", f"{time_['median']['wall']:.2f}", f"{time_['first']['seconds']:.2f}",
        *(f"{time_['mb'][phase]:.0f}" for phase in ("first", "later")),
        f"{bound['held']} of {len(bound['requests'])}", f"{bound['worst']:.3f}",
        f"{bound['control']} of {len(bound['requests'])}",
    ]  # fmt: skip
    head = ("method s", "whole call s", "first s", "first MiB", "later MiB", "bound held", "worst gradient / bound")
    return markdown((*head, "unmoved weights over the bound"), [row], left=0)


def main(args: Args) -> None:
    """All steps; write `results.json` and `tables.md`."""
    args.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"args": {**asdict(args), "out": ""}}
    for step in STEPS:
        found[step] = apart(args, step)
        write_results(args.out, found, table(found) if "bound" in found else "")
    print(table(found))


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        torch.set_num_threads(1)
        given = json.loads(sys.argv[1])
        one = Args(**{**given, "out": Path(given["out"])})
        print(json.dumps(STEPS[one.step](one)))
    else:
        main(tyro.cli(Args))
