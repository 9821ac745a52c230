"""Each rule of `auto`, and that it does what the method it names does."""

import pytest
import torch

import gunlearn as gu
from gunlearn.errors import GunlearnError, InvalidInputError
from gunlearn.methods import Auto, fit_linear_head
from gunlearn.nn import LinearHead
from gunlearn.tasks.sampling import BatchOptions
from gunlearn.training.minimised_loss import training_losses
from gunlearn.training.training_state import Moment, TrainingState
from tests.methods.cases import make_data, same_weights, trained_model
from tests.methods.forgetting import classifier


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
    result = gu.unlearn(model, data, request, "auto", task, optimizer=source, budget=0.3)
    named = gu.unlearn(model, data, request, "continued_training", task, optimizer=source, at_most=0.3)
    assert (result.notes["chosen"], result.notes["start"]) == ("continued_training", "the state of the training")
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
        ("auto", {"optimizer": "adam"}, r"that trained the model.*'continued_training'"),
        ("auto", {"optimizer": {"lr": 1}}, "'state' and 'param_groups'"),
        ("replay", {"optimizer": source}, r"training=, what gunlearn\.KeepState kept or a folder of checkpoints"),
        *((method, {"training": source}, "as optimizer=") for method in ("auto", "replay", "continued_training")),
    ):
        with pytest.raises(GunlearnError, match=match):
            gu.unlearn(model, data, request, method, task, **options)


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
    module = "gunlearn.methods.any_task.training_budget"
    monkeypatch.setattr(f"{module}._TRACE", most)
    monkeypatch.setattr(f"{module}._MANY", nodes)
    model, data = classifier()
    result = gu.unlearn(model, data, request_, "continued_training", "node_classification", training_steps=400)
    assert (result.epochs + result.notes["passes"] <= 12) is brief
    unknown = gu.unlearn(model, data, request_, "continued_training", "node_classification")
    assert (unknown.epochs + unknown.notes["passes"] <= 12) is brief
    given = gu.unlearn(model, data, request_, "continued_training", "node_classification", steps=20)
    assert given.epochs == 20  # whoever asks for more gets it


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
