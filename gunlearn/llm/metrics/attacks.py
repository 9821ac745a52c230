"""Relearning and quantisation: does forgotten knowledge return after a little training, or in rounded weights?"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from gunlearn.errors import DivergenceError, EmptyForgetSetError, InvalidInputError
from gunlearn.llm.data.collate import Rows, collator_of, row_batch
from gunlearn.llm.model.arithmetic import merged
from gunlearn.llm.model.causality import check_language_model
from gunlearn.llm.model.head import output_head, without_peft
from gunlearn.llm.model.token_prediction import token_loss
from gunlearn.seed import isolated_rng


class Curve(list[dict[str, float]]):
    """Figures by step; `chosen` has the indices of the rows that were trained on."""

    def __init__(self, chosen: Sequence[int]) -> None:
        super().__init__()
        self.chosen = list(chosen)


def shown_rows(num_rows: int, share: float = 0.1, seed: int = 0) -> list[int]:
    """Return the indices of the rows that `relearn` trains on, to measure on the others."""
    order = torch.randperm(num_rows, generator=torch.Generator().manual_seed(seed))
    return order[: max(1, round(share * num_rows))].tolist()


def relearn(
    model: nn.Module,
    forget_rows: Rows,
    measure: Callable[[nn.Module], Mapping[str, float]],
    share: float = 0.1,
    steps: int = 20,
    lr: float = 1e-4,
    batch_size: int = 8,
    every: int = 5,
    seed: int = 0,
    chosen: Sequence[int] | None = None,
    in_place: bool = False,
) -> Curve:
    """Fine-tune a copy on a few of the forgotten rows, and measure whether the others return.

    A model that has forgotten learns only the rows it is trained on; a model that hides its knowledge recalls the
    others too. Compare with the same attack on a retrained model, and measure on the other rows (`shown_rows`).

    Trains a `share` of the rows, at least one, or those at the indices `chosen`, by AdamW in float32, whatever the
    model's type: half precision rounds small steps away. `measure` returns figures of a model in evaluation mode; the
    curve has them with their `step`: 0, every `every` steps, and the last. `in_place` trains the given model itself,
    where there is no memory for a copy.

    Raises:
        EmptyForgetSetError: no rows.
        InvalidInputError: `share` outside (0, 1], no steps, or rows longer than the model's context.
        DivergenceError: the loss or a weight became NaN or infinite.
    """
    check_language_model(model)
    if len(forget_rows) == 0:
        raise EmptyForgetSetError("Expected forgotten rows (got none)")
    if not 0 < share <= 1 or steps < 1 or every < 1:
        raise InvalidInputError(f"Expected share in (0, 1], steps and every >= 1 (got {share}, {steps}, {every})")
    if chosen is None:
        chosen = shown_rows(len(forget_rows), share, seed)
    rows = [forget_rows[i] for i in chosen]
    victim = model if in_place else copy.deepcopy(model)
    for value in (*victim.parameters(), *victim.buffers()):
        if value.dtype in (torch.float16, torch.bfloat16):
            value.data = value.data.float()
    trainable = [p for p in victim.parameters() if p.requires_grad]
    if not trainable:  # merged or frozen: an attacker who has the weights can train them
        victim.requires_grad_(True)
        trainable = list(victim.parameters())
    collator, curve = collator_of(victim), Curve(chosen)
    curve.append({"step": 0, **measure(victim.eval())})
    with isolated_rng(seed), _recomputing(victim), _stepping(trainable, lr):
        for step in range(1, steps + 1):
            index = torch.randint(len(rows), (batch_size,)) if len(rows) > batch_size else range(len(rows))
            loss = token_loss(victim.train(), row_batch(victim, [rows[int(i)] for i in index], collator))
            loss.backward()
            if not all(bool(x.isfinite().all()) for x in (loss, *trainable)):
                raise DivergenceError(f"Expected finite loss and weights (got loss {loss.item():g} in step {step})")
            if step % every == 0 or step == steps:
                curve.append({"step": step, **measure(victim.eval())})
    return curve


@contextmanager
def _stepping(parameters: Sequence[nn.Parameter], lr: float) -> Iterator[None]:
    """Inside the block AdamW steps each parameter as soon as its gradient is there; the gradient goes at once.

    Steps are those of one optimiser; gradients are never in memory together.
    """
    fused = {p: p.device.type in ("cpu", "cuda") for p in parameters}  # without copies of the largest matrix in a step
    optimizers = {p: torch.optim.AdamW([p], lr=lr, weight_decay=0.0, fused=fused[p]) for p in parameters}

    def step(parameter: Tensor) -> None:
        optimizers[parameter].step()  # type: ignore[index]
        parameter.grad = None

    for parameter in parameters:
        parameter.grad = None
    hooks = [parameter.register_post_accumulate_grad_hook(step) for parameter in parameters]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _recomputing(model: nn.Module) -> Iterator[None]:
    """Inside the block a model of transformers computes each layer's activations again in place of keeping them."""
    plain = without_peft(model)
    already = any(getattr(module, "gradient_checkpointing", False) for module in plain.modules())
    if already or not getattr(plain, "supports_gradient_checkpointing", False):
        yield
        return
    verb = "activation" if hasattr(plain, "activation_checkpointing_enable") else "gradient"
    getattr(plain, f"{verb}_checkpointing_enable")({"use_reentrant": False})
    try:
        yield
    finally:
        getattr(plain, f"{verb}_checkpointing_disable")()


@torch.no_grad()
def quantized(model: nn.Module, bits: int = 4, head: bool = False) -> nn.Module:
    """Return a copy whose linear layers have rounded weights, as after quantisation.

    Simulated: weights are rounded to `2 ** bits - 1` levels, symmetric about 0 and evenly spaced up to the largest of
    each output channel, and keep their type. Rounding undoes unlearning by small changes of weights
    (`arXiv:2410.16454 <https://arxiv.org/abs/2410.16454>`_). Adapters are merged first. `bits` are 2, 3, 4 or 8;
    `head` rounds the output layer too, and with it tied embeddings.
    """
    if bits not in (2, 3, 4, 8):
        raise InvalidInputError(f"Expected 'bits' among (2, 3, 4, 8) (got {bits!r})")
    check_language_model(model)
    out = merged(copy.deepcopy(model))
    last = output_head(out)
    for module in out.modules():  # `Conv1D`, GPT-2's linear layer, holds [inputs, outputs]
        if isinstance(module, nn.Linear | Conv1D) and (head or module is not last):
            module.weight.copy_(rounded(module.weight, bits, dim=0 if isinstance(module, Conv1D) else 1))
    return out


def rounded(weight: Tensor, bits: int, dim: int) -> Tensor:
    """Round a matrix to an even grid of `2 ** bits - 1` levels; weights along `dim`, the inputs', share a step."""
    step = weight.float().abs().amax(dim, keepdim=True) / (2 ** (bits - 1) - 1)
    return torch.where(step > 0, (weight / step).round() * step, 0).to(weight.dtype)
