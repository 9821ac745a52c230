"""IMU and plain ascent at equal forgetting."""

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

import gunlearn as gu
from experiments.digits_scrub.problem import TASK, cnn, digits, frozen_body, train
from experiments.digits_scrub.runs import Row, Run, error, refused, short
from experiments.digits_scrub.settings import RECIPE
from gunlearn.training.callbacks import Callback

#: The authors' rate, at which a few large steps forget, and one that is fine enough to stop at equal forgetting.
RATES = (1e-2, 3e-4)


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
    base = train(cnn, data, seed, **short(RECIPE, smoke)).model
    how = {"optimizer": "sgd", "optimizer_options": {"momentum": 0.9}, "steps": 3000}

    def run(lr: float, kind: str, mask: Any, share: float, method: str) -> list[Row]:
        model = frozen_body(copy.deepcopy(base)) if method == "gradient_ascent" else base
        until = _Until(data, mask, share)
        request = gu.ForgetItems(mask=mask)
        result = gu.unlearn(model, data, request, method, TASK, seed=seed, callbacks=[until], lr=lr, **how)
        retain = 1 - error(result.model, data, data.train_mask & ~mask)
        row = {"part": "imu", "seed": seed, "lr": lr, "kind": kind, "method": method}
        return [{**row, "steps": until.steps, "retain_acc": retain}]

    cases = [(f"class {c}", data.train_mask & (data.y == c), 0.02) for c in (3, 5)]
    for lr in RATES:
        for kind, mask, share in (*cases, ("random", some, 0.9)):
            for method in ("imu", "gradient_ascent"):
                name = f"{lr:g} {kind} {method}"
                yield name, partial(refused, partial(run, lr, kind, mask, share, method), "imu", seed, name)
