"""Fréchet distance against closed forms of normal distributions and scipy's matrix root."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from gunlearn.errors import InvalidInputError
from gunlearn.metrics import frechet_distance, gaussian_frechet_distance


def features(count, dim, seed, scale=1.0):
    return scale * torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_scipy(one, two):
    a, b = (np.cov(f.numpy(), rowvar=False) for f in (one, two))
    gap = one.mean(0) - two.mean(0)
    return float(gap @ gap) + np.trace(a + b - 2 * sqrtm(a @ b).real)


def test_closed_form_of_axes():
    """With commuting covariances it is the distance of means and of standard deviations."""
    mean, other = torch.tensor([0.0, 1.0, -2.0]), torch.tensor([3.0, 1.0, 2.0])
    sd, other_sd = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([4.0, 0.5, 1.0])
    found = gaussian_frechet_distance(mean, sd.square().diag(), other, other_sd.square().diag())
    assert found == pytest.approx(float((mean - other).square().sum() + (sd - other_sd).square().sum()))


def test_is_that_of_scipy_where_scipys_root_is_exact():
    mixed = features(5, 5, 9)
    one, two = features(80, 5, 0) @ mixed, features(60, 5, 1, 2.0) + 1
    assert frechet_distance(one, two) == pytest.approx(by_scipy(one, two), rel=1e-8)
    assert frechet_distance(one, two) == pytest.approx(frechet_distance(two, one))
    given = [(f.mean(0), torch.cov(f.t())) for f in (one, two)]
    assert gaussian_frechet_distance(*given[0], *given[1]) == pytest.approx(frechet_distance(one, two))
    assert abs(frechet_distance(one, two) - float((one.mean(0) - two.mean(0)).square().sum())) > 1  # the control


def test_fewer_items_than_features_and_large_offsets_lose_nothing():
    one = features(6, 40, 0)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(one, one + 3) == pytest.approx(9 * 40)  # moved, of the same shape
    assert frechet_distance(one + 1e6, 2 * one + 1e6) > 1  # control: not swallowed by the offset
    rotation = torch.linalg.qr(features(40, 40, 3)).Q
    two = features(9, 40, 1)
    assert frechet_distance(one @ rotation, two @ rotation) == pytest.approx(frechet_distance(one, two))
    # disjoint supports: the root of the product is 0, traces add up
    apart = frechet_distance(torch.cat([one, 0 * one], 1), torch.cat([0 * one, one], 1))
    total = 2 * torch.cov(one.t()).trace() + 2 * one.mean(0).square().sum()
    assert apart == pytest.approx(float(total))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: frechet_distance(x, x[:1]), "at least two"),
        (lambda x: frechet_distance(x, x[:, :2]), "one size"),
        (lambda x: frechet_distance(x, x / 0), "finite"),
        (lambda x: gaussian_frechet_distance(x[0], -torch.eye(3), x[0], torch.eye(3)), "eigenvalue"),
    ],
)
def test_bad_features(call, words):
    with pytest.raises(InvalidInputError, match=words):
        call(features(4, 3, 0))
