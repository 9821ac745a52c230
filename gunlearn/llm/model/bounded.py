"""Bounded adapters for peft: gradient ascent cannot make their weights grow without end."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING, PeftConfig
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from gunlearn.core.checks import check_choice, check_integer, check_number
from gunlearn.errors import InvalidInputError
from gunlearn.llm.model.bounded_layer import PHI, BoundedLinear

TYPE: Any = "BOUNDED"
_FAMILIES = {
    ("gate_proj", "up_proj", "down_proj"): "llama mistral qwen2 qwen3 gemma gemma2 gemma3_text olmo olmo2 smollm3",
    ("gate_up_proj", "down_proj"): "phi3 glm glm4",
    ("fc1", "fc2"): "phi opt",
    ("mlp.c_fc", "mlp.c_proj"): "gpt2 gpt_neo gpt_bigcode",
    ("dense_h_to_4h", "dense_4h_to_h"): "gpt_neox bloom falcon",
    ("fc_in", "fc_out"): "gptj",
}
#: The linear layers of the feed-forward blocks, by `model_type`.
MLP_LINEARS = {model_type: list(names) for names, types in _FAMILIES.items() for model_type in types.split()}


@dataclass
class BoundedConfig(PeftConfig):
    r"""Adapters whose change of the weights is bounded, :math:`\Delta W = s\,\varphi(\omega B A)`.

    After "Bounded Parameter-Efficient Unlearning" (arXiv 2509.24166): gradient ascent on the forget data makes the
    weights of feed-forward layers grow without bound, and a bounded function on their adapters stops that. A
    reconstruction: the place of `phi` (as in sine-activated low-rank adaptation) and the default bound are ours.

    The bound holds for each entry of the weights' change, and so for its norm, not for the forget loss: it only keeps
    retained rows more stable under ascent. Compare with a smaller learning rate.

    Use it as any configuration of peft, `get_peft_model(model, BoundedConfig())`, also on other modules with linear
    layers (`target_modules`). Import this module before `PeftModel.from_pretrained` loads a saved adapter.

    The slope at zero is `s * omega`: keep that product when you change one of them, or the effective learning rate
    changes. Where :math:`|\omega B A| > \pi/2` the sine falls again: see `adapter_norms`.

    Args:
        r: rank of `B A`.
        alpha: numerator of the default bound; `None` takes `r`.
        omega: frequency.
        phi: `"sin"`, `"tanh"`, or `"identity"` (no bound; LoRA with the same slope).
        bound: :math:`s`; `None` takes `(alpha / r) / sqrt(in_features)`, the size of a freshly drawn weight.
        dropout: rate on the adapter's input.
        target_modules: names or a regular expression; `None` takes the linear layers of the feed-forward blocks.
            `exclude_modules` and the options after it are those of peft's `LoraConfig`.

    Raises:
        InvalidInputError: a rank, frequency, bound, function or dropout out of range.
    """

    r: int = 8
    alpha: float | None = None
    omega: float = 10.0
    phi: str = "sin"
    bound: float | None = None
    dropout: float = 0.0
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    modules_to_save: list[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = TYPE
        check_integer("r", self.r, minimum=1)
        check_choice("phi", self.phi, tuple(PHI))
        for name in ("alpha", "omega", "bound"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), positive=True)
        if not 0 <= self.dropout < 1:
            raise InvalidInputError(f"Expected 'dropout' in [0, 1) (got {self.dropout!r})")

    def scale(self, in_features: int) -> float:
        """Return the bound for a layer with `in_features` inputs."""
        if self.bound is not None:
            return self.bound
        return (self.r if self.alpha is None else self.alpha) / self.r / math.sqrt(in_features)


class BoundedModel(BaseTuner):
    """Put bounded layers into a model; `peft.get_peft_model` makes it from a `BoundedConfig`."""

    prefix = "bounded_"
    tuner_layer_cls = BoundedLinear
    target_module_mapping = MLP_LINEARS

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        if peft_config.target_modules is None:
            peft_config.target_modules = mlp_linears(model_config.get("model_type"))
        return peft_config

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        *_: Any,
        **__: Any,
    ) -> None:
        if isinstance(target, BoundedLinear):
            target.update_layer(adapter_name, peft_config)
            return
        layer = BoundedLinear(target, adapter_name, peft_config)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)


def mlp_linears(model_type: str | None) -> list[str]:
    """Return the names of an architecture's linear layers in feed-forward blocks; refuse an unknown architecture."""
    if model_type not in MLP_LINEARS:
        known = f"known types are {sorted(MLP_LINEARS)}"
        raise InvalidInputError(f"Expected 'target_modules' for models of type {model_type!r} (got none); {known}")
    return list(MLP_LINEARS[model_type])


@torch.no_grad()
def adapter_norms(model: nn.Module, adapter: str = "default") -> dict[str, dict[str, float]]:
    r"""Measure the weights' change of a bounded adapter, module by module; refuse a name that no adapter has.

    Returns for each module `bound` (infinite for `phi="identity"`), `max` and `frobenius` of :math:`\Delta W`, and
    `beyond`, the share of entries with :math:`|\omega B A| > \pi/2`, where the sine falls again.
    """
    report = {}
    for name, layer in model.named_modules():
        if isinstance(layer, BoundedLinear) and adapter in layer.bounded_A:
            delta, (scale, omega, phi) = layer.get_delta_weight(adapter), layer.bounded_how[adapter]
            angle = omega * (layer.bounded_B[adapter] @ layer.bounded_A[adapter])
            report[name.removeprefix("base_model.model.")] = {
                "bound": math.inf if phi == "identity" else scale,
                "max": float(delta.abs().max()),
                "frobenius": float(delta.norm()),
                "beyond": float((angle.abs() > math.pi / 2).double().mean()),
            }
    if not report:
        raise InvalidInputError(f"Expected a model with a bounded adapter '{adapter}' (got {type(model).__name__})")
    return report


# `register_peft_method` admits only names of peft's enumeration; the tables themselves take any string.
PEFT_TYPE_TO_CONFIG_MAPPING[TYPE] = BoundedConfig
PEFT_TYPE_TO_TUNER_MAPPING[TYPE] = BoundedModel
PEFT_TYPE_TO_PREFIX_MAPPING[TYPE] = BoundedModel.prefix
