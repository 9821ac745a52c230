"""Models of DP2Unlearning: the private base with its card and ledger, and models trained from it."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_model, save_model
from torch import nn

from gunlearn.errors import CheckpointError
from gunlearn.llm.privacy.dp_card import DPCard
from gunlearn.llm.privacy.dp_rows import Ledger, weights_digest


@dataclass(frozen=True)
class DPBase:
    """A model trained with differential privacy, the start of every second training.

    Args:
        model: the trained model, without hooks. Do not change it: other weights are refused.
        card: the privacy spent.
        ledger: fingerprints of the training rows, as private as the rows; `None` after `load` without the file, and
            `unlearn_from_base` then refuses.
    """

    model: nn.Module
    card: DPCard
    ledger: Ledger | None = None

    def save(self, folder: str | Path) -> None:
        """Write `card.json`, `model.safetensors` and the private `ledger.json`. Do not publish the ledger."""
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
            CheckpointError: the weights are not those of the card.
        """
        folder, model = Path(folder), copy.deepcopy(model).eval()
        card = DPCard.load(folder / "card.json")
        load_model(model, str(folder / "model.safetensors"))
        ledger = folder / "ledger.json"
        base = cls(model, card, json.loads(ledger.read_text(encoding="utf-8")) if ledger.exists() else None)
        if weights_digest(model) != card.weights_sha256:
            raise CheckpointError(f"Expected the weights of the card in {folder.name} (got others)")
        return base


@dataclass(frozen=True)
class DP2Model:
    """A model fine-tuned from a base.

    Args:
        model: the model, in evaluation mode.
        card: statement on its privacy.
    """

    model: nn.Module
    card: dict[str, Any]
