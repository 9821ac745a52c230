"""Figures of one model after another, kept beside each model's adapter, so that a killed run measures on."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from peft import get_peft_model
from torch import nn

from experiments.smollm.methods import Request
from gunlearn.bench.store import atomic_write
from gunlearn.llm.metrics import TextAlignment, relearn, shown_rows
from gunlearn.llm.metrics import tofu_metrics as tofu
from gunlearn.llm.metrics.evaluation import ATTACKS, alignment_figures
from gunlearn.llm.metrics.measured_model import ModelMeasures
from gunlearn.llm.metrics.row_figures import figures
from gunlearn.llm.model.arithmetic import merged
from gunlearn.metrics import standings
from gunlearn.metrics.alignment import Sampler
from gunlearn.metrics.base import figures_of
from gunlearn.seed import isolated_rng

#: The attack: an adapter like the one of training, AdamW, on a tenth of the forgotten rows.
RELEARN = {"share": 0.1, "steps": 20, "lr": 1e-3, "batch_size": 8, "every": 20}


@dataclass(frozen=True)
class Measure:
    """How much is measured.

    Attributes:
        general: questions about real authors, and as many about the world.
        samples: answers per prompt and model for the alignment.
        new_tokens: most tokens of an answer.
        batch_size: rows at a time.
    """

    general: int = 20
    samples: int = 1
    new_tokens: int = 40
    batch_size: int = 16


@dataclass
class Measured:
    """Figures of the models of one request.

    Attributes:
        request: the request.
        references: models trained without what is forgotten.
        known: names of the folders of the original and the references, which tell what these models were taught.
        how: how much is measured.
    """

    request: Request
    references: Sequence[nn.Module]
    known: Sequence[str]
    how: Measure = Measure()

    def __post_init__(self) -> None:
        problem, halves = self.request.problem, self.request.halves
        self.sets = {part: half[1] for part, half in halves.items()} | problem.general(self.how.general)
        self.suppliers = {part: self._supplier(part) for part in halves}

    def _supplier(self, part: str) -> Remembered:
        how = self.how
        sampler = Sampler(how.samples)
        rows, tokenizer = self.sets[part], self.request.problem.tokenizer
        fixed = [*self.references, self.request.original]
        own = TextAlignment(rows, tokenizer, sampler, max_new_tokens=how.new_tokens, batch_size=4 * how.batch_size)
        return Remembered(own, fixed)

    @cached_property
    def digest(self) -> str:
        """What figures depend on beside the measured model, whose folder tells its settings."""
        problem, request = self.request.problem, self.request
        told = [asdict(problem.recipe), problem.about, asdict(self.how), RELEARN]
        told += [request.number, request.asked, list(self.known)]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:12]

    def of(self, name: str, model: nn.Module, place: Path) -> dict[str, Any]:
        """All figures of a model, which are kept in its folder `place`."""
        row: dict[str, Any] = {"model": name}
        for kind, make in (("own", self._own), ("relearned", self._relearned), ("aligned", self._aligned)):
            path = place / f"{kind}-{self.request.number}-{self.digest}.json"
            if not path.exists():
                with self.request.problem.faster():
                    found = make(model)
                atomic_write(path, json.dumps(found))
                print(f"{name}: {kind} measured", flush=True)
            row |= json.loads(path.read_text())
        return row

    def _own(self, model: nn.Module) -> dict[str, Any]:
        """TOFU's figures, memorisation, membership and general knowledge."""
        tokenizer = self.request.problem.tokenizer
        known = {name: figure for name, figure in figures_of("causal_lm").items() if name != "nll"}
        speak = {"tokenizer": tokenizer, "max_new_tokens": self.how.new_tokens, "ends": None}
        attacks = [attack for attack in ATTACKS if attack not in ("reference", "gradient")]
        closing = {"end": "skip", "tokenizer": tokenizer}
        unseen = self.request.problem.unseen
        found = ModelMeasures(self.sets, unseen, known, attacks, tokenizer, self.how.batch_size, speak, closing).of(
            model
        )
        return found.figures | {"truth_ratios": cast(torch.Tensor, found.ratio).tolist()}

    def _relearned(self, model: nn.Module) -> dict[str, float]:
        """The mean probability of forgotten rows after others were learned again; `known_to` them before."""
        forget = self.request.forget
        others = sorted(set(range(len(forget))) - set(shown_rows(len(forget), RELEARN["share"])))
        rows = [forget[i] for i in others]
        plain = merged(copy.deepcopy(model)).requires_grad_(False)
        with isolated_rng(0):
            victim = get_peft_model(plain, self.request.problem.adapter())
        curve = relearn(
            victim, forget, lambda now: {"prob": figures(now, {"forget": rows}, batch_size=32)["forget"]["prob"]},
            **RELEARN,
        )  # fmt: skip
        return {"others_before": curve[0]["prob"], "others_relearned": curve[-1]["prob"]}

    def _aligned(self, model: nn.Module) -> dict[str, float]:
        """Divergence from the retrained models on forgotten and on retained prompts."""
        found: dict[str, float] = {}
        for part, supplier in self.suppliers.items():
            at = standings({"model": model}, self.references, supplier, self.request.original)["model"]
            found |= alignment_figures(f"{part}_alignment", at)
        return found


class Remembered:
    """A supplier of alignment that draws from, and compares, models that are asked again and again only once.

    Args:
        own: the supplier.
        fixed: those models.
    """

    def __init__(self, own: TextAlignment, fixed: Sequence[nn.Module]) -> None:
        self.own, self.fixed = own, [id(model) for model in fixed]
        self.estimator, self.sampler = own.estimator, own.sampler
        self.found: dict[tuple[int, ...], Any] = {}

    def draw(self, model: nn.Module) -> Any:
        """Draw answers."""
        return self._once(lambda: self.own.draw(model), model)

    def terms(self, samples: Any, p: nn.Module, q: nn.Module) -> Any:
        """Score answers."""
        return self._once(lambda: self.own.terms(samples, p, q), p, q)

    def _once(self, make: Any, *models: nn.Module) -> Any:
        key = tuple(map(id, models))
        if not set(key) <= set(self.fixed):
            return make()
        if key not in self.found:
            self.found[key] = make()
        return self.found[key]


def with_forget_quality(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with TOFU's forget quality, against the first retrained model (for that one, against the second)."""
    ratios = {row["model"]: torch.tensor(row["truth_ratios"]) for row in rows}
    out = []
    for row in rows:
        against = next((name for name in ratios if name.startswith("retrained") and name != row["model"]), None)
        quality = None if against is None else tofu.forget_quality(ratios[row["model"]], ratios[against])
        out.append({key: value for key, value in row.items() if key != "truth_ratios"} | {"forget_quality": quality})
    return out
