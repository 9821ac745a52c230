"""Each rule of `auto`, and that it does what the method it names does."""

import copy
import functools

import pytest
import torch
from torch_geometric.data import Data

import gunlearn as gu
from gunlearn.errors import GunlearnError, InvalidInputError
from gunlearn.methods import Auto, fit_linear_head
from gunlearn.methods.any_task.training_budget import is_trace, training_items_around
from gunlearn.nn import LinearHead
from gunlearn.tasks.sampling import BatchOptions
from gunlearn.training.minimised_loss import training_losses
from gunlearn.training.settled import GROWING, growth_rate
from gunlearn.training.training_state import Moment, TrainingState
from tests.methods.cases import make_data, same_weights, trained_model
from tests.methods.forgetting import classifier

#: What does without the state of an optimiser, which `auto` itself does not take.
ESTIMATED = r"method 'continued_training' estimate its state \(optimizer=\"adam\", lr=...\)"


def chosen(model, data, request, task, **options):
    return Auto(**options).choose(gu.tasks.as_task(task), request.resolve(data), model)[0]


def test_the_rules():
    model, data = classifier()
    few, many, edges = gu.ForgetNodes(count=3), gu.ForgetNodes(ratio=0.6), gu.ForgetEdges(count=3)
    assert chosen(model, data, few, "node_classification") == "continued_training"
    assert chosen(model, data, edges, "node_classification") == "continued_training"
    assert chosen(model, data, many, "node_classification") == "retrain"
    assert chosen(model, data, few, "node_classification", budget=1.0) == "retrain"
    assert chosen(model, data, few, "node_classification", budget=0.005) == "utu"
    head = LinearHead(data.num_features, int(data.y.max()) + 1)  # nothing to certify: trained in another way
    assert chosen(head, data, few, "node_classification") == "continued_training"
    assert chosen(fit_linear_head(head, data), data, few, "node_classification") == "cgu"
    assert chosen(model, make_data(), edges, "link_prediction") == "continued_training"
    with pytest.raises(InvalidInputError, match="budget"):
        Auto(budget=0)


def test_a_function_that_trains_is_called_where_it_retrains_alone():
    """Beside a budget, too; where it is not called, that is said."""
    _, data = classifier()
    base = gu.train(gu.GCN(20, 8, 4), data, "node_classification", epochs=40, lr=1e-2, eval_every=40)
    calls = []

    def train(graph, seed):
        calls.append(seed)
        return gu.train(gu.GCN(20, 8, 4), graph, "node_classification", epochs=2).model

    request = gu.ForgetNodes(count=2)
    for budget, name in ((1, "retrain"), (0.005, "utu")):
        given = {"budget": budget, "training": base, "train": train}
        result = gu.unlearn(base.model, data, request, "auto", "node_classification", **given)
        assert result.notes["chosen"] == name
        assert ("'train' was not called" in result.notes["why"]) == (name != "retrain")
        assert len(calls) == 1


def test_with_a_training_it_replays_what_the_budget_allows():
    _, data = classifier()
    base = gu.train(gu.GCN(20, 8, 4), data, "node_classification", epochs=40, lr=1e-2, eval_every=40)
    request = gu.ForgetEdges(count=3)
    for budget, name, epochs in ((0.33, "replay", 2), (0.04, "continued_training", 1)):
        result = gu.unlearn(base.model, data, request, "auto", "node_classification", training=base, budget=budget)
        assert (result.notes["chosen"], result.epochs) == (name, epochs)
        assert "lacks" not in result.notes
    result = gu.unlearn(base.model, data, request, "auto", "node_classification", lr=1e-2)
    assert "optimiser's state (training=" in result.notes["lacks"]
    given = {"lr": 1e-2, "weight_decay": 0.0, "training_steps": 40}
    lacks = gu.unlearn(base.model, data, request, "auto", "node_classification", **given).notes["lacks"]
    assert lacks.startswith("Not given of the training: the optimiser's state (")
    assert ";" not in lacks  # nothing else
    assert "weight decay" in result.notes["lacks"]
    assert "learning rate" not in result.notes["lacks"]


def test_weights_before_fine_tuning_are_for_models_that_are_fine_tuned():
    model, data = classifier()
    with pytest.raises(GunlearnError, match=r"'towards'.*task of fine-tuned models \(got node_classification"):
        gu.unlearn(model, data, gu.ForgetEdges(count=3), "auto", "node_classification", towards=model)


