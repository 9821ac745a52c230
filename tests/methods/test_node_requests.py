"""What node requests must not do: let forgotten rows into statistics and negatives, or forget what is gone already."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import GCNConv

import gunlearn as gu


class Normalised(nn.Module):
    """Two convolutions with batch normalisation between."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList([GCNConv(in_channels, 8), GCNConv(8, out_channels)])
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.convs[1](self.norm(self.convs[0](x, edge_index)).relu(), edge_index)


def karate() -> Data:
    data = gu.node_split(gu.load("karate"), 0.2, 0.2, seed=0)
    data.x = torch.rand(34, 6, generator=torch.Generator().manual_seed(0))
    return data


@pytest.mark.parametrize("method", ["finetune", "npo", "random_label", "bad_teacher", "scrub", "graddiff"])
def test_forgotten_features_stay_out_of_batch_statistics(method):
    data, request = karate(), gu.ForgetNodes(count=4, seed=0)
    other = copy.copy(data)
    other.x = data.x.clone()
    other.x[request.resolve(data).forget_nodes] *= 1000
    model = Normalised(6, int(data.y.max()) + 1)
    one, two = (gu.unlearn(model, d, request, method, "node_classification", epochs=3).model for d in (data, other))
    for name in ("running_mean", "running_var"):
        assert getattr(two.norm, name).abs().max() < 50  # a thousand times the features would show
    if method == "finetune":  # reads nothing of them at all
        assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def test_the_original_graph_is_read_for_the_forget_part_alone():
    data = karate()
    partition, task = gu.ForgetNodes(count=4).resolve(data), gu.NodeClassification()
    assert task.parts(partition, names=["retain"]).data is partition.retain_data
    assert task.parts(partition, names=["forget", "retain"]).data.num_nodes > 34


def test_negatives_leave_forgotten_nodes_out():
    data = gu.link_split(gu.load("karate"), 0.1, 0.1)
    partition = gu.ForgetNodes(range(12)).resolve(data)
    task = gu.LinkPrediction()
    for parts in (task.parts(partition), task.training_parts(partition.retain_data)):
        pairs = parts.sample(["non_edges"])["non_edges"].edge_label_index
        assert pairs.numel()
        assert pairs.min() >= 12
        assert pairs.max() < 34
    # Control: with all nodes there, most pairs have one of them.
    assert task.training_parts(data).sample(["non_edges"])["non_edges"].edge_label_index.min() < 12


def test_a_second_draw_is_among_what_is_left():
    data = gu.load("karate")
    first = gu.ForgetNodes(range(20)).resolve(data)
    second = gu.ForgetNodes(count=10).resolve(first.retain_data)
    assert second.forget_nodes.min() >= 20
    assert second.retain_data.forgotten_mask.sum() == 30


def test_requests_one_after_the_other_are_one_request():
    data = karate()
    step = gu.ForgetFeatures([9]).resolve(gu.ForgetNodes([3, 8]).resolve(data).retain_data).retain_data
    whole = (gu.ForgetNodes([3, 8]) + gu.ForgetFeatures([9])).resolve(data).retain_data
    assert all(torch.equal(step[name], whole[name]) for name in ("x", "y", "edge_index", "train_mask"))


def test_a_pair_that_another_relation_joins_is_not_to_be_forgotten():
    index = torch.tensor([[0, 1, 0, 2], [1, 2, 1, 0]])
    data = Data(edge_index=index, edge_type=torch.tensor([0, 0, 1, 1]), x=torch.eye(3), num_nodes=3)
    partition = gu.ForgetEdges([(0, 1), (1, 2)], edge_type=0).resolve(data)
    forget = gu.LinkPrediction().parts(partition).sample(["forget"])["forget"]
    assert forget.edge_label_index.t().tolist() == [[1, 2]]


@pytest.mark.parametrize("method", ["scrub", "npo", "etr"])
def test_phases_under_link_prediction_and_node_requests(method):
    data = gu.link_split(gu.load("karate"), 0.1, 0.1)
    options = {} if method == "etr" else {"epochs": 12}
    result = gu.unlearn(gu.GCN(data.num_features, 8, 4), data, gu.ForgetNodes([3, 5]), method, **options)
    assert result.num_forget == 2
