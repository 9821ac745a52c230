"""Rows that go on with the training without the forgotten questions, and the control that starts from nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

import gunlearn
from experiments.tofu_small.problem import Problem
from gunlearn.llm import CausalLM
from gunlearn.methods.any_task.second_look import LOOKS

#: Share of the training's epochs that each may take; the earliest checkpoint of `replay` is a fifth before the end.
SHARE = 0.25


@dataclass(frozen=True)
class Continued:
    """One row of the table.

    Attributes:
        method: `"continued_training"` or `"replay"`; `"retrain"` is the control, a training from nothing.
        shrink: factor on the trained weight matrices.
        peak: a new AdamW's learning rate, which rises over a twentieth of the steps and falls in a line; without it the
            state of the training goes on.
        batch_size: rows per step of the new AdamW.
        betas: of the new AdamW.
    """

    method: str
    shrink: float = 1.0
    peak: float | None = None
    batch_size: int = 16
    betas: tuple[float, float] = (0.9, 0.98)

    def options(self, steps: int, state: Path) -> dict[str, Any]:
        """Options of the method."""
        if self.method == "replay":
            return {"training": state, "budget": SHARE}
        shared = {"steps": steps, "shrink": self.shrink}
        if self.peak is None:
            return {**shared, "training": state}
        return {
            **shared,
            "lr": self.peak,
            "batch_size": self.batch_size,
            "max_grad_norm": 1.0,
            "optimizer": "adamw",
            "optimizer_options": {"betas": self.betas},
            "scheduler": "OneCycleLR",
            "scheduler_options": {
                "max_lr": self.peak,
                "total_steps": steps,
                "pct_start": 0.05,
                "anneal_strategy": "linear",
                "cycle_momentum": False,
            },
        }


CONTINUED: dict[str, Continued] = {
    "continued": Continued("continued_training"),
    "continued, shrunk": Continued("continued_training", shrink=0.65, peak=3e-3, batch_size=8),
    "replay": Continued("replay"),
    "from nothing": Continued("retrain"),
}


def run_continued(
    row: Continued, problem: Problem, original: nn.Module, percent: int, state: Path, seed: int = 0
) -> tuple[nn.Module, int]:
    """The model that a row ends in, and its steps.

    Args:
        row: what to do.
        problem: the texts.
        original: the trained model.
        percent: share of the questions to forget.
        state: file of the state of the original's training.
        seed: of the order of rows.
    """
    forget, retain = problem.forget(percent), problem.retain(percent)
    recipe = replace(problem.recipe, epochs=SHARE * problem.recipe.epochs, batch_size=row.batch_size)
    short = Problem(problem.root, recipe)
    steps = short.steps(retain)
    if row.method == "retrain":
        model = problem.fresh(seed + 1000)
        short.fit(model, retain, seed)
        return model, steps
    request, options = gunlearn.ForgetItems(list(range(len(forget)))), row.options(steps - LOOKS, state)
    result = gunlearn.unlearn(original, [*forget, *retain], request, row.method, CausalLM(), seed=seed, **options)
    return result.model, result.history[-1]["step"]
