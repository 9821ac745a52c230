"""Graphs, models and the comparison that the tests of removal influence share; everything in double precision."""

import functools
from collections.abc import Callable

import torch
import torch_geometric.nn as pyg
from torch import Tensor, nn
from torch_geometric.data import Data

import gunlearn as gu

SIZE, HIDDEN, OUT, NODES = 5, 6, 4, 20


def _base(seed: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(NODES, SIZE, generator=g, dtype=torch.float64)
    edges = torch.randint(0, NODES - 4, (2, 18), generator=g)
    return x, edges[:, edges[0] != edges[1]]


def tangled() -> Data:
    """Undirected: self-loops, one twice and one without other edges, duplicates, a leaf, nodes without edges."""
    x, edges = _base(0)
    edges = torch.cat([edges, edges[:, :2], torch.tensor([[16], [0]])], dim=1)
    loops = torch.tensor([[0, 3, 3, 17], [0, 3, 3, 17]])
    return Data(x=x, edge_index=torch.cat([edges, edges.flip(0), loops], dim=1), num_nodes=NODES)


def directed() -> Data:
    """One way only: sources that nobody cites, sinks, loops, a duplicate, one pair in both directions."""
    x, edges = _base(1)
    edges = torch.cat([edges, edges[:, :1], edges[:, 1:2].flip(0), torch.tensor([[16, 2, 1], [0, 2, 17]])], dim=1)
    return Data(x=x, edge_index=edges, num_nodes=NODES)


def weighted() -> Data:
    """Undirected with a weight of its own per column, loops among them, some pairs twice."""
    data = tangled()
    index = torch.cat([data.edge_index[:, :-3], torch.tensor([[3, 17], [3, 17]])], dim=1)  # each loop once
    weight = torch.rand(index.size(1), generator=torch.Generator().manual_seed(2), dtype=torch.float64) + 0.1
    return Data(x=data.x, edge_index=index, edge_weight=weight, num_nodes=NODES)


GRAPHS: dict[str, Callable[[], Data]] = {"tangled": tangled, "directed": directed, "weighted": weighted}


def held_out(data: Data) -> Data:
    """The graph with labels; node 0 is an end of most held-out pairs, some are twice, one a loop, in both parts."""
    g = torch.Generator().manual_seed(0)
    hub = torch.stack([torch.zeros(8, dtype=torch.long), torch.arange(8)])
    data.val_pos_edge_index = torch.cat([hub, torch.tensor([[3, 3, 4], [5, 5, 3]])], dim=1)
    data.val_neg_edge_index = torch.randint(9, NODES, (2, 9), generator=g)  # pairs that no edge is held out of
    data.val_neg_edge_index[:, 0] = 9
    data.y = torch.randint(OUT, (NODES,), generator=g)
    data.val_mask = torch.rand(NODES, generator=g) < 0.6
    data.train_mask = ~data.val_mask
    return data


class Stack(nn.Module):
    """Convolutions with ReLU between; `edge_weight` goes to those that take it."""

    def __init__(self, *convs: nn.Module) -> None:
        super().__init__()
        self.convs = nn.ModuleList(convs)

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None = None) -> Tensor:
        for i, conv in enumerate(self.convs):
            given = (
                (edge_index,) if edge_weight is None or not isinstance(conv, pyg.GCNConv) else (edge_index, edge_weight)
            )
            x = conv(x if i == 0 else x.relu(), *given)
        return x


class Skips(nn.Module):
    """Encoder, dense connections, a normalisation per row, a head and a log-softmax: a user's model."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(SIZE, HIDDEN)
        self.first, self.second = pyg.GCNConv(HIDDEN, HIDDEN), pyg.SAGEConv(HIDDEN, HIDDEN)
        self.norm, self.head = nn.LayerNorm(HIDDEN), nn.Linear(2 * HIDDEN, OUT)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        start = self.embed(x).relu()
        h = start + self.norm(self.first(start, edge_index)).relu()
        h = torch.cat([start, h + self.second(h, edge_index)], dim=-1)
        return self.head(h).log_softmax(dim=-1)


class Residual(nn.Module):
    """A skip connection around the second layer alone, with something between the layers."""

    def __init__(self, conv: Callable[..., nn.Module], between: Callable[[Tensor], Tensor] = torch.relu) -> None:
        super().__init__()
        self.first, self.second, self.between = conv(SIZE, OUT), conv(OUT, OUT), between

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        h = self.between(self.first(x, edge_index))
        return h + self.second(h, edge_index)


class Twice(nn.Module):
    """One layer called twice, and one that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared, self.idle = pyg.SAGEConv(SIZE, OUT), pyg.GCNConv(OUT, OUT), pyg.GCNConv(OUT, OUT)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        h = self.first(x, edge_index).tanh()
        return self.shared(self.shared(h, edge_index).tanh(), edge_index)


def perceptron(size: int, out: int) -> nn.Module:
    return nn.Sequential(nn.Linear(size, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, out))


def _two(conv: Callable[..., nn.Module], **kwargs: object) -> Callable[[], nn.Module]:
    return lambda: Stack(conv(SIZE, HIDDEN, **kwargs), conv(HIDDEN, OUT, **kwargs))


