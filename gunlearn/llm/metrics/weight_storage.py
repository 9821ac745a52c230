"""What cannot be measured where a model's weights are stored in few bits, or elsewhere."""

from dataclasses import replace
from typing import Any

from torch import nn

from gunlearn.llm.metrics.eval_settings import EvalSettings
from gunlearn.llm.model.head import without_peft


def why_not_plain(model: nn.Module) -> str:
    """Return why a model's weights can be neither rounded nor differentiated; empty where they can be."""
    if any(value.is_meta for value in model.parameters()):
        return "some of the weights are offloaded; load the model whole"
    config: Any = getattr(getattr(without_peft(model), "config", None), "quantization_config", None)
    method = config.get("quant_method") if isinstance(config, dict) else getattr(config, "quant_method", None)
    few = any(not value.is_floating_point() or value.element_size() < 2 for value in model.parameters())
    declared = getattr(without_peft(model), "is_quantized", False)
    if few or (declared and getattr(method, "value", method) != "gguf"):  # weights of GGUF files are floats here
        return "the weights are loaded in few bits; load the model whole"
    return ""


def measurable(model: nn.Module, settings: EvalSettings) -> tuple[EvalSettings, dict[str, str]]:
    """Return the settings without what a model's weights do not allow, and by name why it is left out."""
    why = why_not_plain(model)
    if not why:
        return settings, {}
    names = [*settings.quantise, *["relearn"] * (settings.relearn_steps > 0)]
    names += ["mia_gradient"] * ("gradient" in settings.attacks)
    attacks = tuple(attack for attack in settings.attacks if attack != "gradient")
    return replace(settings, quantise=(), relearn_steps=0, attacks=attacks), dict.fromkeys(names, why)
