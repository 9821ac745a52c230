"""Are outputs logits, and the same at each call? What the trial pass checks, and probabilities turned into logits."""

from collections.abc import Callable
from typing import Any
from warnings import warn

import torch
from torch import Tensor, nn

from gunlearn.core.checks import check_choice
from gunlearn.errors import GunlearnError, UnsupportedModelError

RETURNED = ("logits", "probabilities")
#: Fewer outputs in [0, 1] may be so by chance.
MIN_TRIED = 8
#: Steps of automatic differentiation that only pick, reshape or convert values.
_MOVES = ("Alias", "Cat", "Clone", "Expand", "Gather", "Index", "Permute", "Reshape", "ReshapeAlias", "Select", "Slice")
_KEEPS = {*_MOVES, "Squeeze", "T", "ToCopy", "Transpose", "Unsqueeze", "View", "Clamp", "ClampMax", "ClampMin"}


def set_outputs(task: Any, outputs: str) -> None:
    """Set what the models of a task return; the default is left to the class, so that saved runs keep their names.

    Raises:
        InvalidInputError: neither `"logits"` nor `"probabilities"`.
    """
    check_choice("outputs", outputs, RETURNED)
    if outputs != task.outputs:
        task.outputs = outputs


def log_of_classes(probability: Tensor) -> Tensor:
    """Return logits of probabilities `[num_items, num_classes]`, their logarithms.

    Raises:
        UnsupportedModelError: rows below 0 or that do not sum to 1 (looked at outside of training steps).
    """
    if not torch.is_grad_enabled() and not is_distribution(probability):
        raise UnsupportedModelError(
            "Expected probabilities of classes, rows of at least 0 that sum to 1, for outputs='probabilities' (got "
            f"values from {float(probability.min()):.3g} to {float(probability.max()):.3g}); use outputs='logits'"
        )
    return probability.clamp_min(torch.finfo(probability.dtype).tiny).log()


def logit_of_pairs(probability: Tensor) -> Tensor:
    """Return the logits of probabilities `[num_items]`; those nearer to 0 or 1 than the type's precision are moved.

    Raises:
        UnsupportedModelError: values outside [0, 1] (looked at outside of training steps).
    """
    if not torch.is_grad_enabled() and not _within(probability):
        raise UnsupportedModelError(
            f"Expected probabilities in [0, 1] for outputs='probabilities' (got values from "
            f"{float(probability.min()):.3g} to {float(probability.max()):.3g}); use outputs='logits'"
        )
    return torch.logit(probability, eps=torch.finfo(probability.dtype).eps)


def is_distribution(values: Tensor) -> bool:
    """Return whether all rows `[num_items, num_classes]` are at least 0 and sum to 1, within the type's precision."""
    if not values.numel() or values.size(-1) < 2:
        return False
    slack = max(1e-4, 4 * torch.finfo(values.dtype).eps)
    return bool((values >= 0).all()) and bool(((values.double().sum(-1) - 1).abs() <= slack).all())


def check_logits(task: Any, kind: str, logits: Tensor, again: Callable[[bool], Tensor | None]) -> None:
    """Refuse probabilities in place of logits; warn where outputs only look like them.

    Args:
        task: whose outputs they are, for the remedy.
        kind: `"categorical"` logits `[num_items, num_classes]`, or `"bernoulli"` ones of any shape.
        logits: to check.
        again: computes them with gradients, so that a sigmoid or softmax at their end can be seen; with `True` for
            features drawn anew and large, on which logits leave [0, 1], `None` where there are none to draw.

    Raises:
        UnsupportedModelError: rows that are distributions, or values in [0, 1] out of a sigmoid or softmax.
    """
    fine = " (log_softmax is fine)" if kind == "categorical" else ""
    option = f"pass task={type(task).__name__}(outputs='probabilities')"
    remedy = f"return the values before it{fine}, or {option}"
    if kind == "categorical" and is_distribution(logits):
        raise UnsupportedModelError(
            "Expected logits from the model (got probabilities: each row is at least 0 and sums to 1, as after a "
            f"softmax); {remedy}"
        )
    if not _within(logits):
        return
    try:
        last, wild = _last_step(again(False)), again(True)
    except (RuntimeError, GunlearnError):  # no gradient to be had
        last, wild = "", None
    if last in ("Sigmoid", "Softmax", "Hardsigmoid"):
        raise UnsupportedModelError(
            f"Expected logits from the model (got probabilities, values in [0, 1] out of a {last.lower()}); {remedy}"
        )
    if logits.numel() >= MIN_TRIED and wild is not None and _within(wild):
        warn(
            f"All {logits.numel()} outputs that were tried lie in [0, 1]; they are read as logits. If they are "
            f"probabilities, return logits{fine} or {option}",
            stacklevel=2,
        )


def check_finite(values: Any, model: nn.Module) -> None:
    """Refuse outputs that hold NaN or infinity.

    Raises:
        UnsupportedModelError: they do.
    """
    if isinstance(values, Tensor) and values.is_floating_point() and not bool(torch.isfinite(values).all()):
        raise UnsupportedModelError(
            f"Expected finite outputs from the model before anything is done (got NaN or infinity from "
            f"{type(model).__name__}, in evaluation mode)"
        )


def check_steady(first: Any, second: Any, model: nn.Module) -> None:
    """Refuse a model whose outputs differ between two calls in evaluation mode, by more than rounding.

    Raises:
        UnsupportedModelError: they do.
    """
    if not isinstance(first, Tensor) or not isinstance(second, Tensor) or not first.is_floating_point():
        return
    eps = torch.finfo(first.dtype).eps  # parallel sums on a GPU differ by rounding
    size = float(first.abs().nan_to_num(0.0, 0.0, 0.0).max()) if first.numel() else 0.0
    rtol, atol = max(1e-3, 4 * eps), max(1e-5, 2 * eps) * size
    if first.shape == second.shape and torch.allclose(second, first, rtol=rtol, atol=atol, equal_nan=True):
        return
    raise UnsupportedModelError(
        "Expected a model whose outputs are the same twice in evaluation mode (got others from "
        f"{type(model).__name__}: dropout without 'training=self.training', edges dropped or latent variables drawn in "
        "'forward', or a state that each call changes?); let it draw only where self.training is true"
    )


def _within(values: Tensor) -> bool:
    return bool(values.numel()) and bool(((values >= 0) & (values <= 1)).all())


def _last_step(values: Tensor | None) -> str:
    """Return the name of the function that computed values with a gradient, behind steps that only move them."""
    node: Any = None if values is None else values.grad_fn
    while node is not None:
        name = type(node).__name__.partition("Backward")[0]
        if name.lstrip("_") not in _KEEPS:
            return name.lstrip("_")
        node = next((child for child, _ in node.next_functions if child is not None), None)
    return ""
