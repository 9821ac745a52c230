"""Forgotten edges are drawn to the scores that retraining is expected to give them, and nothing else is."""

import copy
from functools import cache
from typing import Any

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

import gunlearn as gu
from gunlearn.errors import InvalidInputError
from gunlearn.requests.base import Partition
from gunlearn.tasks import LinkPrediction
from gunlearn.tasks.graph.retrained_scores import retrained_scores
from tests.methods.cases import same_weights

REQUEST = gu.ForgetEdges(count=8, seed=0)


@cache
def trained() -> tuple[Any, gu.Result]:
    data = gu.link_split(gu.load("lesmis"), 0.15, 0.1, seed=0)
    torch.manual_seed(0)
    model = gu.GCN(data.num_features, 16, 8).double()
    data.x = data.x.double()
    return data, gu.train(model, data, "link_prediction", epochs=400, lr=1e-2, eval_every=400)


def forgotten(model: Any, data: Any, partition: Partition) -> torch.Tensor:
    kept = partition.retain_data
    z = model.eval()(kept.x, kept.edge_index)
    a, b = partition.forget_edge_index
    return (z[a] * z[b]).sum(-1)


@pytest.mark.parametrize("batch", [None, 400])
def test_it_adds_the_divergence_from_expected_scores_to_a_step(batch: int | None) -> None:
    data, base = trained()
    partition, weight, lr = REQUEST.resolve(data), 0.7, 0.1
    steps: dict[str, Any] = {"optimizer": torch.optim.SGD, "lr": lr, "weight_decay": 0.0, "steps": 1, "shrink": 0.999}
    one, two = (
        gu.unlearn(base.model, data, REQUEST, "continued_training", batch_size=batch, unseen_weight=w, **steps).model
        for w in (weight, 0.0)
    )
    model = copy.deepcopy(base.model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.999 if parameter.dim() > 1 else 1)
    target = retrained_scores(LinkPrediction(), base.model.eval(), partition).sigmoid()
    score = forgotten(model, data, partition)
    gradient = torch.autograd.grad(binary_cross_entropy_with_logits(score, target), list(model.parameters()))
    for a, b, g in zip(one.parameters(), two.parameters(), gradient, strict=True):
        torch.testing.assert_close(a - b, -lr * weight * g, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("method", ["continued_training", "replay"])
def test_forgotten_edges_come_nearer_to_their_expected_scores(method: str) -> None:
    data, base = trained()
    partition = REQUEST.resolve(data)
    target = retrained_scores(LinkPrediction(), base.model.eval(), partition)
    far = {}
    for weight in (0.0, 2.0):
        result = gu.unlearn(base.model, data, REQUEST, method, training=base, budget=0.2, unseen_weight=weight)
        assert result.notes["unseen_weight"] == weight
        score = forgotten(result.model, data, partition)
        far[weight] = float((score.sigmoid() - target.sigmoid()).abs().mean().detach())
    assert far[2.0] < 0.7 * far[0.0]  # control: the same steps without it


def test_where_nothing_says_how_unseen_items_score_it_is_left_out() -> None:
    data, base = trained()
    few = data.clone()
    few.val_pos_edge_index = few.val_pos_edge_index[:, :29]
    nodes = gu.ForgetNodes(count=2, seed=0)
    for graph, request in ((few, REQUEST), (data, nodes)):
        one, two = (
            gu.unlearn(base.model, graph, request, "continued_training", training=base, unseen_weight=w)
            for w in (0.5, 0.0)
        )
        assert one.notes["unseen_weight"] == 0
        assert same_weights(one.model, two.model)
    for method in ("continued_training", "replay"):
        with pytest.raises(InvalidInputError, match="unseen_weight"):
            gu.unlearn(base.model, data, REQUEST, method, training=base, unseen_weight=-1.0)


@pytest.mark.parametrize("method", ["continued_training", "replay"])
def test_random_parts_of_the_graph_are_read_without_it(method: str) -> None:
    data, _ = trained()
    torch.manual_seed(0)
    reading: dict[str, Any] = {"batch_size": 40, "sampler": "random_node"}
    model = gu.GCN(data.num_features, 16, 8).double()
    base = gu.train(model, data, "link_prediction", epochs=10, lr=1e-2, eval_every=10, **reading)
    result = gu.unlearn(base.model, data, REQUEST, method, training=base, budget=0.2)
    assert result.notes["unseen_weight"] == 0
    assert result.epochs > 0
