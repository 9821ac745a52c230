"""Methods on prepared graphs: the results of the plain graph, bit for bit, and passes that are made once."""

import pytest
import torch
from torch import nn
from torch_geometric.data import Data
from torch_geometric.nn import GAT, GCN, GIN, GCNConv, GraphSAGE
from torch_geometric.utils import to_undirected

import gunlearn as gu
from gunlearn.core.digest import same_weights
from gunlearn.errors import UnsupportedModelError
from gunlearn.tasks import known_models

NODES = 40


def _graph(lonely: bool = False) -> Data:
    """Return a ring with chords; node 0 hangs on node 1 alone, and with `lonely` the last node on nothing."""
    ring = torch.stack([torch.arange(1, NODES - 1), torch.arange(1, NODES - 1).roll(1)])
    chords = torch.stack([torch.arange(2, 12), torch.arange(20, 30)])
    ends = torch.tensor([[0], [1]]) if lonely else torch.tensor([[0, NODES - 1], [1, 5]])
    edges = to_undirected(torch.cat([ring, chords, ends], dim=1), num_nodes=NODES)
    x = torch.rand(NODES, 6, generator=torch.Generator().manual_seed(0))
    return Data(x=x, edge_index=edges, y=torch.arange(NODES) % 3, train_mask=torch.arange(NODES) % 4 != 0)


class Counted(nn.Module):
    """A GCN that counts its calls; with `mean` it divides by the number of neighbours."""

    calls = 0

    def __init__(self, mean: bool = False, table: bool = False) -> None:
        super().__init__()
        self.conv, self.mean = GCNConv(6, 3), mean
        self.table = nn.Embedding(NODES, 6) if table else None

    def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
        Counted.calls += 1
        if self.table is not None:
            x = x + self.table(torch.arange(x.size(0)))
        out = self.conv(x, edge_index)
        if self.mean:
            out = out / torch.bincount(edge_index[1], minlength=x.size(0))[:, None]
        return out


def _calls(run) -> int:
    before = Counted.calls
    run()
    return Counted.calls - before


def _model(**options: bool) -> Counted:
    torch.manual_seed(0)
    return Counted(**options)


@pytest.mark.parametrize("task", ["node_classification", "link_prediction"])
@pytest.mark.parametrize(
    ("method", "options"), [("utu", {}), ("finetune", {"epochs": 2}), ("auto", {"training_steps": 40})]
)
@pytest.mark.parametrize("table", [False, True])
def test_chains_of_requests_give_the_models_of_the_plain_graph(task, method, options, table):
    plain, ready = _graph(), gu.prepare(_graph())
    one = other = _model(table=table)
    for request in (gu.ForgetNodes([8]), gu.ForgetEdges([(3, 21)]), gu.ForgetNodes([30]), gu.ForgetNodes([5, 6])):
        if task == "link_prediction" or request.kind == "nodes" or method == "utu":
            first = gu.unlearn(one, plain, request, method, task, **options)
            second = gu.unlearn(other, ready, request, method, task, **options)
            assert same_weights(first.model, second.model)
            assert first.request_hash == second.request_hash
            assert torch.equal(first.data.x, second.data.x)
            assert torch.equal(first.data.edge_index, second.data.edge_index)
            assert first.notes == second.notes
            one, other, plain, ready = first.model, second.model, first.data, second.data


@pytest.fixture
def as_a_library(monkeypatch) -> None:
    """The class of this file counts as one of PyG's."""
    monkeypatch.setattr(known_models, "_LIBRARIES", ("",))


