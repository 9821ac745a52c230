"""Low-rank adapters on a denoiser: put on, switched off for the model before, saved and loaded as diffusers does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict
from torch import nn

from gunlearn.core.checks import check_choice
from gunlearn.core.modes import evaluating
from gunlearn.errors import InvalidInputError, UnsupportedMethodError, UnsupportedModelError
from gunlearn.methods.base import Method
from gunlearn.methods.gradient import GradientMethod

#: Layers that take an adapter by the group of weights that shall learn; see `layer_groups`.
_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_TARGETS: dict[str, str] = {
    "full": r".*(to_q|to_k|to_v|to_out\.0|conv1|conv2|time_emb_proj)",
    "x": r".*attn2\.(to_q|to_k|to_v|to_out\.0)",
    "u": r"(?!.*attn2\.).*(to_q|to_k|to_v|to_out\.0|conv1|conv2|time_emb_proj)",
    "strict": r".*attn2\.(to_k|to_v)",
}


#: How an adapter becomes part of the weights: fused alone, its layers stay.
_HOW_TO_MERGE = (
    "make it part of the weights first, by pipeline.fuse_lora() and then pipeline.unload_lora_weights() (by "
    "merge_and_unload() of a PeftModel), or take it off by pipeline.unload_lora_weights() alone"
)


def lora_config(rank: int = 8, group: str = "full", target_modules: str | Sequence[str] | None = None) -> LoraConfig:
    """Return a configuration of peft, with `lora_alpha` = `r`, which loaders assume that read no settings."""
    targets = _TARGETS[group] if target_modules is None else target_modules
    chosen = targets if isinstance(targets, str) else list(targets)
    return LoraConfig(r=rank, lora_alpha=rank, target_modules=chosen, init_lora_weights=True)


def adapter_for(method: Method, peft: Any, rank: int | None) -> Any:
    """Return the configuration of the adapter that a method trains; `None` where it changes the weights themselves.

    Args:
        method: the method.
        peft: `"auto"`, `"lora"`, a configuration of peft or `None`, see `gunlearn.diffusion.unlearn`.
        rank: of an adapter that is named, 8 by default.

    Raises:
        InvalidInputError: a rank where no adapter is named.
        UnsupportedMethodError: an adapter for a method that does not train, or masks the weights.
    """
    trains, masked = isinstance(method, GradientMethod), getattr(method, "saliency", None) is not None
    named = isinstance(peft, str) and not (peft == "auto" and (masked or not trains))
    if rank is not None and not named:
        raise InvalidInputError(f"Expected no 'rank' without a named adapter, peft='lora' (got {rank} and {peft!r})")
    if peft is None or (peft == "auto" and (masked or not trains)):
        return None
    if masked:
        raise UnsupportedMethodError(
            f"Expected peft=None for 'saliency' of '{method.name}', a mask of the model's own weights (got {peft!r}): "
            "half of an adapter has no gradient at first, and would never learn"
        )
    if not trains:
        raise UnsupportedMethodError(
            f"Expected peft=None for '{method.name}', which changes the weights without training (got {peft!r})"
        )
    if isinstance(peft, str):
        check_choice("peft", peft, ("auto", "lora"))
        return lora_config(8 if rank is None else rank, getattr(method, "group", "full"))
    return peft


def add_adapter(model: nn.Module, config: Any) -> nn.Module:
    """Return a denoiser with a new adapter that changes nothing yet; only the adapter's weights require a gradient.

    `UNet2DConditionModel` and others of diffusers that can hold adapters get one of their own, in place; every other
    module is wrapped by `peft.get_peft_model`.

    Raises:
        UnsupportedModelError: the model has an adapter already, or none of the layers that the adapter would change.
    """
    handle: Any = model
    if hasattr(model, "peft_config"):
        raise UnsupportedModelError(
            f"Expected a denoiser without an adapter (got {type(model).__name__} with {list(handle.peft_config)}); "
            f"{_HOW_TO_MERGE}"
        )
    try:
        if callable(getattr(model, "add_adapter", None)):
            model.requires_grad_(False)
            handle.add_adapter(config)
            return model
        return get_peft_model(handle, config)
    except ValueError as error:
        raise UnsupportedModelError(
            f"Expected layers for an adapter in {type(model).__name__} (got: {str(error)[:200]}); pass "
            "peft=LoraConfig(target_modules=[...]) with their names, or peft=None"
        ) from error


def refuse_adapters(pipeline: Any) -> None:
    """Refuse a pipeline with an adapter in one of its modules, fused or not.

    Its weights have peft's names, so that what is saved of it could not be loaded, and a second adapter alone would
    lack what the first did.

    Raises:
        UnsupportedModelError: see above.
    """
    for name, part in pipeline.components.items():
        if isinstance(part, nn.Module) and any(isinstance(layer, BaseTunerLayer) for layer in part.modules()):
            raise UnsupportedModelError(
                f"Expected a pipeline without an adapter (got one in its '{name}'); {_HOW_TO_MERGE}"
            )


def adapter_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the adapter's weights; ask before anything is switched off, which changes what requires a gradient."""
    return [parameter for name, parameter in model.named_parameters() if "lora_" in name]


@contextmanager
def without_adapter(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the model before unlearning: the same one with its adapter off, in evaluation mode, without gradients.

    Afterwards the same weights require gradients as before: switching off takes that from an adapter's.

    Raises:
        InvalidInputError: a model without an adapter.
    """
    if not hasattr(model, "peft_config"):
        raise InvalidInputError(f"Expected a denoiser with an adapter (got {type(model).__name__})")
    learns = {parameter: parameter.requires_grad for parameter in model.parameters()}
    handle: Any = model
    try:
        with evaluating(model), torch.no_grad():
            if isinstance(model, PeftModel):
                with handle.disable_adapter():
                    yield model
            else:
                handle.disable_adapters()
                try:
                    yield model
                finally:
                    handle.enable_adapters()
    finally:
        for parameter, flag in learns.items():
            parameter.requires_grad_(flag)


def save_adapter(model: nn.Module, folder: Path, pipeline: Any = None) -> None:
    """Write an adapter alone: for `pipeline.load_lora_weights(folder)` where the pipeline can, else as peft does."""
    handle: Any = model
    if isinstance(model, PeftModel):
        handle.save_pretrained(folder)
        return
    if hasattr(pipeline, "save_lora_weights"):
        name = "transformer" if "transformer" in getattr(pipeline, "components", {}) else "unet"
        layers: Any = {f"{name}_lora_layers": get_peft_model_state_dict(model)}
        config = {f"{name}_lora_adapter_metadata": handle.peft_config["default"].to_dict()}  # its scale, among others
        pipeline.save_lora_weights(folder, **layers, **config)
        return
    handle.save_lora_adapter(folder)


def without_wrapper(model: nn.Module) -> nn.Module:
    """Return the denoiser without peft's wrapper."""
    handle: Any = model
    return handle.get_base_model() if isinstance(model, PeftModel) else model


def with_adapter_merged(model: nn.Module) -> nn.Module:
    """Return the denoiser with its adapter's change added to its own weights, without the adapter; in place."""
    handle: Any = model
    if isinstance(model, PeftModel):
        return handle.merge_and_unload()
    if hasattr(model, "peft_config"):
        handle.fuse_lora()
        handle.unload_lora()
    return model
