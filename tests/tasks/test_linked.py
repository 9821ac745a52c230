"""The retained graph with copies of the nodes that are others on the original one: one pass gives both."""

import pytest
import torch
from torch import nn
from torch_geometric.data import Data
from torch_geometric.nn import GAT, GCN, GraphSAGE

import gunlearn as gu
from gunlearn.tasks.graph.linked import linked

TASK = gu.NodeClassification()


def _graph(undirected: bool = True) -> Data:
    draw = torch.Generator().manual_seed(3)
    pairs = torch.randint(120, (2, 200), generator=draw)
    edge_index = torch.cat([pairs, pairs.flip(0)], dim=1) if undirected else pairs
    data = Data(x=torch.randn(120, 8, generator=draw), edge_index=edge_index.unique(dim=1))
    data.y, data.train_mask = torch.randint(3, (120,), generator=draw), torch.ones(120, dtype=torch.bool)
    return data


REQUESTS = [gu.ForgetNodes([7, 30]), gu.ForgetEdges(count=2, seed=1), gu.ForgetFeatures([7])]


@pytest.mark.parametrize("kind", [GCN, GraphSAGE, GAT])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("undirected", [True, False])
@pytest.mark.parametrize("request_", REQUESTS, ids=["nodes", "edges", "features"])
def test_one_pass_gives_what_both_graphs_give(kind, layers, undirected, request_):
    data = _graph(undirected)
    part = request_.resolve(data)
    torch.manual_seed(layers)
    model = kind(8, 16, layers, 3).double().eval()
    data.x, part.retain_data.x = data.x.double(), part.retain_data.x.double()
    seeds = part.touched_nodes
    joint, place = linked(part, seeds, model, TASK)
    with torch.no_grad():
        out = TASK.encode(model, joint)
        assert torch.allclose(out[place(seeds)], TASK.encode(model, data)[seeds], rtol=0, atol=1e-12)
        assert torch.allclose(out[: data.num_nodes], TASK.encode(model, part.retain_data), rtol=0, atol=1e-12)


def test_far_fewer_nodes_are_copied_than_are_read():
    size = 1_000  # a ring: three layers read three nodes on either side, which two hops of copies suffice for
    ends = torch.arange(size)
    pairs = torch.stack([ends, (ends + 1) % size])
    data = Data(x=torch.randn(size, 4), edge_index=torch.cat([pairs, pairs.flip(0)], dim=1))
    joint, _ = linked(gu.ForgetNodes([500]).resolve(data), torch.tensor([500]), GCN(4, 8, 3, 2), TASK)
    assert joint.num_nodes == size + 5


def test_attributes_of_edges_go_along():
    data = _graph()
    weights = torch.rand(120, 120, generator=torch.Generator().manual_seed(0)).double()
    data.edge_weight, data.x = weights[data.edge_index[0], data.edge_index[1]], data.x.double()
    part, seeds = gu.ForgetNodes([7]).resolve(data), torch.tensor([7])
    model, task = GCN(8, 16, 3, 3).double().eval(), TASK
    joint, place = linked(part, seeds, model, task)
    assert joint.edge_weight.numel() == joint.edge_index.size(1)
    with torch.no_grad():
        assert torch.allclose(task.encode(model, joint)[place(seeds)], task.encode(model, data)[seeds], atol=1e-12)


class _Centred(nn.Module):
    """Takes the mean over all nodes off, which no message says."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = GCN(8, 16, 2, 3)

    def forward(self, x, edge_index):
        out = self.inner(x, edge_index)
        return out - out.mean(0)


def test_a_model_that_mixes_nodes_otherwise_is_not_linked():
    part = gu.ForgetNodes([7]).resolve(_graph())
    assert linked(part, torch.tensor([7]), _Centred(), TASK) is None


def test_a_step_of_megu_reads_little_more_than_one_graph(monkeypatch):
    data = _graph()
    model = gu.train(GCN(8, 16, 2, 3), data, TASK, epochs=20).model
    read = []
    encode = type(TASK).encode
    monkeypatch.setattr(type(TASK), "encode", lambda self, m, d: (read.append(int(d.num_nodes)), encode(self, m, d))[1])
    gu.unlearn(model, data, gu.ForgetNodes([7]), "megu", TASK, epochs=2)
    near = 1 + int((data.edge_index[0] == 7).sum())
    assert max(read) == 120 + near < 240
