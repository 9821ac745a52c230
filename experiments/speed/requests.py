"""What a request costs on a large graph: with what is known of a prepared graph, without it, and by masks of PyG."""

import copy
import resource
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.nn import GCN

import gunlearn as gu
from experiments.speed.synthetic import power_law_graph
from gunlearn.errors import InvalidInputError
from gunlearn.methods import Callback
from gunlearn.seed import isolated_rng

#: Edges, mean degree and features of the graphs: as large as ogbn-arxiv, ogbn-products, and tenths of both.
GRAPHS = {
    "arxiv": (1_166_243, 13.77, 128),
    "products": (61_859_140, 50.5, 100),
    "products/10": (6_185_914, 50.5, 100),
    "arxiv/10": (116_624, 13.77, 128),
    "small": (2_000, 10, 16),
}
#: Hidden channels and layers; the model matters to the first request alone, where `auto` is not measured.
MODELS = {"arxiv": (256, 3), "arxiv/10": (256, 3), "products": (32, 2), "products/10": (32, 2), "small": (256, 3)}
CLASSES = 40
#: MiB of the highest resident set per million edges of requests on the graph of a tenth of ogbn-products' size.
PER_MILLION_EDGES = 400
NODES, LINKS = "node_classification", "link_prediction"


def check_memory(name: str) -> None:
    """Refuse a large graph where the machine has too little free memory.

    Raises:
        InvalidInputError: it has; the message says how much it takes.
    """
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) / 2**20 for line in lines if line.startswith("MemAvailable"))
    needed = GRAPHS[name][0] / 1e6 * PER_MILLION_EDGES / 1024
    if name == "products" and free < needed:
        raise InvalidInputError(
            f"Expected {needed:.0f} GiB of free memory for --graphs products (got {free:.1f}); measure a tenth, "
            "--graphs products/10, or ask a larger machine"
        )


def graph_of(name: str) -> Data:
    """A power-law graph whose classes follow from the features around a node, and a split of the nodes.

    Raises:
        InvalidInputError: see `check_memory`.
    """
    check_memory(name)
    edges, degree, features = GRAPHS[name]
    data = power_law_graph(edges, features, mean_degree=degree)
    draw = torch.Generator().manual_seed(1)
    around = torch.zeros_like(data.x)
    for row, col in data.edge_index.split(2**20, dim=1):  # all messages at once take eight times the graph
        around.index_add_(0, row, data.x[col])
    around /= degree**0.5
    data.y = ((data.x + around) @ torch.randn(features, CLASSES, generator=draw)).argmax(dim=1)
    part = torch.rand(data.num_nodes, generator=draw)
    data.train_mask, data.val_mask, data.test_mask = part < 0.54, (part >= 0.54) & (part < 0.71), part >= 0.71
    return data


def model_of(graph: str, data: Data) -> GCN:
    with isolated_rng(0):
        return GCN(data.num_features, *MODELS[graph], CLASSES)


def asked(data: Data, count: int) -> dict[str, list[tuple[gu.Request, Tensor]]]:
    """Requests for one training node and for one edge each, drawn once."""
    draw = torch.Generator().manual_seed(2)
    nodes = data.train_mask.nonzero().view(-1)
    nodes = nodes[torch.randperm(nodes.numel(), generator=draw)[:count]]
    columns = torch.randperm(data.edge_index.size(1), generator=draw)[:count]
    return {
        NODES: [(gu.ForgetNodes(node.view(1)), node) for node in nodes],
        LINKS: [(gu.ForgetEdges(pair[:, None]), pair) for pair in data.edge_index[:, columns].t()],
    }


def by_mask(data: Data, task: str, what: Tensor) -> Data:
    """The same with PyG and masks: nothing is checked, recorded or kept for the next request."""
    row, col = data.edge_index
    new = copy.copy(data)
    if task == NODES:
        new.edge_index = data.edge_index[:, (row != what) & (col != what)]
        new.x = data.x.index_fill(0, what, 0)
        new.y = data.y.index_fill(0, what, -1)
        return new
    u, v = what
    new.edge_index = data.edge_index[:, ~((row == u) & (col == v) | (row == v) & (col == u))]
    return new


