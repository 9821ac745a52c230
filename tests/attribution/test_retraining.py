"""Retraining as the truth: least squares, whose retrained optimum is a closed form, and controls of every figure."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn
from torch_geometric.data import Data

import gunlearn as gu
from gunlearn.attribution import resolve_items
from gunlearn.attribution.training.datamodels import lds, linear_datamodelling_score, random_subsets
from gunlearn.attribution.training.retraining_influence import retraining_influence, target_value, training_data_without
from gunlearn.errors import InvalidInputError, UnsupportedMethodError, UnsupportedModelError
from gunlearn.tasks import NodeClassification
from gunlearn.tasks.graph.node_classification import training_nodes

NUM_NODES = 30


class Linear(nn.Module):
    """Least squares of `t` on `x`, without a graph."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x, edge_index):
        return x @ self.weight


def points(noise=0.3):
    generator = torch.Generator().manual_seed(0)
    data = Data(x=torch.randn(NUM_NODES, 3, generator=generator, dtype=torch.double))
    data.t = data.x @ torch.tensor([[1.0], [2.0], [-1.0]]).double()
    data.t = data.t + noise * torch.randn(NUM_NODES, 1, generator=generator, dtype=torch.double)
    data.y, data.edge_index = torch.zeros(NUM_NODES, dtype=torch.long), torch.tensor([[0, 1], [1, 0]])
    data.train_mask = torch.arange(NUM_NODES) < 24
    return data


def least_squares(data, seed, jitter=0.0):
    x, t = data.x[data.train_mask], data.t[data.train_mask]
    weight = torch.linalg.solve(x.T @ x, x.T @ t)
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    return Linear(weight + jitter * noise)


DATA = points()
ITEMS, _ = resolve_items(DATA, "nodes", torch.arange(24))


def target(outputs):
    return (outputs[24:] - DATA.t[24:]).square().mean()


def closed_form(left_out):
    """The held-out error of least squares without some rows, by Sherman, Morrison and Woodbury, in numpy."""
    x, t = DATA.x[:24].numpy(), DATA.t[:24, 0].numpy()
    inverse = np.linalg.inv(x.T @ x)
    weight = inverse @ x.T @ t
    a = x[left_out]
    residual = t[left_out] - a @ weight
    weight = weight - inverse @ a.T @ np.linalg.solve(np.eye(len(left_out)) - a @ inverse @ a.T, residual)
    return float(np.mean((DATA.x[24:].numpy() @ weight - DATA.t[24:, 0].numpy()) ** 2))


GROUPS = [[0], [1, 2, 3], [5, 23], list(range(10, 20))]


def retrained(train=least_squares, groups=GROUPS, **more):
    given = {"data": DATA, "items": ITEMS, "target": target, "task": "node_classification", "seeds": (0, 1)}
    return retraining_influence(train, groups=groups, **given | more)


def jittered(jitter):
    return lambda data, seed: least_squares(data, seed, jitter)


def test_change_without_a_group_is_the_closed_form():
    found = retrained()
    base = closed_form([])
    expected = torch.tensor([closed_form(group) - base for group in GROUPS]).double()
    torch.testing.assert_close(found.mean, expected)
    torch.testing.assert_close(found.full, torch.full((2,), base).double())
    assert expected.abs().min() > 1e-5  # control: without the masks of the labels nothing would change
    assert found.noise_floor == 0
    assert not found.below_floor.any()
    assert not found.standard_error.any()
    assert [group.tolist() for group in found.groups] == GROUPS


def test_an_effect_below_the_spread_between_seeds_is_flagged():
    def noisy(data, seed):  # another draw for every graph, as of a training that is not paired
        return least_squares(data, seed + 1000 * int(data.train_mask.sum()), jitter=0.03)

    groups, seeds = [[0], [3], list(range(20))], range(20)
    found = retrained(noisy, groups, seeds=seeds)
    exact = [abs(closed_form(group) - closed_form([])) for group in groups]
    spread = np.std(found.full.numpy(), ddof=1)
    assert found.noise_floor == pytest.approx(spread * np.sqrt(2 / 20))
    assert exact[0] < 0.5 * found.noise_floor < 10 * found.noise_floor < exact[2]
    assert bool(found.below_floor[0])
    assert not bool(found.below_floor[2])
    difference = (found.without - found.full).numpy()
    np.testing.assert_allclose(found.mean.numpy(), difference.mean(axis=1))
    np.testing.assert_allclose(found.standard_error.numpy(), difference.std(axis=1, ddof=1) / np.sqrt(20))
    assert (found.mean[2] - exact[2]).abs() < 4 * found.standard_error[2]
    # The same seeds on both sides cancel the noise of the weights that they share.
    paired = retrained(jittered(0.03), groups, task=NodeClassification(), seeds=range(5))
    assert paired.standard_error[0] < 0.5 * found.standard_error[0]


