"""SophiaG: steps clipped by an estimate of the curvature."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gunlearn.core.checks import check_number
from gunlearn.errors import InvalidInputError


class SophiaG(Optimizer):
    r"""Sophia with the squared gradient for its curvature at every step, the "second order" of unlearning papers.

    .. math::
        m \leftarrow \beta_1 m + (1-\beta_1) g, \qquad h \leftarrow \beta_2 h + (1-\beta_2) g^2, \qquad
        \theta \leftarrow (1 - \eta w)\,\theta
        - \eta\, \mathrm{sign}(m) \min\Big(\frac{|m|}{\rho\, b\, h + \epsilon}, 1\Big)

    Liu et al., "Sophia" (arXiv 2305.14342), as SOUL (arXiv 2404.18239) and Cheng and Amiri (arXiv 2504.06407) use it;
    their code updates :math:`m` twice a step, here it is once. Where :math:`h` is small, steps are those of signs.

    Args:
        params: what is trained.
        lr: :math:`\eta`.
        betas: :math:`\beta_1` and :math:`\beta_2`.
        rho: :math:`\rho`.
        batch_size: :math:`b`, which makes up for the mean over a batch in `g`; 5120 in their code.
        weight_decay: :math:`w`, decoupled.

    Raises:
        InvalidInputError: a number out of range.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.95),
        rho: float = 0.04,
        batch_size: float = 5120,
        weight_decay: float = 0.0,
    ) -> None:
        for name, value in (("lr", lr), ("weight_decay", weight_decay)):
            check_number(name, value, minimum=0.0)
        for name, value in (("rho", rho), ("batch_size", batch_size)):
            check_number(name, value, positive=True)
        both = betas if isinstance(betas, tuple | list) else ()
        if len(both) != 2 or not all(isinstance(beta, Real) and 0 <= beta < 1 for beta in both):
            raise InvalidInputError(f"Expected two 'betas' in [0, 1) (got {betas!r})")
        super().__init__(
            params, {"lr": lr, "betas": betas, "rho": rho, "batch_size": batch_size, "weight_decay": weight_decay}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take a step; parameters without a gradient stay."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            first, second = group["betas"]
            for p in (p for p in group["params"] if p.grad is not None):
                state = self.state[p]
                if not state:
                    state["step"] = torch.tensor(0.0)
                    state["exp_avg"], state["hessian"] = torch.zeros_like(p), torch.zeros_like(p)
                state["step"] += 1
                m = state["exp_avg"].mul_(first).add_(p.grad, alpha=1 - first)
                h = state["hessian"].mul_(second).addcmul_(p.grad, p.grad, value=1 - second)
                size = (m.abs() / (group["rho"] * group["batch_size"] * h + 1e-15)).clamp_(max=1)
                p.mul_(1 - group["lr"] * group["weight_decay"]).addcmul_(m.sign(), size, value=-group["lr"])
        return loss
