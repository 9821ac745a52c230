"""The card of a private base model: the privacy spent, the epsilon of a request, and what voids the guarantee."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from gunlearn.core.atomic import write_file
from gunlearn.core.checks import check_integer
from gunlearn.errors import CheckpointError

#: Before hashes of weights that release 0.1 wrote.
FORMER = "0.1:"
#: Choices that spend privacy if made on private rows; no accountant counts them.
CHOICES = {
    "tokenizer": "the tokenizer was trained on the private rows",
    "hyperparameters": "hyper-parameters were tuned on the private rows without accounting for it",
    "start": "the weights before DP training had seen the private rows",
}

#: What voids the guarantee of an unlearned model for any epsilon.
CONDITIONS = (
    "the second training starts from anything but the base, the deployed model above all",
    "anything about the second training (epochs, learning rate, checkpoint) is chosen by looking at forgotten rows",
    "the tokenizer, hyper-parameters or first weights were chosen on the private rows",
    "a forgotten row, or a copy or paraphrase of it, is among the rows of the second training",
    "one person's rows are several records: their epsilon is that of a group (`group`)",
    "the seed of the noise is known, or can be guessed",
    "an attacker exploits that the noise is not from a cryptographic generator and has the precision of floats",
    "the ledger of the training rows is published: its fingerprints show who was in them",
)


@dataclass(frozen=True)
class DPCard:
    r"""The privacy statement of a model trained by `gunlearn.llm.privacy.dp_training.dp_train`.

    Neighbouring data sets differ by one added record. Epsilon is a proven upper bound, not a measurement.

    Args:
        epsilon: epsilon spent after the last step, of the budget `target_epsilon`.
        delta: probability with which the bound may fail.
        accountant: `"rdp"` or `"prv"`, of opacus.
        sampling_rate: probability that a record is in a step's batch (Poisson sampling).
        steps: optimiser steps, including those of empty batches.
        noise_multiplier: standard deviation of the noise over `max_grad_norm`.
        max_grad_norm: L2 norm to which the gradient of a record is clipped.
        record: the unit, `"row"` or the column whose values name the records.
        largest_record: most rows of one record.
        most_copies: how often the commonest row occurs; above 1, a row's epsilon is that of a group.
        seeded: whether the noise came from a given seed.
        chosen_on_private_data: declared and acknowledged `CHOICES`.
        start_hash: hash of the weights before training.
        weights_hash: hash of the base's weights.
    """

    epsilon: float
    target_epsilon: float
    delta: float
    accountant: str
    sampling_rate: float
    steps: int
    noise_multiplier: float
    max_grad_norm: float
    record: str
    num_records: int
    largest_record: int
    most_copies: int
    seeded: bool
    chosen_on_private_data: tuple[str, ...]
    start_hash: str
    weights_hash: str

    @property
    def voided_by(self) -> tuple[str, ...]:
        """Return the known reasons that void the guarantee of this base."""
        reasons = [CHOICES[name] for name in self.chosen_on_private_data]
        if self.seeded:
            reasons.append("the noise came from a given seed: who knows the seed can remove the noise")
        return tuple(reasons)

    def group(self, size: int) -> tuple[float, float]:
        r"""Return epsilon and delta for data sets that differ in `size` records.

        .. math:: \epsilon_k = k \epsilon, \qquad \delta_k = \delta \sum_{i < k} e^{i \epsilon}
            = \delta \, \frac{e^{k \epsilon} - 1}{e^{\epsilon} - 1}

        A delta of 1 guarantees nothing.
        """
        check_integer("size", size, minimum=0)
        if self.epsilon == 0 or size <= 1:
            growth: float = size
        else:
            huge = size * self.epsilon > 700  # `expm1` overflows
            growth = math.inf if huge else math.expm1(size * self.epsilon) / math.expm1(self.epsilon)
        return size * self.epsilon, min(1.0, self.delta * growth)

    @property
    def covered(self) -> int:
        """Return the most records that a request may take out with a delta below 1; `num_records` where all may."""
        return next((size - 1 for size in range(1, self.num_records + 1) if self.group(size)[1] >= 1), self.num_records)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, `voided_by`, and the `CONDITIONS` that would void the guarantee."""
        return asdict(self) | {"voided_by": list(self.voided_by), "would_be_voided_by": list(CONDITIONS)}

    def save(self, path: str | Path) -> None:
        """Write `to_dict` as JSON."""
        write_file(path, (json.dumps(self.to_dict(), indent=2) + "\n").encode())

    @classmethod
    def load(cls, path: str | Path) -> DPCard:
        """Read a saved card; raise `CheckpointError` for missing fields.

        Hashes of weights in cards of release 0.1 were made otherwise: they are kept behind `FORMER`.
        """
        found, names = json.loads(Path(path).read_text(encoding="utf-8")), [f.name for f in fields(cls)]
        for name in ("start", "weights"):
            if f"{name}_sha256" in found:
                found.setdefault(f"{name}_hash", f"{FORMER}{found[f'{name}_sha256']}")
        missing = [name for name in names if name not in found]
        if missing:
            raise CheckpointError(f"Expected a card with {', '.join(missing)} (got {sorted(found)})")
        found["chosen_on_private_data"] = tuple(found["chosen_on_private_data"])
        return cls(**{name: found[name] for name in names})
