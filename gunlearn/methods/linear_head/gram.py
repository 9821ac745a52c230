"""`A^T A` of a tall matrix whose rows change, with a bound on the rounding that has come together in it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

_EPS = torch.finfo(torch.float64).eps  # twice the unit roundoff


@dataclass(frozen=True, eq=False)
class Gram:
    """`A^T A` in double precision, from which bounds on `A` follow without reading `A`.

    For `k` rows `B`, floating-point products differ from `B^T B` by at most `k u / (1 - k u) |B|^T |B|`, entry by entry
    and in any order of summation (Higham, "Accuracy and stability", section 3.5), with a spectral norm of at most
    `||B||_F^2` times that factor; a sum of two matrices by at most `u` times its Frobenius norm. `error` adds these up
    with `2 u` for `u`: `||matrix - A^T A||_2 <= error`. Rows that leave are subtracted, so it holds for any order of
    changes.

    Args:
        matrix: `[f, f]`.
        error: as above.
    """

    matrix: Tensor
    error: float = 0.0

    @classmethod
    def of(cls, blocks: Iterable[Tensor], size: int, device: torch.device) -> Gram:
        """Return that of the rows of all blocks `[k, size]`."""
        gram = cls(torch.zeros(size, size, dtype=torch.float64, device=device))
        for rows in blocks:
            gram = gram.changed(rows[:0], rows)
        return gram

    def changed(self, out: Tensor, into: Tensor) -> Gram:
        """Return that of the matrix without the rows `out` `[k, f]` and with the rows `into`."""
        matrix, error = self.matrix, self.error
        for rows, sign in ((into, 1), (out, -1)):
            square = float(rows.square().sum())
            if square:
                matrix = torch.addmm(matrix, rows.t(), rows, alpha=sign)
                error += _EPS * ((rows.size(0) + 2) * square + 2 * float(matrix.norm()))
        return Gram(matrix, error)

    def largest(self) -> float:
        """Return an upper bound of the largest singular value of `A`, as close as rounding allows.

        By Weyl's inequality eigenvalues are off by at most `error`, and the solver's by a small multiple of the norm.
        """
        if not self.matrix.numel():
            return 0.0
        top = max(float(torch.linalg.eigvalsh(self.matrix)[-1]), 0.0)
        return (top + self.error + 10 * self._small) ** 0.5 * (1 + 1e-9)

    def lengths(self, w: Tensor) -> Tensor:
        """Return upper bounds of `||A w_c||` for each column of `w` `[f, num_classes]`."""
        square = (w * (self.matrix @ w)).sum(dim=0).clamp(min=0)
        return (square + (self.error + 4 * self._small) * w.square().sum(dim=0)).sqrt() * (1 + 1e-9)

    @property
    def _small(self) -> float:
        return self.matrix.size(0) * _EPS * float(self.matrix.norm())