def test_edges_leave_the_graph_and_every_list_of_training_edges():
    data = gu.link_split(gu.load("karate"), 0.1, 0.1)
    items, _ = resolve_items(data, "edges")
    index, seen = torch.tensor([0, 7, 20]), []

    def train(data, seed):
        seen.append(data)
        return gu.GCN(data.num_features, 4, 2)

    found = retraining_influence(train, data, items, [index], "loss", seeds=(0, 1))
    assert found.full[0] != found.full[1]  # the caller's function drew its weights under each seed
    gone = {tuple(sorted(pair)) for pair in items.ids[:, index].t().tolist()}
    for read, removed in zip(seen, (set(), set(), gone, gone), strict=True):
        for edges in (read.edge_index, read.train_pos_edge_index):
            left = {tuple(sorted(pair)) for pair in edges.t().tolist()}
            whole = {tuple(sorted(pair)) for pair in data.edge_index.t().tolist()}
            assert whole - left == removed
        assert torch.equal(read.val_pos_edge_index, data.val_pos_edge_index)
    assert data.num_edges == items.column.numel()  # the caller's own is whole


def test_without_agrees_with_edited_for_one_item():
    data = gu.load("karate")
    data.edge_attr = torch.rand(data.num_edges, 2)
    for of in ("edges", "nodes", "features"):
        items, _ = resolve_items(data, of)
        one, same = items.edited(data, 3), items.without(data, torch.tensor([3]))
        for key in ("x", "edge_index", "edge_attr"):
            assert torch.equal(one[key], same[key])
        two = items.without(data, torch.tensor([3, 4]))
        assert not torch.equal(two.x, one.x) or two.num_edges < one.num_edges


def test_labels_of_nodes_that_leave_are_not_learned_from():
    data = gu.load("karate")
    data.val_mask = torch.arange(data.num_nodes) < 5
    items, _ = resolve_items(data, "nodes")
    task = NodeClassification()
    out = training_data_without(data, items, torch.tensor([2, 9]), task)
    assert set(training_nodes(data).index.tolist()) - set(training_nodes(out).index.tolist()) == {9}
    assert not torch.isin(out.edge_index, torch.tensor([2, 9])).any()
    assert torch.equal(task.validation_items(out).index, task.validation_items(data).index)


def test_message_graph_leaves_the_effect_through_the_weights():
    data = gu.link_split(gu.load("karate"), 0.1, 0.1)
    items, _ = resolve_items(data, "edges")
    fixed = gu.GCN(data.num_features, 4, 2)

    def train(data, seed):
        return fixed if data.edge_index.numel() else None

    full, retain = (
        retraining_influence(train, data, items, [[0, 1]], "loss", seeds=(0, 1), message_graph=name)
        for name in ("full", "retain")
    )
    assert full.mean[0] == 0
    assert bool(full.below_floor[0])
    expected = target_value(fixed, items.without(data, torch.tensor([0, 1])), "loss", "link_prediction")
    assert retain.without[0, 0] == expected != retain.full[0]


@pytest.mark.slow
def test_several_jobs_give_the_same_numbers():
    one, two = (retrained(groups=GROUPS[:2], n_jobs=n) for n in (1, 2))
    assert torch.equal(one.without, two.without)


