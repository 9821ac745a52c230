"""Figures of a link predictor, recomputed from the models' outputs with numpy, scikit-learn and scipy."""

import copy
import itertools

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import nn
from torch_geometric.data import Data
from torch_geometric.nn import GCNConv
from torch_geometric.utils import to_undirected

from gunlearn.errors import InvalidInputError, UnsupportedMethodError, UnsupportedModelError
from gunlearn.metrics import ForgetAP, ForgetAUC, LinkEvaluator
from gunlearn.requests import ForgetEdges
from gunlearn.tasks import ImageClassification, LinkPrediction, link_split

NUM_NODES = 40
SETS = ("forget", "test", "retain")


class Model(nn.Module):
    """Dropout and batch norm, so that a forgotten `eval()` shows."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.norm, self.out = GCNConv(5, 8), nn.BatchNorm1d(8), GCNConv(8, 4)
        self.drop, self.read = nn.Dropout(0.5), []

    def forward(self, x, edge_index):
        self.read.append(edge_index)
        return 2 * self.out(self.drop(self.norm(self.conv(x, edge_index)).relu()), edge_index)


def partition(split=True, forget=8):
    generator = torch.Generator().manual_seed(0)
    index = torch.randint(NUM_NODES, (2, 160), generator=generator)
    index = to_undirected(index[:, index[0] != index[1]], num_nodes=NUM_NODES)
    data = Data(x=torch.randn(NUM_NODES, 5, generator=generator), edge_index=index)
    data = link_split(data, 0.1, 0.1) if split else data
    return ForgetEdges(count=forget).resolve(data)


PARTITION = partition()


def logits(model, part=PARTITION, full_graph=False):
    """Scores of each set in numpy, on the graph given."""
    data = part.data if full_graph else part.retain_data
    with torch.no_grad():
        z = copy.deepcopy(model).eval()(data.x, data.edge_index).double().numpy()
    pairs = {"forget": part.forget_edge_index, "retain": part.retain_edge_index}
    if "test_pos_edge_index" in data:
        pairs["test_pos"], pairs["test_neg"] = data.test_pos_edge_index, data.test_neg_edge_index
    return {name: (z[index[0].numpy()] * z[index[1].numpy()]).sum(1) for name, index in pairs.items()}


def probabilities(model, part=PARTITION):
    score = {name: 1 / (1 + np.exp(-value)) for name, value in logits(model, part).items()}
    if "test_pos" in score:
        score["test"] = np.r_[score.pop("test_pos"), score.pop("test_neg")]
    return score


def js(p, q):
    """Mean of scipy's distance, squared: the divergence in nats."""
    return np.mean([jensenshannon([a, 1 - a], [b, 1 - b]) ** 2 for a, b in zip(p, q, strict=True)])


def expected_row(model, references, draws=5, seed=0, part=PARTITION):
    """All figures, from the definitions; `None` where there is nothing to compute them from."""
    score, p = logits(model, part), probabilities(model, part)
    row = dict.fromkeys(("retain_auc", "retain_ap", "mia_auc"))
    if "test_pos" in score:
        member = np.r_[np.ones(len(score["forget"])), np.zeros(len(score["test_pos"]))]
        row["mia_auc"] = roc_auc_score(member, np.r_[score["forget"], score["test_pos"]])
        label = np.r_[np.ones(len(score["test_pos"])), np.zeros(len(score["test_neg"]))]
        both = np.r_[score["test_pos"], score["test_neg"]]
        row |= {"retain_auc": auc_of_test_edges(score), "retain_ap": average_precision_score(label, both)}
    generator, drawn = torch.Generator().manual_seed(seed), []
    number = len(score["forget"])
    label = np.r_[np.ones(number), np.zeros(number)]
    for _ in range(draws):
        chosen = torch.randperm(len(score["retain"]), generator=generator)[:number].numpy()
        both = np.r_[score["retain"][chosen], score["forget"]]
        drawn.append((roc_auc_score(label, both), average_precision_score(label, both)))
    row["forget_auc"], row["forget_ap"] = np.mean(drawn, axis=0)
    row["forget_prob"], row["retain_prob"] = p["forget"].mean(), p["retain"].mean()
    q = [probabilities(reference, part) for reference in references]
    others = [b for reference, b in zip(references, q, strict=True) if reference is not model]
    for name in SETS:
        has = name in p
        row[f"js_{name}"] = np.mean([js(p[name], b[name]) for b in others]) if others and has else None
        pairs = [js(a[name], b[name]) for a, b in itertools.combinations(q, 2)] if has else []
        row[f"js_floor_{name}"] = np.mean(pairs) if pairs else None
    aucs = [auc_of_test_edges(logits(reference, part)) for reference in references]
    gaps = [abs(a - b) for a, b in itertools.combinations(aucs, 2) if a is not None]
    row["utility_floor"] = np.mean(gaps) if gaps else None
    return row


