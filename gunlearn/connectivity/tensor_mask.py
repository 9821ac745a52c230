"""Which tensors a curve bends: those that matter to what is forgotten, not those that matter most to what stays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from gunlearn.tasks.base import Task


def important_tensors(
    retain: Mapping[str, float], forget: Mapping[str, float], sizes: Mapping[str, int], share: float, spared: float
) -> set[str]:
    """Return the names of the tensors that move, by their importance (Shi and Wang, arXiv 2505.10859).

    Tensors are set aside in order of their importance to the retained items until they hold `spared` of all numbers; of
    the others, those that matter most to the forgotten items move, until they hold `share`.

    Args:
        retain: importance of each tensor to the retained items.
        forget: to the forgotten ones.
        sizes: how many numbers each tensor holds.
        share: of all numbers that may move, in (0, 1].
        spared: of all numbers that stay for the retained items, in [0, 1).

    Example:
        >>> retain, forget = {"a": 3.0, "b": 1.0, "c": 1.0}, {"a": 9.0, "b": 2.0, "c": 5.0}
        >>> sorted(important_tensors(retain, forget, {"a": 1, "b": 1, "c": 2}, share=0.5, spared=0.25))
        ['c']
    """
    total = sum(sizes.values())
    aside, held = set(), 0
    for name in sorted(retain, key=lambda n: -retain[n]):
        if held >= int(total * spared):
            break
        aside.add(name)
        held += sizes[name]
    moving, held = set(), 0
    for name in sorted((n for n in forget if n not in aside), key=lambda n: -forget[n]):
        if held >= max(1, int(total * share)):
            break
        moving.add(name)
        held += sizes[name]
    return moving


def tensor_importance(model: nn.Module, task: Task, data: Any, pieces: Iterable[Any]) -> dict[str, float]:
    r"""Return :math:`\lVert \nabla_W \sum_i \ell_i \rVert_2 / |W|` of each parameter by name, in evaluation mode."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total = {name: torch.zeros_like(p) for name, p in named.items()}
    model.eval()
    for items in pieces:
        loss = -task.read(model, task.encode(model, data), items).log_prob.sum()
        found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        for name, gradient in zip(named, found, strict=True):
            if gradient is not None:
                total[name] += gradient
    return {name: float(value.double().norm()) / value.numel() for name, value in total.items()}
