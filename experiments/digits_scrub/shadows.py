"""The attack by shadow models."""

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import nn

import gunlearn as gu
from experiments.digits_scrub.problem import TASK, by_heart, perceptron, train
from experiments.digits_scrub.runs import Row, Run
from gunlearn.metrics import unlearning_lira


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
