"""Functional alignment of classifiers and of models of edges: closed forms, sampled labels, intervals of the gain."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

import gunlearn as gu
from gunlearn.errors import InvalidInputError
from gunlearn.metrics import (
    ALIGNMENT,
    Standing,
    bernoulli_alignment,
    categorical_alignment,
    evaluator,
    prediction_standing,
)
from gunlearn.metrics.alignment import bootstrap, gain_interval
from tests.metrics.cases import problem, view_of

TASKS = ("link_prediction", "node_classification", "image_classification")


def by_hand(p, q):
    """`(p - q) (log p - log q)`, summed over the outcomes: both divergences in one formula."""
    return ((p.exp() - q.exp()) * (p - q)).sum(-1)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("part", ["forget", "test", "retain"])
def test_both_ways_in_one_formula(task, part):
    view = view_of(task)

    def outcomes(one):
        shown = one.shown(part)
        if shown.dim() == 1:
            shown = torch.stack([nn.functional.logsigmoid(shown), nn.functional.logsigmoid(-shown)], 1)
        return shown.log_softmax(-1)

    own, (a, b), before = outcomes(view), map(outcomes, view.references), outcomes(view.problem.untouched)
    found = prediction_standing(view, part)
    assert found.value == pytest.approx(float((by_hand(own, a) + by_hand(own, b)).mean() / 2))
    assert found.floor == pytest.approx(float(by_hand(a, b).mean()))
    assert found.original == pytest.approx(float((by_hand(before, a) + by_hand(before, b)).mean() / 2))
    assert found.gain == pytest.approx(1 - found.value / found.original)
    low, high = found.gain_interval
    assert low <= found.gain <= high


def test_sampled_labels_give_the_closed_form():
    """Brute force: labels drawn from each model, scored by both."""
    generator = torch.Generator().manual_seed(0)
    p, q = torch.randn(2, 6, 4, generator=generator, dtype=torch.float64)
    p, q = p.log_softmax(-1), (3 * q).log_softmax(-1)

    def drawn(own, other):
        label = torch.multinomial(own.exp(), 20_000, replacement=True, generator=generator)
        ratio = own.gather(1, label) - other.gather(1, label)
        return float(ratio.mean()), float((ratio.var(1) / label.size(1)).sum().sqrt() / len(own))

    found = categorical_alignment(p, q)
    for half, (mean, error) in ((found.precision, drawn(p, q)), (found.recall, drawn(q, p))):
        assert abs(half - mean) < 4 * error
    assert abs(found.precision - drawn(q, p)[0]) > 8 * error  # control: the other half is another number
    edge = bernoulli_alignment(p[:, 0] - p[:, 1], q[:, 0] - q[:, 1])
    two = categorical_alignment(p[:, :2].log_softmax(-1), q[:, :2].log_softmax(-1))
    assert (edge.precision, edge.recall) == pytest.approx((two.precision, two.recall))
    assert torch.allclose(edge.items, two.items)


def test_far_logits_are_compared_where_probabilities_are_1():
    found = bernoulli_alignment(torch.tensor([60.0, 800.0]).double(), torch.tensor([90.0, 800.0]).double())
    assert 0 < found.precision < 1e-20
    far = bernoulli_alignment(torch.tensor([-1000.0]), torch.tensor([1000.0]))
    assert far.value == pytest.approx(2000)


def test_the_interval_of_the_gain_draws_both_models_items_together():
    generator = np.random.default_rng(0)
    original = generator.gamma(2.0, size=60)
    items = 0.5 * original + 0.01 * generator.random(60)  # nearly one ratio on every item
    low, high = gain_interval(torch.tensor(items), torch.tensor(original))
    chosen = generator.integers(60, size=(4000, 60))
    expected = np.quantile(1 - items[chosen].mean(1) / original[chosen].mean(1), [0.025, 0.975])
    assert (low, high) == pytest.approx(expected, abs=2e-4)
    apart = np.quantile(1 - items[chosen].mean(1) / original[generator.permutation(chosen)].mean(1), [0.025, 0.975])
    assert high - low < 0.2 * (apart[1] - apart[0])  # control: draws apart
    zero = torch.zeros(3)
    assert gain_interval(zero, zero) is None
    assert gain_interval(zero[:1], zero[:1]) is None
    with pytest.raises(InvalidInputError, match="the same items"):
        gain_interval(zero, zero[:2])


def test_draws_in_pieces_are_those_at_once(monkeypatch):
    items = torch.rand(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = bootstrap(items), gain_interval(items, items + 1)
    monkeypatch.setattr("gunlearn.metrics.alignment.MOST_DRAWN", 130)
    assert (bootstrap(items), gain_interval(items, items + 1)) == whole


@pytest.mark.parametrize("task", TASKS)
def test_evaluate_shows_the_alignment_on_demand(task, tmp_path):
    result, references = problem(task)
    assert not set(ALIGNMENT) & set(gu.evaluate(result, references=references))
    found = gu.evaluate(result, references=references, metrics=ALIGNMENT)
    assert found["gain_low_forget"] <= found["gain_forget"] <= found["gain_high_forget"]
    assert found["alignment_floor_forget"] > 0
    assert "alignment forget" in str(found)
    assert "gain forget, low" in found.report(tmp_path / "r.html").read_text()
    first, second = (row for row in found.rows if row["method"] == "retrain")
    assert first["alignment_forget"] == pytest.approx(found["alignment_floor_forget"])  # compared with the other alone
    assert second["alignment_forget"] == pytest.approx(first["alignment_forget"])
    utu = [row for row in found.rows if row["method"] == "utu"]
    assert all(row["gain_forget"] == row["gain_low_forget"] == row["gain_high_forget"] == 0 for row in utu)
    assert found.rows[0]["gain_forget"] != 0  # the control


def test_a_model_halfway_to_retraining_gains_and_one_beyond_the_original_loses():
    result, references = problem("image_classification")
    made = evaluator(result.task, result.partition, references[:1])
    made.original = result.original

    def mixed(share):
        model = copy.deepcopy(result.original)
        with torch.no_grad():
            for own, other in zip(model.parameters(), references[0].parameters(), strict=True):
                own += share * (other - own)
        return prediction_standing(made.view(model), "forget")

    assert mixed(-0.5).gain < 0 < mixed(0.5).gain < 1
    assert mixed(0.0).gain == 0
    assert (mixed(0.5).floor, mixed(0.5).excess) == (None, None)


def test_an_infinite_distance_has_no_gain():
    found = categorical_alignment(torch.tensor([[0.0, -math.inf]]), torch.zeros(1, 2))
    assert found.value == math.inf
    assert Standing.of([found], None, [found]).gain is None
    assert Standing.of([found], None, [categorical_alignment(torch.ones(1, 2), torch.zeros(1, 2))]).gain is None


def test_intervals_are_drawn_only_for_figures_that_show_them(monkeypatch):
    def drawn(*args, **kwargs):
        raise AssertionError

    for name in ("bootstrap", "gain_interval"):
        monkeypatch.setattr(f"gunlearn.metrics.standing.{name}", drawn)
    view = view_of("image_classification", metrics=ALIGNMENT)
    assert all(isinstance(view[name], float) for name in ALIGNMENT if "_low_" not in name and "_high_" not in name)
    with pytest.raises(AssertionError):
        _ = view["gain_low_forget"]
