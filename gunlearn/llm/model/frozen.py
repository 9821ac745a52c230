"""The model before unlearning, to compare with: a frozen copy, or the model itself without its adapter."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gunlearn.errors import InvalidInputError
from gunlearn.llm.model.head import evaluating, output_head, unwrap

REFERENCES = ("auto", "copy", "adapter")


class Reference:
    """Hands out the frozen model.

    Args:
        model: the model that will be trained, before the first step.
        how: `"copy"`, a frozen deep copy; `"adapter"`, the model with its adapter disabled (peft), which costs no
            memory; `"auto"`, the adapter where the model without it is the model as it came and stays so, else a copy;
            or a model of the caller's, with the same vocabulary, which is moved to the device of the training.
        probe: a batch that tells what the adapter does, for `"auto"` and `"adapter"`.

    Raises:
        InvalidInputError: an unknown `how`; another vocabulary; a reference that would be trained along; or
            `"adapter"` where the model without its adapter is not what it was before unlearning: there is none, it
            already does something, or weights outside of it are trained (biases, unfrozen layers).
    """

    def __init__(
        self, model: nn.Module, how: str | nn.Module = "auto", probe: Mapping[str, Tensor] | None = None
    ) -> None:
        """See the class."""
        self.frozen: nn.Module | None = None
        if isinstance(how, nn.Module):
            check_vocabulary(model, how)
            check_apart(model, how)
            self.frozen = how
            return
        if how not in REFERENCES:
            raise InvalidInputError(f"Expected 'reference' to be a model or one of {REFERENCES} (got {how!r})")
        objection = "no choice" if how == "copy" else objection_to_adapter(model, probe)
        if how == "adapter" and objection:
            raise InvalidInputError(
                f"Expected a model that is the original one without its adapter for reference='adapter' "
                f"(got {objection}); use reference='copy'"
            )
        if objection:
            self.frozen = copy.deepcopy(model).eval().requires_grad_(False)

    def to(self, device: torch.device) -> Reference:
        """Move the copy, where there is one that is not spread over devices."""
        if self.frozen is not None and not getattr(self.frozen, "hf_device_map", None):
            self.frozen.to(device)
        return self

    @contextmanager
    def of(self, model: nn.Module) -> Iterator[nn.Module]:
        """The frozen model, in evaluation mode and without gradients, for the length of a block.

        Args:
            model: the model in training, in its distributed wrapper if it has one: whoever compares with the model
                itself must call that, for a sharded model is whole only there.
        """
        if self.frozen is None:
            with _without_adapter(unwrap(model)), torch.no_grad():
                yield model
        else:
            with evaluating(self.frozen), torch.no_grad():
                yield self.frozen


def check_vocabulary(model: nn.Module, reference: nn.Module) -> None:
    """Refuse a reference whose logits are about other tokens.

    Raises:
        InvalidInputError: the sizes of the two vocabularies.
    """
    sizes = [None if head is None else head.weight.shape[0] for head in map(output_head, (model, reference))]
    if None not in sizes and sizes[0] != sizes[1]:
        raise InvalidInputError(f"Expected a reference with a vocabulary of {sizes[0]} tokens (got {sizes[1]})")


def check_apart(model: nn.Module, reference: nn.Module) -> None:
    """Refuse a reference that training would move along.

    Raises:
        InvalidInputError: a trainable parameter of the model is one of the reference's.
    """
    own = {id(parameter) for parameter in reference.parameters()}
    shared = [name for name, p in model.named_parameters() if p.requires_grad and id(p) in own]
    if shared:
        raise InvalidInputError(
            f"Expected a reference that holds none of the parameters to be trained (got {shared[0]!r} and "
            f"{len(shared) - 1} more); peft puts adapters into the very model it is given: use reference='auto' or "
            "'adapter'"
        )


def objection_to_adapter(model: nn.Module, probe: Mapping[str, Tensor] | None) -> str | None:
    """Why the model with its adapter disabled cannot stand for the model as it is now; `None` if it can.

    Args:
        model: with an adapter or without.
        probe: a batch of at least `input_ids` `[batch, tokens]`; without one, nothing is known.
    """
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
        if after.requires_grad and trained:
            found = torch.autograd.grad(after.sum(), trained, allow_unused=True)
            if any(gradient is not None for gradient in found):
                return "trained weights outside the adapter"
    return None if torch.equal(before, after.detach()) else "an adapter that changes the outputs"


@contextmanager
def _without_adapter(model: nn.Module) -> Iterator[None]:
    """No adapter, in evaluation mode; afterwards modes are as before, and so is what is trained.

    peft lets all of an adapter be trained when it is enabled again, parts that the caller froze too.
    """
    trained = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        with evaluating(model), model.disable_adapter():
            yield
    finally:
        for parameter, flag in trained.items():
            parameter.requires_grad_(flag)