def test_the_random_state_is_left_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    retrained(lambda data, seed: Linear(torch.randn(data.x.size(1), 1).double()))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"seeds": (0,)}, InvalidInputError, "at least two seeds"),
        ({"seeds": (0, 0)}, InvalidInputError, "at least two seeds"),
        ({"groups": []}, InvalidInputError, "at least one group"),
        ({"groups": [[]]}, InvalidInputError, "empty one"),
        ({"groups": [[0, 24]]}, InvalidInputError, r"in \[0, 24\)"),
        ({"groups": [torch.ones(24, dtype=torch.bool)]}, InvalidInputError, "integer indices"),
        ({"target": "probabilities"}, UnsupportedMethodError, "kind value"),
        ({"target": lambda out: out.sum() / 0}, InvalidInputError, "finite"),
        ({"message_graph": "train"}, InvalidInputError, "message_graph"),
        ({"train": lambda data, seed: None}, UnsupportedModelError, "return a torch module"),
    ],
)
def test_refusals(change, error, message):
    with pytest.raises(error, match=message):
        retrained(**change)


# Linear datamodelling score ###################################################


def test_subsets():
    subsets = random_subsets(40, 0.25, 500, seed=3)
    assert subsets.shape == (500, 40)
    assert set(subsets.sum(dim=1).tolist()) == {10}
    assert (subsets.double().mean(dim=0) - 0.25).abs().max() < 5 * np.sqrt(0.25 * 0.75 / 500)
    assert torch.equal(subsets, random_subsets(40, 0.25, 500, seed=3))
    assert not torch.equal(subsets, random_subsets(40, 0.25, 500, seed=4))
    for alpha, count in ((0.0, 5), (1.0, 5), (0.001, 5), (0.5, 0)):
        with pytest.raises(InvalidInputError, match="leave out some"):
            random_subsets(40, alpha, count)


def test_lds_of_additive_outcomes():
    generator = torch.Generator().manual_seed(0)
    subsets, scores = random_subsets(30, 0.3, 200), torch.randn(30, generator=generator)
    outcomes = (subsets.double() @ scores.double()).exp()  # a monotone function of the sums
    assert linear_datamodelling_score(scores, subsets, outcomes).value == pytest.approx(1)
    assert linear_datamodelling_score(-scores, subsets, outcomes).value == pytest.approx(-1)
    noisy = outcomes.log() + 2 * torch.randn(200, generator=generator, dtype=torch.double)
    found = linear_datamodelling_score(scores, subsets, noisy)
    expected = spearmanr((subsets.numpy() * scores.numpy()).sum(axis=1), noisy.numpy()).statistic
    assert found.value == pytest.approx(expected)
    assert found.interval[0] < found.value < found.interval[1]
    assert 0.3 < found.value < 0.9
    # Scores of other items say nothing: the mean over shuffles is 0 within its error.
    shuffled = [
        linear_datamodelling_score(scores[torch.randperm(30, generator=generator)], subsets, noisy, 1).value
        for _ in range(40)
    ]
    assert abs(np.mean(shuffled)) < 4 * np.std(shuffled) / np.sqrt(40)
    assert linear_datamodelling_score(torch.ones(30), subsets, noisy).value is None  # equal sums rank nothing
    for bad in (scores[1:], scores[None]):
        with pytest.raises(InvalidInputError, match="fit"):
            linear_datamodelling_score(bad, subsets, noisy)
    with pytest.raises(InvalidInputError, match="boolean"):
        linear_datamodelling_score(scores, subsets.long(), noisy)


def test_lds_retrains_without_each_subset():
    truth = lds(least_squares, DATA, ITEMS, target, "node_classification", alpha=0.1, count=60, seed=1)
    expected = [closed_form(subset.nonzero().view(-1).tolist()) for subset in truth.subsets]
    torch.testing.assert_close(truth.outcomes, torch.tensor(expected).double())
    assert truth.noise is None
    base = closed_form([])
    leave_one_out = torch.tensor([closed_form([i]) - base for i in range(24)])
    score = truth.score(leave_one_out)
    assert score.interval[0] > 0.6  # two rows left out of least squares: nearly the sum of both
    assert truth.score(-leave_one_out).value == pytest.approx(-score.value)
    other = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    assert truth.score(leave_one_out[other]).value < score.interval[0]

    given = {"items": ITEMS, "target": target, "task": "node_classification", "count": 3}
    assert lds(jittered(0.05), DATA, seeds=(0, 1, 2), **given).noise > 0
    with pytest.raises(InvalidInputError, match="at least one seed"):
        lds(least_squares, DATA, seeds=(), **given)
