"""What the parts share: a run of a method, its error, and a refusal that is a row too."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import gunlearn as gu
from experiments.digits_scrub.problem import TASK
from gunlearn.errors import GunlearnError

Row = dict[str, Any]
#: The name of a row, and what measures it.
Run = tuple[str, Callable[[], list[Row]]]


def unlearned(model: nn.Module, data: Any, mask: Any, method: str, options: dict[str, Any], seed: int) -> gu.Result:
    return gu.unlearn(model, data, gu.ForgetItems(mask=mask), method, TASK, seed=seed, **options)


@torch.no_grad()
def error(model: nn.Module, data: Any, mask: Any) -> float:
    return float((model(data.x[mask]).argmax(1) != data.y[mask]).double().mean())


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
