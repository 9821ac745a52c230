"""Each rule of `auto`, and that it does what the method it names does."""

import pytest
import torch

import gunlearn as gu
from gunlearn.errors import InvalidInputError
from gunlearn.methods import Auto, fit_linear_head
from gunlearn.nn import LinearHead
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
    assert "weight decay" in result.notes["lacks"]
    assert "learning rate" not in result.notes["lacks"]


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
