"""Adapters by name, and models that have nothing to train."""

from __future__ import annotations

from typing import Any

from torch import nn

from gunlearn.errors import InvalidInputError, InvalidTypeError

ADAPTERS = ("lora", "bounded")


def check_trainable(model: nn.Module, peft: Any = None) -> None:
    """Refuse a model that cannot be trained as it is.

    Args:
        model: a causal language model.
        peft: see `with_adapter`.

    Raises:
        InvalidInputError: a quantised or frozen model without an adapter, or a second adapter.
    """
    adapted = hasattr(model, "peft_config")
    if peft is not None:
        if adapted:
            raise InvalidInputError(
                "Expected a model without an adapter for 'peft' (got one that has one); merge it first, or leave out "
                "'peft' to train it"
            )
        return
    quantised = getattr(model, "is_quantized", False) and not adapted
    if adapted and not any(p.requires_grad for p in model.parameters()):
        raise InvalidInputError(
            "Expected a model with parameters to train (got a frozen adapter); load it with is_trainable=True, or call "
            "merge_and_unload()"
        )
    if quantised or not any(p.requires_grad for p in model.parameters()):
        raise InvalidInputError(
            f"Expected a model with parameters to train (got a {'quantised' if quantised else 'frozen'} one); "
            "train an adapter: peft='lora' or 'bounded' (--peft lora)"
        )


def with_adapter(model: nn.Module, peft: Any) -> nn.Module:
    """Put an adapter into a model, in place.

    Args:
        model: a model of transformers.
        peft: `None` for none, `"lora"` (rank 8, on all linear layers but the head), `"bounded"` (`BoundedConfig`, on
            the feed-forward layers), or a configuration of peft.

    Returns:
        The model for training; the given one without an adapter.

    Raises:
        InvalidInputError: another name.
        InvalidTypeError: no configuration.
    """
    if peft is None:
        return model
    from peft import LoraConfig, PeftConfig, get_peft_model
    from transformers.pytorch_utils import Conv1D

    if peft == "lora":
        transposed = any(isinstance(module, Conv1D) for module in model.modules())
        peft = LoraConfig(
            task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules="all-linear", fan_in_fan_out=transposed
        )
    elif peft == "bounded":
        from gunlearn.llm.bounded import BoundedConfig

        peft = BoundedConfig(task_type="CAUSAL_LM")
    elif isinstance(peft, str):
        raise InvalidInputError(f"Expected 'peft' among {ADAPTERS} (got {peft!r})")
    if not isinstance(peft, PeftConfig):
        raise InvalidTypeError(f"Expected 'peft' as one of {ADAPTERS} or a PeftConfig (got {type(peft).__name__})")
    return get_peft_model(model, peft)