def test_a_class_of_nodes_that_goes_as_a_whole_is_told():
    """Control: with one node of it left, and for edges, nothing is said."""
    model, data = classifier()
    data = copy.copy(data)
    whole = data.train_mask.nonzero().view(-1)[:3]
    data.y = data.y.index_fill(0, whole, 3)
    requests = (gu.ForgetNodes(whole), gu.ForgetNodes(whole[1:]), gu.ForgetEdges(count=3))
    said = [
        gu.unlearn(model, data, request, "auto", "node_classification", lr=1e-2, training_steps=40).notes["why"]
        for request in requests
    ]
    assert [why.endswith("(or retrain).") for why in said] == [True, False, False]


@pytest.mark.parametrize("form", ["optimiser", "state_dict"])
def test_an_optimiser_of_ones_own_goes_on(form):
    _, data = classifier()
    model = gu.GCN(20, 8, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        model(data.x, data.edge_index).log_softmax(1)[range(34), data.y].mean().neg().backward()
        optimizer.step()
    source = optimizer if form == "optimiser" else optimizer.state_dict()
    request, task = gu.ForgetNodes(count=3), "node_classification"
    result = gu.unlearn(model, data, request, "auto", task, optimizer=source, budget=0.15)
    named = gu.unlearn(model, data, request, "continued_training", task, optimizer=source, at_most=0.15)
    assert result.notes["chosen"] == "continued_training"
    assert result.notes["start"] == f"the state of the training, and {result.epochs} of its mean steps back"
    assert same_weights(result.model, named.model)
    assert "lacks" not in result.notes
    assert len(result.notes["options"]["optimizer"]) < 40  # a digest
    assert result.notes["price"] == pytest.approx((result.epochs + result.notes["passes"]) / 40)  # it counted 40 steps
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)  # which counts none
    result = gu.unlearn(model, data, request, "auto", task, optimizer=sgd)
    assert result.notes["lacks"].startswith("Not given of the training: its number of steps (training_steps=)")
    base = gu.train(gu.GCN(20, 8, 4), data, task, epochs=4)
    for method, options, match in (
        ("auto", {"optimizer": source, "training": base}, "'training' or 'optimizer'"),
        ("auto", {"optimizer": "adam"}, rf"that trained the model.*got 'adam'\).*{ESTIMATED}"),
        ("auto", {"optimizer": torch.optim.Adam}, rf"that trained the model.*got Adam\).*{ESTIMATED}"),
        ("auto", {"optimizer": torch.optim.Adam(model.parameters())}, rf"taken no step.*{ESTIMATED}"),
        ("auto", {"optimizer": {"lr": 1}}, "'state' and 'param_groups'"),
        ("replay", {"optimizer": source}, r"training=, what gunlearn\.KeepState kept or a folder of checkpoints"),
        *((method, {"training": source}, "as optimizer=") for method in ("auto", "replay", "continued_training")),
    ):
        with pytest.raises(GunlearnError, match=match):
            gu.unlearn(model, data, request, method, task, **options)
    estimated = gu.unlearn(model, data, request, "continued_training", task, optimizer="adam", lr=1e-2, steps=2)
    assert estimated.epochs == 2


def count_as_large(monkeypatch, trace, nodes=10):
    """Let a graph of so many nodes count as large, and a share `trace` of it and of its training items as little."""
    module = "gunlearn.methods.any_task.training_budget"
    monkeypatch.setattr(f"{module}._TRACE", trace)
    monkeypatch.setattr(f"{module}._TRACE_ITEMS", trace)
    monkeypatch.setattr(f"{module}._MANY", nodes)


@functools.cache
def settled_club():
    """The karate club with a model that had settled, and its training."""
    _, data = classifier()
    torch.manual_seed(0)
    recipe = {"steps": 400, "lr": 1e-2, "weight_decay": 5e-2, "eval_every": 400}
    base = gu.train(gu.GCN(data.num_features, 8, 4), data, "node_classification", **recipe)
    assert growth_rate(base.training, base.model) < GROWING
    return base, data


def spent(result):
    return result.epochs + result.notes.get("passes", 0)  # retraining has none


@pytest.mark.parametrize(
    ("request_", "most", "nodes", "brief"),
    [
        (gu.ForgetNodes([0]), 1.0, 10, True),
        (gu.ForgetFeatures([0]), 1.0, 10, True),
        (gu.ForgetNodes([0]), 0.01, 10, False),  # it touches more
        (gu.ForgetNodes([0]), 1.0, 100, False),  # a small graph
        (gu.ForgetNodes(count=11), 1.0, 10, False),
        (gu.ForgetEdges(count=1), 1.0, 10, False),
    ],
)
def test_a_trace_of_a_large_graph_takes_a_few_steps(request_, most, nodes, brief, monkeypatch):
    count_as_large(monkeypatch, most, nodes)
    base, data = settled_club()
    task = "node_classification"
    for method in ("auto", "continued_training"):
        assert (spent(gu.unlearn(base.model, data, request_, method, task, training=base)) <= 12) is brief
    for more in ({"steps": 20}, {"budget": 0.05}, {"epochs": 20}):  # whoever asks for more gets it
        result = gu.unlearn(base.model, data, request_, "continued_training", task, training=base, **more)
        assert spent(result) >= 20
    for unknown in ({"training_steps": 400}, {}):  # whether it had settled
        for method in ("auto", "continued_training"):
            assert spent(gu.unlearn(base.model, data, request_, method, task, **unknown)) >= 20


