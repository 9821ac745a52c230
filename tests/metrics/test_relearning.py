"""What outputs hide: steps to relearn against a loop by hand, membership item by item against scikit-learn."""

import copy
import functools

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

import gunlearn as gu
from gunlearn.core.digest import tensor_digests
from gunlearn.metrics import ItemMembershipAUC, RelearnSteps, evaluator
from gunlearn.metrics.relearning import steps_to_relearn
from gunlearn.tasks import as_task

NODES, LINKS = "node_classification", "link_prediction"


@functools.cache
def problem(task: str, flipped: bool = False):
    """An evaluator of karate that knows the trained model, and three models that never saw what is forgotten."""
    if task == NODES:
        data, request = gu.node_split(gu.load("karate"), 0.2, 0.3), gu.ForgetNodes(count=6, seed=2)
    else:
        data, request = gu.link_split(gu.load("karate"), 0.1, 0.1), gu.ForgetEdges(count=8, seed=2)
    partition, models = request.resolve(data), []
    if flipped:  # what is forgotten was learnt by heart
        data.y[partition.forget_nodes] = (data.y[partition.forget_nodes] + 1) % 4
    for seed in range(4):
        torch.manual_seed(seed)
        fresh, part = gu.GCN(data.num_features, 8, 4), data if not seed else partition.retain_data
        models.append(gu.train(fresh, part, task, epochs=60, lr=3e-2, eval_every=60).model)
    found = evaluator(as_task(task), partition, models[1:])
    found.original = models[0]
    return found, models


def by_hand(task, partition, model, known: float, lr: float) -> int:
    """Steps of Adam on the forgotten items alone, until their mean probability is that of the trained model."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    data = partition.data if task == NODES else partition.retain_data
    nodes, edges = partition.forget_nodes, partition.forget_edge_index

    def outputs():
        z = model(data.x, data.edge_index)
        return z[nodes] if task == NODES else (z[edges[0]] * z[edges[1]]).sum(-1)

    for step in range(300):
        model.eval()
        with torch.no_grad():
            out = outputs().double()
            now = out.softmax(-1)[range(len(out)), data.y[nodes]] if task == NODES else out.sigmoid()
        if float(now.mean()) >= known:
            return step
        model.train()
        optimizer.zero_grad()
        out = outputs()
        loss = cross_entropy(out, data.y[nodes]) if task == NODES else None
        loss = binary_cross_entropy_with_logits(out, torch.ones_like(out)) if loss is None else loss
        loss.backward()
        optimizer.step()
    return 300


@pytest.mark.parametrize(("task", "known"), [(NODES, 0.6), (LINKS, 0.99)])
def test_steps_to_relearn_as_by_hand(task: str, known: float) -> None:
    found, models = problem(task, flipped=task == NODES)
    before = tensor_digests(models[1])
    steps = [steps_to_relearn(found, model, known, 1e-2, 300) for model in models[1:3]]
    assert steps == [by_hand(task, found.partition, model, known, 1e-2) for model in models[1:3]]
    assert min(steps) > 2
    assert tensor_digests(models[1]) == before
    assert steps_to_relearn(found, models[1], known, 1e-6, limit=4) == 4
    assert RelearnSteps().compute(found.view(models[0])) == 0  # it knows as much as before unlearning


def test_a_model_that_only_hides_relearns_faster_than_a_retrained_one() -> None:
    found, models = problem(NODES, flipped=True)
    hiding = copy.deepcopy(models[0])
    with torch.no_grad():
        for parameter in list(hiding.parameters())[-2:]:
            parameter.mul_(0.1)  # all classes look alike
    views = [found.view(model) for model in (models[0], hiding, *models[1:])]
    prob = [view["forget_prob"] for view in views]
    assert prob[1] < 0.6 * prob[0]
    steps = [RelearnSteps(lr=1e-2).compute(view) for view in views]
    assert 0 == steps[0] < steps[1] < min(steps[2:])


def test_edges_are_no_items_of_node_classification() -> None:
    found, models = problem(NODES)
    partition = gu.ForgetEdges(count=5).resolve(found.partition.data)
    other = evaluator(as_task(NODES), partition, models[1:])
    other.original = models[0]
    assert [RelearnSteps().compute(other.view(models[0])), ItemMembershipAUC().compute(other.view(models[0]))] == [
        None,
        None,
    ]


def odds(model, data, index) -> np.ndarray:
    with torch.no_grad():
        p = model(data.x, data.edge_index).double().softmax(-1)[index, data.y[index]]
    return (p.log() - (1 - p).log()).numpy()


@pytest.mark.parametrize("which", [0, 1])
def test_membership_by_item_against_scikit_learn(which: int) -> None:
    """Odds beyond those of the other retrained models, forgotten against test nodes, class by class."""
    found, models = problem(NODES)
    data, others = found.partition.data, [model for model in models[1:] if model is not models[which]]
    sides = found.partition.forget_nodes, data.test_mask.nonzero().view(-1)
    gains = [odds(models[which], data, s) - np.mean([odds(m, data, s) for m in others], axis=0) for s in sides]
    total = weight = 0.0
    for c in data.y[sides[0]].unique():
        forget, unseen = (gain[(data.y[s] == c).numpy()] for gain, s in zip(gains, sides, strict=True))
        if len(unseen):
            truth = [1] * len(forget) + [0] * len(unseen)
            total += len(forget) * roc_auc_score(truth, np.r_[forget, unseen])
            weight += len(forget)
    assert ItemMembershipAUC().compute(found.view(models[which])) == pytest.approx(total / weight)


def test_membership_of_edges_against_scikit_learn() -> None:
    """Logits beyond those of the other retrained models: forgotten edges against test edges, not against non-edges."""
    found, models = problem(LINKS)
    views = [found.view(model) for model in models[1:]]
    sides = [[v.score("forget").double(), v.score("test")[v.label("test") == 1].double()] for v in views]
    for k, view in enumerate(views):
        gains = [
            own - sum(o for i, o in enumerate(others) if i != k) / 2
            for own, others in zip(sides[k], zip(*sides, strict=True), strict=True)
        ]
        truth = [1] * len(gains[0]) + [0] * len(gains[1])
        assert ItemMembershipAUC().compute(view) == pytest.approx(roc_auc_score(truth, np.r_[gains[0], gains[1]]))
