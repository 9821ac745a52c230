"""Link prediction: likelihoods against torch's BCE, anybody's model, and parts that hold what they say and no more."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch_geometric.data import Data
from torch_geometric.nn import GAE, VGAE, GCNConv

from gunlearn.errors import InvalidInputError, UnsupportedModelError
from gunlearn.nn import GCN
from gunlearn.nn.kernels.edge_scores import EdgePattern
from gunlearn.requests import ForgetEdges
from gunlearn.requests.training_graph import distinct_pairs
from gunlearn.tasks import TASKS, ImageClassification, LinkPrediction, as_task, link_split
from gunlearn.tasks.graph.link_prediction import EdgeItems
from tests.tasks.cases import both, columns, random_graph

NUM_NODES = 30


def whole_graph(undirected=True, seed=0, count=140):
    return random_graph(NUM_NODES, count, undirected, seed)


def problem(undirected=True, seed=0, forget=6):
    data = link_split(whole_graph(undirected, seed), 0.1, 0.1, seed=seed)
    return data, ForgetEdges(count=forget, seed=seed).resolve(data)


class Encoder(nn.Module):
    """An ordinary user's model."""

    def __init__(self, out=4):
        super().__init__()
        self.conv = GCNConv(5, out)

    def forward(self, x, edge_index):
        return self.conv(x, edge_index)


class Scorer(nn.Module):
    """A user's own `encode` and `decode`: an MLP on both end points that returns `[num_pairs, 1]`."""

    def __init__(self):
        super().__init__()
        self.conv, self.mlp = GCNConv(5, 4), nn.Linear(8, 1)

    def encode(self, x, edge_index):
        return self.conv(x, edge_index)

    def decode(self, z, edge_label_index):
        return self.mlp(torch.cat([z[edge_label_index[0]], z[edge_label_index[1]]], dim=1))

    def forward(self, x, edge_index):
        raise AssertionError("a model with `encode` is not called directly")


def items_of(index, label, data):
    return EdgeItems((EdgePattern(index, data.num_nodes),), label)


# Likelihoods #################################################################


@pytest.mark.parametrize("make", [Encoder, Scorer, lambda: GCN(5, 8, 4)])
@pytest.mark.parametrize("count", [40, 900])
def test_log_prob_is_minus_the_cross_entropy_of_the_score(make, count):
    torch.manual_seed(0)
    model, data, task = make().double(), whole_graph(), LinkPrediction()
    data.x = 5 * data.x.double()
    index = torch.randint(NUM_NODES, (2, count))
    label = (torch.arange(count) % 3 == 0).double()
    prediction = task.predict(model, data, items_of(index, label, data))

    function = model.encode if hasattr(model, "encode") else model
    z = function(data.x, data.edge_index)
    score = model.decode(z, index).view(-1) if hasattr(model, "decode") else (z[index[0]] * z[index[1]]).sum(1)
    expected = -binary_cross_entropy_with_logits(score, label, reduction="none")
    assert prediction.num_items == count
    torch.testing.assert_close(prediction.logits, score)
    torch.testing.assert_close(prediction.log_prob, expected)
    # Controls: a second sigmoid (as in the official retain term) and swapped labels are other numbers.
    for wrong in ((score.sigmoid(), label), (score, 1 - label)):
        other = -binary_cross_entropy_with_logits(*wrong, reduction="none")
        assert (prediction.log_prob - other).abs().mean() > 0.01

    grads = torch.autograd.grad(prediction.log_prob.sum(), model.parameters())
    plain = torch.autograd.grad(expected.sum(), model.parameters())
    for a, b in zip(grads, plain, strict=True):
        torch.testing.assert_close(a, b)


def test_extreme_scores_stay_in_log_space():
    class Fixed(nn.Module):
        def forward(self, x, edge_index):
            return x

    x = torch.tensor([[100.0], [10.0], [-10.0]], requires_grad=True)
    data = Data(x=x, edge_index=torch.tensor([[0], [1]]))
    index = torch.tensor([[0, 0, 0, 0], [1, 2, 1, 2]])
    prediction = LinkPrediction().predict(Fixed(), data, items_of(index, torch.tensor([1.0, 1.0, 0.0, 0.0]), data))
    assert prediction.log_prob.tolist() == [0.0, -1000.0, -1000.0, 0.0]
    prediction.log_prob.sum().backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("kind", [GAE, VGAE])
