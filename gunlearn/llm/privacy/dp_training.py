"""DP2Unlearning: a base model trained with differential privacy, from which every deletion starts anew. Extra: `dp`."""

from __future__ import annotations

import copy
import json
import secrets
import tempfile
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from gunlearn.errors import CheckpointError, DivergenceError, InvalidInputError
from gunlearn.llm.data.collate import PartCollator, collator_of
from gunlearn.llm.model.head import without_autocast
from gunlearn.llm.privacy.dp_card import DPCard, check_budget
from gunlearn.llm.privacy.dp_rows import Ledger, ledger_of, most_copies, records_changed, units, weights_digest
from gunlearn.llm.privacy.dp_steps import (
    DPOptimizer,
    Rows,
    add_hooks,
    check_settings,
    create_accountant,
    declared_choices,
    epsilon_spent,
    noise_for,
    record_gradients,
)
from gunlearn.seed import isolated_rng


@dataclass(frozen=True)
class DPBase:
    """A model trained with differential privacy, with its card: the start of every second training.

    Args:
        model: the trained model, without hooks. Leave it as it is: other weights are refused.
        card: what was spent.
        ledger: fingerprints of the training rows, as private as they are; `None` after `load` without the file, then
            `unlearn` refuses.
    """

    model: nn.Module
    card: DPCard
    ledger: Ledger | None = None

    def save(self, folder: str | Path) -> None:
        """Write `card.json`, `model.safetensors` and the private `ledger.json`, which is not to be published."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.card.save(folder / "card.json")
        save_model(self.model, str(folder / "model.safetensors"))
        if self.ledger is not None:
            (folder / "ledger.json").write_text(json.dumps(self.ledger), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path, model: nn.Module) -> DPBase:
        """Read what `save` wrote into a copy of `model`, a model of the same architecture.

        Raises:
            CheckpointError: the weights are not those that the card speaks of.
        """
        folder, model = Path(folder), copy.deepcopy(model).eval()
        card = DPCard.load(folder / "card.json")
        load_model(model, str(folder / "model.safetensors"))
        ledger = folder / "ledger.json"
        base = cls(model, card, json.loads(ledger.read_text(encoding="utf-8")) if ledger.exists() else None)
        if weights_digest(model) != card.weights_sha256:
            raise CheckpointError(f"Expected the weights that the card in {folder.name} speaks of (got others)")
        return base


@dataclass(frozen=True)
class DP2Model:
    """A model fine-tuned from a base.

    Args:
        model: in evaluation mode.
        card: what can be said about its privacy.
    """

    model: nn.Module
    card: dict[str, Any]


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

    A record's gradient, of the mean over its rows of the mean over their labelled tokens, is clipped to
    `max_grad_norm`; Gaussian noise is added to the sum over a Poisson sample of the records. An empty sample takes its
    step too, with noise alone, as the accountant assumes.

    The paper's settings: plain SGD, lr 5e-5, 10 epochs, batch 16, clipping at 1, weight decay 0.01. At that learning
    rate clipped steps move the weights so little that epsilon makes no visible difference, and the base is the model
    before training: measure what the base knows before paying for it. How soon the second phase gets there is no
    measure: on small models a base of noise alone is as good a start.

    The paper's other first phase, ordinary training on text rewritten word by word under differential privacy, is left
    out: its epsilon is per rewritten token, adds up over a document, and says nothing about words left as they are.

    Args:
        model: the public starting point; left as it is. Parameters that need no gradient stay fixed (LoRA).
        rows: `input_ids`, `labels`, optional `attention_mask`, and the column `record`.
        epsilon: budget, positive.
        delta: below one over the number of records.
        epochs: expected passes over the records; this or `steps`.
        steps: optimiser steps.
        max_grad_norm: L2 norm to clip to.
        lr: learning rate.
        batch_size: expected records per step.
        physical_batch_size: records whose gradients are held at a time, one copy of the weights each.
        record: what the guarantee is about: `"row"`, or a column (`"author"`) whose values name the records.
        accountant: `"rdp"` (an upper bound) or `"prv"` (tighter, slower).
        optimizer: called with parameters and `lr`.
        seed: of sampling and noise, for tests: whoever knows it can take the noise off, and the card says so. `None`
            draws from the system.
        chosen_on_private_data: what was chosen by looking at the private rows, of `"tokenizer"`, `"hyperparameters"`
            and `"start"` (the weights of `model`). Any voids the guarantee.
        acknowledge: train nevertheless; the card then says that the guarantee is void.
        collator: pads the rows; by default as the model's configuration says.

    Returns:
        The base: a fresh module without hooks, its card and ledger.

    Raises:
        InvalidInputError: a budget that promises nothing, wrong settings, or a choice that is not acknowledged.
        UnsupportedModelError: batch normalisation, which mixes the records of a batch, or layers without gradients per
            record.
        DivergenceError: weights became NaN or infinite.
    """
    check_settings(model, accountant, max_grad_norm, lr, batch_size, physical_batch_size, epochs, steps)
    declared = declared_choices(chosen_on_private_data, acknowledge)
    members = units(rows, record)
    check_budget(epsilon, delta, len(members))
    rate = min(1.0, batch_size / len(members))
    steps = max(1, round(epochs / rate)) if steps is None else steps
    noise = noise_for(epsilon, delta, rate, steps, accountant)
    worker = copy.deepcopy(model).train()
    meter = create_accountant(accountant)
    collator = collator_of(model) if collator is None else collator
    hooks = add_hooks(worker)
    try:
        device = next(worker.parameters()).device
        draws, noises = torch.Generator(), torch.Generator(device)
        draws.manual_seed(secrets.randbits(63) if seed is None else 2 * seed)
        noises.manual_seed(secrets.randbits(63) if seed is None else 2 * seed + 1)
        private = DPOptimizer(
            optimizer([p for p in worker.parameters() if p.requires_grad], lr=lr),
            noise_multiplier=noise,
            max_grad_norm=max_grad_norm,
            expected_batch_size=rate * len(members),
            generator=noises,
        )
        with isolated_rng(seed):
            for _ in range(steps):
                chosen = (torch.rand(len(members), generator=draws) < rate).nonzero()[:, 0].tolist()
                shares = [chosen[i : i + physical_batch_size] for i in range(0, len(chosen), physical_batch_size)]
                for i, share in enumerate(shares or [[]]):
                    record_gradients(worker, [[rows[j] for j in members[u]] for u in share], collator)
                    private.signal_skip_step(i + 1 < len(shares))
                    private.step()
                    private.zero_grad(set_to_none=True)
                meter.step(noise_multiplier=noise, sample_rate=rate)
    finally:
        hooks.cleanup()
    fresh = copy.deepcopy(model)
    fresh.load_state_dict(worker.state_dict())
    if not all(bool(p.isfinite().all()) for p in fresh.parameters()):
        raise DivergenceError(f"Expected finite weights (got NaN or infinity after {steps} steps at lr {lr:g})")
    ledger = ledger_of(rows, record)
    card = DPCard(
        epsilon=epsilon_spent(meter, delta),
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
        start_sha256=weights_digest(model),
        weights_sha256=weights_digest(fresh),
    )
    return DPBase(fresh.eval(), card, ledger)


