"""A training step of attention layers beside PyG's own messages, in turns; see README.md in this folder.

python -m experiments.speed.attention --root DATA --out runs/speed [--smoke]
"""

import json
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch_geometric.nn as pyg
import tyro
from torch import Tensor, nn

import gunlearn as gu
from experiments.common import StudyArgs, markdown
from gunlearn.bench.store import atomic_write
from gunlearn.nn import fast_path

#: Name -> the first layer of a model; the second is of the same kind with one head.
LAYERS: dict[str, Callable[[int], nn.Module]] = {
    "GAT, 1 head of 64": lambda width: pyg.GATConv(width, 64),
    "GAT, 4 heads of 16": lambda width: pyg.GATConv(width, 16, heads=4),
    "GAT, 8 heads of 8": lambda width: pyg.GATConv(width, 8, heads=8),
    "GATv2, 1 head of 64": lambda width: pyg.GATv2Conv(width, 64),
}


@dataclass
class Args(StudyArgs):
    """What to run.

    Attributes:
        datasets: names.
        rounds: steps of each way, in turns.
    """

    datasets: tuple[str, ...] = ("Cora", "DBLP", "CS", "Photo")
    rounds: int = 7


class Net(nn.Module):
    """Two layers, on features that one linear map has made narrow: what differs is attention alone."""

    def __init__(self, layer: str, width: int, classes: int) -> None:
        super().__init__()
        self.first, self.second = LAYERS[layer](width), type(LAYERS[layer](1))(64, classes)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.second(self.first(x, edge_index).relu(), edge_index)


def ways(model: nn.Module) -> dict[str, Callable[[], AbstractContextManager[Any]]]:
    """How a step is run: by PyG as it is, and by products."""
    return {"PyG": nullcontext, "fast_path": lambda: fast_path(model)}


def seconds(model: nn.Module, x: Tensor, edge_index: Tensor, rounds: int) -> dict[str, float]:
    """Processor seconds of the median step of each way; the first round is thrown away."""
    found: dict[str, list[float]] = {name: [] for name in ways(model)}
    for _ in range(rounds + 1):
        for name, way in ways(model).items():
            model.zero_grad()
            start = time.process_time()
            with way():
                model(x, edge_index).square().mean().backward()
            found[name].append(time.process_time() - start)
    return {name: statistics.median(of[1:]) for name, of in found.items()}


def table(rows: list[dict[str, Any]]) -> str:
    """Milliseconds of a step, and how many times faster products are."""
    body = []
    for row in rows:
        plain, fused = row["PyG"], row["fast_path"]
        times = f"{1000 * plain:.0f}", f"{1000 * fused:.0f}", f"{plain / fused:.1f}"
        body.append((row["graph"], row["layer"], f"{row['edges']:,}", *times))
    return markdown(("graph", "first layer", "edges", "PyG, ms", "as products, ms", "times"), body, 2)


def main(args: Args) -> None:
    """Run all; write `attention.json` and print the table."""
    torch.set_num_threads(1)
    rows = []
    for name in ("karate",) if args.smoke else args.datasets:
        data = gu.load(name, args.root)
        torch.manual_seed(0)
        x = torch.randn(data.num_nodes, 64)
        for layer in LAYERS:
            found = seconds(Net(layer, 64, 8), x, data.edge_index, 1 if args.smoke else args.rounds)
            rows.append({"graph": name, "layer": layer, "edges": data.edge_index.size(1), **found})
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    atomic_write(args.out / "attention.json", json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Args))
