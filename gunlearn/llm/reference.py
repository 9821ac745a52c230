"""The model before unlearning, to compare with: a frozen copy, or the model itself without its adapter."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gunlearn.errors import InvalidInputError
from gunlearn.llm.head import output_head, unwrap

REFERENCES = ("auto", "copy", "adapter")


class Reference:
    """Hands out the frozen model.

    Args:
        model: the model that will be trained, before the first step.
        how: `"copy"`, a frozen deep copy; `"adapter"`, the model with its adapter disabled (peft), which costs no
            memory; `"auto"`, the adapter where disabling it changes nothing yet, else a copy; or a model of the
            caller's, with the same vocabulary.
        probe: a batch that tells whether the adapter does anything yet, for `"auto"` and `"adapter"`.

    Raises:
        InvalidInputError: an adapter was asked for and there is none, or it already does something: without it the
            model is not what it was before unlearning; or another vocabulary.
    """

    def __init__(
        self, model: nn.Module, how: str | nn.Module = "auto", probe: Mapping[str, Tensor] | None = None
    ) -> None:
        """See the class."""
        self.frozen: nn.Module | None = None
        if isinstance(how, nn.Module):
            check_vocabulary(model, how)
            self.frozen = how
            return
        if how not in REFERENCES:
            raise InvalidInputError(f"Expected 'reference' to be a model or one of {REFERENCES} (got {how!r})")
        adapter = callable(getattr(model, "disable_adapter", None))
        if how == "adapter" and not adapter:
            raise InvalidInputError(
                f"Expected a model with 'disable_adapter' for reference='adapter' (got {type(model).__name__})"
            )
        silent = adapter and how != "copy" and probe is not None and _changes_nothing(model, probe)
        if how == "adapter" and not silent:
            raise InvalidInputError(
                "Expected an adapter that does nothing yet for reference='adapter' (got one that changes the outputs); "
                "use reference='copy', or merge it first"
            )
        if not silent:
            self.frozen = copy.deepcopy(model).eval().requires_grad_(False)

    def to(self, device: torch.device) -> Reference:
        """Move the copy, where there is one."""
        if self.frozen is not None:
            self.frozen.to(device)
        return self

    @contextmanager
    def of(self, model: nn.Module) -> Iterator[nn.Module]:
        """The frozen model, in evaluation mode and without gradients, for the length of a block.

        Args:
            model: the model in training, for whoever compares with the model itself.
        """
        frozen = unwrap(model) if self.frozen is None else self.frozen
        modes = {module: module.training for module in frozen.modules()}
        frozen.eval()
        try:
            with torch.no_grad():
                if self.frozen is None:
                    with frozen.disable_adapter():
                        yield frozen
                else:
                    yield frozen
        finally:
            for module, mode in modes.items():
                module.training = mode


def check_vocabulary(model: nn.Module, reference: nn.Module) -> None:
    """Refuse a reference whose logits are about other tokens.

    Raises:
        InvalidInputError: the sizes of the two vocabularies.
    """
    sizes = [None if head is None else head.weight.shape[0] for head in map(output_head, (model, reference))]
    if None not in sizes and sizes[0] != sizes[1]:
        raise InvalidInputError(f"Expected a reference with a vocabulary of {sizes[0]} tokens (got {sizes[1]})")


@torch.no_grad()
def _changes_nothing(model: nn.Module, probe: Mapping[str, Tensor]) -> bool:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        inputs = {name: probe[name] for name in ("input_ids", "attention_mask") if name in probe}
        with_adapter = model(**inputs, use_cache=False).logits
        with model.disable_adapter():
            without = model(**inputs, use_cache=False).logits
    finally:
        for module, mode in modes.items():
            module.training = mode
    return torch.equal(with_adapter, without)
