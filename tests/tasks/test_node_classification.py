"""Node classification: likelihoods against torch's cross-entropy, labels that stay apart, splits, subgraphs, Cora."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch_geometric.nn import GCNConv

import gunlearn as gu
from gunlearn.attribution import ItemLoss
from gunlearn.errors import InvalidInputError, UnsupportedMethodError, UnsupportedModelError
from gunlearn.losses import NLL, as_objective
from gunlearn.nn.kernels.subgraph import k_hop_subgraph
from gunlearn.tasks import NodeClassification, NodeItems, as_task, node_split
from gunlearn.tasks.graph.node_classification import training_nodes
from gunlearn.tasks.sampling import BatchOptions
from gunlearn.training.feeding import Feed
from tests.methods.cases import same_weights
from tests.tasks.cases import random_graph, relabelled

NUM_NODES, NUM_CLASSES = 40, 3


def graph(masks=True):
    data = random_graph(NUM_NODES, 60)
    data.y = torch.arange(NUM_NODES) % NUM_CLASSES
    data.x += torch.nn.functional.one_hot(data.y, 5)
    return node_split(data, 0.2, 0.3, seed=0) if masks else data


class Classifier(nn.Module):
    """A user's model that also has an `encode`, which returns no logits."""

    def __init__(self, classes=NUM_CLASSES):
        super().__init__()
        self.first, self.second, self.dropout = GCNConv(5, 8), GCNConv(8, classes), nn.Dropout(0.5)

    def encode(self, x, edge_index):
        return self.first(x, edge_index).relu()

    def forward(self, x, edge_index):
        return self.second(self.dropout(self.encode(x, edge_index)), edge_index)

    def reset_parameters(self):
        self.first.reset_parameters()
        self.second.reset_parameters()


def make(classes=NUM_CLASSES):
    torch.manual_seed(0)
    return Classifier(classes)


def test_log_prob_is_minus_the_cross_entropy_of_the_model_itself():
    data, task, model = graph(), NodeClassification(), make().double().eval()
    data.x = data.x.double()
    items = NodeItems(torch.tensor([3, 0, 7]), data.y[[3, 0, 7]], weight=torch.tensor([1.0, 2.0, 3.0]))
    prediction = task.predict(model, data, items)
    logits = model(data.x, data.edge_index)[items.index]
    torch.testing.assert_close(prediction.logits, logits)
    torch.testing.assert_close(prediction.log_prob, -cross_entropy(logits, items.label, reduction="none"))
    assert prediction.weight.tolist() == [1.0, 2.0, 3.0]
    other = -cross_entropy(logits, (items.label + 1) % NUM_CLASSES, reduction="none")  # control: another class
    assert (prediction.log_prob - other).abs().min() > 1e-3


def test_models_that_return_something_else_are_refused():
    data, task = graph(), NodeClassification()
    with pytest.raises(UnsupportedModelError, match="at least 3 classes"):
        task.predict(make(2), data, training_nodes(data))
    task.predict(make(4), data, training_nodes(data))  # more than there are is no mistake

    class Rows(nn.Module):
        def forward(self, x, edge_index):
            return x[:-1]

    with pytest.raises(UnsupportedModelError, match=r"logits of shape \[40, num_classes\]"):
        task.encode(Rows(), data)


# Which labels are read ########################################################


def test_training_reads_the_training_mask_alone():
    data, task = graph(), as_task("node_classification")
    parts = task.training_parts(data)
    items = parts.sample(["retain"])["retain"]
    assert items.index.tolist() == data.train_mask.nonzero().view(-1).tolist()
    assert items.label.tolist() == data.y[data.train_mask].tolist()
    assert torch.equal(parts.strata(), torch.zeros(items.num_items, dtype=torch.long))
    for part, found in (("val", task.validation_items(data)), ("test", task.held_out_items(data, "test"))):
        assert found.index.tolist() == data[f"{part}_mask"].nonzero().view(-1).tolist()
        assert not set(found.index.tolist()) & set(items.index.tolist())

    without = copy.copy(data)
    del without.train_mask
    without.y = data.y.clone()
    without.y[items.index[0]] = -1
    assert training_nodes(without).index.tolist() == items.index[1:].tolist()
    without.y = data.y.view(-1, 1)  # as OGB stores them
    assert training_nodes(without).label.tolist() == items.label.tolist()
    bare = graph(masks=False)
    assert training_nodes(bare).index.tolist() == list(range(NUM_NODES))
    assert task.validation_items(bare) is None


