"""Models that keep what they computed from the first graph they saw."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.datasets import KarateClub
from torch_geometric.nn import SGConv

import gunlearn as gu
from gunlearn.errors import UnsupportedModelError


def spread(x: Tensor, edge_index: Tensor) -> Tensor:
    return torch.zeros_like(x).index_add_(0, edge_index[1], x[edge_index[0]])


class Keeps(nn.Module):
    """Propagates features once, and keeps them in an attribute, or in none."""

    def __init__(self, data: Data, way: str) -> None:
        super().__init__()
        self.way, self.lin = way, nn.Linear(data.num_features, int(data.y.max()) + 1)
        if way == "buffer":
            self.register_buffer("kept", None, persistent=False)
        elif way == "attribute":
            self.kept: Any = None

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        if self.way == "record":
            self.kept = self.lin(spread(x, edge_index))
            return self.kept
        if getattr(self, "kept", None) is None:
            self.kept = spread(x, edge_index)
        return self.lin(self.kept)


class Table(nn.Module):
    """Reads a fixed value per node, which it does not make."""

    def __init__(self, data: Data) -> None:
        super().__init__()
        self.register_buffer("place", torch.randn(data.num_nodes, 4))
        self.lin = nn.Linear(data.num_features + 4, int(data.y.max()) + 1)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.lin(torch.cat([spread(x, edge_index), self.place], dim=1))


def problem() -> Data:
    data = KarateClub()[0]
    data.x = torch.randn(data.num_nodes, 5, generator=torch.Generator().manual_seed(0))
    return data


REQUESTS: dict[str, Callable[[Data], Any]] = {
    "nodes": lambda data: gu.ForgetNodes(data.train_mask.nonzero().view(-1)[:1]),
    "edges": lambda data: gu.ForgetEdges(data.edge_index[:, :1]),
    "features": lambda data: gu.ForgetFeatures(data.train_mask.nonzero().view(-1)[:1]),
}


@pytest.mark.parametrize("called", [True, False])
@pytest.mark.parametrize("way", ["attribute", "buffer", "none yet"])
@pytest.mark.parametrize("kind", REQUESTS)
def test_a_cache_of_the_models_own_is_refused(kind: str, way: str, called: bool) -> None:
    data = problem()
    model = Keeps(data, way)
    if called:
        model(data.x, data.edge_index)
    before = copy.deepcopy(vars(model))
    with pytest.raises(UnsupportedModelError, match=r"computes from the graph it is given \(got 'kept'"):
        gu.unlearn(model, data, REQUESTS[kind](data), "finetune", "node_classification", epochs=1)
    kept = [getattr(one, "kept", None) for one in (model,)] + [before.get("kept", before["_buffers"].get("kept"))]
    assert (kept[0] is None) == (kept[1] is None)
    assert kept[0] is None or torch.equal(*kept)


@pytest.mark.filterwarnings("ignore:.*'place':UserWarning")
@pytest.mark.parametrize(
    "make",
    [
        lambda data: Keeps(data, "record"),  # written in each pass, never read
        Table,  # read, and never made
        lambda data: SGConv(data.num_features, int(data.y.max()) + 1, K=2, cached=True),  # emptied by us
    ],
)
def test_what_is_no_cache_is_taken(make: Callable[[Data], nn.Module]) -> None:
    data = problem()
    model = make(data)
    model(data.x, data.edge_index)
    result = gu.unlearn(model, data, REQUESTS["edges"](data), "finetune", "node_classification", epochs=1)
    assert result.epochs == 1