def finetune(base: DPBase, rows: Rows, args: TrainingArguments | None = None) -> DP2Model:
    """The model to deploy: the base fine-tuned on all rows, without any privacy.

    Args:
        base: left as it is.
        rows: as for `dp_train`.
        args: of the Trainer.

    Raises:
        InvalidInputError: the base's weights are not those of its card.
    """
    card = {"private": False, "base": base.card.to_dict(), "note": "not private; never start a second training here"}
    return DP2Model(_fine_tuned(base, rows, args), card)


def unlearn(base: DPBase, retain_rows: Rows, args: TrainingArguments | None = None) -> DP2Model:
    """Second phase: the base, fine-tuned on what stays.

    What was forgotten has touched the result through the base alone, hence no more than the base's epsilon allows, for
    as many records as were forgotten. `card["request"]` states that epsilon; with a hundred rows it says little.

    Args:
        base: left as it is.
        retain_rows: rows that stay, all of them among the training rows of the base.
        args: of the Trainer; the paper takes half the epochs of training from scratch.

    Raises:
        InvalidInputError: the base's weights are not those of its card (a deployed model above all), or it came without
            a ledger.
        InvalidRequestError: rows that the base was not trained on, or copies of forgotten ones.
        EmptyForgetSetError: all rows stay.
    """
    if base.ledger is None:
        raise InvalidInputError(
            "Expected a base with the ledger of its training rows (got None); load it with the file"
        )
    changed = records_changed(base.ledger, ledger_of(retain_rows, base.card.record), base.card.record)
    epsilon, delta = base.card.group(changed)
    request = {"records": changed, "epsilon": epsilon, "delta": delta, "says_nothing": delta >= 1}
    if request["says_nothing"]:
        warnings.warn(
            f"Expected a request that the base's budget says something about (got {changed} records, for which delta "
            f"is 1 at epsilon {epsilon:.3g}): the model is not called private; a smaller epsilon, or records that hold "
            "all rows of a person, would make room",
            stacklevel=2,
        )
    private = not base.card.voided_by and not request["says_nothing"]
    model = _fine_tuned(base, retain_rows, args)
    return DP2Model(model, {"private": private, "request": request, "base": base.card.to_dict()})


def _fine_tuned(base: DPBase, rows: Rows, args: TrainingArguments | None) -> nn.Module:
    if weights_digest(base.model) != base.card.weights_sha256:
        raise InvalidInputError(
            "Expected the base as DP training left it (got other weights: a deployed or trained model?); "
            "a second training from any other start has no guarantee"
        )
    model = copy.deepcopy(base.model).train()
    pad = collator_of(model)

    def collate(batch: Rows) -> dict[str, Tensor]:
        return {name: value for name, value in pad(batch).items() if name != "target_mask"}

    args = copy.copy(_quiet() if args is None else args)
    args.remove_unused_columns = False
    with isolated_rng():
        trainer = Trainer(model, args, data_collator=collate, train_dataset=rows)
        trainer.train()
    without_autocast(trainer.accelerator, model)
    model.zero_grad(set_to_none=True)
    return model.eval()


def _quiet() -> TrainingArguments:
    return TrainingArguments(tempfile.gettempdir(), report_to=[], save_strategy="no")  # nothing is written