def timed(run: Callable[..., Any], *given: Any, **options: Any) -> tuple[float, float, Any]:
    """Seconds on the clock, and of the processor, and the result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = run(*given, **options)
    return time.perf_counter() - wall, time.process_time() - cpu, result


def unlink(graph: str, repeats: int = 7, plain: int = 5) -> dict[str, Any]:
    """`utu` on single nodes and edges: prepared, each on what the one before left, not prepared, and by masks."""
    warnings.simplefilter("ignore")
    data = graph_of(graph)
    model, found = model_of(graph, data), {}
    for task, requests in asked(data, repeats + 1).items():
        *preparing, ready = timed(gu.prepare, data)
        *first, _ = timed(gu.unlearn, model, ready, requests[0][0], "utu", task)
        spent: dict[str, list[Any]] = {"preparing": [preparing], "first": [first], "ours": [], "next": []}
        left, same = ready, model
        for request, _ in requests[1:]:
            spent["ours"].append(timed(gu.unlearn, model, ready, request, "utu", task)[:2])
            *seconds, result = timed(gu.unlearn, same, left, request, "utu", task)
            spent["next"].append(seconds)
            left, same = result.data, result.model
        del left, same, result
        spent["mask"] = [timed(by_mask, data, task, what)[:2] for _, what in requests[1:]]
        spent["plain"] = [timed(gu.unlearn, model, data, one, "utu", task)[:2] for one, _ in requests[1 : plain + 1]]
        found[task] = spent
    return {"seconds": found, "nodes": data.num_nodes, "edges": data.edge_index.size(1) // 2}


class Highest(Thread):
    """The highest resident set inside the block, in MiB, looked at every 20 ms: a method resets that of the system."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.mb, self.ended = 0.0, Event()

    def __enter__(self) -> "Highest":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        self.join()

    def run(self) -> None:
        while not self.ended.wait(0.02):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.mb = max(self.mb, pages * resource.getpagesize() / 2**20)


def room(graph: str) -> dict[str, float]:
    """What a graph takes to prepare, and the first request for a node with a model, which is tried."""
    warnings.simplefilter("ignore")
    data = graph_of(graph)
    model = model_of(graph, data)
    with Highest() as preparing:
        ready = gu.prepare(data)
    with Highest() as first:
        gu.unlearn(model, ready, asked(data, 1)[NODES][0][0], "utu", NODES)
    peaks = {"preparing_mb": preparing.mb, "first_mb": first.mb}
    return {**peaks, "peak_mb": max(peaks.values())}


class Steps(Callback):
    """Processor time at the end of each step."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ends.append(time.process_time())

    @property
    def each(self) -> list[float]:
        return [b - a for a, b in zip(self.ends, self.ends[1:], strict=False)]


def auto(graph: str, repeats: int = 1, steps: int = 5, training_steps: int = 500) -> dict[str, Any]:
    """`auto` on one node, in steps of a training on the same graph, with the training's state and without.

    The state is that of a few steps and says that it is of `training_steps`, which had settled: what a request costs
    does not depend on how well the model was trained.
    """
    warnings.simplefilter("ignore")
    data = graph_of(graph)
    watch = Steps()
    base = gu.train(model_of(graph, data), data, NODES, steps=steps, lr=1e-2, weight_decay=5e-4, callbacks=[watch])
    training = replace(base.training, total=training_steps, steps=training_steps, growth=0.0, moments=())
    ready, requests = gu.prepare(data), asked(data, repeats)[NODES]
    found: dict[str, Any] = {"step": statistics.median(watch.each), "state": [], "no state": []}
    for request, _ in requests:
        for name, options in (("state", {"training": training}), ("no state", {})):
            *spent, result = timed(gu.unlearn, base.model, ready, request, "auto", NODES, **options)
            found[name].append((*spent, len(result.history)))
    return {"seconds": found, "nodes": data.num_nodes, "edges": data.edge_index.size(1) // 2}
