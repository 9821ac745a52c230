"""Arithmetic on adapters: read an adapter as a change of weights, add it, subtract it, scale it, negate it."""

import copy
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import torch
from peft.tuners.adalora.layer import AdaLoraLayer
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from gunlearn.errors import InvalidInputError, UnsupportedModelError
from gunlearn.llm.model.bounded_layer import BoundedLinear
from gunlearn.llm.model.causality import check_declared, check_language_model
from gunlearn.llm.model.head import unwrap, without_peft

#: Values of `init_lora_weights` that take the adapter's start out of the weights below it.
_TAKEN_OUT = ("pissa", "olora", "corda", "loftq")
#: Settings of peft with which an adapter is more than one product per layer, and why.
_MORE = {
    "modules_to_save": "whole modules are trained beside it",
    "trainable_token_indices": "rows of the embeddings are trained beside it",
    "target_parameters": "it sits on parameters, not on layers",
    "lora_bias": "its B has a bias",
    "bias": "biases are trained beside it",
}


@torch.no_grad()
def adapter_delta(model: nn.Module, adapter: str = "default") -> dict[str, Tensor]:
    r"""Return the change that an adapter (LoRA or bounded) makes to each weight: the product, :math:`s B A` for LoRA.

    Returns `{module: change}` in the layout of each weight, by the modules' names in the model without adapters. Add
    and subtract these changes, not the factors: the product of two differences of factors has mixed terms.

    Raises:
        InvalidInputError: no layer has that adapter, or it is merged into the weights.
        UnsupportedModelError: the adapter also does something other than changing weight matrices.
    """
    return {name: layer.get_delta_weight(adapter).detach().clone() for name, layer in _adapted(model, adapter).items()}


@torch.no_grad()
def add_delta(model: nn.Module, delta: Mapping[str, Tensor], scale: float = 1.0, inplace: bool = False) -> nn.Module:
    r"""Return the model at :math:`\theta + \lambda\,\Delta`; a negative scale subtracts.

    Sums are in float32 (float64 for float64) and rounded once: adding and subtracting again restores the weights to
    1e-6 in float32, to one rounding step in half precision.

    `delta` has changes :math:`\Delta` by module, from `adapter_delta`, and `scale` is :math:`\lambda`. Of a model with
    adapters the base weights change.

    Raises:
        InvalidInputError: a module is missing, or its weight has another shape or is shared with another module.
        UnsupportedModelError: weights are quantised.
    """
    check_declared(model)
    if not inplace:
        model = copy.deepcopy(model)
    for name, weight in base_weights(model, delta).items():
        wide = torch.promote_types(weight.dtype, torch.float32)
        weight.copy_(weight.to(wide) + scale * delta[name].to(weight.device, wide))
    return model


@torch.no_grad()
def scale_adapter(model: nn.Module, factor: float, adapter: str = "default", inplace: bool = False) -> nn.Module:
    """Return the model whose adapter changes each weight `factor` times as much: `B` becomes `factor` times `B`.

    1 leaves the adapter as it is, bit for bit, and 0 leaves the model that it was put into. A bounded adapter has no
    multiples but the opposite (-1) and itself (1). Errors are those of `adapter_delta`.
    """
    if abs(factor) != 1:
        adapter_scaling(model, adapter)
    if not inplace:
        model = copy.deepcopy(model)
    for layer in _adapted(model, adapter).values():
        if isinstance(layer, BoundedLinear):
            B = layer.bounded_B[adapter]
        else:
            B = layer.lora_B[adapter].weight if adapter in layer.lora_B else layer.lora_embedding_B[adapter]
        B.mul_(factor)
    return model