class DividesByAll(nn.Module):
    """What it gives is infinite where no node has more than two neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = GCNConv(6, 3)

    def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
        degrees = torch.bincount(edge_index[1], minlength=x.size(0)).float()
        return self.conv(x, edge_index) / (degrees - degrees.clamp(max=3)).sum()


def test_a_class_of_ones_own_is_tried_at_every_request():
    """Nothing is known of what it computes on the graph that is left: here it is infinite after the second request."""
    ring = to_undirected(torch.stack([torch.arange(NODES), torch.arange(NODES).roll(-1)]))
    hub = to_undirected(torch.cat([ring, torch.tensor([[0, 0], [9, 12]])], dim=1))
    data = Data(x=torch.rand(NODES, 6), edge_index=hub, y=torch.arange(NODES) % 3, train_mask=torch.ones(NODES) > 0)
    model, ready = DividesByAll(), gu.prepare(data)
    gu.unlearn(model, ready, gu.ForgetEdges([(5, 6)]), "utu", "node_classification")
    for graph in (data, ready):
        with pytest.raises(UnsupportedModelError):
            gu.unlearn(model, graph, gu.ForgetEdges([(0, 9)]), "utu", "node_classification")
    counted, again = _model(), gu.prepare(_graph(lonely=True))
    for node in (3, 4):
        assert _calls(lambda k=node: gu.unlearn(counted, again, gu.ForgetNodes([k]), "utu", "node_classification")) > 0


@pytest.mark.parametrize("kind", [GCN, GraphSAGE, GAT, GIN])
def test_models_of_pyg_are_tried_once(kind, monkeypatch):
    model, ready, calls = (
        kind(6, 8, 2, 3) if kind is not gu.GCN else gu.GCN(6, 8, 3),
        gu.prepare(_graph(lonely=True)),
        [],
    )
    inner = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, *given, **more: calls.append(1) or inner(self, *given, **more))
    for node in (3, 4):
        del calls[:]
        gu.unlearn(model, ready, gu.ForgetNodes([node]), "utu", "node_classification")
        assert bool(calls) == (node == 3)


@pytest.mark.usefixtures("as_a_library")
@pytest.mark.parametrize("request_of", [lambda k: gu.ForgetNodes([k]), lambda k: gu.ForgetEdges([(k, 18 + k)])])
def test_utu_tries_a_model_at_its_first_request_of_a_kind_alone(request_of):
    model, ready = _model(), gu.prepare(_graph(lonely=True))
    run = lambda data, k: gu.unlearn(model, data, request_of(k), "utu", "node_classification")  # noqa: E731
    assert _calls(lambda: run(ready, 3)) > 0
    assert _calls(lambda: run(ready, 4)) == 0
    result = run(ready, 5)
    again = lambda: gu.unlearn(result.model, result.data, request_of(6), "utu", "node_classification")  # noqa: E731
    assert _calls(again) == 0
    assert _calls(lambda: run(_graph(), 4)) > 0  # the plain graph as before
    assert _calls(lambda: gu.unlearn(model, ready, request_of(4), "finetune", "node_classification", epochs=1)) > 1


@pytest.mark.usefixtures("as_a_library")
@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.conv.lin.weight.detach().numpy().__setitem__((0, 0), 3.0),
        lambda model: setattr(model, "mean", True),
        lambda model: model.conv.register_forward_hook(lambda layer, given, out: out + 1),
    ],
)
def test_a_model_that_has_changed_is_tried_again(change):
    model, ready = _model(), gu.prepare(_graph())
    gu.unlearn(model, ready, gu.ForgetEdges([(2, 20)]), "utu", "node_classification")
    change(model)
    assert _calls(lambda: gu.unlearn(model, ready, gu.ForgetEdges([(3, 21)]), "utu", "node_classification")) > 0


@pytest.mark.usefixtures("as_a_library")
def test_a_node_that_loses_its_last_edge_is_tried():
    model, ready = _model(mean=True), gu.prepare(_graph())
    gu.unlearn(model, ready, gu.ForgetEdges([(2, 20)]), "utu", "node_classification")
    assert _calls(lambda: gu.unlearn(model, ready, gu.ForgetEdges([(3, 21)]), "utu", "node_classification")) == 0
    with pytest.raises(UnsupportedModelError):  # 0 / 0, which the plain graph refuses, too
        gu.unlearn(model, ready, gu.ForgetEdges([(0, 1)]), "utu", "node_classification")


def test_a_table_of_nodes_is_reset_at_every_request():
    model, ready = _model(table=True), gu.prepare(_graph())
    for node in (8, 9):
        result = gu.unlearn(model, ready, gu.ForgetNodes([node]), "utu", "node_classification")
        rows = (result.model.table.weight != model.table.weight).any(dim=1)
        assert rows.nonzero().view(-1).tolist() == [node]


def test_a_model_and_a_graph_can_be_trained_and_evaluated_when_prepared():
    ready = gu.prepare(_graph())
    base = gu.train(_model(), ready, "node_classification", steps=3)
    result = gu.unlearn(base.model, ready, gu.ForgetNodes([8]), "utu", "node_classification")
    plain = gu.unlearn(base.model, _graph(), gu.ForgetNodes([8]), "utu", "node_classification")
    torch.manual_seed(1)
    other = gu.train(Counted(), result.data, "node_classification", steps=9).model
    one, two = (gu.evaluate(r, references=[other]) for r in (result, plain))
    measured = [name for name in one if name not in result.cost()]
    assert measured
    assert [repr(one[name]) for name in measured] == [repr(two[name]) for name in measured]  # NaN as well
