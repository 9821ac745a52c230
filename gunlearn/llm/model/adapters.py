"""Adapters by name, and checks of the model to train."""

import warnings
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from gunlearn.errors import InvalidInputError, InvalidTypeError, UnsupportedModelError
from gunlearn.llm.model.bounded import BoundedConfig
from gunlearn.llm.model.causality import check_language_model, check_prompt_learning

ADAPTERS = ("lora", "bounded")


def check_trainable(model: nn.Module, peft: Any = None) -> None:
    """Refuse a model without trainable parameters unless `peft` adds an adapter; refuse a second adapter."""
    adapted = hasattr(model, "peft_config")
    if peft is not None:
        if adapted:
            raise InvalidInputError(
                "Expected a model without an adapter for 'peft' (got one that has one); merge it first, or leave out "
                "'peft' to train it"
            )
        return
    frozen = not any(p.requires_grad for p in model.parameters())
    if adapted and frozen:
        raise InvalidInputError(
            "Expected a model with parameters to train (got a frozen adapter); load it with is_trainable=True, or call "
            "merge_and_unload()"
        )
    quantised = getattr(model, "is_quantized", False) and not adapted
    if quantised or frozen:
        raise InvalidInputError(
            f"Expected a model with parameters to train (got a {'quantised' if quantised else 'frozen'} one); "
            "train an adapter: peft='lora' or 'bounded' (--peft lora)"
        )


def precision(model: nn.Module) -> str:
    """Return the types of the trained weights (`"float32"`); warn of bfloat16, which rounds small steps away.

    Raises:
        InvalidInputError: weights in float16, in which AdamW's `eps` and most squared gradients are 0.
    """
    found = {p.dtype for p in model.parameters() if p.requires_grad}
    if torch.float16 in found:
        raise InvalidInputError(
            "Expected weights to train in float32 or bfloat16 (got float16, in which AdamW divides by 0); load the "
            "model with dtype=torch.float32, or train an adapter (peft='lora'), whose weights are in float32"
        )
    if torch.bfloat16 in found:
        warnings.warn(
            "Expected weights to train in float32 (got bfloat16, in which small steps are rounded away and most "
            "weights stay as they are); load the model with dtype=torch.float32, or train an adapter",
            UserWarning,
            stacklevel=3,
        )
    return ", ".join(sorted(str(kind).removeprefix("torch.") for kind in found))


def with_adapter(model: nn.Module, peft: Any) -> nn.Module:
    """Put an adapter into a model, in place, and return it.

    `peft` is `"lora"` (rank 8, on all linear layers but the head), `"bounded"` (`BoundedConfig`, on the feed-forward
    layers), a configuration of peft, or `None` (no adapter).
    """
    if peft is None:
        return model
    if peft == "lora":
        transposed = any(isinstance(module, Conv1D) for module in model.modules())
        peft = LoraConfig(
            task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules="all-linear", fan_in_fan_out=transposed
        )
    elif peft == "bounded":
        peft = BoundedConfig(task_type="CAUSAL_LM")
    elif isinstance(peft, str):
        raise InvalidInputError(f"Expected 'peft' among {ADAPTERS} (got {peft!r})")
    check_language_model(model)
    if not isinstance(peft, PeftConfig):
        raise InvalidTypeError(f"Expected 'peft' as one of {ADAPTERS} or a PeftConfig (got {type(peft).__name__})")
    check_prompt_learning(peft)
    if peft.task_type not in (None, "CAUSAL_LM"):
        raise UnsupportedModelError(f"Expected 'peft' with task_type='CAUSAL_LM' (got {str(peft.task_type)!r})")
    return get_peft_model(model, peft)
