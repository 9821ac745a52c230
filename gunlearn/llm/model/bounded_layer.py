"""The layer of bounded adapters: each entry of its weight can change by no more than a bound."""

import math
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.pytorch_utils import Conv1D

from gunlearn.errors import DivergenceError, UnsupportedModelError

PHI = {"sin": torch.sin, "tanh": torch.tanh, "identity": lambda x: x}


def bounded_delta(a: Tensor, b: Tensor, scale: float, omega: float, phi: str = "sin") -> Tensor:
    r"""Return the change of a weight matrix, :math:`\Delta W = s\,\varphi(\omega B A)`.

    No entry exceeds `scale` in absolute value for `"sin"` and `"tanh"`; `"identity"` has no bound and is LoRA with the
    same slope at zero, :math:`s\,\omega`. `phi` is odd: `-b` gives exactly the negative change.

    Shapes: `a` `[r, in_features]`, `b` `[out_features, r]`; `scale` is the bound :math:`s`, `phi` a key of `PHI`.
    """
    return scale * PHI[phi](omega * (b @ a))


class BoundedLinear(nn.Module, BaseTunerLayer):
    """Add bounded adapters, the first by its `BoundedConfig`, to an `nn.Linear` or the `Conv1D` of GPT-2.

    Memory: forward and backward pass each compute a full matrix `[out_features, in_features]` per active adapter, so
    that only one layer's matrices exist at a time. They are computed in the adapter's type (float32 beside a bfloat16
    base) and multiplied in the input's.

    Raises:
        UnsupportedModelError: another layer, or its weights are quantised.
    """

    adapter_layer_names = ("bounded_A", "bounded_B")
    other_param_names = ("bounded_how", "bounded_dropout")

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: Any) -> None:
        super().__init__()
        if not isinstance(base_layer, (nn.Linear, Conv1D)) or not base_layer.weight.is_floating_point():
            kind = type(base_layer).__name__
            raise UnsupportedModelError(f"Expected linear layers with floating point weights to adapt (got {kind})")
        self.base_layer = base_layer
        self.fan_in_fan_out = isinstance(base_layer, Conv1D)
        weight = base_layer.weight.T if self.fan_in_fan_out else base_layer.weight
        self.out_features: int = weight.shape[0]
        self.in_features: int = weight.shape[1]
        self.bounded_A, self.bounded_B = nn.ParameterDict(), nn.ParameterDict()
        self.bounded_dropout = nn.ModuleDict()
        self.bounded_how: dict[str, tuple[float, float, str]] = {}  # scale, omega and phi of each adapter
        self.merged_adapters: list[str] = []
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: Any) -> None:
        """Add an adapter that does nothing yet: `A` Kaiming-uniform, `B` zero."""
        weight = self.base_layer.weight
        # Like the adapters of peft, float32 beside half precision: small steps would be rounded away.
        dtype = weight.dtype if weight.dtype == torch.float64 else torch.float32
        a = torch.empty(config.r, self.in_features, dtype=dtype, device=weight.device)
        if a.device.type != "meta":
            nn.init.kaiming_uniform_(a, a=math.sqrt(5))
        b = torch.zeros(self.out_features, config.r, dtype=dtype, device=weight.device)
        self.bounded_A[adapter_name], self.bounded_B[adapter_name] = nn.Parameter(a), nn.Parameter(b)
        self.bounded_dropout[adapter_name] = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.bounded_how[adapter_name] = config.scale(self.in_features), config.omega, config.phi
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def _delta(self, adapter: str, a: Tensor, b: Tensor) -> Tensor:
        with torch.autocast(a.device.type, enabled=False):
            return bounded_delta(a, b, *self.bounded_how[adapter])

    def get_delta_weight(self, adapter: str) -> Tensor:
        """Return the adapter's change in the layout of the base weight."""
        delta = self._delta(adapter, self.bounded_A[adapter], self.bounded_B[adapter])
        return delta.T if self.fan_in_fan_out else delta

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters and self.merged:
            self.unmerge()
        result = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return result
        for adapter in self.active_adapters:
            if adapter in self.bounded_A:
                inputs = self.bounded_dropout[adapter](x), self.bounded_A[adapter], self.bounded_B[adapter]
                result = result + self._apply_delta(adapter, *inputs).to(result.dtype)
        return result

    def _apply_delta(self, adapter: str, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        def change(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
            return F.linear(x, self._delta(adapter, a, b).to(x.dtype))

        if not torch.is_grad_enabled() or not (a.requires_grad or x.requires_grad):
            return change(x, a, b)
        # Nothing random inside; the recomputation ends before the product with `x`.
        return checkpoint(change, x, a, b, use_reentrant=False, preserve_rng_state=False)

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        for adapter in check_adapters_to_merge(self, adapter_names):
            if adapter in self.bounded_A:
                weight = self.base_layer.weight
                merged = (weight + self.get_delta_weight(adapter)).to(weight.dtype)
                if safe_merge and not bool(torch.isfinite(merged).all()):
                    raise DivergenceError(f"Expected finite weights with '{adapter}' merged (got NaN or infinity)")
                weight.data = merged
                self.merged_adapters.append(adapter)

    @torch.no_grad()
    def unmerge(self) -> None:
        if not self.merged:
            warnings.warn("Already unmerged; nothing to do.", stacklevel=2)
        while self.merged_adapters:
            adapter, weight = self.merged_adapters.pop(), self.base_layer.weight
            weight.data = (weight - self.get_delta_weight(adapter)).to(weight.dtype)

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        return True

    def __repr__(self) -> str:
        return "bounded." + super().__repr__()
