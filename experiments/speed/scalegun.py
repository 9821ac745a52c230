"""`scalegun` on a graph of a million edges: time, memory, and its bound against the exact gradient; see README.md.

python -m experiments.speed.scalegun --out runs/scalegun [--before CHECKOUT] [--timed 11] [--requests 50] [--smoke]
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
from experiments.speed.worker import REPOSITORY, THREADS
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
        before: a checkout of an earlier commit, whose time is taken beside this one's.
        smoke: a small graph, to see that everything runs.
        step: run one measurement in this process: `prepare`, `time` or `bound`.
    """

    out: Path
    edges: float = 1e6
    features: int = 128
    classes: int = 5
    timed: int = 11
    requests: int = 50
    before: Path | None = None
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
    """Yield results of requests of one random edge, each on the last one's model and graph, and their seconds."""
    data, head = loaded(args)
    data = gu.prepare(data) if hasattr(gu, "prepare") else data
    draw = torch.Generator().manual_seed(2)
    for _ in range(number):
        edge = data.edge_index[:, torch.randint(0, data.num_edges, (1,), generator=draw)]
        start, cpu = time.perf_counter(), time.process_time()
        result = gu.unlearn(head, data, gu.ForgetEdges(edge), "scalegun", "node_classification")
        seconds = {"wall": time.perf_counter() - start, "cpu": time.process_time() - cpu}
        head, data = result.model, result.data
        yield result, {"seconds": result.seconds, **seconds}


def measure_time(args: Args) -> dict[str, Any]:
    """Seconds of the method, of the whole call, and of the processor in it; peaks of memory above the imports."""
    memory, rows = Memory("cpu"), []
    for result, seconds in requests(args, args.timed):
        memory.end("later" if rows else "first")
        rows.append({**seconds, "pushed": result.notes["propagation"]["pushed"]})
    later = {name: [row[name] for row in rows[1:]] for name in rows[0]}
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


def apart(args: Args, step: str, checkout: Path = REPOSITORY) -> dict[str, Any]:
    """Run one step in a process of its own with one thread, with the package of a checkout; in this one if `smoke`."""
    if args.smoke and checkout == REPOSITORY:
        return STEPS[step](args)
    spec = {**asdict(args), "out": str(args.out.resolve()), "before": None, "smoke": False, "step": step}
    env = {**os.environ, **THREADS, "PYTHONPATH": str(checkout.resolve())}
    done = subprocess.run(
        [sys.executable, __file__, json.dumps(spec)], env=env, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def table(found: dict[str, Any]) -> str:
    """Medians of the requests after the first, and peaks of memory: before, now, and in the authors' code."""
    head = ("", "method s", "whole call s", "processor s", "first call s", "first MiB", "later MiB")
    body = []
    for name in ("before", "time"):
        if name in found:
            seconds, first, mb = (found[name][k] for k in ("median", "first", "mb"))
            times = (f"{seconds[k]:.3f}" for k in ("seconds", "wall", "cpu"))
            sizes = (f"{mb[k]:.0f}" for k in ("first", "later"))
            body.append(["now" if name == "time" else name, *times, f"{first['wall']:.1f}", *sizes])
    return markdown(head, body)


def bound_table(found: dict[str, Any]) -> str:
    """The stated bound over all requests, and the exact gradient."""
    rows = found["bound"]["requests"]
    spent, exact, unmoved = ([row[k] for row in rows] for k in ("spent", "exact", "unmoved"))
    cells = [
        *(f"{min(values):.1e} to {max(values):.1e}" for values in (spent, exact, unmoved)),
        f"{found['bound']['worst']:.3f}",
        f"{found['bound']['held']} of {len(rows)}",
        f"{found['bound']['control']} of {len(rows)}",
    ]
    head = ("stated bound", "exact gradient", "the same without the step", "worst gradient / bound", "held")
    return markdown((*head, "over it without the step"), [cells], left=0)


def filled(text: str, found: dict[str, Any]) -> str:
    """Return a README with both tables between their marks."""
    for name, made in (("time", table(found)), ("bound", bound_table(found))):
        start, end = f"<!-- scalegun: {name} -->", "<!-- end of scalegun -->"
        before, after = text.split(start)
        text = f"{before}{start}\n\n{made}\n\n{end}{after.partition(end)[2]}"
    return text


def main(args: Args) -> None:
    """All steps; write `results.json` and `tables.md`."""
    args.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    apart(args, "prepare")
    if args.before is not None:
        found["before"] = apart(args, "time", args.before)
    for step in ("time", "bound"):
        found[step] = apart(args, step)
        tables = table(found) + (f"\n\n{bound_table(found)}" if "bound" in found else "")
        write_results(args.out, found, tables)
    print((args.out / "tables.md").read_text())


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        torch.set_num_threads(1)
        given = json.loads(sys.argv[1])
        one = Args(**{**given, "out": Path(given["out"])})
        print(json.dumps(STEPS[one.step](one)))
    else:
        main(tyro.cli(Args))
