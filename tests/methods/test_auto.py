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
    assert chosen(model, data, few, "node_classification") == "finetune"
    assert chosen(model, data, edges, "node_classification") == "finetune"
    assert chosen(model, data, many, "node_classification") == "retrain"
    assert chosen(model, data, few, "node_classification", budget=1.0) == "retrain"
    assert chosen(model, data, few, "node_classification", budget=0.01) == "utu"
    head = LinearHead(data.num_features, int(data.y.max()) + 1)
    assert chosen(head, data, few, "node_classification") == "finetune"  # nothing to certify: trained in another way
    assert chosen(fit_linear_head(head, data), data, few, "node_classification") == "cgu"
    links = make_data()
    assert links.val_pos_edge_index.size(1) >= 30
    assert chosen(model, links, edges, "link_prediction") == "inpo"
    assert chosen(model, links, edges, "link_prediction", budget=0.2) == "finetune"
    assert chosen(torch.nn.Linear(8, 4), links, edges, "link_prediction") == "finetune"  # nothing to attach to
    unlearned = gu.ForgetNodes(data.test_mask.nonzero().view(-1)[:2])
    assert chosen(model, data, unlearned, "node_classification") == "finetune"
    del links.val_pos_edge_index
    assert chosen(model, links, edges, "link_prediction") == "finetune"
    with pytest.raises(InvalidInputError, match="budget"):
        Auto(budget=0)


def test_it_does_what_it_names():
    model, data = classifier()
    request = gu.ForgetNodes(count=3)
    result = gu.unlearn(model, data, request, "auto", "node_classification", seed=4, weight_decay=0.1)
    named = gu.unlearn(model, data, request, result.notes["chosen"], "node_classification", seed=4, weight_decay=0.1)
    assert same_weights(result.model, named.model)
    assert not same_weights(result.model, model)  # control
    assert result.notes["why"] == "'auto' chose 'finetune', because the task is a classification."


def test_a_request_of_another_kind_is_a_method_s_own_refusal():
    torch.manual_seed(0)
    result = gu.unlearn(trained_model(), make_data(), gu.ForgetNodes(count=2), "auto")
    assert result.notes["chosen"] == "finetune"
