"""What is compared: each method with the rate, or the strength, that does best on half of the rows."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import nn

from experiments.smollm.going_on import CONTROL, FACTORS, FRESH, LONGER, SHARES, SHRUNK, VECTOR, subtracted, went_on
from experiments.smollm.problem import Problem, Row
from gunlearn.bench.store import atomic_write
from gunlearn.llm import unlearn
from gunlearn.llm.metrics.row_figures import figures
from gunlearn.losses import NLL, NPO, KLToReference

#: Rates of AdamW for an adapter: published ones, for all parameters, are 1e-5, with ten times as many steps.
RATES = (7e-4, 1.5e-3)


@dataclass(frozen=True)
class Setting:
    """One method of a Trainer.

    Attributes:
        method: its name, or an objective.
        rates: learning rates to choose from.
        says: what to answer instead: `"refusals"`, what the model said `"before"` it learned anything, or what it
            `"predicted"` then of each token, as the reference of the losses.
    """

    method: Any
    rates: tuple[float, ...] = RATES
    says: str | None = None


SETTINGS: dict[str, Setting] = {
    "npo": Setting("npo"),
    "graddiff": Setting("graddiff"),
    "simnpo": Setting("simnpo"),
    "idkdpo": Setting("dpo", says="refusals"),
    "wga": Setting("wga"),
    "undial": Setting("undial"),
    "npo, said before": Setting(NPO(beta=0.1) + NLL(on="retain") + NLL(on="alternative"), says="before"),
    "distilled from pretrained": Setting(KLToReference(on="forget") + NLL(on="retain"), says="predicted"),
    "finetune": Setting(NLL(on="retain"), (1e-3,)),
}
#: Rows whose strength is a factor, on the adapter that the model learned by or on one of the forgotten rows alone.
FACTORED = {SHRUNK: went_on, LONGER: went_on, CONTROL: went_on, FRESH: went_on, VECTOR: subtracted}
NAMES = (SHRUNK, LONGER, CONTROL, FRESH, *SETTINGS, VECTOR)


@dataclass(frozen=True)
class Budget:
    """The same for every method of a Trainer.

    Attributes:
        epochs: passes over the forgotten rows.
        batch_size: forgotten rows per step, beside as many retained ones.
    """

    epochs: float = 6
    batch_size: int = 8


@dataclass
class Request:
    """One request, and the model that it is put to.

    Attributes:
        problem: texts and models.
        number: 1, or 2 for the second, which is put to what a method made of the first.
        start: the model that it is put to, an adapter on another one.
        original: the model that learned everything.
        budget: of the methods.
        asked: retained questions to choose settings on and to report, together.
    """

    problem: Problem
    number: int
    start: nn.Module
    original: nn.Module
    budget: Budget
    asked: int

    def __post_init__(self) -> None:
        self.base = self.original if self.number == 1 else self.problem.merged(self.start)
        self.forget, self.retain = self.problem.forget(self.number), self.problem.retain(self.number)
        gone = [row for number in range(1, self.number + 1) for row in self.problem.forget(number)]
        self.halves = {"forget": halved(gone), "retain": halved(self.problem.asked(self.asked))}
        with self.problem.faster():
            self.unseen = nll(self.original, {"unseen": self.problem.unseen})["unseen"]
            self.known = nll(self.original, {"retain": self.halves["retain"][0]})["retain"]

    def judged(self, model: nn.Module) -> dict[str, float]:
        """Figures on the halves that settings are chosen on; no retrained model is asked.

        `judged` is the lower the better: nats per token by which forgotten rows are likelier or less likely than rows
        that nobody saw, and retained ones less likely than they were.
        """
        with self.problem.faster():
            found = figures(model, {part: half[0] for part, half in self.halves.items()}, batch_size=32)
        forget, retain = found["forget"]["nll"], found["retain"]["nll"]
        judged = abs(forget - self.unseen) + max(0.0, retain - self.known)
        probs = {f"{part}_prob": found[part]["prob"] for part in found}
        return {"judged": judged, "forget_nll": forget, "retain_nll": retain, **probs}


def candidates(name: str) -> tuple[float, ...]:
    """The rates or factors of a method."""
    return FACTORS[name] if name in FACTORED else SETTINGS[name].rates


def run(name: str, request: Request) -> tuple[nn.Module, dict[str, Any]]:
    """The model of a method's best setting, and all that were tried; from the disk where they were run before."""
    tried = {}
    for value in candidates(name):
        place, make = _place(name, value, request), _maker(name, value, request)
        record = place / "cost.json"
        if not record.exists():
            began = time.perf_counter()
            adapted, steps = make()
            cost = {"setting": value, "steps": steps, "seconds": time.perf_counter() - began}
            cost |= request.judged(adapted)
            adapted.save_pretrained(str(place))
            atomic_write(record, json.dumps(cost))
            print(name, json.dumps(cost), flush=True)
        tried[place] = json.loads(record.read_text())
    best = min(tried, key=lambda place: tried[place]["judged"])
    base = request.problem.pretrained if name in SHARES else request.base
    model = PeftModel.from_pretrained(request.problem.over(base), str(best), is_trainable=True)
    return model.to(request.problem.device).eval(), {"place": best, "tried": list(tried.values()), **tried[best]}


def _place(name: str, value: float, request: Request) -> Path:
    problem = request.problem
    setting, budget = SETTINGS.get(name), request.budget
    spent = SHARES.get(name) if setting is None else (budget.epochs, budget.batch_size)
    told = [asdict(problem.recipe), problem.bf16, repr((setting, spent)), value]
    weights = sum(float(parameter.detach().double().sum()) for parameter in request.base.parameters())
    digest = hashlib.sha256(json.dumps([*told, request.asked, weights]).encode()).hexdigest()[:12]
    return problem.own / f"request{request.number}" / f"{name.replace(' ', '_').replace(',', '')}-{value:g}-{digest}"


def _maker(name: str, value: float, request: Request) -> Callable[[], tuple[nn.Module, int]]:
    if name in FACTORED:
        return lambda: FACTORED[name](name, request, value)
    return lambda: _unlearned(SETTINGS[name], value, request)


def _unlearned(setting: Setting, rate: float, request: Request) -> tuple[nn.Module, int]:
    """The model that a method of a Trainer ends in, as an adapter on the original, and its steps."""
    problem, budget = request.problem, request.budget
    said: dict[str | None, Callable[[], list[Row] | None]] = {
        None: lambda: None,
        "predicted": lambda: None,
        "refusals": lambda: problem.refusals(request.forget),
        "before": lambda: problem.said_before(request.forget),
    }
    result = unlearn(
        request.base,
        problem.tokenizer,
        request.forget,
        request.retain,
        setting.method,
        peft=problem.adapter(),
        alternative=said[setting.says](),
        epochs=budget.epochs,
        lr=rate,
        batch_size=budget.batch_size,
        seed=problem.seed,
        figure_rows=0,
        reference=problem.pretrained if setting.says == "predicted" else "auto",
        use_cpu=problem.device.type == "cpu",
        bf16=problem.bf16,
    )
    return result.model, result.settings["steps"]


def halved(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """Every second row, to choose settings on, and the others, to report."""
    return rows[::2], rows[1::2]


def nll(model: nn.Module, parts: dict[str, list[Row]]) -> dict[str, float]:
    """Mean negative log-likelihood per token, in nats."""
    return {part: found["nll"] for part, found in figures(model, parts, batch_size=32).items()}
