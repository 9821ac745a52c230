"""Embeddings with sparse gradients: every method runs, with the weights that dense gradients give."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn import GCNConv

import gunlearn as gu
from gunlearn.errors import InvalidInputError

NODES, SIZE = "node_classification", 34


class Table(nn.Module):
    def __init__(self, sparse: bool) -> None:
        super().__init__()
        self.own, self.one, self.two = nn.Embedding(SIZE, 8, sparse=sparse), GCNConv(8, 8), GCNConv(8, 4)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        rows = self.own(torch.arange(SIZE))
        return self.two(self.one(rows, edge_index).relu(), edge_index)


class Functional(Table):
    """Asks for sparse gradients where no module says so."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        rows = nn.functional.embedding(torch.arange(SIZE), self.own.weight, sparse=True)
        return self.two(self.one(rows, edge_index).relu(), edge_index)


def trained(model: nn.Module, graph: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    for _ in range(20):
        optimizer.zero_grad()
        out = model(graph.x, graph.edge_index)[graph.train_mask]
        nn.functional.cross_entropy(out, graph.y[graph.train_mask]).backward()
        optimizer.step()
    return model, optimizer


def made(kind: Any) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    return kind(), gu.node_split(gu.load("karate"), 0.2, 0.2)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("utu", {}),
        ("finetune", {"epochs": 2}),  # by Adam, which takes no sparse gradients
        ("scrub", {"epochs": 2}),  # clips them
        ("salun", {"epochs": 2}),  # masks them
        ("gif", {}),  # differentiates them
        ("auto", {}),
        ("continued_training", {"epochs": 2, "optimizer": "its own"}),
    ],
)
def test_methods_run_as_with_dense_gradients(method: str, options: dict[str, Any]) -> None:
    found = []
    for sparse in (True, False):
        model, graph = made(lambda sparse=sparse: Table(sparse))
        model, optimizer = trained(model, graph)
        more = {**options, "optimizer": optimizer} if "optimizer" in options else options
        found.append(gu.unlearn(model, graph, gu.ForgetNodes([1, 20]), method, NODES, **more).model)
        assert (model.own.sparse, found[-1].own.sparse) == (sparse, sparse)  # as the caller's optimiser needs it
    for one, other in zip(found[0].parameters(), found[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_a_function_with_sparse_gradients_is_looked_at_too() -> None:
    model, graph = made(lambda: Functional(True))
    result = gu.unlearn(model, graph, gu.ForgetNodes([1, 20]), "utu", NODES)
    changed = (result.model.own.weight != model.own.weight).any(dim=1).nonzero().view(-1)
    assert changed.tolist() == [1, 20]


def test_training_keeps_the_setting_and_names_an_optimiser_that_does_not_fit() -> None:
    model, graph = made(lambda: Table(True))
    assert gu.train(model, graph, NODES, epochs=2).model.own.sparse
    with pytest.raises(InvalidInputError, match=r"Expected an optimiser of dense gradients.*\(got SparseAdam\)"):
        gu.train(model, graph, NODES, epochs=2, optimizer="sparse_adam")
