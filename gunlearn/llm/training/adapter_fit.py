"""Fit a LoRA to rows, to add or subtract its product."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from gunlearn.core.checks import check_integer, check_number
from gunlearn.errors import DivergenceError, InvalidInputError
from gunlearn.llm.data.collate import Rows, collator_of, row_batch
from gunlearn.llm.model.arithmetic import adapter_delta
from gunlearn.llm.model.head import without_peft
from gunlearn.llm.model.token_prediction import token_loss
from gunlearn.seed import isolated_rng


@dataclass(frozen=True)
class ReleaseOptions:
    r"""How to fit and subtract adapters.

    Args:
        steps: steps of AdamW for each adapter; a few, since only a direction is needed.
        scale: :math:`\lambda`, how much of the forget adapter to subtract.
        tolerance: how much a round may raise the loss of the retain rows, in nats per token; the largest of `scales`
            within it then replaces `scale`. `None` sets no limit.
        retain_scale: :math:`\mu`, how much of the retain adapter to add.
        orthogonality: weight of :math:`\sum|A_R A_F^\top|` in the retain adapter's loss (O-LoRA).
        stop_rate: stop when a smaller share of the texts is about the concept.
        min_rows: stop when fewer distinct rows are revealed.
        target_modules: modules to adapt; `None` takes the linear layers of the feed-forward blocks.

    Raises:
        InvalidInputError: a number out of range.
    """

    rank: int = 4
    steps: int = 40
    lr: float = 1e-4
    batch_size: int = 16
    scale: float = 1.0
    tolerance: float | None = None
    scales: Sequence[float] = (2.0, 1.5, 1.0, 0.7, 0.5, 0.3)
    retain_scale: float = 1.0
    orthogonality: float = 0.5
    stop_rate: float = 0.1
    min_rows: int = 4
    target_modules: Sequence[str] | str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rank", "steps", "batch_size", "min_rows"):
            check_integer(name, getattr(self, name), minimum=1)
        check_integer("seed", self.seed, minimum=0)
        check_number("lr", self.lr, positive=True)
        if not self.scales:
            raise InvalidInputError("Expected 'scales' to choose from (got none)")
        numbers = {"scale": (self.scale,), "scales": self.scales, "retain_scale": (self.retain_scale,)}
        numbers["tolerance"] = () if self.tolerance is None else (self.tolerance,)
        for name, values in numbers.items():
            for value in values:  # below 0 what was fitted is added, or the loss must fall
                check_number(name, value)
        for name in ("orthogonality", "stop_rate"):
            check_number(name, getattr(self, name), minimum=0.0)


def fit_adapter(
    model: nn.Module,
    rows: Rows,
    targets: Sequence[str] | str,
    options: ReleaseOptions,
    seed: int,
    apart_from: Mapping[str, Tensor] | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    r"""Fit a LoRA by the mean loss per token, in evaluation mode (no dropout).

    Returns the adapter's product and its factor `A`, by module; refuses a loss that became NaN or infinite. Afterwards
    the model has its old weights and no adapter; none of its parameters requires a gradient. `apart_from`, factors
    `A'` `[rank, in_features]` by module, adds `options.orthogonality` times :math:`\sum_m |A_m A_m'^\top|` to the loss.
    """
    collator = collator_of(model)
    with isolated_rng(seed):
        modules = targets if isinstance(targets, str) else list(targets)
        config = LoraConfig(r=options.rank, lora_alpha=2 * options.rank, target_modules=modules)
        try:
            adapted: Any = get_peft_model(model, config).eval()
        except ValueError as error:  # peft's own, of modules that the model has not
            raise InvalidInputError(
                f"Expected 'target_modules' of linear layers of the model (got {targets!r:.80}: {error})"
            ) from error
        try:
            factors: dict[str, Tensor] = {
                name: layer.get_parameter("lora_A.default.weight")
                for name, layer in without_peft(adapted).named_modules()
                if hasattr(layer, "lora_A")
            }
            weights = [p for p in adapted.parameters() if p.requires_grad]
            optimizer = torch.optim.AdamW(weights, lr=options.lr, weight_decay=0.0)
            order: list[int] = []
            for _ in range(options.steps):
                if len(order) < min(options.batch_size, len(rows)):
                    order += torch.randperm(len(rows)).tolist()
                batch, order = order[: options.batch_size], order[options.batch_size :]
                loss = token_loss(adapted, row_batch(adapted, [rows[i] for i in batch], collator))
                if apart_from is not None:
                    overlaps = [(factors[name] @ other.T).abs().sum() for name, other in apart_from.items()]
                    loss = loss + options.orthogonality * torch.stack(overlaps).sum()
                if not math.isfinite(float(loss.detach())):
                    raise DivergenceError(f"Expected a finite loss of the adapter (got {float(loss.detach())})")
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            return adapter_delta(adapted), {name: a.detach().clone() for name, a in factors.items()}
        finally:
            adapted.unload()