@pytest.mark.parametrize("options", [{"at_most": 1 / 3}, {"teacher_share": 0.5}, {"shrink": 0.9}])
def test_options_that_need_more_steps_get_them(options, monkeypatch):
    count_as_large(monkeypatch, 1.0)
    base, data = settled_club()
    task, request = "node_classification", gu.ForgetNodes([0])
    result = gu.unlearn(base.model, data, request, "continued_training", task, training=base, **options)
    assert round(result.notes["price"] * 400) >= 20


def test_auto_says_how_few_steps_it_took_and_a_budget_lifts_that(monkeypatch):
    base, data = settled_club()
    request, task = gu.ForgetNodes([0]), "node_classification"
    usual = gu.unlearn(base.model, data, request, "auto", task, training=base)
    count_as_large(monkeypatch, 1.0)
    result = gu.unlearn(base.model, data, request, "auto", task, training=base)
    assert spent(result) == 12 < 20 <= spent(usual)
    assert "it spent 12 steps at most, all passes counted" in result.notes["why"]
    named = gu.unlearn(base.model, data, request, "continued_training", task, training=base)
    assert same_weights(result.model, named.model)
    for budget in (0.33, 0.9):
        given = gu.unlearn(base.model, data, request, "auto", task, training=base, budget=budget)
        assert spent(given) >= 20
        assert "steps at most" not in given.notes["why"]
        if budget == 0.33:  # what is usual
            assert same_weights(given.model, usual.model)
    assert "steps at most" not in usual.notes["why"]


@pytest.mark.parametrize(("known", "budget"), [(True, None), (False, None), (False, 0.02)])
def test_auto_says_how_many_steps_it_took_where_none_are_known(known, budget, monkeypatch):
    count_as_large(monkeypatch, 1.0)
    model, data = classifier()
    rest = {"lr": 1e-2, "weight_decay": 0.0} if known else {}
    result = gu.unlearn(model, data, gu.ForgetNodes([0]), "auto", "node_classification", budget=budget, **rest)
    bound = "" if budget is None else "the budget of 0.02 could not be kept to and "
    words = f"without which {bound}{result.epochs} steps and {result.notes['passes']} passes beside them were taken"
    assert words in result.notes["lacks"]
    assert spent(result) == 50


def memorised(decay, num_train=200, steps=300):
    """A graph of 400 nodes, a training on it, and a node whose wrong label it knows."""
    torch.manual_seed(0)
    n, classes = 400, 4
    edge_index = torch.randint(n, (2, 100))
    edge_index = torch.cat([edge_index, edge_index.flip(0)], dim=1).unique(dim=1)
    y, order = torch.randint(classes, (n,)), torch.randperm(n)
    x = torch.randn(n, 48) + torch.nn.functional.one_hot(y, 48)
    train, val = (torch.zeros(n, dtype=torch.bool) for _ in range(2))
    alone = ~torch.isin(order, edge_index)
    order = torch.cat([order[alone], order[~alone]])  # the wrong label is of a node without edges
    train[order[:num_train]], val[order[num_train:300]] = True, True
    node = int(order[0])
    y[node] = (y[node] + 1) % classes
    data = Data(x=x, edge_index=edge_index, y=y, train_mask=train, val_mask=val, test_mask=~(train | val))
    recipe = {"steps": steps, "lr": 1e-2, "weight_decay": decay, "eval_every": steps}
    return data, gu.train(gu.GCN(48, 32, classes), data, "node_classification", **recipe), node


def test_a_label_that_was_learned_by_heart_is_forgotten_on_a_large_graph_too(monkeypatch):
    data, base, node = memorised(decay=0.0, steps=80)
    request, task = gu.ForgetNodes([node]), "node_classification"
    assert sureness(base.model, data, node) > 0.95

    small = gu.unlearn(base.model, data, request, "auto", task, training=base)
    count_as_large(monkeypatch, 0.01)
    large = gu.unlearn(base.model, data, request, "auto", task, training=base)
    assert large.notes["why"] == small.notes["why"]
    assert "had not settled" in large.notes["why"]
    assert same_weights(large.model, small.model)
    assert sureness(large.model, data, node) < 0.2
    brief = gu.unlearn(base.model, data, request, "continued_training", task, training=base, steps=12)
    assert sureness(brief.model, data, node) > 0.9  # control: a few steps leave it