def test_pyg_autoencoders_do_not_pass_a_sigmoid_twice(kind):
    torch.manual_seed(0)

    class TwoHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.mean, self.deviation = GCNConv(5, 4), GCNConv(5, 4)

        def forward(self, x, edge_index):
            return self.mean(x, edge_index), self.deviation(x, edge_index)

    model = (GAE(GCNConv(5, 4)) if kind is GAE else VGAE(TwoHeads())).eval()
    data, task = whole_graph(), LinkPrediction()
    index = data.edge_index[:, :20]
    z = model.encode(data.x, data.edge_index)
    score = (z[index[0]] * z[index[1]]).sum(1)
    prediction = task.predict(model, data, items_of(index, torch.ones(20), data))
    torch.testing.assert_close(prediction.logits, score)
    torch.testing.assert_close(prediction.log_prob.exp(), model.decode(z, index))  # PyG's own probability

    class Switch(Scorer):
        def decode(self, z, edge_label_index, sigmoid=True):
            score = super().decode(z, edge_label_index)
            return score.sigmoid() if sigmoid else score

    model = Switch()
    z = task.encode(model, data)
    prediction = task.decode(model, z, items_of(index, torch.ones(20), data))
    torch.testing.assert_close(prediction.log_prob.exp(), model.decode(z, index).view(-1))


# Anybody's model #############################################################


