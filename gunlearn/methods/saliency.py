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
        UnsupportedMethodError: an adapter of which a part has no gradient, see `salient`.
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
        losses = forget_losses(task, model, parts, method.batch_size)
        moving = salient(losses, parameters, method.saliency, adapter_names(task.adapts(model), model))
    return HeldWeights(parameters, moving)


def adapter_names(adapts: bool, model: nn.Module) -> list[str]:
    """Return the names of the parameters that learn, where they are those of an adapter; else none."""
    return [name for name, parameter in model.named_parameters() if adapts and parameter.requires_grad]


def salient(
    losses: Iterable[Callable[[], Tensor]],
    parameters: Sequence[nn.Parameter],
    share: float,
    adapter: Sequence[str] = (),
) -> list[Tensor]:
    r"""Return the entries with the largest :math:`|\sum_i \nabla \ell_i|`, a boolean mask for each parameter.

    Entries without any gradient are never among them, nor is one smaller than an entry that is left out.

    Args:
        losses: functions that return the losses of some items each, `[k]`; one is in memory at a time.
        parameters: what is trained.
        share: of all entries of all parameters together, in (0, 1].
        adapter: names of the parameters, where they are an adapter's, see `adapter_names`.

    Raises:
        UnsupportedMethodError: no loss depends on a parameter; or a parameter of an adapter has no gradient, as one
            factor of each pair of a new LoRA adapter, whose other factor is zero: the mask would hold it for good.
    """
    total = [torch.zeros_like(p, dtype=torch.float32) for p in parameters]
    for compute in losses:
        loss = compute().sum()
        if loss.requires_grad:
            found = torch.autograd.grad(loss, list(parameters), allow_unused=True)
            for sum_, gradient in zip(total, found, strict=True):
                if gradient is not None:
                    sum_ += gradient
    _refuse_unreached([name for name, sum_ in zip(adapter, total, strict=False) if not bool(sum_.any())], len(adapter))
    size = torch.cat([sum_.abs().flatten().to(total[0].device) for sum_ in total])
    if not bool((size > 0).any()):
        raise UnsupportedMethodError("Expected a forget loss with a gradient for 'saliency' (got none: all zero)")
    number = max(1, int(share * size.numel()))
    least = size.kthvalue(size.numel() - number + 1).values
    return [(sum_.abs() >= least.to(sum_.device)) & (sum_ != 0) for sum_ in total]


def _refuse_unreached(names: Sequence[str], count: int) -> None:
    if names:
        raise UnsupportedMethodError(
            "Expected an adapter all of whose parameters have a gradient, for 'saliency' (got none for "
            f"{len(names)} of {count}, the first is '{names[0]}'): a new adapter's factor of zero hides the other one, "
            "which would never learn; train the model's own weights, or an adapter that was trained before"
        )
