"""A run that left every weight as it was says so, and why; one that moved any does not."""

import copy

import pytest
import torch
from torch import nn

import gunlearn as gu
from gunlearn.methods import Callback, Outcome, run_method
from gunlearn.methods.base import Method
from gunlearn.report import text_table
from gunlearn.training.callbacks import TrainState
from gunlearn.training.unchanged import remark_unchanged
from tests.methods.cases import make_data, same_weights, trained_model
from tests.methods.forgetting import classifier


class Stop(Callback):
    def on_train_begin(self, args, state, control, **kwargs):
        control.should_training_stop = True


class Nothing(Method):
    name = "nothing"

    def run(self, problem):
        return Outcome(problem.model)

    def config(self):
        return {}


def still(parameters):
    """An optimiser whose steps have no length."""
    return torch.optim.SGD(parameters, lr=0.0)


RUNS = {
    "by design": (("utu", {}), "by design"),
    "no epoch": (("npo", {"epochs": 0}), "allow no step"),
    "operators of no epoch": (("gnndelete", {"epochs": 0}), "allow no step"),
    "at the target": (("inpo", {"until": "unseen"}), "until='unseen'"),
    "auto without a budget": (("auto", {"budget": 0.005}), "by design"),
    "callback": (("finetune", {"epochs": 3, "callbacks": [Stop()]}), "a callback"),
    "steps of length 0": (("finetune", {"epochs": 3, "optimizer": still}), "3 steps moved none"),
    "a change of 0": ((Nothing(), {}), "change of zero"),
}


@pytest.fixture(scope="module")
def low():
    """A model, its data, and the edges that it scores lowest: nothing is left to push down."""
    data, model = make_data(), trained_model("gcn")
    with torch.no_grad():
        z = model(data.x, data.edge_index)
    u, v = data.train_pos_edge_index
    return model, data, gu.ForgetEdges(data.train_pos_edge_index[:, (z[u] * z[v]).sum(-1).argsort()[:5]])


@pytest.mark.parametrize("run", RUNS)
def test_a_run_that_did_nothing_says_why(run, low, tmp_path):
    model, data, request = low
    (method, options), words = RUNS[run]
    result = gu.unlearn(model, data, request, method, seed=0, **options)
    assert same_weights(result.model, model)
    assert result.unchanged
    assert words in result.notes["why"]
    assert "unchanged" in str(result)
    assert words in str(result)
    assert "unchanged" in str(result.record()["notes"])
    loaded = gu.Result.load(result.save(tmp_path), model)
    assert loaded.unchanged
    assert words in str(loaded)


@pytest.mark.parametrize("method", ["finetune", "npo", "gif", "gnndelete", "ssd"])
def test_a_run_that_moved_weights_does_not(method, low):
    model, data, request = low
    result = gu.unlearn(model, data, request, method, **({} if method in ("gif", "ssd") else {"epochs": 2}))
    assert not result.unchanged
    assert "unchanged" not in str(result) + str(result.notes)


def test_a_training_function_that_returns_the_original(low):
    model, data, request = low
    train = lambda data, seed: copy.deepcopy(model) if data.edge_index.numel() else None  # noqa: E731
    result = gu.unlearn(model, data, request, "retrain", train=train)
    assert "the training function" in result.notes["why"]


def test_a_rewind_to_the_untouched_model():
    model, data = classifier()
    first = gu.unlearn(
        model, data, gu.ForgetNodes(count=3), "scrub_r", "node_classification", epochs=2, lr=1e-9, tie_break="earliest"
    )
    assert first.notes["chosen"] == 0
    assert "original model's error" in first.notes["why"]


def test_nodes_that_nothing_was_learned_from_change_nothing():
    """A test node without neighbours: no training item and no message of any goes."""
    model, data = classifier()
    node = int(data.test_mask.nonzero()[0])
    data = data.clone()
    data.edge_index = data.edge_index[:, (data.edge_index != node).all(0)]
    result = gu.unlearn(model, data, gu.ForgetNodes([node]), "gif", "node_classification")
    assert result.unchanged
    assert "change of zero" in str(result)


