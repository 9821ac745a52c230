"""Solvers for a symmetric matrix known by its products: eigenvalue bounds, conjugate gradients, LiSSA."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gunlearn.errors import DivergenceError, InvalidInputError


class Symmetric(Protocol):
    """A symmetric matrix known by its products with vectors `[size]`."""

    @property
    def size(self) -> int: ...

    def __matmul__(self, v: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Spectrum:
    """Lanczos estimates of the extreme eigenvalues: Ritz values, which lie inside the spectrum.

    Some eigenvalue lies within `smallest_error` of `smallest`, and one within `largest_error` of `largest` (the norms
    `beta_m |s_m|` of the Ritz residuals: Parlett, The Symmetric Eigenvalue Problem, section 13.2).
    """

    smallest: float
    largest: float
    smallest_error: float
    largest_error: float

    @property
    def bounds(self) -> tuple[float, float]:
        """Return bounds on the extreme eigenvalues: estimates less and plus their errors."""
        return self.smallest - self.smallest_error, self.largest + self.largest_error

    def damping(self, share: float = 1e-3) -> float:
        """Return what to add to the diagonal for a condition number of about `1 / share`.

        It lifts the smallest eigenvalue above zero (by a tenth of its size), and adds `share` of the largest one.
        """
        low, high = self.bounds
        return max(-1.1 * low, 0.0) + share * max(abs(low), abs(high))


@dataclass(frozen=True)
class Solution:
    """Solution `x` `[size]` of a linear system, its relative residual `||b - A x|| / ||b||`, and products taken."""

    x: Tensor
    residual: float
    iterations: int


@dataclass(frozen=True)
class Krylov:
    """The span of `b, A b, A^2 b, ...`, which solves `(A + damping I) x = b` for every damping.

    Its basis `Q` with `A Q = Q T + rest` does not depend on the damping: `x = |b| Q (T + damping I)^{-1} e_1`, the
    solution of conjugate gradients after as many products.

    Attributes:
        basis: orthonormal `[steps, size]`.
        tridiagonal: `T`, float64 `[steps, steps]`.
        rest: norm of the part of the next product outside the span.
        norm: `|b|`.
    """

    basis: Tensor
    tridiagonal: Tensor
    rest: float
    norm: float

    @property
    def spectrum(self) -> Spectrum:
        value, vector = torch.linalg.eigh(self.tridiagonal)
        error = self.rest * vector[-1].abs()
        return Spectrum(float(value[0]), float(value[-1]), float(error[0]), float(error[-1]))

    def solve(self, damping: float) -> Solution:
        """Return the solution in the span; raise `DivergenceError` if the damped matrix is not positive definite."""
        value, vector = torch.linalg.eigh(self.tridiagonal)
        if not float(value[0]) + damping > 0:
            raise _indefinite(damping, f"an eigenvalue of {float(value[0]):.3g}")
        y = vector @ (vector[0] / (value + damping))
        return Solution((self.norm * y).to(self.basis) @ self.basis, self.rest * abs(float(y[-1])), len(y))


def krylov(
    matrix: Symmetric, b: Tensor, max_steps: int = 32, done: Callable[[Krylov], bool] = lambda span: False
) -> Krylov:
    """Build the span of `b` `[size]`, not zero, by Lanczos with full reorthogonalisation.

    It ends after `max_steps` products, or when `done`, called after each fourth one, returns `True`. A product that is
    not finite raises `DivergenceError`.
    """
    norm = b.norm()
    basis, alpha, beta = [b / norm], [], []
    while True:
        w = matrix @ basis[-1]
        if not torch.isfinite(w).all():
            raise DivergenceError("Expected finite curvature products (got NaN or infinity)")
        alpha.append(float(w @ basis[-1]))
        span = torch.stack(basis)
        for _ in range(2):  # twice, because of rounding
            w = w - span.t() @ (span @ w)
        beta.append(float(w.norm()))
        if beta[-1] <= 1e-10 * max(max(map(abs, alpha)), 1e-300):  # an invariant span: its eigenvalues are exact
            beta[-1] = 0.0
        off = torch.diag(torch.tensor(beta[:-1], dtype=torch.float64), 1)
        tridiagonal = torch.diag(torch.tensor(alpha, dtype=torch.float64)) + off + off.t()
        found = Krylov(span, tridiagonal, beta[-1], float(norm))
        steps = len(alpha)
        if beta[-1] == 0.0 or steps >= min(max_steps, matrix.size) or (steps % 4 == 0 and done(found)):
            return found
        basis.append(w / beta[-1])


def lanczos(matrix: Symmetric, like: Tensor, steps: int = 32, seed: int = 0) -> Spectrum:
    """Bound the extreme eigenvalues with few products: `krylov` from a random start, of dtype and device of `like`."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(matrix.size, generator=generator, dtype=torch.float64).to(like)
    return krylov(matrix, start, steps).spectrum


