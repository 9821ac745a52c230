"""Rows that start from an adapter: shrunk towards the pretrained weights and trained on, or subtracted."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import torch
from peft import PeftModel, get_peft_model
from torch import nn

import gunlearn
from experiments.smollm.learned import learned
from experiments.smollm.problem import Problem
from gunlearn.llm import CausalLM
from gunlearn.llm.model.arithmetic import scale_adapter
from gunlearn.seed import isolated_rng

if TYPE_CHECKING:
    from experiments.smollm.methods import Request

SHRUNK, LONGER, VECTOR = "shrunk towards pretrained", "shrunk, on for longer", "task vector"
#: A control: what is left of the adapter is nothing, so that a training as short as that of `SHRUNK` starts anew.
CONTROL = "from pretrained, as long"
#: A control of `LONGER`: as many steps from the pretrained model and new factors, which no forgotten row has trained.
FRESH = "from new factors, for longer"
#: Factors to choose from, and for how much of the training's passes an adapter goes on.
FACTORS: dict[str, tuple[float, ...]] = {
    SHRUNK: (0.1, 0.25), LONGER: (0.1,), CONTROL: (1e-6,), FRESH: (1.0,), VECTOR: (0.5, 1.0)
}  # fmt: skip
SHARES: dict[str, float] = {SHRUNK: 0.2, LONGER: 0.5, CONTROL: 0.2, FRESH: 0.5}


def went_on(name: str, request: Request, factor: float) -> tuple[nn.Module, int]:
    """The adapter that the model learned by, shrunk, then trained on the retained rows; and the steps of that.

    `FRESH` begins with a new adapter.
    """
    problem, recipe, share = request.problem, request.problem.recipe, SHARES[name]
    start = new_adapter(problem, request.number) if name == FRESH else request.start
    size = max(1, recipe.batch_size // 2)
    steps = max(1, round(share * recipe.epochs * math.ceil(len(request.retain) / size)))
    with problem.faster():
        result = gunlearn.unlearn(
            start,
            [*request.forget, *request.retain],
            gunlearn.ForgetItems(list(range(len(request.forget)))),
            "continued_training",
            CausalLM(("log_prob",)),
            seed=problem.seed,
            shrink=factor,
            steps=steps,
            batch_size=size,
            max_grad_norm=1.0,
            optimizer=partial(torch.optim.AdamW, lr=recipe.lr, betas=(0.9, 0.98), weight_decay=0.0),
        )
    return result.model, steps


def new_adapter(problem: Problem, number: int) -> nn.Module:
    """The pretrained model with an adapter that changes nothing yet."""
    with isolated_rng(problem.seeded(200 + number)):
        return get_peft_model(problem.over(problem.pretrained), problem.adapter()).to(problem.device).eval()


def subtracted(name: str, request: Request, factor: float) -> tuple[nn.Module, int]:
    """The original less a multiple of an adapter that was trained on the forgotten rows alone; and its steps."""
    problem = request.problem
    alone, history = learned(problem, request.forget, 100 + request.number)
    place = problem.own / f"vector{request.number}"
    alone.save_pretrained(str(place))
    over = problem.over(request.base)
    model: nn.Module = PeftModel.from_pretrained(over, str(place), is_trainable=True).to(problem.device)
    return scale_adapter(model, -factor, inplace=True).eval(), history["steps"]
