"""NeuralUCB: formulas against dense algebra, and the best of twenty arms."""

from functools import cache

import numpy as np
import pytest
import torch

from gunlearn.errors import InvalidInputError
from gunlearn.llm import NeuralUCB

PULLS = 40


def arms(seed):
    generator = torch.Generator().manual_seed(seed)
    x, theta = torch.randn(20, 8, generator=generator), torch.randn(8, generator=generator)
    mean = x @ theta
    return x, (mean - mean.min()) / (mean.max() - mean.min())


@cache
def played(seed, exploration=1.0, sign=1.0):
    """Arms pulled, and the regret of each pull."""
    x, mean = arms(seed)
    bandit = NeuralUCB(x, exploration=exploration, steps=40, lr=1e-2, seed=seed)
    noise, pulls = torch.Generator().manual_seed(seed), []
    for _ in range(PULLS):
        pulls.append(bandit.choose())
        bandit.update(pulls[-1], sign * float(mean[pulls[-1]] + 0.05 * torch.randn((), generator=noise)))
    return pulls, [float(1 - mean[arm]) for arm in pulls]


def test_regrets_less_than_blind_pulls_and_often_settles_on_the_best_of_twenty_arms():
    regret, blind, settled = 0.0, 0.0, 0
    for seed in range(5):
        mean = arms(seed)[1]
        pulls, lost = played(seed)
        regret, blind = regret + sum(lost), blind + float(1 - mean.mean()) * PULLS
        settled += max(set(pulls[-20:]), key=pulls[-20:].count) == int(mean.argmax())
    assert regret < 0.6 * blind
    assert settled >= 2  # of five, where chance has a quarter of one


def test_rewards_of_the_other_sign_lead_elsewhere():
    best = int(arms(0)[1].argmax())
    pulls, regret = played(0, sign=-1.0)
    assert pulls[-20:].count(best) == 0
    assert sum(regret) > float(1 - arms(0)[1].mean()) * PULLS


def test_without_exploration_it_settles_for_less():
    assert int(arms(0)[1].argmax()) not in played(0, exploration=0.0)[0]


def test_scores_agree_with_autograd_and_a_diagonal_of_squares():
    x, _ = arms(3)
    bandit = NeuralUCB(x, regularisation=0.2, exploration=0.7, hidden=6, steps=5, lr=1e-2)

    def network(weights, row):
        w, b, v, c = weights
        return torch.relu(w @ row + b) @ v + c

    def gradient(row):
        weights = [w.clone().requires_grad_() for w in bandit.weights]
        grads = torch.autograd.grad(network(weights, row), weights)
        return np.concatenate([g.reshape(-1).double().numpy() for g in grads])

    design = np.full(sum(w.numel() for w in bandit.weights), 0.2)
    for arm, reward in ((2, 0.5), (7, 0.1), (2, 0.4)):
        design += gradient(bandit.x[arm]) ** 2
        bandit.update(arm, reward)
    expected = [
        float(network(bandit.weights, row)) + np.sqrt(0.7 * 0.2 * (gradient(row) ** 2 / design).sum())
        for row in bandit.x
    ]
    np.testing.assert_allclose(bandit.scores().numpy(), expected, rtol=1e-4)


def test_reproducible_and_the_global_random_state_is_left_alone():
    x, _ = arms(0)
    state = torch.get_rng_state()
    first, second = (NeuralUCB(x, seed=4, steps=5) for _ in range(2))
    for bandit in (first, second):
        bandit.update(3, 1.0)
    assert torch.equal(first.scores(), second.scores())
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first.scores(), NeuralUCB(x, seed=5, steps=5).scores())


def test_first_pulls_are_distinct_and_excluded_arms_are_never_pulled():
    x, _ = arms(0)
    bandit, pulled = NeuralUCB(x, num_random=4, steps=3), []
    for _ in range(20):
        pulled.append(bandit.choose(pulled))
        bandit.update(pulled[-1], 0.0)
    assert sorted(pulled) == list(range(20))
    with pytest.raises(InvalidInputError, match="20 excluded"):
        bandit.choose(pulled)


def test_arms_without_differences_and_bad_features():
    assert torch.isfinite(NeuralUCB(torch.ones(3, 2)).scores()).all()
    for wrong in (torch.zeros(0, 2), torch.zeros(3), torch.full((3, 2), torch.nan)):
        with pytest.raises(InvalidInputError, match="features"):
            NeuralUCB(wrong)
