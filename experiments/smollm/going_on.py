"""Rows that start from an adapter: shrunk towards the pretrained weights and trained on, or subtracted."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import torch
from peft import PeftModel
from torch import nn

import gunlearn
from gunlearn.llm import CausalLM
from gunlearn.llm.model.arithmetic import scale_adapter

if TYPE_CHECKING:
    from experiments.smollm.methods import Request

SHRUNK, LONGER, VECTOR = "shrunk towards pretrained", "shrunk, on for longer", "task vector"
#: The control: what is left of the adapter is nothing, so that a training as short as that of `SHRUNK` starts anew.
CONTROL = "from pretrained, as long"
#: Factors to choose from, and for how much of the training's passes a shrunk adapter goes on.
FACTORS: dict[str, tuple[float, ...]] = {SHRUNK: (0.1, 0.25), LONGER: (0.1,), CONTROL: (1e-6,), VECTOR: (0.5, 1.0)}
SHARES: dict[str, float] = {SHRUNK: 0.2, LONGER: 0.5, CONTROL: 0.2}


def went_on(name: str, request: Request, factor: float) -> tuple[nn.Module, int]:
    """The adapter that the model learned by, shrunk, then trained on the retained rows; and the steps of that."""
    problem, recipe, share = request.problem, request.problem.recipe, SHARES[name]
    size = max(1, recipe.batch_size // 2)
    steps = max(1, round(share * recipe.epochs * math.ceil(len(request.retain) / size)))
    with problem.faster():
        result = gunlearn.unlearn(
            request.start,
            [*request.forget, *request.retain],
            gunlearn.ForgetItems(list(range(len(request.forget)))),
            "continued_training",
            CausalLM(("log_prob",)),
            seed=0,
            shrink=factor,
            steps=steps,
            batch_size=size,
            max_grad_norm=1.0,
            optimizer=partial(torch.optim.AdamW, lr=recipe.lr, betas=(0.9, 0.98), weight_decay=0.0),
        )
    return result.model, steps


def subtracted(name: str, request: Request, factor: float) -> tuple[nn.Module, int]:
    """The original less a multiple of an adapter that was trained on the forgotten rows alone; and its steps."""
    problem = request.problem
    alone, history = problem.train(request.forget, 100 + request.number)
    place = problem.folder / f"vector{request.number}"
    alone.save_pretrained(str(place))
    model = PeftModel.from_pretrained(problem.over(request.base), str(place), is_trainable=True)
    return scale_adapter(model, -factor, inplace=True).eval(), history["steps"]
