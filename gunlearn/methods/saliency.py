"""SalUn's mask: only the weights that matter most to what is forgotten learn (arXiv 2310.12508)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gunlearn.core.modes import evaluating
from gunlearn.errors import EmptyForgetSetError, UnsupportedMethodError
from gunlearn.methods.base import Problem
from gunlearn.methods.forget_part import forget_losses, has_forget_items
from gunlearn.training.held_weights import HeldWeights

if TYPE_CHECKING:
    from gunlearn.methods.gradient_options import GradientOptions


def hold_others(method: GradientOptions, problem: Problem) -> HeldWeights | None:
    """Return what holds all weights but the salient ones of a problem's model; `None` without `saliency`.

    Gradients are those of the summed loss of all forgotten items on the method's message graph, in evaluation mode.

    Raises:
        EmptyForgetSetError: the task predicts nothing that is forgotten.
    """
    if method.saliency is None:
        return None
    task, model = problem.task, problem.model
    parts = task.parts(problem.partition, method.message_graph, model, ("forget",))
    if not has_forget_items(parts):
        raise EmptyForgetSetError(
            f"Expected forgotten items that '{task.name}' predicts, for the gradient of 'saliency' (got none)"
        )
    parameters = [p for p in model.parameters() if p.requires_grad]
    with evaluating(model):
        moving = salient(forget_losses(task, model, parts, method.batch_size), parameters, method.saliency)
    return HeldWeights(parameters, moving)


def salient(losses: Iterable[Callable[[], Tensor]], parameters: Sequence[nn.Parameter], share: float) -> list[Tensor]:
    r"""Return the entries with the largest :math:`|\sum_i \nabla \ell_i|`, a boolean mask for each parameter.

    Entries without any gradient are never among them, nor is one smaller than an entry that is left out.

    Args:
        losses: functions that return the losses of some items each, `[k]`; one is in memory at a time.
        parameters: what is trained.
        share: of all entries of all parameters together, in (0, 1].

    Raises:
        UnsupportedMethodError: no loss depends on a parameter.
    """
    total = [torch.zeros_like(p, dtype=torch.float32) for p in parameters]
    for compute in losses:
        loss = compute().sum()
        if loss.requires_grad:
            found = torch.autograd.grad(loss, list(parameters), allow_unused=True)
            for sum_, gradient in zip(total, found, strict=True):
                if gradient is not None:
                    sum_ += gradient
    size = torch.cat([sum_.abs().flatten().to(total[0].device) for sum_ in total])
    if not bool((size > 0).any()):
        raise UnsupportedMethodError("Expected a forget loss with a gradient for 'saliency' (got none: all zero)")
    number = max(1, int(share * size.numel()))
    least = size.kthvalue(size.numel() - number + 1).values
    return [(sum_.abs() >= least.to(sum_.device)) & (sum_ != 0) for sum_ in total]
