"""A training step of layers beside PyG's own messages, in turns; see README.md in this folder.

python -m experiments.speed.layer_steps --root DATA --out runs/speed [--smoke]
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch_geometric.nn as pyg
import tyro
from torch import Tensor, nn
from torch_geometric.utils import to_torch_csr_tensor

import gunlearn as gu
from experiments.common import StudyArgs, markdown
from gunlearn.bench.store import atomic_write
from gunlearn.nn import fast_path
from gunlearn.nn.kernels.bag_of_words import sparse_features

#: Name -> a layer from one width to another: attention, on features that one linear map has made narrow.
ATTENTION: dict[str, Callable[[int, int], nn.Module]] = {
    "GAT, 1 head of 64": lambda width, out: pyg.GATConv(width, out),
    "GAT, 4 heads of 16": lambda width, out: pyg.GATConv(width, out // 4, heads=4),
    "GAT, 8 heads of 8": lambda width, out: pyg.GATConv(width, out // 8, heads=8),
    "GATv2, 1 head of 64": lambda width, out: pyg.GATv2Conv(width, out),
}
#: The same of layers that PyG runs on the features as they come, and multiplies by their weights afterwards.
WIDE: dict[str, Callable[[int, int], nn.Module]] = {
    "SAGE": lambda width, out: pyg.SAGEConv(width, out),
    "GIN": lambda width, out: pyg.GINConv(nn.Linear(width, out)),
    "SGC, 2 hops": lambda width, out: pyg.SGConv(width, out, K=2),
}


@dataclass
class Args(StudyArgs):
    """What to run.

    Attributes:
        datasets: names.
        layers: names of `ATTENTION` and `WIDE`.
        rounds: steps of each way, in turns.
    """

    layers: tuple[str, ...] = (*ATTENTION, *WIDE)
    datasets: tuple[str, ...] = ("Cora", "DBLP", "CS", "Photo")
    rounds: int = 7


class Net(nn.Module):
    """Two layers of a kind."""

    def __init__(self, layer: Callable[[int, int], nn.Module], width: int, classes: int) -> None:
        super().__init__()
        self.first, self.second = layer(width, 64), layer(64, classes)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.second(self.first(x, edge_index).relu(), edge_index)


def ways(layer: str, x: Tensor, edge_index: Tensor) -> dict[str, Callable[[nn.Module], Tensor]]:
    """How outputs are computed: by PyG on `edge_index`, by PyG on a CSR adjacency where it multiplies it, by us."""

    def fused(model: nn.Module) -> Tensor:
        with fast_path(model):
            return model(x, edge_index)

    found: dict[str, Callable[[nn.Module], Tensor]] = {"PyG": lambda model: model(x, edge_index), "fast_path": fused}
    if layer in WIDE:
        adjacency = to_torch_csr_tensor(edge_index, size=(x.size(0), x.size(0)))  # symmetric: its own transpose
        found["CSR"] = lambda model: model(x, adjacency)
    return found


def seconds(model: nn.Module, how: dict[str, Callable[[nn.Module], Tensor]], rounds: int) -> dict[str, float]:
    """Processor seconds of the median step of each way; the first round is thrown away."""
    found: dict[str, list[float]] = {name: [] for name in how}
    for _ in range(rounds + 1):
        for name, outputs in how.items():
            model.zero_grad()
            start = time.process_time()
            outputs(model).square().mean().backward()
            found[name].append(time.process_time() - start)
    return {name: statistics.median(of[1:]) for name, of in found.items()}


def table(rows: list[dict[str, Any]]) -> str:
    """Milliseconds of a step, and how many times faster products are."""
    body = []
    for row in rows:
        plain, csr, fused = row["PyG"], row.get("CSR"), row["fast_path"]
        cells = [f"{1000 * plain:.0f}", "-" if csr is None else f"{1000 * csr:.0f}", f"{1000 * fused:.0f}"]
        cells += [f"{plain / fused:.1f}", "-" if csr is None else f"{csr / fused:.1f}"]
        body.append((row["graph"], row["layer"], str(row["columns"]), f"{row['edges']:,}", *cells))
    heads = "PyG, ms", "PyG on CSR, ms", "as products, ms", "PyG / ours", "PyG on CSR / ours"
    return markdown(("graph", "layer", "columns", "edges", *heads), body, 2)


def main(args: Args) -> None:
    """Run all; write `layer_steps.json` and print the table."""
    torch.set_num_threads(1)
    rows = []
    for name in ("karate",) if args.smoke else args.datasets:
        data = gu.load(name, args.root)
        sparse_features(data.x)  # as every task does with bag-of-words features
        torch.manual_seed(0)
        narrow = torch.randn(data.num_nodes, 64)
        for layer in args.layers:
            x, make = narrow if layer in ATTENTION else data.x, (ATTENTION | WIDE)[layer]
            how, rounds = ways(layer, x, data.edge_index), 1 if args.smoke else args.rounds
            row = {"graph": name, "layer": layer, "columns": x.size(1), "edges": data.edge_index.size(1)}
            rows.append(row | seconds(Net(make, x.size(1), 8), how, rounds))
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    atomic_write(args.out / "layer_steps.json", json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Args))
