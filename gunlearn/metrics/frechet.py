r"""Fréchet distance of two sets of features: how far apart are the pictures of two generators, or those and real ones?

.. math:: d^2 = \|\mu_1 - \mu_2\|^2 + \mathrm{tr}\big(\Sigma_1 + \Sigma_2 - 2 (\Sigma_1 \Sigma_2)^{1/2}\big)

FID (`arXiv:1706.08500 <https://arxiv.org/abs/1706.08500>`_) is this distance on features of Inception v3 trained on
ImageNet. No such weights come with this package: give the features of a classifier of your own, and name it beside the
number. Distances on different features, or of different numbers of items, cannot be compared.
"""

import torch
from torch import Tensor

from gunlearn.errors import InvalidInputError


def frechet_distance(features: Tensor, other: Tensor) -> float:
    r"""Return the squared Fréchet distance of the normal distributions that have the features' means and covariances.

    With centred features :math:`A, B`, divided by the root of their number less one, :math:`\Sigma_1 = A^T A`, and the
    trace of the root is the nuclear norm of :math:`R_A R_B^T` with the triangular factors of both. No root of a matrix
    is taken, so that fewer items than features do no harm to the arithmetic (they do bias the distance upwards).

    Args:
        features: `[num_items, dim]`.
        other: `[num_others, dim]`.

    Raises:
        InvalidInputError: fewer than two items, other shapes, NaN or infinity.
    """
    one, two = (_checked(f) for f in (features, other))
    if one.size(1) != two.size(1):
        raise InvalidInputError(f"Expected features of one size (got {one.size(1)} and {two.size(1)})")
    factors = [torch.linalg.qr((f - f.mean(0)) / (f.size(0) - 1) ** 0.5, mode="r").R for f in (one, two)]
    return _distance(one.mean(0) - two.mean(0), *factors)


def gaussian_frechet_distance(mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor) -> float:
    """Return the same of means `[dim]` and covariances `[dim, dim]`, which may be singular.

    Raises:
        InvalidInputError: a covariance with an eigenvalue below 0, beyond rounding.
    """
    factors = []
    for matrix in (covariance, other_covariance):
        values, vectors = torch.linalg.eigh(matrix.double())
        if float(values.min()) < -1e-8 * float(values.abs().max()):
            raise InvalidInputError(
                f"Expected covariances (got a matrix with an eigenvalue of {float(values.min()):g})"
            )
        factors.append(values.clamp_min(0).sqrt()[:, None] * vectors.t())
    return _distance(mean.double() - other_mean.double(), *factors)


def _distance(gap: Tensor, root: Tensor, other_root: Tensor) -> float:
    """Return the distance from the gap of the means and factors `[k, dim]`, `root.t() @ root` being a covariance."""
    cross = torch.linalg.svdvals(root @ other_root.t()).sum()
    distance = gap.square().sum() + root.square().sum() + other_root.square().sum() - 2 * cross
    return float(distance.clamp_min(0))


def _checked(features: Tensor) -> Tensor:
    if features.dim() != 2 or features.size(0) < 2:
        raise InvalidInputError(
            f"Expected features [num_items, dim] of at least two items (got {tuple(features.shape)})"
        )
    features = features.detach().double()
    if not bool(torch.isfinite(features).all()):
        raise InvalidInputError("Expected finite features (got NaN or infinity); the generator may be broken")
    return features
