"""First phase of DP2Unlearning: train a base model with differential privacy."""

import copy
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from gunlearn.core.checks import check_choice, check_integer, check_number
from gunlearn.errors import DivergenceError, InvalidInputError, UnsupportedModelError
from gunlearn.llm.data.collate import PartCollator, Rows, collator_of
from gunlearn.llm.model.causality import check_language_model
from gunlearn.llm.model.head import model_device
from gunlearn.llm.privacy import dp_steps
from gunlearn.llm.privacy.dp_base import DPBase
from gunlearn.llm.privacy.dp_card import DPCard
from gunlearn.llm.privacy.dp_rows import ledger_of, most_copies, units, weights_hash
from gunlearn.seed import isolated_rng


def dp_train(
    model: nn.Module,
    rows: Rows,
    epsilon: float,
    delta: float,
    *,
    epochs: float | None = None,
    steps: int | None = None,
    max_grad_norm: float = 1.0,
    lr: float = 5e-5,
    batch_size: int = 16,
    physical_batch_size: int = 16,
    record: str = "row",
    accountant: str = "rdp",
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW,
    seed: int | None = None,
    chosen_on_private_data: Collection[str] = (),
    acknowledge: bool = False,
    collator: PartCollator | None = None,
) -> DPBase:
    r"""First phase of `"DP2Unlearning" <https://arxiv.org/abs/2504.13774>`_: train on all rows with DP-SGD.

    A record's loss is the mean over its rows of the mean over their labelled tokens; its gradient is clipped to
    `max_grad_norm`. Gaussian noise is added to the sum over a Poisson sample of the records. An empty sample also takes
    a step, of noise alone, as the accountant assumes.

    The paper's settings: plain SGD, lr 5e-5, 10 epochs, batch 16, clipping at 1, weight decay 0.01. At that learning
    rate clipped steps hardly move the weights: measure what the base knows before the second phase. The speed of that
    phase does not show it: on small models a base of pure noise is as good a start. The paper's other first phase, on
    rewritten text, is not included: its epsilon adds up over a document, and does not protect unchanged words.

    Args:
        model: the public starting point; not changed. Parameters that need no gradient stay fixed (LoRA).
        rows: `input_ids`, `labels`, optional `attention_mask`, and the column `record`.
        epsilon: privacy budget, positive.
        delta: below one over the number of records.
        epochs: expected passes over the records; this or `steps`.
        steps: optimiser steps.
        max_grad_norm: L2 norm to clip to.
        lr: learning rate.
        batch_size: expected records per step.
        physical_batch_size: records whose gradients are held at a time, one copy of the weights each.
        record: the unit of the guarantee: `"row"`, or a column (`"author"`) whose values name the records.
        accountant: `"rdp"` (an upper bound) or `"prv"` (tighter, slower).
        optimizer: called with parameters and `lr`.
        seed: seed of sampling and noise, for tests: whoever knows it can remove the noise. `None` takes a secret one.
        chosen_on_private_data: choices made on private rows, of `"tokenizer"`, `"hyperparameters"` and `"start"` (the
            weights of `model`). Each voids the guarantee.
        acknowledge: train nevertheless; the card then says that the guarantee is void.
        collator: pads the rows; `collator_of(model)` by default.

    Raises:
        InvalidInputError: a budget that guarantees nothing, wrong settings, or a choice that is not acknowledged.
        UnsupportedModelError: batch normalisation, which mixes records, or layers without gradients per record.
        DivergenceError: weights became NaN or infinite.
    """
    _check_private(model)
    check_choice("accountant", accountant, ("rdp", "prv"))
    for name, value in (("max_grad_norm", max_grad_norm), ("lr", lr), ("batch_size", batch_size)):
        check_number(name, value, positive=True)
    check_number("physical_batch_size", physical_batch_size, minimum=1)
    declared = dp_steps.declared_choices(chosen_on_private_data, acknowledge)
    members = units(rows, record)
    _check_budget(epsilon, delta, len(members))
    rate = min(1.0, batch_size / len(members))
    steps = _number_of_steps(epochs, steps, rate)
    noise = dp_steps.noise_for(epsilon, delta, rate, steps, accountant)
    plan = _Steps(steps, rate, noise, float(max_grad_norm), lr, int(physical_batch_size), seed)
    meter = dp_steps.create_accountant(accountant)
    fresh = _trained(model, rows, members, plan, optimizer, meter, collator or collator_of(model))
    ledger = ledger_of(rows, record)
    card = DPCard(
        epsilon=dp_steps.epsilon_spent(meter, delta),
        target_epsilon=float(epsilon),
        delta=float(delta),
        accountant=accountant,
        sampling_rate=rate,
        steps=steps,
        noise_multiplier=noise,
        max_grad_norm=float(max_grad_norm),
        record=record,
        num_records=len(members),
        largest_record=max(map(len, members)),
        most_copies=most_copies(ledger),
        seeded=seed is not None,
        chosen_on_private_data=declared,
        start_hash=weights_hash(model),
        weights_hash=weights_hash(fresh),
    )
    return DPBase(fresh.eval(), card, ledger)


