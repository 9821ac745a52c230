"""What node requests must not do: let forgotten rows into statistics and negatives, or forget what is gone already."""

import copy

import pytest
import torch
from torch_geometric.data import Data

import gunlearn as gu
from tests.methods.cases import make_data, same_weights, trained_model
from tests.methods.forgetting import classifier


@pytest.mark.parametrize("name", ["random_label", "bad_teacher", "npo", "graddiff", "gradient_ascent", "scrub"])
def test_forgotten_nodes_do_not_enter_the_statistics_of_what_stays(name):
    """Both graphs pass through batch normalisation together: its running statistics stay those of training."""
    model, data = trained_model("sage"), make_data()
    before = {key: value.clone() for key, value in model.norm.named_buffers()}

    def statistics(method, request, task="node_classification"):
        return dict(gu.unlearn(model, data, request, method, task, epochs=3).model.norm.named_buffers())

    joint = statistics(name, gu.ForgetNodes(count=3, seed=1))
    assert all(torch.equal(value, before[key]) for key, value in joint.items())
    controls = [statistics("finetune", gu.ForgetNodes(count=3, seed=1))]
    controls += [statistics(name, gu.ForgetEdges(count=3, seed=1), "link_prediction")] if name != "scrub" else []
    for alone in controls:  # on the retained graph alone they follow the weights
        assert not torch.equal(alone["running_mean"], before["running_mean"])


def test_what_goes_is_not_read_by_what_learns_from_the_rest_alone():
    model, data, request = trained_model("sage"), make_data(), gu.ForgetNodes(count=3, seed=1)
    other = copy.copy(data)
    other.x = data.x.clone()
    other.x[request.resolve(data).forget_nodes] *= 1000
    one, two = (gu.unlearn(model, d, request, "finetune", "node_classification", epochs=3).model for d in (data, other))
    assert same_weights(one, two)


def test_the_original_graph_is_read_for_the_forget_part_alone():
    _, data = classifier()
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
    _, data = classifier()
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
