"""SCRUB's three applications, its directions and presets, and IMU, on handwritten digits; see README.md.

python -m experiments.digits_scrub --out runs/digits_scrub [--smoke] [--seeds 0 1 2] [--parts class confusion]
"""

import copy
import json
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import tyro
from torch import nn

import gunlearn as gu
from experiments.common import StudyArgs, write_results
from experiments.digits_scrub.problem import (
    TASK,
    A,
    by_heart,
    cnn,
    confused,
    digits,
    forgotten_class,
    frozen_body,
    perceptron,
    train,
)
from experiments.digits_scrub.tables import tables
from gunlearn.errors import GunlearnError
from gunlearn.losses import Distillation, Objective
from gunlearn.methods import OwnObjective
from gunlearn.metrics import evaluator, unlearning_lira
from gunlearn.training.callbacks import Callback

PARTS = ("class", "confusion", "privacy", "lira", "direction", "stall", "imu")
#: As in the checks of the specification: small learning rate, no decay, batches of 64 beside 16 to 32.
SCRUB = {
    "lr": 5e-4, "batch_size": 64, "max_grad_norm": float("inf"), "weight_decay": 0.0, "ascent_first": False,
    "mode": "small", "scheduler": "ConstantLR", "scheduler_options": {"factor": 1.0},
}  # fmt: skip
_TUNED = {"batch_size": 64, "lr": 5e-4}
#: Rows of the parts that compare methods: label -> method and options.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "finetune": ("finetune", {**_TUNED, "epochs": 10}),
    "l1_sparse": ("l1_sparse", {**_TUNED, "epochs": 10}),
    "gradient_ascent": ("gradient_ascent", {"epochs": 10}),
    "graddiff": ("graddiff", {**_TUNED, "epochs": 5}),
    "npo": ("npo", {**_TUNED, "epochs": 10}),
    "random_label": ("random_label", {**_TUNED, "epochs": 10}),
    "salun": ("salun", {**_TUNED, "epochs": 10}),
    "bad_teacher": ("bad_teacher", {**_TUNED, "epochs": 10}),
    "ssd": ("ssd", {"alpha": 3.0}),
    "imu": ("imu", {}),
    "scrub": ("scrub", {"epochs": 60}),
    "scrub:small": ("scrub:small", {}),
    "scrub_r": ("scrub_r", {"epochs": 60}),
}
CLASS = {
    **METHODS,
    "scrub T=1": ("scrub", {**SCRUB, "temperature": 1.0, "forget_batch_size": 32}),
    "scrub T=2": ("scrub", {**SCRUB, "temperature": 2.0, "forget_batch_size": 32}),
}
_IC = {**SCRUB, "temperature": 1.0, "forget_batch_size": 16}
CONFUSION = {
    **METHODS,
    "scrub:ic_small": ("scrub:ic_small", {}),
    "scrub T=1 alpha=.5": ("scrub", _IC),
    "scrub T=1 alpha=.001": ("scrub", {**_IC, "alpha": 1e-3}),
    "scrub T=1 alpha=.001 msteps=5": ("scrub", {**_IC, "alpha": 1e-3, "max_epochs": 5}),
}
_UP = {**SCRUB, "lr": 1e-3, "forget_batch_size": 16, "epochs": 20}
PRIVACY = {
    "finetune": ("finetune", {"batch_size": 64, "lr": 1e-3, "epochs": 20}),
    "scrub:mia": ("scrub:mia", {}),
    "scrub T=2 msteps=15": ("scrub", {**_UP, "max_epochs": 15}),
    "scrub T=1 msteps=10": ("scrub", {**_UP, "max_epochs": 10, "temperature": 1.0}),
    "scrub_r T=1 msteps=10": ("scrub_r", {**_UP, "max_epochs": 10, "temperature": 1.0}),
}


