"""Pieces of DP-SGD with opacus: gradients per record, noise for a budget, declared choices."""

import warnings
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.core.checks import check_choice
from gunlearn.errors import InvalidInputError, MissingExtraError, UnsupportedModelError
from gunlearn.llm.data.collate import Collator, Rows, row_batch
from gunlearn.llm.data.text_items import IGNORE
from gunlearn.llm.model.token_prediction import model_inputs, positions_of, takes_positions
from gunlearn.llm.privacy.dp_card import CHOICES
from gunlearn.losses.reduction import full_precision

try:
    from opacus.accountants import create_accountant as create_accountant
    from opacus.accountants.utils import get_noise_multiplier
    from opacus.grad_sample import GradSampleHooks
    from opacus.optimizers import DPOptimizer as DPOptimizer
except ImportError as error:
    raise MissingExtraError(
        'Expected opacus for gunlearn.llm.privacy (not installed); pip install "gunlearn[llm,dp]"'
    ) from error


def record_gradients(model: nn.Module, records: Sequence[Rows], collator: Collator) -> None:
    """Put each record's own gradient into `grad_sample` of every trained parameter, `[num_records, *shape]`."""
    trained: dict[str, Any] = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not records:
        for p in trained.values():
            p.grad_sample = p.new_zeros(0, *p.shape)
        return
    batch = row_batch(model, [row for rows in records for row in rows], collator)
    record = torch.tensor([i for i, rows in enumerate(records) for _ in rows], device=batch["labels"].device)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Full backward hook is firing")  # token ids have no gradient
        (row_losses(model, batch) / torch.bincount(record)[record]).sum().backward()
    missing = [name for name, p in trained.items() if p.grad_sample is None]
    if missing:
        raise UnsupportedModelError(f"Expected gradients per record of all trained weights (got none of {missing[:3]})")
    if len(records) < len(record):
        for p in trained.values():
            p.grad_sample = p.new_zeros(len(records), *p.shape).index_add(0, record, p.grad_sample)


def row_losses(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the mean negative log-likelihood of each row's labelled tokens in nats, `[batch]`; 0 without any.

    Passes positions per row: a batch dimension of size 1 would have no gradient per record.
    """
    inputs, label = model_inputs(model, batch)
    if takes_positions(model):
        inputs["position_ids"] = positions_of(inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])))
    logits = full_precision(model(**inputs, use_cache=False).logits[:, :-1])
    loss = nn.functional.cross_entropy(logits.transpose(1, 2), label, reduction="none", ignore_index=IGNORE)
    return loss.sum(1) / (label != IGNORE).sum(1).clamp_min(1)


def add_hooks(model: nn.Module) -> GradSampleHooks:
    """Return hooks that fill `grad_sample`; their `cleanup` removes them."""
    try:
        return GradSampleHooks(model, loss_reduction="sum")
    except NotImplementedError as error:
        raise UnsupportedModelError(f"Expected layers with gradients per record (got {error})") from error


@lru_cache(maxsize=32)  # the search takes seconds
def noise_for(epsilon: float, delta: float, rate: float, steps: int, accountant: str) -> float:
    """Return the least noise multiplier (to 1 % of epsilon) with which the accountant stays within the budget."""
    settings: dict[str, Any] = {"target_epsilon": epsilon, "target_delta": delta, "sample_rate": rate, "steps": steps}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # opacus says that a bound could be tighter
        try:
            return get_noise_multiplier(**settings, accountant=accountant, epsilon_tolerance=epsilon / 100)
        except ValueError as error:
            raise InvalidInputError(f"Expected an 'epsilon' that noise can reach (got {epsilon:g}: {error})") from error


def epsilon_spent(meter: Any, delta: float) -> float:
    """Return the accountant's epsilon for the steps so far."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(meter.get_epsilon(delta))


def declared_choices(chosen: Collection[str], acknowledge: bool) -> tuple[str, ...]:
    """Return the declared names of `CHOICES`; refuse them unless acknowledged."""
    declared = (chosen,) if isinstance(chosen, str) else tuple(sorted(chosen))
    for name in declared:
        check_choice("chosen_on_private_data", name, tuple(CHOICES))
    if declared and not acknowledge:
        raise InvalidInputError(
            f"Expected no choice made on private rows, which voids the guarantee (got {', '.join(declared)}); "
            "acknowledge=True trains nevertheless and says so in the card"
        )
    return declared
