"""Weights rounded to NF4, as 4-bit loading has them."""

import copy
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from gunlearn.errors import MissingExtraError
from gunlearn.llm.metrics.attacks import quantized
from gunlearn.llm.model.arithmetic import merged
from gunlearn.llm.model.causality import check_language_model
from gunlearn.llm.model.head import output_head


def has_bitsandbytes() -> bool:
    """Return whether bitsandbytes, which rounds to NF4, is installed."""
    return find_spec("bitsandbytes") is not None


def under_rounding(model: nn.Module, rounding: str) -> nn.Module:
    """Return a copy of a model under a rounding: `"int8"` (`quantized` with 8 bits, simulated) or `"nf4"`."""
    return quantized(model, 8) if rounding == "int8" else nf4_rounded(model)


@torch.no_grad()
def nf4_rounded(model: nn.Module) -> nn.Module:
    """Return a copy whose linear layers have the weights that bitsandbytes' NF4 stores, in blocks of 64.

    Adapters are merged first; the output layer keeps its weights, as in 4-bit loading.

    Raises:
        MissingExtraError: bitsandbytes is not installed.
    """
    if not has_bitsandbytes():
        raise MissingExtraError("Expected bitsandbytes for nf4 (not installed); pip install bitsandbytes")
    from bitsandbytes import functional  # slow to load, seldom there

    check_language_model(model)
    out: Any = merged(copy.deepcopy(model))
    last = output_head(out)
    for module in out.modules():
        if isinstance(module, nn.Linear) and module is not last:
            stored, state = functional.quantize_4bit(module.weight.data.contiguous(), blocksize=64, quant_type="nf4")
            module.weight.copy_(functional.dequantize_4bit(stored, state).to(module.weight.dtype))
    return out