def auc_of_test_edges(score):
    if "test_pos" not in score:
        return None
    label = np.r_[np.ones(len(score["test_pos"])), np.zeros(len(score["test_neg"]))]
    return roc_auc_score(label, np.r_[score["test_pos"], score["test_neg"]])


def assert_rows(found, expected):
    """Also that what nothing was measured for is `None`, not 0."""
    measured = {name: value for name, value in expected.items() if value is not None}
    assert {name: value for name, value in found.items() if value is not None} == pytest.approx(
        measured, rel=1e-4, abs=1e-7
    )
    assert found.keys() == expected.keys()
    assert all(type(found[name]) is float for name in measured)


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_all_figures(number):
    references, model = [Model(seed + 1) for seed in range(number)], Model(0)
    evaluator = LinkEvaluator(LinkPrediction(), PARTITION, references, seed=number)
    row = evaluator.row(model)
    expected = expected_row(model, references, seed=number)
    assert_rows(row, expected)
    one_draw = expected_row(model, references, draws=1, seed=number)
    for figure in (ForgetAUC(draws=1), ForgetAP(draws=1)):
        assert figure.compute(evaluator.view(model)) == pytest.approx(one_draw[figure.name], rel=1e-4)
    assert (row["js_forget"] is None, row["js_floor_forget"] is None) == (number == 0, number < 2)
    if number >= 2:  # the controls are not zero themselves
        assert min(row[f"js_{name}"] for name in SETS) > 1e-3
        assert min(row[f"js_floor_{name}"] for name in SETS) > 1e-3
    # The references' own rows: never compared with themselves, which would be a distance of 0.
    for reference in references:
        own = evaluator.row(reference)
        assert_rows(own, expected_row(reference, references, seed=number))
        assert (own["js_forget"] is None) == (number == 1)


def test_floor_is_the_distance_of_two_references():
    a, b = Model(1), Model(2)
    evaluator = LinkEvaluator(LinkPrediction(), PARTITION, [a, b])
    row = evaluator.row(a)
    assert all(row[f"js_{name}"] == row[f"js_floor_{name}"] for name in SETS)
    # A copy of a reference is compared with the other alone: half a floor would make it look better than retraining.
    twin = evaluator.row(copy.deepcopy(a))
    assert twin["js_forget"] == pytest.approx(row["js_floor_forget"], rel=1e-6)
    # Two references of one seed would give a floor of 0, against which nothing looks close.
    for same in (a, copy.deepcopy(a)):
        with pytest.raises(InvalidInputError, match="different seeds"):
            LinkEvaluator(LinkPrediction(), PARTITION, [a, b, same])


def test_data_without_test_edges():
    part, model, references = partition(split=False), Model(0), [Model(1), Model(2)]
    row = LinkEvaluator(LinkPrediction(), part, references).row(model)
    assert_rows(row, expected_row(model, references, part=part))
    absent = {"retain_auc", "retain_ap", "mia_auc", "js_test", "js_floor_test", "utility_floor"}
    assert {name for name, value in row.items() if value is None} == absent