class Weighted(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.seen = GCNConv(5, 4), {}

    def forward(self, x, edge_index, edge_weight=None, edge_attr=None):
        self.seen = {"edge_weight": edge_weight, "edge_attr": edge_attr}
        return self.conv(x, edge_index, edge_weight)


def test_edge_weights_and_attributes_reach_a_model_that_takes_them():
    data, task, model = whole_graph(), LinkPrediction(), Weighted()
    plain = task.encode(model, data)
    assert model.seen == {"edge_weight": None, "edge_attr": None}
    data.edge_weight, data.edge_attr = torch.rand(data.num_edges), torch.rand(data.num_edges, 2)
    weighted = task.encode(model, data)
    assert model.seen["edge_weight"] is data.edge_weight
    assert model.seen["edge_attr"] is data.edge_attr
    torch.testing.assert_close(weighted, model.conv(data.x, data.edge_index, data.edge_weight))
    assert not torch.allclose(weighted, plain)
    data.edge_weight = None
    torch.testing.assert_close(task.encode(model, data), plain)
    assert task.encode(Encoder(), data).shape == (NUM_NODES, 4)  # a model that takes none


@pytest.mark.slow
def test_edge_weights_reach_a_compiled_model():
    data, model = whole_graph(), Weighted()
    data.edge_weight = torch.rand(data.num_edges)
    got = LinkPrediction().encode(torch.compile(model, backend="eager"), data)
    torch.testing.assert_close(got, model.conv(data.x, data.edge_index, data.edge_weight))


@pytest.mark.parametrize(
    ("encoded", "decoded", "message"),
    [
        *((z, None, r"embeddings of shape \[30, dim\]") for z in (torch.zeros(29, 4), torch.zeros(30), None)),
        *((z, None, r"embeddings of shape \[30, dim\]") for z in (torch.zeros(30, 4).long(), (torch.zeros(30, 4),))),
        *((torch.zeros(30, 4), score, "score 20 pairs") for score in (torch.zeros(19), torch.zeros(20, 2), None, 0.5)),
    ],
)
def test_models_that_return_something_else_are_refused(encoded, decoded, message):
    class Model(nn.Module):
        def forward(self, x, edge_index):
            return encoded

        def decode(self, z, edge_label_index):
            return decoded

    data = whole_graph()
    with pytest.raises(UnsupportedModelError, match=message):
        LinkPrediction().predict(Model(), data, items_of(data.edge_index[:, :20], torch.ones(20), data))


def test_names_and_options():
    assert isinstance(as_task("link_prediction"), LinkPrediction)
    assert isinstance(as_task("image_classification"), ImageClassification)
    task = LinkPrediction(negatives="uniform")
    assert as_task(task) is task
    assert all(cls.name == name for name, cls in TASKS.items())
    for unknown in ("links", None, ["link_prediction"], LinkPrediction):
        with pytest.raises(InvalidInputError, match="Expected a task among"):
            as_task(unknown)
    with pytest.raises(InvalidInputError, match="negatives"):
        LinkPrediction(negatives="random")


# Parts #######################################################################


@pytest.mark.parametrize("undirected", [True, False])
@pytest.mark.parametrize("message_graph", ["retain", "full"])
def test_parts_hold_what_they_say(undirected, message_graph):
    _, partition = problem(undirected)
    task = LinkPrediction()
    parts = task.parts(partition, message_graph)
    items = parts.sample(["forget", "retain", "retain_edges", "non_edges"])
    assert items.keys() == parts.names.keys()

    forget, retain = columns(partition.forget_edge_index), columns(partition.retain_edge_index)
    number = len(retain)
    assert columns(items["forget"].edge_label_index) == forget
    assert items["forget"].label.tolist() == [1.0] * len(forget)
    assert columns(items["retain_edges"].edge_label_index) == retain
    assert items["retain_edges"].label.tolist() == [1.0] * number
    assert columns(items["retain"].edge_label_index)[:number] == retain
    assert items["retain"].label.tolist() == [1.0] * number + [0.0] * number
    assert items["non_edges"].label.tolist() == [0.0] * number
    # One draw serves both parts of a step, the next step draws anew; only what stays the same says so.
    assert columns(items["retain"].edge_label_index)[number:] == columns(items["non_edges"].edge_label_index)
    again = parts.sample(["non_edges", "forget"])
    assert not torch.equal(again["non_edges"].edge_label_index, items["non_edges"].edge_label_index)
    assert again["forget"] is items["forget"]
    state = torch.get_rng_state()
    parts.sample(["forget", "retain_edges"])
    assert torch.equal(torch.get_rng_state(), state)
    assert {name for name, part in items.items() if part.fixed} == {"forget", "retain_edges"}

    torch.manual_seed(0)
    model = Encoder()
    z = task.encode(model, parts.data)
    predictions = {name: task.decode(model, z, items[name]) for name in parts.names}
    assert all(prediction.num_items == items[name].num_items for name, prediction in predictions.items())
    assert [name for name, prediction in predictions.items() if prediction.embeddings is not None] == ["forget"]
    assert torch.equal(predictions["forget"].embeddings, z[partition.forget_edge_index.t()])
    for part in ("forgot", "train", ""):
        with pytest.raises(InvalidInputError, match="Expected a part among"):
            parts.sample(["retain", part])


def test_message_graph():
    # The official code passes messages along the forgotten edges while it unlearns; "retain" does not.
    data, partition = problem()
    task = LinkPrediction()
    forgotten = both(columns(partition.forget_edge_index))
    read = {name: set(columns(task.parts(partition, name).data.edge_index)) for name in ("retain", "full")}
    assert read["full"] == set(columns(data.edge_index))
    assert read["retain"] == read["full"] - forgotten
    assert forgotten <= read["full"]
    assert set(columns(task.parts(partition).data.edge_index)) == read["retain"]  # the default
    with pytest.raises(InvalidInputError, match="message_graph"):
        task.parts(partition, "train")


@settings(max_examples=15)
@given(
    st.integers(0, 20),
    st.booleans(),
    st.sampled_from(["retain", "full"]),
    st.sampled_from(["non_edges", "uniform"]),
)
def test_no_part_shows_held_out_edges_and_retraining_sees_no_forgotten_one(seed, undirected, message_graph, negatives):
    data, partition = problem(undirected, seed)
    task = LinkPrediction(negatives)
    held_out = set(columns(data.val_pos_edge_index)) | set(columns(data.test_pos_edge_index))
    forgotten = set(columns(partition.forget_edge_index))
    if undirected:
        held_out, forgotten = both(held_out), both(forgotten)
    assert not held_out & forgotten  # forgotten edges are training edges

    unlearn = task.parts(partition, message_graph)
    retrain = task.training_parts(partition.retain_data)
    train = task.training_parts(data)
    for parts in (unlearn, train, retrain):
        shown = set(columns(parts.data.edge_index))
        for items in parts.sample([name for name in parts.names if name != "forget" or parts is unlearn]).values():
            shown |= set(columns(items.edge_label_index[:, items.label == 1]))
        assert not shown & held_out
        if parts is retrain:
            assert not shown & forgotten
        if parts is train:
            assert forgotten <= shown  # control
    # Every retained edge is there, once.
    retained = columns(retrain.sample(["retain_edges"])["retain_edges"].edge_label_index)
    assert sorted(retained) == sorted(columns(partition.retain_edge_index))
    with pytest.raises(InvalidInputError, match="forget"):
        retrain.sample(["forget"])


def many_negatives(parts, rounds=400):
    """Some 20 of each pair on average: one that may be drawn is."""
    drawn = [parts.sample(["non_edges"])["non_edges"].edge_label_index for _ in range(rounds)]
    return set(columns(torch.cat(drawn, dim=1).unique(dim=1)))


def test_negatives_avoid_what_is_known_and_nothing_else():
    torch.manual_seed(0)
    data = link_split(whole_graph(count=60), 0.1, 0.1)
    partition = ForgetEdges(count=4).resolve(data)
    forgotten = both(columns(partition.forget_edge_index))
    known = set(columns(data.edge_index))
    held_out = both(columns(data.val_pos_edge_index) + columns(data.test_pos_edge_index))

    # While unlearning, neither a retained nor a forgotten edge is called a non-edge, whatever graph is read.
    for message_graph in ("retain", "full"):
        drawn = many_negatives(LinkPrediction().parts(partition, message_graph))
        assert not drawn & known
    # To avoid held-out edges would be to know them: they are drawn like any other pair.
    assert held_out <= drawn
    # A retraining must not know the forgotten edges either.
    drawn = many_negatives(LinkPrediction().training_parts(partition.retain_data))
    assert not drawn & (known - forgotten)
    assert forgotten <= drawn
    # Control: uniform pairs meet everything but self pairs.
    drawn = many_negatives(LinkPrediction("uniform").parts(partition))
    assert known <= drawn
    assert all(u != v for u, v in drawn)


def test_held_out_items():
    data, partition = problem()
    task = LinkPrediction()
    for part, items in (("val", task.validation_items(data)), ("test", task.held_out_items(data, "test"))):
        positive, negative = data[f"{part}_pos_edge_index"], data[f"{part}_neg_edge_index"]
        assert columns(items.edge_label_index) == columns(positive) + columns(negative)
        assert items.label.tolist() == [1.0] * positive.size(1) + [0.0] * negative.size(1)
    # Forgetting leaves them alone; validation never shows a test edge.
    assert columns(task.held_out_items(partition.retain_data, "test").edge_label_index) == columns(
        task.held_out_items(data, "test").edge_label_index
    )
    validation = both(columns(task.validation_items(data).edge_label_index[:, : data.val_pos_edge_index.size(1)]))
    assert not validation & both(columns(data.test_pos_edge_index))
    bare = whole_graph()
    assert task.validation_items(bare) is None
    assert task.held_out_items(bare, "test") is None
    del data.test_neg_edge_index
    assert task.held_out_items(data, "test") is None
    assert task.edge_items(data, data.edge_index[:, :7]).label.tolist() == [1.0] * 7
    with pytest.raises(InvalidInputError, match="ids"):
        task.edge_items(data, torch.tensor([[0], [NUM_NODES]]))


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        ([(0, 1), (1, 0), (1, 2), (2, 1)], [(0, 1), (1, 2)]),
        ([(2, 1), (1, 2), (0, 1), (1, 0), (3, 3)], [(0, 1), (1, 2), (3, 3)]),
        ([(0, 1), (1, 0), (0, 1)], [(0, 1)]),  # one direction twice is still undirected
        ([(0, 1), (1, 0), (1, 2)], [(0, 1), (1, 0), (1, 2)]),  # directed: every direction counts
        ([(3, 1), (3, 1), (1, 2)], [(1, 2), (3, 1)]),
    ],
)
def test_one_column_per_edge(edges, expected):
    data = Data(edge_index=torch.tensor(edges).t(), num_nodes=4)
    assert columns(distinct_pairs(data)) == expected
