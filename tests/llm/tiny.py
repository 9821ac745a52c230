"""Untrained models of real architectures, with as few weights as they take."""

from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

SIZES = {
    "vocab_size": 60,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {"num_key_value_heads": 1}
#: Sizes that an architecture has of its own; `llama_tied` is a Llama.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "llama": GROUPED,
    "llama_tied": GROUPED | {"tie_word_embeddings": True},
    "qwen2": GROUPED,
    "qwen3": GROUPED | {"head_dim": 8},
    "phi": {},
    "gpt_neox": {},
    "gemma2": GROUPED | {"head_dim": 8, "final_logit_softcapping": 2.0},
    "cohere": {"logit_scale": 0.3},
    "granite": GROUPED | {"logits_scaling": 3.0},
}


def tiny(name: str = "llama", seed: int = 0, **sizes: Any) -> nn.Module:
    """A new model in evaluation mode; a seed gives the same weights each time."""
    config = AutoConfig.for_model(name.removesuffix("_tied"), **(SIZES | ARCHITECTURES[name] | sizes))
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config).eval()
