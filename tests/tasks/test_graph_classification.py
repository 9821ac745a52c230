"""Graph classification on ego graphs of a real network: items are graphs of a batch."""

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data
from torch_geometric.nn import GCNConv, global_mean_pool
from torch_geometric.utils import k_hop_subgraph

import gunlearn as gu
from tests.methods.cases import same_weights
from tests.tasks.cases import relabelled

TASK = "graph_classification"


def ego_graphs() -> Batch:
    """One-hop surroundings of karate's members; the class is the centre's."""
    karate = gu.load("karate")
    graphs = []
    for node in range(karate.num_nodes):
        nodes, index, _, _ = k_hop_subgraph(node, 1, karate.edge_index, relabel_nodes=True)
        graphs.append(Data(x=karate.x[nodes], edge_index=index, y=karate.y[node].view(1), num_nodes=nodes.numel()))
    batch = Batch.from_data_list(graphs)
    order = torch.randperm(34, generator=torch.Generator().manual_seed(0))
    for name, part in zip(("train_mask", "val_mask", "test_mask"), order.split([18, 8, 8]), strict=True):
        batch[name] = torch.zeros(34, dtype=torch.bool).index_fill(0, part, True)
    return batch


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = GCNConv(34, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        return self.head(global_mean_pool(self.conv(x, edge_index).relu(), batch))


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    data = ego_graphs()
    return data, gu.train(Pooled(), data, TASK, epochs=120, lr=1e-2, eval_every=60).model


def test_predictions_are_those_of_the_model(trained):
    data, model = trained
    task = gu.GraphClassification()
    items = task.train_items(data)
    assert torch.equal(items.index, data.train_mask.nonzero().view(-1))
    found = task.predict(model, data, items)
    with torch.no_grad():
        expected = model(data.x, data.edge_index, data.batch).log_softmax(-1)[items.index]
    assert torch.allclose(found.log_prob, expected[torch.arange(18), data.y[items.index]], atol=1e-5)


def test_a_forgotten_graph_is_lost_and_its_label_enters_no_loss(trained):
    data, model = trained
    request = gu.ForgetGraphs(count=4, seed=1)
    gone = request.resolve(data).forget_graphs
    both = data, relabelled(data, gone)
    tuned = [gu.unlearn(model, d, request, "finetune", TASK, epochs=4).model for d in both]
    assert same_weights(*tuned)
    result = gu.unlearn(model, data, request, "npo", TASK, epochs=60, lr=1e-2, beta=0.5)
    task = gu.GraphClassification()
    items = task.forgotten(result.partition)
    assert torch.equal(items.index, gone)
    before, after, control = (task.predict(m, data, items).log_prob.mean() for m in (model, result.model, tuned[0]))
    assert after < before - 0.3
    assert control > before - 0.3  # fine-tuning alone does not


@pytest.mark.parametrize(
    "request_", [gu.ForgetGraphs([3]), gu.ForgetNodes([0, 7]), gu.ForgetFeatures([5]), gu.ForgetEdges(count=3)], ids=str
)
def test_every_request_and_evaluation(trained, request_):
    data, model = trained
    result = gu.unlearn(model, data, request_, "utu", TASK)
    row = gu.evaluate(result, references=[Pooled(), Pooled()]).rows[0]
    assert 0 <= row["test_acc"] <= 1
    assert row["js_forget"] is None or row["js_forget"] > 0
