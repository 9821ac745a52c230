"""Does what was forgotten come back, after a little training on some of it, or in a coarser model?"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.errors import DivergenceError, EmptyForgetSetError, InvalidInputError
from gunlearn.llm.data.collate import collator_of
from gunlearn.llm.model.causal_lm import CausalLM
from gunlearn.llm.model.head import device_of, output_head
from gunlearn.seed import isolated_rng

BITS = (2, 3, 4, 8)


class Curve(list[dict[str, float]]):
    """Figures by step; `chosen` has the numbers of the rows that were shown."""

    def __init__(self, chosen: Sequence[int]) -> None:
        """See the class."""
        super().__init__()
        self.chosen = list(chosen)


def shown_rows(num_rows: int, share: float = 0.1, seed: int = 0) -> list[int]:
    """Numbers of the rows that `relearn` trains on, to measure on the others."""
    order = torch.randperm(num_rows, generator=torch.Generator().manual_seed(seed))
    return order[: max(1, round(share * num_rows))].tolist()


def relearn(
    model: nn.Module,
    forget_rows: Sequence[Mapping[str, Any]],
    measure: Callable[[nn.Module], Mapping[str, float]],
    share: float = 0.1,
    steps: int = 20,
    lr: float = 1e-4,
    batch_size: int = 8,
    every: int = 5,
    seed: int = 0,
    chosen: Sequence[int] | None = None,
) -> Curve:
    """Fine-tune a copy on a few of the forgotten rows, and watch the others come back.

    A model that has forgotten learns what it is shown and no more; one that only hides it recalls the rest as well.
    Compare with the same attack on a retrained model, and measure on rows that were not shown (`shown_rows`). The copy
    is trained in float32, whatever the model's type: in half precision small steps are lost.

    Args:
        model: the unlearned model; it is not changed.
        forget_rows: what it forgot.
        measure: figures of a model, in evaluation mode.
        share: of the rows to train on, drawn, at least one.
        steps: of AdamW.
        lr: its learning rate.
        batch_size: rows per step.
        every: steps between measurements.
        seed: of the draws, and of dropout.
        chosen: numbers of the rows to train on, in place of a drawn share.

    Returns:
        The curve: for each measurement `step` (first 0, last `steps`) and what `measure` found. Its `chosen` has
        the numbers of the rows that were shown.

    Raises:
        EmptyForgetSetError: no rows.
        InvalidInputError: `share` outside (0, 1], no steps, or rows longer than the model's context.
        DivergenceError: the loss or a weight became NaN or infinite.
    """
    if len(forget_rows) == 0:
        raise EmptyForgetSetError("Expected forgotten rows (got none)")
    if not 0 < share <= 1 or steps < 1 or every < 1:
        raise InvalidInputError(f"Expected share in (0, 1], steps and every >= 1 (got {share}, {steps}, {every})")
    if chosen is None:
        chosen = shown_rows(len(forget_rows), share, seed)
    rows = [forget_rows[i] for i in chosen]
    victim = copy.deepcopy(model)
    for value in (*victim.parameters(), *victim.buffers()):
        if value.dtype in (torch.float16, torch.bfloat16):
            value.data = value.data.float()
    trainable = [p for p in victim.parameters() if p.requires_grad]
    if not trainable:  # merged or frozen: whoever has the weights can train them
        victim.requires_grad_(True)
        trainable = list(victim.parameters())
    optimizer = torch.optim.AdamW(trainable, lr=lr, weight_decay=0.0)
    task, collate, device = CausalLM(("log_prob",)), collator_of(victim), device_of(victim)
    curve = Curve(chosen)
    curve.append({"step": 0, **measure(victim.eval())})
    with isolated_rng(seed):
        for step in range(1, steps + 1):
            index = torch.randint(len(rows), (batch_size,)) if len(rows) > batch_size else range(len(rows))
            batch = {name: value.to(device) for name, value in collate([rows[int(i)] for i in index]).items()}
            p = task.decode(victim.train(), None, batch)
            loss = -p.log_prob.sum() / p.mask.sum().clamp_min(1)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if not all(bool(x.isfinite().all()) for x in (loss, *trainable)):
                raise DivergenceError(f"Expected finite loss and weights (got loss {loss.item():g} in step {step})")
            if step % every == 0 or step == steps:
                curve.append({"step": step, **measure(victim.eval())})
    return curve


@torch.no_grad()
def quantized(model: nn.Module, bits: int = 4, head: bool = False) -> nn.Module:
    """A copy whose linear layers hold rounded weights, as they would after quantisation.

    Simulated: weights are rounded to `2 ** bits - 1` levels, symmetric about 0 and evenly spaced up to the largest of
    each output channel, and kept in the type that they had. Unlearning by small changes of weights is undone where
    rounding swallows them (`arXiv:2410.16454 <https://arxiv.org/abs/2410.16454>`_). Adapters are merged first.

    Args:
        model: a causal language model; it is not changed.
        bits: 8 or 4 (2 and 3 as well).
        head: round the output layer too, and with it the embeddings where the two are tied; else they never are.

    Raises:
        InvalidInputError: other numbers of bits.
    """
    if bits not in BITS:
        raise InvalidInputError(f"Expected 'bits' among {BITS} (got {bits!r})")
    out = copy.deepcopy(model)
    if callable(getattr(out, "merge_and_unload", None)):
        out = out.merge_and_unload()
    last = output_head(out)
    for module in out.modules():
        transposed = type(module).__name__ == "Conv1D"  # GPT-2's linear layers hold [inputs, outputs]
        if (isinstance(module, nn.Linear) or transposed) and (head or module is not last):
            module.weight.copy_(rounded(module.weight, bits, dim=0 if transposed else 1))
    return out


def rounded(weight: Tensor, bits: int, dim: int) -> Tensor:
    """Weights on an even grid, with a step of its own along each slice of `dim`.

    Args:
        weight: a matrix.
        bits: `2 ** bits - 1` levels.
        dim: along which weights share a step: that of the inputs.
    """
    top = 2 ** (bits - 1) - 1
    step = weight.float().abs().amax(dim, keepdim=True) / top
    return torch.where(step > 0, (weight / step).round() * step, 0).to(weight.dtype)
