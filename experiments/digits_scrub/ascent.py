"""Steps away from the original model: which way they go, and from a gradient of zero; how much fine-tuning forgets."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch.nn.functional import cross_entropy

import gunlearn as gu
from experiments.digits_scrub.problem import TASK, cnn, forgotten_class, train
from experiments.digits_scrub.runs import Row, Run, error, refused, short, unlearned
from experiments.digits_scrub.settings import CLASS, RECIPE, SCRUB
from gunlearn.errors import GunlearnError
from gunlearn.losses import Distillation, Objective
from gunlearn.methods import OwnObjective


def direction(seed: int, smoke: bool) -> Iterator[Run]:
    """Which way the ascent goes by temperature: wrong, or more certain."""
    data, mask = forgotten_class(seed)
    base = train(cnn, data, seed, **short(RECIPE, smoke)).model

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
    base = train(cnn, data, seed, **short(RECIPE, smoke)).model
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


#: Epochs, rate and batch of trainings that end at different losses.
TRAININGS = ((30, 5e-4, 64), (30, 1e-3, 64), (30, 1e-3, 32), (30, 2e-3, 32))


def convergence(seed: int, smoke: bool) -> Iterator[Run]:
    """How much fine-tuning forgets of a class, by the loss at which the training of the original model ended."""
    data, mask = forgotten_class(seed)

    def run(epochs: int, lr: float, batch_size: int) -> list[Row]:
        base = train(cnn, data, seed, **short({"epochs": epochs, "lr": lr, "batch_size": batch_size}, smoke)).model
        with torch.no_grad():
            loss = float(cross_entropy(base(data.x[data.train_mask]), data.y[data.train_mask]))
        row = {"part": "convergence", "seed": seed, "lr": lr, "batch_size": batch_size, "loss": loss}
        method, options = CLASS["finetune"]
        tuned = unlearned(base, data, mask, method, short(options, smoke), seed).model
        return [{**row, "forget_error": error(tuned, data, mask)}]

    for how in TRAININGS:
        yield f"rate {how[1]:g} batches of {how[2]}", partial(run, *how)
