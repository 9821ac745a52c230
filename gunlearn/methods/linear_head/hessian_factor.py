"""Newton steps from the factor of an earlier Hessian: two or three passes over the rows in place of tens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gunlearn.methods.linear_head.convex import Logistic, transposed

_ROWS = 8192


@dataclass(frozen=True, eq=False)
class HessianFactor:
    """Cholesky factors `[num_classes, f, f]` of a Hessian, to precondition the solution with one close to it."""

    factor: Tensor

    @classmethod
    def of(cls, problem: Logistic, w: Tensor) -> HessianFactor | None:
        """Return the factors at weights `w` `[f, num_classes]`; `None` where the Hessian is singular in rounding."""
        size = w.size(0)
        hessian = (problem.ridge * torch.eye(size).to(w)).repeat(w.size(1), 1, 1)
        for rows in problem.z.split(_ROWS):
            p = torch.sigmoid(rows @ w)
            for matrix, weight in zip(hessian, (p * (1 - p)).t(), strict=True):
                matrix.addmm_(rows.t(), weight.unsqueeze(-1) * rows)
        factor, failed = torch.linalg.cholesky_ex(hessian)
        return None if bool(failed.any()) else cls(factor)

    def solve(self, v: Tensor) -> Tensor:
        """Return `H^-1 v` for each class, `[f, num_classes]`."""
        return torch.cholesky_solve(v.t().unsqueeze(-1), self.factor).squeeze(-1).t()


class Newton(NamedTuple):
    """The solution `[f, num_classes]` of `H solution = target` and what is known of it.

    Attributes:
        left: norm of its residual `[num_classes]`, computed from the solution and not from a recurrence.
        image: `z solution`, `[n, num_classes]`.
        passes: products with the Hessian.
    """

    solution: Tensor
    left: Tensor
    image: Tensor
    passes: int


def newton_step(
    problem: Logistic, margin: Tensor, target: Tensor, factor: HessianFactor | None, tolerance: float = 1e-9
) -> Newton:
    """Solve `H solution = target` by preconditioned conjugate gradients, for all classes at once.

    The Hessian is that at `margin`, the rows' `z w` `[n, num_classes]`; see `Logistic.newton`, whose stopping rule this
    has. Any factor is right: it decides on the number of passes alone.
    """
    p = torch.sigmoid(margin)
    curvature, tiny = p * (1 - p), torch.finfo(target.dtype).tiny
    solve = factor.solve if factor is not None else Tensor.clone
    solution, seen, left = torch.zeros_like(target), torch.zeros_like(margin), target
    direction = fit = solve(left)
    product, goal = (left * fit).sum(dim=0), tolerance**2 * target.square().sum(dim=0)
    for passes in range(10 * target.size(0) + 1):
        open_ = left.square().sum(dim=0) > goal
        if not bool(open_.any()) or passes == 10 * target.size(0):
            break
        along = problem.z @ direction
        image = transposed(problem.z, curvature * along) + problem.ridge * direction
        step = torch.where(open_, product / (direction * image).sum(dim=0).clamp(min=tiny), 0.0)
        solution, seen = solution + step * direction, seen + step * along
        left = left - step * image
        fit = solve(left)
        new = (left * fit).sum(dim=0)
        direction = fit + torch.where(open_, new / product.clamp(min=tiny), 0.0) * direction
        product = new
    left = target - transposed(problem.z, curvature * seen) - problem.ridge * solution
    return Newton(solution, left.norm(dim=0), seen, passes)