def test_no_held_out_label_enters_a_loss():
    data = graph()
    test, held_out_too = relabelled(data, data.test_mask), relabelled(data, ~data.train_mask)
    one_training_node = relabelled(data, data.train_mask.nonzero()[:1, 0])

    def train(data, held_out=True):
        data = copy.copy(data)
        if not held_out:
            del data.val_mask
        return gu.train(make(), data, "node_classification", epochs=12, lr=0.05, eval_every=3)

    def same(a, b):
        return same_weights(a.model, b.model)

    whole = train(data)
    assert whole.history[-1]["loss"] < whole.history[0]["loss"]
    assert same(whole, train(test))
    assert same(train(data, held_out=False), train(held_out_too, held_out=False))
    assert not same(whole, train(one_training_node))  # control
    # Validation labels choose an epoch, and nothing else.
    losses = [[r["loss"] for r in run.history if "loss" in r] for run in (whole, train(held_out_too))]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("y", None, "integer labels"),
        ("y", torch.zeros(NUM_NODES), "integer labels"),
        ("y", torch.zeros(NUM_NODES - 1, dtype=torch.long), "integer labels"),
        ("y", -torch.ones(NUM_NODES, dtype=torch.long), "without"),
        ("train_mask", torch.zeros(NUM_NODES, dtype=torch.bool), "node_split"),
        ("train_mask", torch.ones(NUM_NODES, dtype=torch.long), "boolean data.train_mask"),
        ("train_mask", torch.ones(NUM_NODES, 10, dtype=torch.bool), "boolean data.train_mask"),
    ],
)
def test_bad_labels_and_masks(name, value, message):
    with pytest.raises(InvalidInputError, match=message):
        NodeClassification().training_parts(graph().update({name: value}))


# Unlearning edges #############################################################


def test_forgetting_edges():
    data, task = graph(), NodeClassification()
    partition = gu.ForgetEdges(count=5, seed=0).resolve(data)
    for name, read in (("retain", partition.retain_data), ("full", data)):
        parts = task.parts(partition, name)
        assert torch.equal(parts.data.edge_index, read.edge_index)
        assert torch.equal(parts.sample(["retain"])["retain"].index, training_nodes(data).index)
    assert task.parts(partition).data.num_edges < data.num_edges
    start = set(partition.forget_edge_index.flatten().tolist())
    index, strata = training_nodes(data).index.tolist(), task.parts(partition).strata().tolist()
    assert [i in start for i in index] == [s == 0 for s in strata]
    assert {0, 1} <= set(strata)

    result = gu.unlearn(make(), data, gu.ForgetEdges(count=5), method="retrain", task=task, epochs=5)
    assert result.epochs == 5
    with pytest.raises(UnsupportedMethodError, match="no label whose likelihood"):
        gu.unlearn(make(), data, gu.ForgetEdges(count=5), method="gradient_ascent", task=task)
    with pytest.raises(InvalidInputError, match="message_graph"):
        task.parts(partition, "train")
    with pytest.raises(InvalidInputError, match="parts among"):
        task.parts(partition).sample(["retain_edges"])


# Parts of the graph ###########################################################


def test_items_of_a_subgraph_are_the_same_items():
    data, task, model = graph(), NodeClassification(), make().eval()
    items = training_nodes(data).take(torch.tensor([4, 1]))
    subgraph = k_hop_subgraph(data, task.seeds(items), 2)
    assert subgraph.data.num_nodes < NUM_NODES
    part = task.predict(model, subgraph.data, task.relabel(items, subgraph))
    torch.testing.assert_close(part.log_prob, task.predict(model, data, items).log_prob)
    wrong = task.encode(model, subgraph.data)[:2]  # control: not translated
    assert not torch.allclose(part.logits, wrong)


def test_batches_read_all_training_nodes_once_per_pass():
    data, task = graph(), NodeClassification()
    names = as_objective(NLL(on="retain")).parts
    feed = Feed(make().eval(), task, task.training_parts(data), names, BatchOptions(batch_size=6))
    seen = []
    for step in range(feed.steps_per_epoch):
        feed.draws["retain"].step = step
        seen.append(feed.sample()["retain"])
    index, label = (torch.cat([getattr(items, name) for items in seen]) for name in ("index", "label"))
    assert sorted(index.tolist()) == training_nodes(data).index.tolist()
    assert torch.equal(label, data.y[index])
    result = gu.train(make(), data, task, epochs=4, batch_size=6)
    assert (result.epochs, len(result.history)) == (4, 4 * feed.steps_per_epoch)
    shares = [training_nodes(data).share(rank, 3) for rank in range(3)]
    assert sum(s.num_items for s in shares) == training_nodes(data).num_items
    assert torch.equal(shares[1].label, data.y[shares[1].index])


# Splits #######################################################################