@dataclass(frozen=True)
class _Steps:
    """Settings of the steps, named as in `dp_train`; `rate` is the probability that a step reads a record."""

    steps: int
    rate: float
    noise: float
    max_grad_norm: float
    lr: float
    physical_batch_size: int
    seed: int | None


def _trained(
    model: nn.Module,
    rows: Rows,
    members: list[list[int]],
    plan: _Steps,
    optimizer: Callable[..., torch.optim.Optimizer],
    meter: Any,
    collator: PartCollator,
) -> nn.Module:
    """Return a copy of the model after DP-SGD, and tell the accountant `meter` of every step."""
    worker, seed, size = copy.deepcopy(model).train(), plan.seed, plan.physical_batch_size
    hooks = dp_steps.add_hooks(worker)
    try:
        draws, noises = torch.Generator(), torch.Generator(model_device(worker))
        draws.manual_seed(secrets.randbits(63) if seed is None else 2 * seed)
        noises.manual_seed(secrets.randbits(63) if seed is None else 2 * seed + 1)
        private = dp_steps.DPOptimizer(
            optimizer([p for p in worker.parameters() if p.requires_grad], lr=plan.lr),
            noise_multiplier=plan.noise,
            max_grad_norm=plan.max_grad_norm,
            expected_batch_size=plan.rate * len(members),
            generator=noises,
        )
        with isolated_rng(seed):
            for _ in range(plan.steps):
                chosen = (torch.rand(len(members), generator=draws) < plan.rate).nonzero()[:, 0].tolist()
                shares = [chosen[i : i + size] for i in range(0, len(chosen), size)]
                for i, share in enumerate(shares or [[]]):
                    dp_steps.record_gradients(worker, [[rows[j] for j in members[u]] for u in share], collator)
                    private.signal_skip_step(i + 1 < len(shares))
                    private.step()
                    private.zero_grad(set_to_none=True)
                meter.step(noise_multiplier=plan.noise, sample_rate=plan.rate)
    finally:
        hooks.cleanup()
    fresh = copy.deepcopy(model)
    fresh.load_state_dict(worker.state_dict())
    if not all(bool(p.isfinite().all()) for p in fresh.parameters()):
        raise DivergenceError(
            f"Expected finite weights (got NaN or infinity after {plan.steps} steps at lr {plan.lr:g})"
        )
    return fresh


def _number_of_steps(epochs: float | None, steps: int | None, rate: float) -> int:
    if (epochs is None) == (steps is None):
        raise InvalidInputError(f"Expected either 'epochs' or 'steps' (got epochs={epochs!r}, steps={steps!r})")
    if steps is None:
        check_number("epochs", epochs, positive=True)
        steps = max(1, round(cast(float, epochs) / rate))
    check_integer("steps", steps, minimum=1)
    return steps


def _check_budget(epsilon: float, delta: float, num_records: int) -> None:
    """Refuse a budget that guarantees nothing."""
    check_number("epsilon", epsilon, positive=True)
    check_number("delta", delta, positive=True)
    if delta >= 1 / num_records:  # publishing one random record is (0, 1 / num_records)-private
        raise InvalidInputError(
            f"Expected 'delta' below 1 / {num_records}, one over the number of records (got {delta:g}): "
            "at that delta a model may reveal a whole record"
        )


def _check_private(model: nn.Module) -> None:
    """Refuse models that cannot be trained record by record."""
    check_language_model(model)
    if not any(p.requires_grad for p in model.parameters()):
        raise InvalidInputError("Expected a model with trainable parameters (got none that require grad)")
    norms = [name for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
    if norms:
        raise UnsupportedModelError(f"Expected no batch normalisation, which mixes records (got {norms[:3]})")