def _gin(**kwargs: object) -> Callable[[], nn.Module]:
    return lambda: Stack(
        pyg.GINConv(perceptron(SIZE, HIDDEN), **kwargs), pyg.GINConv(perceptron(HIDDEN, OUT), **kwargs)
    )


MODELS: dict[str, Callable[[], nn.Module]] = {
    "gcn1": lambda: Stack(pyg.GCNConv(SIZE, OUT)),
    "gcn": _two(pyg.GCNConv),
    "gcn3": lambda: Stack(pyg.GCNConv(SIZE, HIDDEN), pyg.GCNConv(HIDDEN, HIDDEN, bias=False), pyg.GCNConv(HIDDEN, OUT)),
    "gcn without loops": _two(pyg.GCNConv, add_self_loops=False),
    "gcn not normalised": _two(pyg.GCNConv, normalize=False),
    "gcn improved": _two(pyg.GCNConv, improved=True),
    "gunlearn.GCN": lambda: gu.GCN(SIZE, HIDDEN, OUT),
    "sage1": lambda: Stack(pyg.SAGEConv(SIZE, OUT)),
    "sage": _two(pyg.SAGEConv),
    "sage sum": _two(pyg.SAGEConv, aggr="sum", bias=False),
    "sage normalised": _two(pyg.SAGEConv, normalize=True),
    "sage rootless": _two(pyg.SAGEConv, root_weight=False),
    "gin1": lambda: Stack(pyg.GINConv(perceptron(SIZE, OUT))),
    "gin": _gin(),
    "gin eps": _gin(eps=0.3, train_eps=True),
    "gin other nets": lambda: Stack(
        pyg.GINConv(nn.Sequential(nn.Tanh(), nn.Linear(SIZE, HIDDEN, bias=False))),
        pyg.GINConv(pyg.MLP([HIDDEN, HIDDEN, OUT], norm=None)),
    ),
    "gat1": lambda: Stack(pyg.GATConv(SIZE, OUT)),
    "gat heads": lambda: Stack(
        pyg.GATConv(SIZE, 3, heads=2), pyg.GATConv(HIDDEN, OUT, heads=3, concat=False, bias=False)
    ),
    "gat residual": _two(pyg.GATConv, residual=True),
    "gat without loops": _two(pyg.GATConv, add_self_loops=False),
    "gatv2 heads": lambda: Stack(pyg.GATv2Conv(SIZE, 3, heads=2), pyg.GATv2Conv(HIDDEN, OUT, heads=2, concat=False)),
    "gatv2 residual": _two(pyg.GATv2Conv, residual=True, add_self_loops=False),
    "gatv2 shared": _two(pyg.GATv2Conv, share_weights=True),
    "mixed": lambda: Stack(pyg.GATConv(SIZE, HIDDEN), pyg.GCNConv(HIDDEN, HIDDEN), pyg.SAGEConv(HIDDEN, OUT)),
    "mixed back": lambda: Stack(
        pyg.GINConv(perceptron(SIZE, HIDDEN)),
        pyg.GCNConv(HIDDEN, HIDDEN, add_self_loops=False),
        pyg.GATv2Conv(HIDDEN, OUT),
    ),
    "pyg.GCN": lambda: pyg.GCN(SIZE, HIDDEN, 2, OUT, dropout=0.5),
    "pyg.GraphSAGE cat": lambda: pyg.GraphSAGE(SIZE, HIDDEN, 3, OUT, jk="cat"),
    "pyg.GraphSAGE lstm": lambda: pyg.GraphSAGE(SIZE, HIDDEN, 2, OUT, jk="lstm"),
    "pyg.GIN batch norm": lambda: pyg.GIN(SIZE, HIDDEN, 2, OUT, norm="batch_norm"),
    "pyg.GAT": lambda: pyg.GAT(SIZE, HIDDEN, 2, OUT, v2=False),
    "skips": Skips,
    "twice": Twice,
}


@functools.cache
def built(name: str) -> nn.Module:
    """A model with random weights, biases and running averages; to be read only."""
    return randomised(MODELS[name]())


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in double precision with random weights everywhere: zero biases would hide mistakes."""
    g = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.4 * torch.randn(p.shape, generator=g, dtype=p.dtype))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.bias.add_(1)  # else ReLU lets nothing through
                module.running_var.uniform_(0.5, 2, generator=g)
    return model


def off(found: Tensor, truth: Tensor) -> float:
    """Largest difference, relative to the largest score."""
    assert float(truth.abs().max()) > 0, "nothing to compare"
    return float((found - truth).abs().max() / truth.abs().max())


def both(
    model: nn.Module, data: Data, task: str = "link_prediction", rows: int = 1 << 16, **given: object
) -> tuple[float, str]:
    """How far `exact` is off `brute`, and by which path it went."""
    truth = gu.influence(model, data, task, estimator="brute", **given)
    result = gu.attribution.estimate(model, data, task, estimator="exact", rows=rows, **given)
    return off(result.scores, truth), result.notes["path"]
