"""The model before unlearning, for losses that compare with it: a frozen copy, or the model without its adapter."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.core.modes import evaluating
from gunlearn.errors import InvalidInputError
from gunlearn.llm.model.head import output_head, unwrap

REFERENCES = ("auto", "copy", "adapter")


class FrozenReference:
    """Keep the model before unlearning.

    Args:
        model: the model that will be trained, before the first step.
        how: `"copy"`, a frozen deep copy; `"adapter"`, the model with its adapter disabled (peft), which costs no
            memory; `"auto"`, `"adapter"` where possible, else `"copy"`; or another model with the same vocabulary,
            which is moved to the training's device.
        probe: a batch to test with what the adapter changes, for `"auto"` and `"adapter"`.

    Raises:
        InvalidInputError: an unknown `how`; another vocabulary; a reference that shares trained parameters with the
            model; or `"adapter"` for a model without an adapter, with one that already changes outputs, or with trained
            weights outside of it (biases, unfrozen layers).
    """

    def __init__(
        self, model: nn.Module, how: str | nn.Module = "auto", probe: Mapping[str, Tensor] | None = None
    ) -> None:
        self.frozen: nn.Module | None = None
        if isinstance(how, nn.Module):
            check_vocabulary(model, how)
            _check_apart(model, how)
            self.frozen = how
            return
        if how not in REFERENCES:
            raise InvalidInputError(f"Expected 'reference' to be a model or one of {REFERENCES} (got {how!r})")
        objection = "no choice" if how == "copy" else _objection_to_adapter(model, probe)
        if how == "adapter" and objection:
            raise InvalidInputError(
                f"Expected a model that is the original one without its adapter for reference='adapter' "
                f"(got {objection}); use reference='copy'"
            )
        if objection:
            self.frozen = copy.deepcopy(model).eval().requires_grad_(False)

    def to(self, device: torch.device) -> FrozenReference:
        """Move a copy or other model to a device, unless it is spread over several."""
        if self.frozen is not None and not getattr(self.frozen, "hf_device_map", None):
            self.frozen.to(device)
        return self

    @contextmanager
    def of(self, model: nn.Module) -> Iterator[nn.Module]:
        """Yield the frozen model, in evaluation mode and without gradients.

        `model` is the model in training, in its distributed wrapper: a sharded model can only be called through that.
        """
        before = _without_adapter(unwrap(model)) if self.frozen is None else evaluating(self.frozen)
        with before, torch.no_grad():
            yield model if self.frozen is None else self.frozen


def check_vocabulary(model: nn.Module, reference: nn.Module) -> None:
    """Refuse a reference whose vocabulary has another size."""
    weights: list[Tensor | None] = [getattr(output_head(m), "weight", None) for m in (model, reference)]
    sizes = [weight.shape[0] for weight in weights if weight is not None]
    if len(set(sizes)) > 1:
        raise InvalidInputError(f"Expected a reference with a vocabulary of {sizes[0]} tokens (got {sizes[1]})")


def _check_apart(model: nn.Module, reference: nn.Module) -> None:
    """Refuse a reference that shares a trainable parameter with the model, so that training would change it."""
    own = {id(parameter) for parameter in reference.parameters()}
    shared = [name for name, p in model.named_parameters() if p.requires_grad and id(p) in own]
    if shared:
        raise InvalidInputError(
            f"Expected a reference that holds none of the parameters to be trained (got {shared[0]!r} and "
            f"{len(shared) - 1} more); peft puts adapters into the model that it is given: use reference='auto' or "
            "'adapter'"
        )


def _objection_to_adapter(model: nn.Module, probe: Mapping[str, Tensor] | None) -> str | None:
    """Return why the model with its adapter disabled differs, on a batch, from the model now; `None` if it does not."""
    if not callable(getattr(model, "disable_adapter", None)):
        return f"{type(model).__name__} without 'disable_adapter'"
    if probe is None:
        return "no batch to try it with"
    inputs = {name: probe[name] for name in ("input_ids", "attention_mask") if name in probe}
    with evaluating(model), torch.no_grad():
        before = model(**inputs, use_cache=False).logits
    with _without_adapter(model), torch.enable_grad():
        after = model(**inputs, use_cache=False).logits
        trained = [p for p in model.parameters() if p.requires_grad]
        found = torch.autograd.grad(after.sum(), trained, allow_unused=True) if trained and after.requires_grad else ()
        if any(gradient is not None for gradient in found):
            return "trained weights outside the adapter"
    return None if torch.equal(before, after.detach()) else "an adapter that changes the outputs"


@contextmanager
def _without_adapter(model: nn.Module) -> Iterator[None]:
    """Disable the adapter inside the block, in evaluation mode, then restore `requires_grad`, which peft changes."""
    adapted: Any = model
    trained = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        with evaluating(model), adapted.disable_adapter():
            yield
    finally:
        for parameter, flag in trained.items():
            parameter.requires_grad_(flag)
