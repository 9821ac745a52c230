"""What is compared, all from the same trained model: methods with one budget, and trainings that go on."""

import copy
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_model, save_model
from torch import nn

from experiments.tofu_small.continued import CONTINUED, SHARE, Continued, run_continued
from experiments.tofu_small.problem import Problem
from gunlearn import __version__
from gunlearn.llm import PartCollator, UntilUnseen, unlearn
from gunlearn.losses import NLL


@dataclass(frozen=True)
class Setting:
    """One row of the table.

    Attributes:
        method: name of a method, or an objective.
        options: of the method.
        peft: adapter, or `None` for all parameters.
        until: stop where forgotten rows are as unlikely as unseen ones.
    """

    method: Any
    options: Mapping[str, Any] = field(default_factory=dict)
    peft: str | None = None
    until: bool = False


NAMES = tuple(
    "ga graddiff npo npo_kl simnpo idkdpo kto wga satimp undial ceu ihl jensun rmu dto".split()  # noqa: SIM905
)
#: Rows whose method has another name.
CALLED = {"ga": "gradient_ascent", "npo_kl": "npo:kl", "idkdpo": "dpo", "ceu": "ce_unlearning"}
SETTINGS: dict[str, Setting] = {
    "finetune": Setting(NLL(on="retain")),
    **{name: Setting(CALLED.get(name, name)) for name in NAMES},
    "graddiff lora": Setting("graddiff", peft="lora"),
    "graddiff bounded": Setting("graddiff", peft="bounded"),
    **{f"{name} until unseen": Setting(CALLED.get(name, name), until=True) for name in ("ga", "graddiff", "npo")},
}


@dataclass(frozen=True)
class Budget:
    """The same for every method; nothing was tuned on a figure of the table.

    Attributes:
        epochs: passes over the forgotten rows.
        batch_size: forgotten rows per step, beside as many retained ones.
        lr: AdamW's learning rate for all parameters.
        adapter_lr: for an adapter.
    """

    epochs: int = 5
    batch_size: int = 16
    lr: float = 3e-4
    adapter_lr: float = 2e-3


def run(
    name: str, problem: Problem, original: nn.Module, percent: int, budget: Budget, folder: Path, state: Path
) -> tuple[nn.Module, dict[str, Any]]:
    """The unlearned model and what it cost; from `folder` where it has been run before.

    `state` is the file of the state of the original's training, for rows that go on with it.
    """
    row: Setting | Continued = SETTINGS[name] if name in SETTINGS else CONTINUED[name]
    weights = sum(float(p.detach().double().sum()) for p in original.parameters())
    told = repr((row, budget if isinstance(row, Setting) else SHARE, problem.recipe, percent, weights, __version__))
    path = folder / f"{name.replace(' ', '_')}-{percent}-{hashlib.sha256(told.encode()).hexdigest()[:12]}.safetensors"
    record = path.with_suffix(".json")
    if record.exists():
        model = copy.deepcopy(original)
        load_model(model, path)
        return model.eval(), json.loads(record.read_text())
    began = time.perf_counter()
    if isinstance(row, Setting):
        model, steps = _unlearned(row, problem, original, percent, budget)
    else:
        model, steps = run_continued(row, problem, original, percent, state)
    cost = {"seconds": time.perf_counter() - began, "steps": steps}
    folder.mkdir(parents=True, exist_ok=True)
    save_model(model, str(path))
    record.write_text(json.dumps(cost))
    return model.eval(), cost


def _unlearned(
    setting: Setting, problem: Problem, original: nn.Module, percent: int, budget: Budget
) -> tuple[nn.Module, int]:
    """The model that a method with the common budget ends in, and its steps."""
    forget = problem.forget(percent)
    callbacks: tuple[Any, ...] = ()
    if setting.until:
        callbacks = (UntilUnseen(forget, problem.unseen, PartCollator(0), batch_size=40),)
    needs_alternative = setting.method in ("dpo", "jensun")
    result = unlearn(
        original,
        problem.tokenizer,
        forget,
        problem.retain(percent),
        setting.method,
        options=setting.options or None,
        peft=setting.peft,
        alternative=problem.refusals(percent) if needs_alternative else None,
        epochs=budget.epochs * (4 if setting.until else 1),
        lr=budget.lr if setting.peft is None else budget.adapter_lr,
        batch_size=budget.batch_size,
        seed=0,
        figure_rows=0,
        callbacks=callbacks,
        use_cpu=True,
    )
    return merged(result.model), result.settings["steps"]


def merged(model: nn.Module) -> nn.Module:
    """A plain model, its adapter's change added to the weights."""
    merge: Callable[[], nn.Module] | None = getattr(model, "merge_and_unload", None)
    return model if merge is None else merge()


def names(problem: Problem) -> list[str]:
    """Rows of the table; those that stop at unseen texts where there are any."""
    return [name for name, setting in SETTINGS.items() if problem.unseen or not setting.until] + list(CONTINUED)
