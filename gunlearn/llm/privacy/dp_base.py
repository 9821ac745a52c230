"""The private base of DP2Unlearning, and its second phase: fine-tune on all rows, or without forgotten ones."""

from __future__ import annotations

import copy
import hashlib
import json
import tempfile
import warnings
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import nn
from transformers import PrinterCallback, Trainer, TrainingArguments

from gunlearn.core.atomic import replace_folder, write_file
from gunlearn.errors import CheckpointError, InvalidInputError
from gunlearn.llm.data.collate import Rows, collator_of
from gunlearn.llm.model.head import without_autocast
from gunlearn.llm.privacy.dp_card import FORMER, DPCard
from gunlearn.llm.privacy.dp_rows import Ledger, ledger_of, records_changed, weights_hash
from gunlearn.seed import isolated_rng


@dataclass(frozen=True)
class DPBase:
    """A model trained with differential privacy, the start of every second training.

    Args:
        model: the trained model, without hooks. Do not change it: other weights are refused.
        card: the privacy spent.
        ledger: fingerprints of the training rows, as private as the rows; `unlearn_from_base` needs it.
    """

    model: nn.Module
    card: DPCard
    ledger: Ledger | None = None

    def save(self, folder: str | Path) -> None:
        """Write `card.json`, `model.safetensors` and the private `ledger.json`. Do not publish the ledger.

        A save that is interrupted leaves no folder; one over an earlier base leaves that base or, for the instant in
        which files change places, a folder without a card, which `load` refuses.
        """

        def write(beside: Path) -> None:
            save_model(self.model, str(beside / "model.safetensors"))
            self.card.save(beside / "card.json")
            if self.ledger is not None:
                write_file(beside / "ledger.json", json.dumps(self.ledger).encode(), private=True)

        replace_folder(folder, write, last=("ledger.json", "card.json"), private=("ledger.json",))

    @classmethod
    def load(cls, folder: str | Path, model: nn.Module) -> DPBase:
        """Read a base into a copy of `model`; raise `CheckpointError` without a card, or for other weights than its."""
        folder, model = Path(folder), copy.deepcopy(model).eval()
        if not (folder / "card.json").is_file():
            raise CheckpointError(f"Expected a saved base with its card.json (got none in {folder.name})")
        card = DPCard.load(folder / "card.json")
        load_model(model, str(folder / "model.safetensors"))
        ledger = folder / "ledger.json"
        base = cls(model, card, json.loads(ledger.read_text(encoding="utf-8")) if ledger.exists() else None)
        former = card.weights_hash.startswith(FORMER)
        if card.weights_hash != (_former_hash(model) if former else weights_hash(model)):
            written = " (written by release 0.1)" if former else ""
            raise CheckpointError(f"Expected the weights of the card{written} in {folder.name} (got others)")
        return replace(base, card=replace(card, weights_hash=weights_hash(model))) if former else base


def check_start(card: DPCard, model: nn.Module, name: str, base: str = "the base") -> None:
    """Refuse a model that is not the one whose weights a base's training started from.

    Args:
        card: of the base.
        model: the model, before `DPBase.load` reads the base into a copy of it.
        name: of the model, in errors.
        base: of the base, in errors.

    Raises:
        CheckpointError: other weights.
    """
    found = _former_hash(model) if card.start_hash.startswith(FORMER) else weights_hash(model)
    if found != card.start_hash:
        raise CheckpointError(
            f"Expected the model that {base} was trained from (got {name}, whose weights are others than those its "
            "card names as the start): take the model that 'base' was called with"
        )


def _former_hash(model: nn.Module) -> str:
    """Return what release 0.1 wrote into cards, so that its bases, whose privacy is spent, can still be verified."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return FORMER + digest.hexdigest()


@dataclass(frozen=True)
class DP2Model:
    """A model fine-tuned from a base, in evaluation mode, and a statement on its privacy."""

    model: nn.Module
    card: dict[str, Any]


def finetune(base: DPBase, rows: Rows, args: TrainingArguments | None = None) -> DP2Model:
    """Return a copy of the base fine-tuned on all rows, to deploy, without any privacy; refuse a changed base."""
    card = {"private": False, "base": base.card.to_dict(), "note": "not private; never start a second training here"}
    return DP2Model(_fine_tuned(base, rows, args), card)


def unlearn_from_base(base: DPBase, retain_rows: Rows, args: TrainingArguments | None = None) -> DP2Model:
    """Return a copy of the base fine-tuned on the rows that stay.

    Forgotten rows influence the result only through the base, so by no more than the base's epsilon allows for that
    number of records. `card["request"]` states this epsilon; for a hundred rows it guarantees little.

    `retain_rows` are training rows of the base. `args` are the Trainer's: the paper takes half the epochs of training
    from scratch.

    Raises:
        InvalidInputError: the base's weights are not those of its card (a deployed model), or it has no ledger.
        InvalidRequestError: rows that the base was not trained on, or copies of forgotten ones.
        EmptyForgetSetError: all rows stay.

    Warns:
        UserWarning: the base's budget guarantees nothing for so many records.
    """
    if base.ledger is None:
        raise InvalidInputError("Expected a base with its ledger (got None); load it from a folder with ledger.json")
    changed = records_changed(base.ledger, ledger_of(retain_rows, base.card.record), base.card.record)
    epsilon, delta = base.card.group(changed)
    request = {"records": changed, "epsilon": epsilon, "delta": delta, "says_nothing": delta >= 1}
    if delta >= 1:
        warnings.warn(
            f"Expected a request that the base's budget covers (got {changed} records, for which delta is 1 at epsilon "
            f"{epsilon:.3g}): the model is not called private; train the base with a smaller epsilon, or with records "
            "that hold all rows of a person",
            stacklevel=2,
        )
    private = not base.card.voided_by and delta < 1
    model = _fine_tuned(base, retain_rows, args)
    return DP2Model(model, {"private": private, "request": request, "base": base.card.to_dict()})


def _fine_tuned(base: DPBase, rows: Rows, args: TrainingArguments | None) -> nn.Module:
    if weights_hash(base.model) != base.card.weights_hash:
        raise InvalidInputError(
            "Expected the base as DP training returned it (got other weights: a deployed or trained model?); "
            "a second training from any other start has no guarantee"
        )
    model = copy.deepcopy(base.model).train()
    collate = partial(collator_of(model).pad, marked=False)
    if args is None:
        args = TrainingArguments(tempfile.gettempdir(), report_to=[], save_strategy="no")  # writes nothing
    args = copy.copy(args)
    args.remove_unused_columns = False
    with isolated_rng():
        trainer = Trainer(model, args, data_collator=collate, train_dataset=rows)
        trainer.remove_callback(PrinterCallback)  # prints dictionaries
        trainer.train()
    without_autocast(trainer.accelerator, model)
    model.zero_grad(set_to_none=True)
    return model.eval()