def test_node_split():
    data = graph(masks=False)
    data.y = data.y.clone()
    data.y[:4] = -1
    split = node_split(data, 0.25, 0.5, seed=1)
    masks = [split[name] for name in ("train_mask", "val_mask", "test_mask")]
    assert [int(m.sum()) for m in masks] == [9, 9, 18]
    assert torch.equal(masks[0].long() + masks[1].long() + masks[2].long(), (data.y >= 0).long())
    assert "train_mask" not in data
    again, other = node_split(split, 0.25, 0.5, seed=1), node_split(data, 0.25, 0.5, seed=2)
    assert torch.equal(again.train_mask, split.train_mask)
    assert not torch.equal(other.train_mask, split.train_mask)
    few = node_split(data, 0.1, 0.1, train_per_class=2)
    assert torch.bincount(data.y[few.train_mask]).tolist() == [2, 2, 2]
    assert torch.equal(few.val_mask, node_split(data, 0.1, 0.1).val_mask)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_ratio": 0.5, "test_ratio": 0.5}, "leave training nodes"),
        ({"val_ratio": -0.1}, "leave training nodes"),
        ({"train_per_class": 0}, "train_per_class"),
        ({"train_per_class": 30}, "at least 30 training nodes"),
    ],
)
def test_bad_splits(options, message):
    with pytest.raises(InvalidInputError, match=message):
        node_split(graph(), **options)


def several_splits():
    """Three splits, each in a column of the masks, but for the test mask, which all share."""
    splits = [node_split(graph(), seed=seed) for seed in range(3)]
    data, test = graph(), splits[0].test_mask
    data.train_mask = torch.stack([one.train_mask & ~test for one in splits], dim=1)
    data.val_mask, data.test_mask = torch.stack([one.val_mask & ~test for one in splits], dim=1), test
    return data


def test_one_of_the_datas_own_splits():
    data = several_splits()
    for k in range(3):
        split = node_split(data, split=k)
        assert torch.equal(split.train_mask, data.train_mask[:, k])
        assert torch.equal(split.val_mask, data.val_mask[:, k])
        assert torch.equal(split.test_mask, data.test_mask)
        assert gu.ForgetNodes(count=3).resolve(split).num_forget == 3
    assert data.train_mask.shape == (NUM_NODES, 3)
    assert torch.equal(node_split(graph(), split=0).train_mask, graph().train_mask)  # Planetoid's public split, say
    with pytest.raises(InvalidInputError, match=r"3 splits, gunlearn.node_split\(data, split=0\)"):
        gu.train(gu.GCN(5, 4, 3), data, "node_classification", epochs=1)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"split": 3}, "from 0 to 2"),
        ({}, {"split": -1}, "from 0 to 2"),
        ({}, {"split": True}, "from 0 to 2"),
        ({}, {"split": 1, "seed": 1}, "settings of a draw"),
        ({}, {"split": 1, "train_per_class": 2}, "settings of a draw"),
        ({"train_mask": None}, {"split": 0}, "train_mask"),
        ({"train_mask": torch.ones(NUM_NODES, 2, dtype=torch.bool)}, {"split": 0}, "as many splits"),
        ({"train_mask": torch.ones(3, NUM_NODES, dtype=torch.bool)}, {"split": 0}, "entry for each"),
        ({"val_mask": torch.ones(NUM_NODES, 3)}, {"split": 0}, "float32"),
        ({"train_mask": torch.ones(NUM_NODES, 3, dtype=torch.bool)}, {"split": 0}, "both"),
    ],
)
def test_splits_that_the_data_do_not_have(change, options, message):
    data = several_splits()
    for name, value in change.items():
        data[name] = value
    with pytest.raises(InvalidInputError, match=message):
        node_split(data, **options)


# End to end ###################################################################


def test_loss_target():
    data, task, model = graph(), NodeClassification(), make().eval()
    target = ItemLoss().bind(model, data, task)
    outputs = model(data.x, data.edge_index)
    torch.testing.assert_close(target.value(outputs), cross_entropy(outputs[data.val_mask], data.y[data.val_mask]))
    scores = gu.influence(model, data, task, estimator="brute", target="loss", items=data.edge_index[:, :3])
    assert scores.shape == (3,)
    assert scores.abs().max() > 0


def test_cora_public_split(data_root):
    data = gu.load("Cora", root=data_root)
    assert [int(data[f"{part}_mask"].sum()) for part in ("train", "val", "test")] == [140, 500, 1000]
    torch.manual_seed(0)
    model = gu.GCN(data.num_features, 16, int(data.y.max()) + 1, dropout=0.5)
    result = gu.train(model, data, "node_classification", epochs=100, lr=0.01, weight_decay=5e-4, eval_every=10)
    task = NodeClassification()
    accuracy = {}
    for name, trained in (("before", model.eval()), ("after", result.model)):
        prediction = task.predict(trained, data, task.held_out_items(data, "test"))
        accuracy[name] = float((prediction.logits.argmax(1) == data.y[data.test_mask]).float().mean())
    assert accuracy["before"] < 0.4
    assert accuracy["after"] > 0.78  # Kipf and Welling (2017) report 0.815