@pytest.mark.parametrize(("growth", "expected"), [(0.0, True), (GROWING, True), (GROWING + 0.01, False), (None, False)])
def test_a_trace_is_one_where_the_training_is_known_to_have_settled(growth, expected, monkeypatch):
    count_as_large(monkeypatch, 1.0)
    _, data = classifier()
    task, partition = gu.tasks.as_task("node_classification"), gu.ForgetNodes([0]).resolve(data)
    assert is_trace(task, partition, growth) is expected


@pytest.mark.parametrize(("num_train", "brief"), [(20, False), (200, True)])
def test_a_trace_is_one_of_the_training_items_too(num_train, brief, monkeypatch):
    data, base, node = memorised(0.05, num_train)
    assert growth_rate(base.training, base.model) < GROWING
    count_as_large(monkeypatch, 0.01)
    for method in ("auto", "continued_training"):
        result = gu.unlearn(base.model, data, gu.ForgetNodes([node]), method, "node_classification", training=base)
        assert (spent(result) <= 12) is brief


@pytest.mark.parametrize("kind", ["nodes", "features"])
@pytest.mark.parametrize(("share", "expected"), [(1.01, True), (0.99, False)])
def test_named_nodes_count_though_no_training_item_goes(kind, share, expected, monkeypatch):
    """Four nodes that nobody trains on, or four that lose features: as many of the training items are no trace."""
    _, data = classifier()
    data = data.clone()
    data.train_mask = torch.arange(data.num_nodes) >= 4
    request = gu.ForgetNodes([0, 1, 2, 3]) if kind == "nodes" else gu.ForgetFeatures([5, 6, 7, 8])
    task, partition = gu.tasks.as_task("node_classification"), request.resolve(data)
    before, after = training_items_around(task, partition)
    assert (partition.num_forget, before - after) == (4, 0)
    count_as_large(monkeypatch, 1.0)
    monkeypatch.setattr("gunlearn.methods.any_task.training_budget._TRACE_ITEMS", share * 4 / before)
    assert is_trace(task, partition, 0.0) is expected


@torch.no_grad()
def sureness(model, data, node):
    """The probability that a model gives the label of a node."""
    return float(model.eval()(data.x, data.edge_index)[node].softmax(-1)[data.y[node]])


@pytest.mark.parametrize(("dropout", "calls"), [(0.0, 2), (0.5, 3)])
def test_losses_that_nothing_draws_are_not_computed_three_times(dropout, calls):
    model, data = classifier()
    counted = Counted(model, dropout)
    task = gu.tasks.as_task("node_classification")
    losses = training_losses(counted, data, task, BatchOptions(), 0)
    assert Counted.calls == calls
    assert len(losses) == 3
    assert (losses.unique().numel() == 1) is (dropout == 0.0)
    Counted.calls = 0


class Counted(torch.nn.Module):
    """A model with dropout on its features, which counts its calls."""

    calls = 0

    def __init__(self, model, dropout):
        super().__init__()
        self.model, self.dropout = model, torch.nn.Dropout(dropout)

    def forward(self, x, edge_index):
        Counted.calls += 1
        return self.model(self.dropout(x), edge_index)


def test_a_missing_checkpoint_is_told_without_the_end():
    _, data = classifier()
    model = gu.GCN(20, 8, 4)
    optimizer = torch.optim.Adam(model.parameters()).state_dict()
    moments = tuple(Moment(step, model.state_dict(), optimizer) for step in (10, 80, 100))
    for some, match in ((moments, r"\(got 90\.0%, 20\.0%\); raise 'budget'"), (moments[2:], r"none.*'continued_tr")):
        state = TrainingState(100, 100, "Adam", optimizer, moments=some)
        with pytest.raises(InvalidInputError, match=match):
            gu.unlearn(model, data, gu.ForgetNodes(count=3), "replay", "node_classification", training=state)


def test_it_does_what_it_names():
    model, data = classifier()
    request = gu.ForgetNodes(count=3)
    result = gu.unlearn(model, data, request, "auto", "node_classification", seed=4, weight_decay=0.1)
    named = gu.unlearn(model, data, request, result.notes["chosen"], "node_classification", seed=4, weight_decay=0.1)
    assert same_weights(result.model, named.model)
    assert not same_weights(result.model, model)  # control
    assert result.notes["why"].startswith("'auto' chose 'continued_training', because it comes nearest to retraining")


def test_a_request_of_another_kind_is_a_method_s_own_refusal():
    torch.manual_seed(0)
    result = gu.unlearn(trained_model(), make_data(), gu.ForgetNodes(count=2), "auto")
    assert result.notes["chosen"] == "continued_training"
