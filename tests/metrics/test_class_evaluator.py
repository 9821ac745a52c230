"""The evaluator of classifiers against scikit-learn and scipy, and what it must not read."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from sklearn.metrics import accuracy_score, roc_auc_score
from torch import nn
from torch.utils.data import Dataset
from torch_geometric.data import Data

import gunlearn as gu
from gunlearn.errors import UnsupportedMethodError
from gunlearn.metrics import ClassEvaluator, evaluator
from gunlearn.tasks.items.tables import as_table


@pytest.fixture(scope="module")
def problem():
    data = gu.node_split(gu.load("karate"), 0.2, 0.3, seed=0)
    partition = gu.ForgetNodes(count=5, seed=2).resolve(data)
    models = []
    for seed in range(3):
        torch.manual_seed(seed)
        models.append(gu.GCN(data.num_features, 8, int(data.y.max()) + 1))
    return data, partition, models


def softmax(model, data):
    with torch.no_grad():
        return model(data.x, data.edge_index).double().softmax(-1).numpy()


def js(p, q):
    return float(np.mean([jensenshannon(a, b) ** 2 for a, b in zip(p, q, strict=True)]))


def expected_row(y, sets, before, after):
    """Figures of a model and two references, from their probabilities on the original graph and on the retained one."""
    row = {}
    for name, at in sets.items():
        p, q, r = ((before if name == "forget" else after)[k][at] for k in range(3))
        row[f"{name}_acc"] = accuracy_score(y[at], p.argmax(1))
        row |= {f"js_{name}": (js(p, q) + js(p, r)) / 2, f"js_floor_{name}": js(q, r)}
    gone, test, p = sets["forget"], sets["test"], before[0]
    row["forget_prob"] = p[gone, y[gone]].mean()
    aucs, counts = [], []
    for label in np.unique(y[gone]):
        member, other = gone[y[gone] == label], test[y[test] == label]
        if len(other):
            score = np.r_[p[member, label], p[other, label]]
            aucs.append(roc_auc_score(np.r_[np.ones(len(member)), np.zeros(len(other))], score))
            counts.append(len(member))
    row["mia_auc"] = np.average(aucs, weights=counts)
    return row


def test_figures_against_scikit_learn(problem):
    data, partition, models = problem
    row = ClassEvaluator(gu.NodeClassification(), partition, models[1:]).row(models[0])
    retain = partition.retain_data
    masks = {"retain": retain.train_mask, "test": retain.test_mask}
    sets = {"forget": partition.forget_nodes} | {name: mask.nonzero().view(-1) for name, mask in masks.items()}
    before, after = ([softmax(m, graph) for m in models] for graph in (data, retain))
    expected = expected_row(data.y.numpy(), {name: at.numpy() for name, at in sets.items()}, before, after)
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-4)


class Table(nn.Module):
    """Says of each node what it was told to."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
        return self.logits


def test_the_attack_sees_who_is_remembered(problem):
    """An attack that compares a model with itself would call every model private."""
    data, partition, _ = problem
    surer = torch.nn.functional.one_hot(data.y, int(data.y.max()) + 1).float()
    remembers, blank = surer.clone(), surer.clone()
    remembers[partition.forget_nodes] *= 9
    rows = [ClassEvaluator(gu.NodeClassification(), partition).row(Table(t)) for t in (remembers, blank, -remembers)]
    assert [row["mia_auc"] for row in rows] == [1.0, 0.5, 0.0]
    assert [row["forget_acc"] for row in rows] == [1.0, 1.0, 0.0]
    assert rows[0]["js_forget"] is None  # nothing to compare with, so nothing is claimed


def test_edge_requests_are_judged_on_the_end_points(problem):
    data, _, (model, *_) = problem
    partition = gu.ForgetEdges(count=3, seed=0).resolve(data)
    row = ClassEvaluator(gu.NodeClassification(), partition).row(model)
    ends = partition.touched_nodes.numpy()
    after = softmax(model, partition.retain_data)
    assert row["forget_acc"] == pytest.approx(accuracy_score(data.y.numpy()[ends], after[ends].argmax(1)))
    assert row["mia_auc"] is None  # an edge is no member


def test_an_evaluator_for_every_task_with_one(problem):
    _, partition, _ = problem
    assert isinstance(evaluator(gu.NodeClassification(), partition), ClassEvaluator)

    class Words(gu.ImageClassification):
        name = "words"

    with pytest.raises(UnsupportedMethodError, match="got 'words'"):
        evaluator(Words(), partition)


class Pairs(Dataset):
    def __init__(self, pairs: list) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, i: int) -> tuple:
        return self.pairs[i]


def test_independent_items(monkeypatch):
    """Figures of a classifier of rows, from its logits by hand; items may come in several batches."""
    torch.manual_seed(0)
    data = Data(x=torch.randn(90, 4), y=torch.arange(90) % 3)
    data.test_mask = torch.arange(90) >= 60
    partition = gu.ForgetItems(count=12, seed=1).resolve(data)
    model, a, b = (nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)).train() for _ in range(3))
    monkeypatch.setattr("gunlearn.tasks.items.array_parts.ROWS_READ", 7)
    row = evaluator(gu.ImageClassification(), partition, [a, b]).row(model)
    assert model.training
    with torch.no_grad():
        probabilities = [m.eval()(data.x).double().softmax(-1).numpy() for m in (model, a, b)]
    masks = {"forget": partition.forget_mask, "retain": partition.retain_mask, "test": data.test_mask}
    sets = {name: mask.nonzero().view(-1).numpy() for name, mask in masks.items()}
    assert len(sets["retain"]) == 48
    expected = expected_row(data.y.numpy(), sets, probabilities, probabilities)
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    pairs = list(zip(data.x, data.y.tolist(), strict=True))  # a map-style data set: items are loaded batch by batch
    table = SimpleNamespace(**{**vars(partition), "data": as_table(Pairs(pairs)), "forgets": ("items",)})
    loaded = evaluator(gu.ImageClassification(), table, [a, b]).row(model)
    same = ("forget_acc", "retain_acc", "forget_prob", "js_forget", "js_floor_retain")
    assert [loaded[name] for name in same] == pytest.approx([row[name] for name in same])
    assert loaded["test_acc"] is None
    del data.test_mask
    row = evaluator(gu.ImageClassification(), gu.ForgetItems(count=12, seed=1).resolve(data)).row(model)
    assert row["forget_acc"] is not None
    assert [row[name] for name in ("test_acc", "mia_auc", "js_test", "js_forget")] == [None] * 4
