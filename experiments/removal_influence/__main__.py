"""How fast and how right estimators of removal influence are; see README.md in this folder.

python -m experiments.removal_influence --root DATA --out runs/removal_influence [--smoke] [--datasets Cora DBLP]
"""

import copy
import json
import time
from dataclasses import dataclass
from typing import Any

import torch
import torch_geometric.nn as pyg
import tyro
from torch import nn
from torch_geometric.data import Data

import gunlearn as gu
from experiments.common import StudyArgs
from experiments.removal_influence.tables import tables
from gunlearn.attribution import FirstOrder, Local, estimate
from gunlearn.attribution.study.study import influence_study
from gunlearn.bench.store import atomic_write
from gunlearn.tasks import link_split

EPOCHS = {"karate": 30, "Cora": 500, "CiteSeer": 500, "Photo": 200, "DBLP": 200, "CS": 100}
# Nearly every ball of two hops of so dense a graph is a large part of it: some edges stand for all.
SAMPLED = {"Photo": 500}
QUALITY = (
    "exact",
    Local(),
    Local(neighbors=False),
    FirstOrder(mask="weight"),
    FirstOrder(mask="message"),
    "nora",
    "degree",
    "random",
)


@dataclass
class Args(StudyArgs):
    """What to run.

    Attributes:
        datasets: which of them.
        layers: kinds of convolution whose speed is measured.
        brute: edges removed by brute force, from which its time for all is projected.
        seed: of split, model and sample.
    """

    datasets: tuple[str, ...] = ("Cora", "CiteSeer", "Photo", "DBLP", "CS")
    layers: tuple[str, ...] = ("GCN", "SAGE", "GIN", "GAT")
    brute: int = 100
    seed: int = 0


def model_of(kind: str, num_features: int) -> nn.Module:
    if kind == "GCN":
        return gu.GCN(num_features, 128, 64)
    classes = {"SAGE": pyg.GraphSAGE, "GIN": pyg.GIN, "GAT": pyg.GAT}
    options = {"GAT": {"heads": 4}}.get(kind, {})
    return classes[kind](num_features, 128, num_layers=2, out_channels=64, **options)


def dense(data: Data) -> Data:
    out = copy.copy(data)
    out.x = data.x.to_dense() if data.x.layout != torch.strided else data.x
    return out


def timed(model: nn.Module, data: Data, **options: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    result = estimate(model, data, **options)
    return time.perf_counter() - start, result


def speed(model: nn.Module, data: Data, args: Args, row: dict[str, Any]) -> dict[str, Any]:
    """Exact against brute force: seconds for all edges (brute force projected from a sample), largest difference."""
    generator = torch.Generator().manual_seed(args.seed)
    sample = data.edge_index[:, torch.randperm(data.num_edges, generator=generator)[: args.brute]]
    estimate(model, data, estimator="exact", items=sample[:, :2])  # what is remembered by the graph is nobody's cost
    number = SAMPLED.get(row["dataset"], data.num_edges)
    items = data.edge_index[:, torch.randperm(data.num_edges, generator=generator)[:number]]
    seconds, exact = timed(model, data, estimator="exact", items=items)
    brute_seconds, brute = timed(model, data, estimator="brute", items=sample)
    per_item = brute_seconds / brute.num_items
    double = copy.copy(data)
    double.x = data.x.double()
    wide = copy.deepcopy(model).double()
    few = sample[:, : max(args.brute // 4, 1)]
    truth = gu.influence(wide, double, estimator="brute", items=few)
    error = (gu.influence(wide, double, estimator="exact", items=few) - truth).abs().max() / truth.abs().max()
    return {
        **row,
        "num_items": exact.num_items,
        "path": exact.notes["path"],
        "exact_s": seconds,
        "brute_s_projected": per_item * exact.num_items,
        "ratio": per_item * exact.num_items / seconds,
        "relative_error_float64": float(error),
    }


def main(args: Args) -> None:
    torch.set_num_threads(1)
    path = args.out / "results.json"
    rows = json.loads(path.read_text()) if path.is_file() else []
    if args.smoke:
        args.datasets, args.brute = ("karate",), 10
    for name in args.datasets:
        loaded = gu.load(name, root=args.root, sparse=True)
        data = link_split(loaded, val_ratio=0.05, test_ratio=0.05, seed=args.seed)
        torch.manual_seed(args.seed)
        model = gu.train(model_of("GCN", data.num_features), data, epochs=EPOCHS[name], seed=args.seed).model
        for kind in args.layers:
            key = {"part": "speed", "dataset": name, "model": kind}
            if any(key.items() <= row.items() for row in rows):
                continue
            torch.manual_seed(args.seed)
            # Speed does not depend on the weights; sparse features are taken by GCN alone in every path.
            chosen = model if kind == "GCN" else model_of(kind, data.num_features)
            rows.append(speed(chosen, data if kind == "GCN" else dense(data), args, key))
            print(json.dumps(rows[-1]), flush=True)
            atomic_write(path, json.dumps(rows, indent=1) + "\n")
        if any(row["part"] == "quality" and row["dataset"] == name for row in rows):
            continue
        study = influence_study(
            model,
            data,
            estimators=QUALITY,
            num_items=SAMPLED.get(name),
            dataset=name,
            model_name="GCN",
            seed=args.seed,
        )
        exact = study["exact"]["seconds"]
        for row in study.rows:
            share = None if row["seconds"] is None else row["seconds"] / exact
            rows.append({"part": "quality", **row, "share_of_exact": share})
            print(json.dumps(rows[-1]), flush=True)
        atomic_write(path, json.dumps(rows, indent=1) + "\n")
    atomic_write(args.out / "tables.md", tables(rows) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