@dataclass
class Args(StudyArgs):
    """What to run; a killed run goes on where it stopped.

    Attributes:
        seeds: of the split, the training and the run.
        parts: which of the study's parts.
        methods: which rows of a part, by their name; all by default.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    parts: tuple[str, ...] = PARTS
    methods: tuple[str, ...] = ()


Row = dict[str, Any]
#: The name of a row, and what measures it.
Run = tuple[str, Callable[[], list[Row]]]


def unlearned(model: nn.Module, data: Any, mask: Any, method: str, options: dict[str, Any], seed: int) -> gu.Result:
    return gu.unlearn(model, data, gu.ForgetItems(mask=mask), method, TASK, seed=seed, **options)


@torch.no_grad()
def error(model: nn.Module, data: Any, mask: Any) -> float:
    return float((model(data.x[mask]).argmax(1) != data.y[mask]).double().mean())


def compared(part: str, seed: int, smoke: bool) -> Iterator[Run]:
    """Rows of a part that compares methods with the original model and three retrained ones."""
    problem, methods, make, recipe = {
        "class": (forgotten_class, CLASS, cnn, {"epochs": 30}),
        "confusion": (confused, CONFUSION, cnn, {"epochs": 30}),
        "privacy": (by_heart, PRIVACY, partial(cnn, 32), {"epochs": 150, "lr": 2e-3, "batch_size": 32}),
    }[part]
    recipe = {**recipe, "epochs": 2} if smoke else recipe
    data, mask = problem(seed)
    partition = gu.ForgetItems(mask=mask).resolve(data)
    base = train(make, data, seed, **recipe).model
    references = [train(make, partition.retain_data, 100 + 10 * seed + k, **recipe).model for k in range(3)]
    judge = evaluator(TASK, partition, references, seed, ["ic_err", "ic_err_retain", "fgt_err", "mia_acc"])
    others = data.test_mask & (data.y != A) if part == "class" else data.test_mask

    def row(name: str, model: nn.Module, **more: Any) -> Row:
        errors = {"forget": mask, "retain": partition.retain_mask, "test": others, "val": data.val_mask}
        found = {f"{key}_error": error(model, data, rows) for key, rows in errors.items()}
        return {"part": part, "seed": seed, "method": name, **found, **judge.row(model), **more}

    yield "original", lambda: [row("original", base)]
    yield "retrain", lambda: [row("retrain", model) for model in references]
    for name, (method, options) in methods.items():

        def run(name: str = name, method: str = method, options: dict[str, Any] = options) -> list[Row]:
            result = unlearned(base, data, mask, method, short(options, smoke), seed)
            kept = ("direction", "chosen", "salient", "collapsed", "forget_divergence")
            notes = {key: result.notes[key] for key in kept if key in result.notes}
            return [row(name, result.model, seconds=result.seconds, **notes)]

        yield name, lambda run=run, name=name: refused(run, part, seed, name)


def short(options: dict[str, Any], smoke: bool) -> dict[str, Any]:
    return (
        {**options, "epochs": min(options.get("epochs", 2), 2), "max_epochs": 1}
        if smoke and "mode" in options
        else ({**options, "epochs": 2} if smoke and "epochs" in options else options)
    )


def refused(run: Callable[[], list[Row]], part: str, seed: int, name: str) -> list[Row]:
    """A run that is refused, for it diverged or collapsed, is a row too."""
    try:
        return run()
    except GunlearnError as why:
        return [{"part": part, "seed": seed, "method": name, "error": str(why)}]


def lira(seed: int, smoke: bool) -> Iterator[Run]:
    """The attack by shadow models on a perceptron that learned by heart."""
    data, mask = by_heart(seed)
    options = {
        "original": None,
        "retrain": None,
        "finetune": ("finetune", {"epochs": 30, "lr": 1e-3}),
        "scrub": ("scrub", {"epochs": 60, "lr": 1e-3, "max_epochs": 6}),
        "scrub T=2": ("scrub", {"epochs": 60, "lr": 1e-3, "max_epochs": 6, "temperature": 2.0}),
        "imu": ("imu", {"epochs": 5}),
    }
    trained: dict[int, nn.Module] = {}

    def attack(name: str) -> list[Row]:
        def shadow(data: Any, request: gu.ForgetItems, seed: int) -> nn.Module:
            if name == "retrain":
                data = request.resolve(data).retain_data
                return train(perceptron, data, 5000 + seed, 3 if smoke else 150, 3e-3, None).model
            if seed not in trained:
                trained[seed] = train(perceptron, data, seed, 3 if smoke else 150, 3e-3, None).model
            if options[name] is None:
                return trained[seed]
            method, how = options[name]
            return gu.unlearn(trained[seed], data, request, method, TASK, seed=seed, **how).model

        start = time.perf_counter()
        found = unlearning_lira(shadow, data, mask.nonzero().view(-1), TASK, 6 if smoke else 28, 1000 * seed)
        figures = {"auc": found.auc, "global_auc": found.global_auc, "accuracy": found.accuracy}
        figures["tpr"] = found.true_positive_rate(0.05)
        return [{"part": "lira", "seed": seed, "method": name, **figures, "seconds": time.perf_counter() - start}]

    for name in options:
        yield name, partial(attack, name)


def direction(seed: int, smoke: bool) -> Iterator[Run]:
    """Which way the ascent goes by temperature: wrong, or more certain."""
    data, mask = forgotten_class(seed)
    base = train(cnn, data, seed, 2 if smoke else 30).model

    def run(temperature: float, alpha: float, msteps: int) -> list[Row]:
        how = {**SCRUB, "epochs": 8, "alpha": alpha, "temperature": temperature, "max_epochs": msteps}
        result = unlearned(base, data, mask, "scrub", short({**how, "forget_batch_size": 32}, smoke), seed)
        notes = {key: result.notes[key] for key in ("direction", "forget_nll", "forget_divergence")}
        row = {"part": "direction", "seed": seed, "temperature": temperature, "alpha": alpha, "msteps": msteps}
        return [{**row, "forget_error": error(result.model, data, mask), **notes}]

    for temperature in (1.0, 2.0, 4.0):
        for msteps in (3, 6):
            yield f"T={temperature:g} msteps={msteps}", partial(run, temperature, 0.5, msteps)


def stall(seed: int, smoke: bool) -> Iterator[Run]:
    """How far steps away from the original model lead, whose first gradient is zero; and the presets that take them."""
    data, mask = forgotten_class(seed)
    base = train(cnn, data, seed, 2 if smoke else 30).model
    away = Objective(((-1.0, Distillation(2.0, on="forget")),))

    def ascend(name: str, how: dict[str, Any]) -> list[Row]:
        row = {"part": "stall", "seed": seed, "method": name}
        try:
            found = gu.unlearn(base, data, gu.ForgetItems(mask=mask), OwnObjective(given=away, steps=40, **how), TASK)
        except GunlearnError as why:
            return [{**row, "error": str(why)}]
        d = [-record["loss"] for record in found.history]
        return [{**row, "d": d, "forget_error": error(found.model, data, mask)}]

    def preset(name: str, method: str, how: dict[str, Any]) -> list[Row]:
        result = unlearned(base, data, mask, method, how, seed)
        d = {"forget_divergence": result.notes["forget_divergence"], "direction": result.notes["direction"]}
        errors = {"forget_error": error(result.model, data, mask)}
        errors["retain_error"] = error(result.model, data, data.train_mask & ~mask)
        return [{"part": "stall", "seed": seed, "method": name, **d, **errors}]

    momentum = {"optimizer": "sgd", "optimizer_options": {"momentum": 0.9}}
    for name, how in (("adam 5e-4", {"lr": 5e-4}), ("sgd 5e-4", {"lr": 5e-4, **momentum}),
                      ("sgd 5e-3", {"lr": 5e-3, **momentum})):  # fmt: skip
        yield name, partial(ascend, name, how)
    few = {"epochs": 2} if smoke else {}
    for name, how in (("adam", {}), ("sgd 5e-4", momentum), ("sgd 5e-3", {**momentum, "lr": 5e-3})):
        paper = f"scrub:paper {name}"
        full = {"epochs": 20} if smoke else {}
        yield paper, partial(refused, partial(preset, paper, "scrub:paper", {**how, **full}), "stall", seed, paper)
    for mode in ("small", "large", "mia"):
        name = f"scrub:{mode}"
        yield name, partial(refused, partial(preset, name, name, few), "stall", seed, name)


class _Until(Callback):
    """Ends a run at the first step after which the forgotten items are right at most so often."""

    def __init__(self, data: Any, mask: Any, share: float) -> None:
        self.data, self.mask, self.share, self.steps = data, mask, share, None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        model = kwargs["model"].eval()
        if 1 - error(model, self.data, self.mask) <= self.share:
            self.steps, control.should_training_stop = state.step, True


def imu(seed: int, smoke: bool) -> Iterator[Run]:
    """Steps of IMU and of plain ascent on the head to equal forgetting, and what that costs."""
    data = digits(seed)
    train_rows = data.train_mask.nonzero().view(-1)
    some = torch.zeros_like(data.train_mask)
    some[train_rows[torch.randperm(len(train_rows), generator=torch.Generator().manual_seed(seed))[:100]]] = True
    base = train(cnn, data, seed, 2 if smoke else 30).model
    how = {"optimizer": "sgd", "optimizer_options": {"momentum": 0.9}, "lr": 1e-2, "steps": 3000}

    def run(kind: str, mask: Any, share: float, method: str) -> list[Row]:
        model = frozen_body(copy.deepcopy(base)) if method == "gradient_ascent" else base
        until = _Until(data, mask, share)
        request = gu.ForgetItems(mask=mask)
        result = gu.unlearn(model, data, request, method, TASK, seed=seed, callbacks=[until], **how)
        retain = 1 - error(result.model, data, data.train_mask & ~mask)
        return [
            {"part": "imu", "seed": seed, "kind": kind, "method": method, "steps": until.steps, "retain_acc": retain}
        ]

    cases = [(f"class {c}", data.train_mask & (data.y == c), 0.02) for c in (3, 5)]
    for kind, mask, share in (*cases, ("random", some, 0.9)):
        for method in ("imu", "gradient_ascent"):
            name = f"{kind} {method}"
            yield name, partial(refused, partial(run, kind, mask, share, method), "imu", seed, name)


RUNS = {"lira": lira, "direction": direction, "stall": stall, "imu": imu}


def main(args: Args) -> None:
    """Run what is not there yet, and write `results.json` and `tables.md`."""
    args.out.mkdir(parents=True, exist_ok=True)
    kept = args.out / "rows.jsonl"
    rows: dict[str, list[Row]] = {}
    if kept.exists():
        rows = {line["key"]: line["rows"] for line in map(json.loads, kept.read_text().splitlines())}
    for seed in args.seeds[:1] if args.smoke else args.seeds:
        for part in args.parts:
            runs = RUNS[part](seed, args.smoke) if part in RUNS else compared(part, seed, args.smoke)
            for name, run in runs:
                key = f"{part} {seed} {name}"
                if key in rows or (args.methods and name not in args.methods):
                    continue
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    rows[key] = run()
                with kept.open("a") as file:
                    file.write(json.dumps({"key": key, "rows": rows[key]}) + "\n")
    found = [row for of in rows.values() for row in of]
    text = "\n\n".join(f"<!-- {name} -->\n{table}" for name, table in tables(found).items())
    write_results(args.out, found, text)
    print(text)


if __name__ == "__main__":
    main(tyro.cli(Args))