def test_models_read_the_retained_graph():
    # With the forgotten edges in the message graph, a model is not one that forgot.
    reference, model = Model(1), Model(0)
    evaluator = LinkEvaluator(LinkPrediction(), PARTITION, [reference])
    evaluator.row(model)
    for m in (reference, model):
        assert all(torch.equal(edge_index, PARTITION.retain_data.edge_index) for edge_index in m.read)
    view, full = evaluator.view(model), evaluator.view(model, full_graph=True)
    p, q = view.probability("forget"), full.probability("forget")
    assert torch.equal(model.read[-1], PARTITION.data.edge_index)
    np.testing.assert_allclose(p, probabilities(model)["forget"], rtol=1e-5)
    whole = 1 / (1 + np.exp(-logits(model, full_graph=True)["forget"]))
    np.testing.assert_allclose(q, whole, rtol=1e-5)
    assert not torch.allclose(p, q, atol=1e-3)
    assert p.shape == (PARTITION.num_forget,)
    assert view.probability("retain").shape == (PARTITION.num_retain,)
    model.read.clear()
    assert [view[name] for name in evaluator.figures if not evaluator.figures[name].of_run]
    assert model.read == []  # a view asks its model once


def test_the_model_is_left_as_it_was():
    model, reference = Model(0).train(), Model(1).train()
    model.drop.eval()
    modes = [m.training for m in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    rng = torch.get_rng_state()
    evaluator = LinkEvaluator(LinkPrediction(), PARTITION, [reference])
    first = evaluator.row(model)
    assert [m.training for m in model.modules()] == modes
    assert all(m.training for m in reference.modules())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())  # batch norm's too
    assert torch.equal(torch.get_rng_state(), rng)
    assert evaluator.row(model) == first  # dropout is off
    assert_rows(first, expected_row(model, [reference]))

    class Failing(Model):
        def forward(self, x, edge_index):
            raise ZeroDivisionError

    failing = Failing().train()
    with pytest.raises(UnsupportedModelError, match="ZeroDivisionError"):
        evaluator.row(failing)
    assert all(m.training for m in failing.modules())


@pytest.mark.parametrize("where", ["all", "retain", "forget", "test"])
def test_a_broken_model_raises_instead_of_scoring(where):
    class Broken(Model):
        def forward(self, x, edge_index):
            return super().forward(x, edge_index) * mask

    index = {
        "all": torch.arange(NUM_NODES),
        "retain": PARTITION.retain_edge_index[0, :1],
        "forget": PARTITION.forget_edge_index[0, :1],
        "test": PARTITION.data.test_neg_edge_index[0, :1],
    }[where]
    mask = torch.ones(NUM_NODES, 1).index_fill(0, index, float("nan"))
    evaluator = LinkEvaluator(LinkPrediction(), PARTITION, [Model(1), Model(2)])
    with pytest.raises(InvalidInputError, match="NaN"):
        evaluator.row(Broken())
    view = evaluator.view(Broken())
    assert not view.is_finite
    with pytest.raises(InvalidInputError, match="NaN"):
        assert [view[f"js_{name}"] for name in SETS]
    mask = torch.ones(NUM_NODES, 1)
    assert evaluator.row(Broken())["forget_auc"] is not None  # control


def test_ranks_do_not_end_where_probabilities_saturate():
    class Fixed(nn.Module):
        def forward(self, x, edge_index):
            return x

    # Retained edges score 100, forgotten ones 50: both have probability 1 in float64.
    index = torch.tensor([[0, 2, 4, 6], [1, 3, 5, 7]])
    x = torch.tensor([50.0, 50.0, 50.0, 50.0, 100.0, 100.0, 100.0, 100.0]).sqrt().view(-1, 1)
    data = Data(x=x, edge_index=to_undirected(index))
    part = ForgetEdges(index[:, :2]).resolve(data)
    evaluator = LinkEvaluator(LinkPrediction(), part)
    assert evaluator.view(Fixed()).probability("forget").tolist() == [1.0, 1.0]
    row = evaluator.row(Fixed())
    assert (row["forget_auc"], row["forget_ap"]) == (1.0, 1.0)
    assert (row["forget_prob"], row["retain_prob"]) == (1.0, 1.0)


def test_only_link_prediction():
    with pytest.raises(UnsupportedMethodError, match="link prediction"):
        LinkEvaluator(ImageClassification(), PARTITION)
