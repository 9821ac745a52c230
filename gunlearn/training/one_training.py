"""Whether checkpoints are of one training: a rerun may have written over some of another one's."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gunlearn.errors import CheckpointError
from gunlearn.training.checkpoint_weights import without_holder
from gunlearn.training.training_state import Moment

#: What an optimiser remembers of squared gradients, by the setting that says which share of it each step keeps.
_KEPT = (("betas", "exp_avg_sq"), ("betas", "exp_inf"), ("alpha", "square_avg"), ("rho", "square_avg"))
_SHARE = 0.01  # of the values: none in one training, a tenth to a half where two were mixed
_ALIKE = 0.3  # cosine of weights: above .5 in a training by SGD, below .1 between two from weights drawn anew


def check_one_training(moments: Sequence[Moment], source: Path) -> None:
    r"""Refuse checkpoints, in the order of their steps, in which the optimiser lost more than its steps can take.

    .. math:: v_{t+k} \ge \beta^k \, v_t

    holds in one training for each value that Adam, AdamW, NAdam, RAdam, Adamax, RMSprop and Adadelta remember of
    squared gradients, and with :math:`\beta = 1` for Adagrad's sums, whatever the learning rate was. SGD has no such
    memory: weights that have nothing in common are warned of.

    Raises:
        CheckpointError: more than a hundredth of the values fell farther, rounding aside.
    """
    apart: list[tuple[str, float]] = []
    for first, second in pairwise(moments):
        if not first.step:
            continue
        fell = number = 0
        for before, after, least in _memories(first, second):
            known = before * least > torch.finfo(before.dtype).tiny
            fell += int((after[known] < least * before[known]).sum())
            number += int(known.sum())
        between = f"steps {first.step} and {second.step}"
        if fell > _SHARE * number:
            raise CheckpointError(
                f"Expected checkpoints of one training in {source} (got those of two, between {between}: of "
                f"{fell / number:.0%} of its values the optimiser remembers smaller gradients than it can after these "
                "steps); keep those of the training that ended in this model"
            )
        cosine = 1.0 if number else _cosine(first.weights, second.weights)
        if cosine < _ALIKE:
            apart.append((between, cosine))
    if apart:
        places = ", ".join(f"{between} ({cosine:.2f})" for between, cosine in apart[:3])
        more = f" and {len(apart) - 3} times more" if len(apart) > 3 else ""
        warnings.warn(
            f"the weights of the checkpoints in {source} have little in common between {places}{more} (in brackets "
            "their cosine); if they are of two trainings, keep those of the one that ended in this model",
            UserWarning,
            stacklevel=4,
        )


def _memories(first: Moment, second: Moment) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Yield what is remembered of squared gradients at both, and the share of it that is left at least."""
    before, after = (moment.optimizer["state"] for moment in (first, second))
    settings = [
        {index: group for group in moment.optimizer.get("param_groups", ()) for index in group["params"]}
        for moment in (first, second)
    ]
    for index in before.keys() & after.keys():
        own, later = before[index], after[index]
        name, kept = _kept(own, settings[0].get(index, {}))
        values = own.get(name), later.get(name)
        if not all(isinstance(value, Tensor) and value.is_floating_point() for value in values):
            continue
        if values[0].shape == values[1].shape and kept == _kept(later, settings[1].get(index, {}))[1]:
            steps = int(later.get("step", second.step)) - int(own.get("step", first.step))
            rounded = 1 - 4 * max(torch.finfo(value.dtype).eps for value in values)
            yield values[0], values[1], (kept * rounded) ** steps


def _kept(state: Mapping[str, Any], group: Mapping[str, Any]) -> tuple[str, float]:
    """Return the name of what an optimiser remembers, and the share that a step keeps; an empty name for none."""
    for setting, name in _KEPT:
        if setting in group and name in state:
            return name, float(group[setting][1] if setting == "betas" else group[setting])
    return ("sum", 1.0) if "sum" in state else ("", 0.0)


def _cosine(weights: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> float:
    """Return the cosine between the matrices of two checkpoints; 1 where they have none of the same shapes."""
    weights, others = without_holder(weights), without_holder(others)
    pairs = [
        (value.double().flatten(), others[name].double().flatten())
        for name, value in weights.items()
        if value.dim() > 1 and name in others and others[name].shape == value.shape
    ]
    ours, theirs = (torch.cat(column) for column in zip(*pairs, strict=True)) if pairs else (torch.ones(1),) * 2
    return float(torch.cosine_similarity(ours, theirs, dim=0))