def adapter_scaling(model: nn.Module, adapter: str | None = None) -> Callable[[float], nn.Module]:
    """Return `scale_adapter` in place, of the active adapter by default.

    Raises:
        UnsupportedModelError: as `adapter_delta`; a bounded adapter; one whose start was taken out of the weights below
            it, so that 0 times it is another model; several active ones, or further trained weights beside it.
    """
    active = list(getattr(model, "active_adapters", None) or [cast(Any, model).active_adapter])
    if adapter is None and len(active) > 1:
        raise UnsupportedModelError(f"Expected one active adapter to scale (got {active})")
    name = active[0] if adapter is None else adapter
    layers = _adapted(model, name)
    others = [layer for layer in layers.values() if isinstance(layer, BoundedLinear | AdaLoraLayer)]
    if others:
        raise UnsupportedModelError(f"Expected a LoRA adapter to scale (got {others[0]!r:.80})")
    start = str(getattr(cast(Any, model).peft_config[name], "init_lora_weights", True)).lower()
    if start.startswith(_TAKEN_OUT):
        raise UnsupportedModelError(
            f"Expected an adapter that changed nothing at its start to scale (got init_lora_weights={start!r}, which "
            "takes its start out of the weights below)"
        )
    within = {id(p) for layer in layers.values() for n, p in layer.named_parameters() if "base_layer" not in n}
    beside = [n for n, p in model.named_parameters() if p.requires_grad and id(p) not in within]
    if adapter is None and beside:
        raise UnsupportedModelError(f"Expected no trained weights beside the adapter to scale (got {beside[0]!r})")
    return partial(scale_adapter, model, adapter=name, inplace=True)


def negate_adapter(model: nn.Module, adapter: str = "default", inplace: bool = False) -> nn.Module:
    """Return the model with exactly the opposite adapter: `B` becomes `-B`. Errors are those of `adapter_delta`."""
    return scale_adapter(model, -1.0, adapter, inplace)


def merged(model: nn.Module) -> nn.Module:
    """Merge adapters of peft into the model's weights, in place; a model without adapters stays unchanged."""
    adapted: Any = model
    return adapted.merge_and_unload() if hasattr(model, "merge_and_unload") else model


def base_weights(model: nn.Module, delta: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
    """Return the weight that each change belongs to; raise as `add_delta`."""
    base, out = without_peft(model), {}
    owners = Counter(id(parameter) for _, parameter in base.named_parameters(remove_duplicate=False))
    modules = dict(base.named_modules())
    for name, change in delta.items():
        module = modules.get(name)
        layer = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
        weight = getattr(layer, "weight", None)
        if not isinstance(weight, nn.Parameter):
            raise InvalidInputError(f"Expected a model with a weight at '{name}' (got {type(module).__name__})")
        if not weight.is_floating_point():
            raise UnsupportedModelError(f"Expected floating point weights at '{name}' (got {weight.dtype})")
        if weight.shape != change.shape:
            wanted, got = tuple(weight.shape), tuple(change.shape)
            raise InvalidInputError(f"Expected a change of shape {wanted} for '{name}' (got {got})")
        if owners[id(weight)] > 1:
            raise InvalidInputError(f"Expected an untied weight at '{name}' (got one tied to another); untie it first")
        out[name] = weight
    return out


def _adapted(model: nn.Module, adapter: str) -> dict[str, Any]:
    """Return the layers that have an adapter by their names without it; raise as `adapter_delta`."""
    check_language_model(model)
    _check_complete(model, adapter)
    layers = {}
    for name, layer in without_peft(model).named_modules():
        if isinstance(layer, BaseTunerLayer) and adapter in layer._get_available_adapters():
            if not isinstance(layer, (LoraLayer, BoundedLinear)) or getattr(layer, "lora_variant", {}).get(adapter):
                raise UnsupportedModelError(f"Expected plain LoRA or bounded adapters (got {layer!r:.80})")
            if adapter in layer.merged_adapters:
                raise InvalidInputError(f"Expected an adapter that is not merged (got '{adapter}'); unmerge it first")
            layers[name] = layer
    if not layers:
        raise InvalidInputError(f"Expected a model with an adapter '{adapter}' (got {type(model).__name__})")
    return layers


def _check_complete(model: nn.Module, adapter: str) -> None:
    config = getattr(unwrap(model), "peft_config", {}).get(adapter)
    more = [f"'{name}': {why}" for name, why in _MORE.items() if (getattr(config, name, None) or "none") != "none"]
    if more:
        raise UnsupportedModelError(f"Expected an adapter that only changes weight matrices (got {'; '.join(more)})")
