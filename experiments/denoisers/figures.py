"""Figures of denoisers beside retrained ones, as rows of a file."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from experiments.denoisers.runs import Setting
from gunlearn.diffusion.metrics import evaluate_denoisers
from gunlearn.diffusion.noised_items import draw_items

#: Figures of a row that are written.
KEPT = ("ua", "ira", "nearest", "rest", "frechet", "broken")
KEPT += tuple(
    f"alignment_{part}{end}" for part in ("forget", "retain")
    for end in ("", "_floor", "_gain", "_gain_low", "_gain_high", "_error")
)  # fmt: skip
#: Images of each part on which the denoising loss is measured.
MEASURED = 180


@torch.no_grad()
def losses(setting: Setting, model: nn.Module, gone: Sequence[int], count: int = MEASURED) -> dict[str, float]:
    """Return the mean denoising loss of forgotten and of other images, with fixed steps and noise."""
    (x, y), task, draw = setting.data, setting.task, torch.Generator().manual_seed(1)
    forgotten, found = torch.isin(y, torch.tensor([*gone])), {}
    for name, mask in (("forget_loss", forgotten), ("retain_loss", ~forgotten)):
        rows = mask.nonzero().view(-1)
        rows = rows[torch.randperm(rows.numel(), generator=torch.Generator().manual_seed(0))[:count]]
        items = draw_items(task.noise_schedule, x[rows], y[rows], generator=draw)
        found[name] = float(-task.decode(model, None, items).log_prob.mean())
    return found


def rows_of(
    setting: Setting,
    models: Mapping[str, nn.Module],
    original: nn.Module,
    references: Sequence[nn.Module],
    gone: Sequence[int],
    seed: int,
) -> list[dict[str, Any]]:
    """Return a row for each model, for the original one and for each retrained one.

    `seen` are shares of the pictures asked for each forgotten class in which the judge sees that class.
    """
    x, y = setting.data
    forgotten = torch.isin(y, torch.tensor([*gone]))
    parts = (x[forgotten], y[forgotten]), (x[~forgotten], y[~forgotten])
    how = {"references": references, "original": original, "features": setting.features, "seed": seed}
    found = evaluate_denoisers(models, setting.task, *parts, setting.judge, **how, **setting.figures)
    named = {**models, "original": original, **{f"retrained {k}": model for k, model in enumerate(references)}}
    rows = []
    for row in found.rows:
        name = row["model"]
        kept = {key: row[key] for key in KEPT if key in row}
        if name in found.pictures:
            drawn = {c: found.pictures[name][found.concepts.index(c)] for c in gone}
            kept["seen"] = {str(c): share_of(setting, images, c) for c, images in drawn.items()}
        rows.append({"model": name, "seed": seed, **kept, **losses(setting, named[name], gone)})
    return rows


@torch.no_grad()
def share_of(setting: Setting, images: Tensor, label: int) -> float:
    """Return the share of images in which the judge sees a class."""
    return float((setting.judge(images).argmax(1) == label).double().mean())