def test_training_of_no_epoch_says_so():
    data = make_data()
    torch.manual_seed(0)
    assert "allow no step" in gu.train(gu.GCN(data.num_features), data, epochs=0).notes["why"]
    assert not gu.train(gu.GCN(data.num_features), data, epochs=1).unchanged


def test_a_run_that_kept_the_model_before_its_first_pass_says_so():
    model, state = nn.Linear(2, 2), TrainState(epoch=3, step=3, best_epoch=0, ended="steps")
    assert "of 3 passes the run kept none" in remark_unchanged({}, model, copy.deepcopy(model), state)["why"]


def test_auto_explains_its_choice_in_a_sentence(low):
    model, data, request = low
    why = gu.unlearn(model, data, request, "auto", budget=0.005).notes["why"]
    chosen, unchanged = why.split(". ")
    assert chosen.startswith("'auto' chose 'utu', because ")
    assert unchanged.startswith("The weights are unchanged: ")


def test_the_table_marks_it(low):
    model, data, request = low
    results = [
        gu.unlearn(model, data, request, name, **options)
        for name, options in (("inpo", {"until": "unseen"}), ("utu", {}))
    ]
    found = [gu.evaluate(result) for result in results]
    text, of_utu = map(str, found)
    assert "inpo =" in text
    assert "= unchanged weights" in text
    assert "until='unseen'" in text
    assert found[0]["unchanged"] == results[0].notes["why"]
    assert found[1]["unchanged"]
    assert "= unchanged" not in of_utu  # every legend says what utu is
    moved = gu.evaluate(gu.unlearn(model, data, request, "npo", epochs=1))
    assert moved["unchanged"] is None
    assert "unchanged" not in str(moved)
    rows = [{**found[0].rows[0], "seed": s} for s in (0, 1)]
    assert text_table(rows).count("inpo (default until unseen): The weights") == 1


def test_frozen_models_are_refused():
    model = trained_model("gcn").requires_grad_(False)
    with pytest.raises(gu.errors.InvalidInputError, match="trainable parameters"):
        gu.unlearn(model, make_data(), gu.ForgetEdges(count=3), "finetune", epochs=1)


def test_statistics_alone_are_a_change():
    """Running averages are part of what a model predicts by."""

    class Counting(Nothing):
        def run(self, problem):
            next(m for m in problem.model.modules() if isinstance(m, nn.BatchNorm1d)).running_mean += 1
            return Outcome(problem.model)

    data = make_data()

    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = gu.GCN(data.num_features), nn.BatchNorm1d(64)

        def forward(self, x, edge_index):
            return self.norm(self.conv(x, edge_index))

    task, partition = gu.tasks.as_task("link_prediction"), gu.ForgetEdges(count=3).resolve(data)
    assert not run_method(Counting(), Normed(), partition, task).unchanged
    assert run_method(Nothing(), Normed(), partition, task).unchanged


def test_rows_that_are_reset_do_not_hide_it():
    """A model of one embedding per node: the forgotten node's row is new, and nothing else is."""

    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.emb, self.conv = nn.Embedding(34, 8), gu.GCN(8, 8, 4)

        def forward(self, x, edge_index):
            return self.conv(self.emb.weight, edge_index)

    data = gu.node_split(gu.load("karate"), seed=0)
    data.x = None
    data.num_nodes = 34
    torch.manual_seed(0)
    model, request = Table(), gu.ForgetNodes(data.train_mask.nonzero().view(-1)[:1])
    result = gu.unlearn(model, data, request, "npo", "node_classification", epochs=0)
    assert not same_weights(result.model, model)
    assert (
        "but for entries of what is forgotten in emb.weight that were reset: the settings allow" in result.notes["why"]
    )
    assert result.unchanged
    assert "emb.weight" in str(result)
    assert not gu.unlearn(model, data, request, "npo", "node_classification", epochs=1).unchanged
