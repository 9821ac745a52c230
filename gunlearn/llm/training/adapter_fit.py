"""Fitting a LoRA to rows for its product."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from gunlearn.errors import DivergenceError
from gunlearn.llm.data.collate import collator_of
from gunlearn.llm.model.arithmetic import adapter_delta
from gunlearn.llm.model.causal_lm import CausalLM
from gunlearn.llm.model.head import device_of
from gunlearn.seed import isolated_rng


@dataclass(frozen=True)
class ReleaseOptions:
    r"""How adapters are fitted and subtracted.

    Args:
        rank: of the adapters.
        steps: of AdamW for each; a fixed few, since what is wanted is a direction.
        lr: learning rate.
        batch_size: rows per step.
        scale: :math:`\lambda`, how much of the forget adapter is subtracted.
        tolerance: by how much, in nats per token, a round may raise the loss of the retain rows; the largest of
            `scales` that keeps to it is taken in place of `scale`. `None` does not look.
        scales: to choose from.
        retain_scale: :math:`\mu`, how much of the retain adapter is added.
        orthogonality: weight of :math:`\sum|A_R A_F^\top|` in the retain adapter's loss (O-LoRA).
        stop_rate: stop where fewer of the texts than this are hits.
        min_rows: stop where fewer distinct rows are revealed.
        target_modules: of the adapters; `None` takes the linear layers of the feed-forward blocks.
        seed: of the adapters and batches.
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


def fit_adapter(
    model: nn.Module,
    rows: Sequence[Mapping[str, Any]],
    targets: Sequence[str] | str,
    options: ReleaseOptions,
    seed: int,
    apart_from: Mapping[str, Tensor] | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    r"""Fit a LoRA by the mean loss per token, in evaluation mode (no dropout).

    The model's weights are as before afterwards, and without adapters; none of them requires a gradient.

    Args:
        model: a causal language model without adapters.
        rows: of `input_ids` and `labels`.
        targets: modules to adapt.
        options: rank, steps, learning rate, rows per step, weight of the orthogonality.
        seed: of the adapter and the batches.
        apart_from: factors `A` `[rank, in_features]` by module that the new ones shall be orthogonal to:
            :math:`\sum_m |A_m A_m'^\top|` is added to the loss (O-LoRA).

    Returns:
        Its product and its factor `A`, by module.

    Raises:
        DivergenceError: the loss became NaN or infinite.
    """
    collate, task, device = collator_of(model), CausalLM(("log_prob",)), device_of(model)
    with isolated_rng(seed):
        config = LoraConfig(
            r=options.rank,
            lora_alpha=2 * options.rank,
            target_modules=targets if isinstance(targets, str) else list(targets),
        )
        adapted = get_peft_model(model, config).eval()
        try:
            factors = {
                name: layer.lora_A["default"].weight
                for name, layer in adapted.get_base_model().named_modules()
                if hasattr(layer, "lora_A")
            }
            weights = [p for p in adapted.parameters() if p.requires_grad]
            optimizer = torch.optim.AdamW(weights, lr=options.lr, weight_decay=0.0)
            order: list[int] = []
            for _ in range(options.steps):
                if len(order) < min(options.batch_size, len(rows)):
                    order += torch.randperm(len(rows)).tolist()
                batch, order = order[: options.batch_size], order[options.batch_size :]
                inputs = {k: v.to(device) for k, v in collate([rows[i] for i in batch]).items()}
                p = task.decode(adapted, None, inputs)
                loss = -p.log_prob.sum() / p.mask.sum().clamp_min(1)
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
