"""The convex problems of linear heads: perturbed one-vs-rest logistic regression, and ridge regression.

Losses are sums over the training nodes, not means, since certificates count in these units.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from gunlearn.errors import DivergenceError

SLOPE_CHANGE = 0.25  # Lipschitz constant of the logistic loss's derivative
CURVATURE_CHANGE = 1 / (6 * math.sqrt(3))  # that of its second derivative


@dataclass(frozen=True, eq=False)
class Logistic:
    """The loss `sum_i log(1 + exp(-y_i z_i w)) + lam n / 2 ||w||^2 + b w`, separate for each class.

    Args:
        z: features `[n, f]`, double precision.
        sign: targets `y`, see `one_vs_rest`, `[n, num_classes]`.
        lam: ridge, per node.
        perturbation: `b`, `[f, num_classes]`.
        count: of the nodes, where `z` has other rows: some nodes' alone, or zeros that stand for none.
    """

    z: Tensor
    sign: Tensor
    lam: float
    perturbation: Tensor
    count: int | None = None

    @property
    def ridge(self) -> float:
        """Weight of `||w||^2 / 2`."""
        return self.lam * self.num_items

    @property
    def num_items(self) -> int:
        """Number of nodes."""
        return self.z.size(0) if self.count is None else self.count

    def value(self, w: Tensor) -> Tensor:
        """Return the loss of each class, `[num_classes]`."""
        data = softplus(-self.sign * (self.z @ w)).sum(dim=0)
        return data + self.ridge / 2 * w.square().sum(dim=0) + (self.perturbation * w).sum(dim=0)

    def gradient(self, w: Tensor) -> Tensor:
        """Return the gradient, `[f, num_classes]`."""
        return self.z.t() @ slope_of(self.z @ w, self.sign) + self.ridge * w + self.perturbation

    def newton(self, w: Tensor, target: Tensor, tolerance: float = 1e-9) -> tuple[Tensor, Tensor]:
        """Solve `H(w) solution = target` by conjugate gradients, for all classes at once.

        Returns the solution `[f, num_classes]` and the residual's norm `[num_classes]`; it stops at `tolerance` times
        the target's norm, or after `10 f` steps.
        """
        p = torch.sigmoid(self.z @ w)
        curvature = p * (1 - p)

        def apply(v: Tensor) -> Tensor:
            return self.z.t() @ (curvature * (self.z @ v)) + self.ridge * v

        solution = torch.zeros_like(target)
        left = target.clone()
        direction, square = left.clone(), left.square().sum(dim=0)
        goal = tolerance**2 * square
        for _ in range(10 * target.size(0)):
            if bool((square <= goal).all()):
                break
            image = apply(direction)
            step = square / (direction * image).sum(dim=0).clamp(min=torch.finfo(square.dtype).tiny)
            step = torch.where(square <= goal, 0.0, step)
            solution += step * direction
            left -= step * image
            new = left.square().sum(dim=0)
            direction = left + new / square.clamp(min=torch.finfo(square.dtype).tiny) * direction
            square = new
        return solution, (target - apply(solution)).norm(dim=0)

    def minimise(self, start: Tensor, tolerance: float = 1e-9) -> Tensor:
        """Minimise the loss to a gradient norm of `tolerance` per training node and class: `[f, num_classes]`.

        Newton's method with step halving; raises `DivergenceError` after 100 steps.
        """
        w = start
        for _ in range(100):
            gradient = self.gradient(w)
            norm = gradient.norm(dim=0)
            if bool((norm <= tolerance * self.z.size(0)).all()):
                return w
            step, _ = self.newton(w, -gradient, 1e-3)
            size, value = torch.ones_like(norm), self.value(w)
            slope = (gradient * step).sum(dim=0)
            for _ in range(30):
                # The slack allows for rounding near the minimum.
                bad = self.value(w + size * step) > value + 1e-4 * size * slope + 1e-12 * value.abs()
                if not bool(bad.any()):
                    break
                size = torch.where(bad, size / 2, size)
            w = w + size * step
        raise DivergenceError(f"Expected a gradient norm of {tolerance} per node (got {float(norm.max()):.1e} in all)")


def rounding(num_items: int) -> float:
    """Return how much two computations of one gradient over so many rows may differ in double precision."""
    return 1e-10 * max(num_items, 1)


def transposed(z: Tensor, v: Tensor) -> Tensor:
    """Return `z^T v` `[f, num_classes]`; for few classes twice as fast as `z.t() @ v`."""
    return (v.t() @ z).t()


def slope_of(margin: Tensor, sign: Tensor) -> Tensor:
    """Return the derivative of each row's loss by its margin `z w`; all `[n, num_classes]`."""
    return -sign * torch.sigmoid(-sign * margin)


def ridge_regression(z: Tensor, target: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Return `argmin ||Z W - Y||^2 + ridge ||W||^2` and `(Z^T Z + ridge I)^-1`: `[f, num_classes]` and `[f, f]`."""
    gram = z.t() @ z
    gram.diagonal().add_(ridge)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    return inverse @ (z.t() @ target), inverse


def spectral_bound(z: Tensor, steps: int = 30) -> float:
    """Return an upper bound of the largest singular value of `[n, f]`; close to it if entries have one sign.

    For a matrix `A >= 0` and any `v > 0` the largest eigenvalue is at most `max_i (A v)_i / v_i` (Collatz and
    Wielandt); here `A = |Z|^T |Z|`, and `v` comes from power iterations. Never more than the Frobenius norm.
    """
    positive = z.abs()
    positive = positive[:, positive.any(dim=0)]
    best = float(z.norm())
    v = torch.ones(positive.size(1), dtype=z.dtype, device=z.device)
    for _ in range(steps if v.numel() else 0):
        image = positive.t() @ (positive @ v)
        best = min(best, float((image / v).max().sqrt()))
        v = (image / image.max()).clamp(min=1e-12)
    return best * (1 + 1e-9)


def with_ones(z: Tensor) -> Tensor:
    """Return rows with a last column of ones, for a bias."""
    return torch.nn.functional.pad(z, (0, 1), value=1.0)


def one_vs_rest(label: Tensor, num_classes: int) -> Tensor:
    """Return 1 if a node is of the class, else -1: double precision `[num_nodes, num_classes]`."""
    classes = torch.arange(num_classes, device=label.device)
    return torch.where(label[:, None] == classes, 1.0, -1.0).double()