def conjugate_gradient(
    matrix: Symmetric, b: Tensor, damping: float = 0.0, tolerance: float = 1e-4, max_iterations: int = 1000
) -> Solution:
    """Solve `(A + damping I) x = b` `[size]` for a positive definite matrix, to a relative residual of `tolerance`.

    Raises:
        DivergenceError: the matrix is not positive definite, a product is not finite, or the residual is not reached.
    """
    x, norm = torch.zeros_like(b), float(b.norm())
    if norm == 0:
        return Solution(x, 0.0, 0)
    r, p, iterations = b.clone(), b.clone(), 0
    rr = r @ r
    while iterations < max_iterations and float(rr.sqrt()) > tolerance * norm:
        product = matrix @ p + damping * p
        curvature = float(p @ product)
        if not curvature > 0:  # NaN as well
            what = "NaN" if curvature != curvature else f"{curvature / float(p @ p):.3g}"
            raise _indefinite(damping, f"{what} along a direction")
        step = rr / curvature
        x, r = x + step * p, r - step * product
        before, rr = rr, r @ r
        p = r + (rr / before) * p
        iterations += 1
    residual = float((b - (matrix @ x + damping * x)).norm()) / norm
    if not residual <= 2 * tolerance:  # the recursive residual drifts a little from the true one
        raise DivergenceError(
            f"Expected conjugate gradients to reach a relative residual of {tolerance:.3g} (got {residual:.3g} after "
            f"{iterations} iterations); raise 'damping', 'max_iterations' or 'tolerance', or use a float64 model"
        )
    return Solution(x, residual, iterations)


def _indefinite(damping: float, got: str) -> DivergenceError:
    return DivergenceError(
        f"Expected a positive definite curvature with damping {damping:.3g} (got {got}); raise 'damping', leave it to "
        "be chosen, or use curvature='gauss_newton'"
    )


def lissa(matrix: Symmetric, b: Tensor, iterations: int = 100, scale: float = 500.0, damping: float = 0.0) -> Solution:
    """LiSSA as GIF runs it: `h <- b + (1 - damping) h - (A h) / scale` from `h = b`; the solution is `h / scale`.

    It converges to `(A + damping scale I)^-1 b` if the eigenvalues of `A` (in GIF the Hessian of the summed loss) lie
    between `-damping scale` and `(2 - damping) scale`: without damping, `scale` must exceed half the largest one.
    Stopped after `T` steps it shrinks directions of eigenvalue below `scale / T`. (GIF, arXiv 2304.02835, and code.)

    Raises:
        InvalidInputError: `iterations` or `scale` not positive, or a negative `damping`.
        DivergenceError: the result is farther from the solution than zero is.
    """
    if not (iterations >= 1 and scale > 0 and damping >= 0):
        raise InvalidInputError(
            f"Expected iterations >= 1, scale > 0, damping >= 0 (got {iterations}, {scale}, {damping})"
        )
    h, norm = b.clone(), float(b.norm())
    for _ in range(iterations):
        h = b + (1 - damping) * h - (matrix @ h) / scale
    x = h / scale
    residual = float((b - (matrix @ x + damping * scale * x)).norm()) / norm if norm else 0.0
    if not residual <= 1:
        raise DivergenceError(
            f"Expected LiSSA to approach the solution (got a relative residual of {residual:.3g} after {iterations} "
            f"steps at scale {scale:g}); raise 'scale' above half the largest eigenvalue, or use mode='default'"
        )
    return Solution(x, residual, iterations)
