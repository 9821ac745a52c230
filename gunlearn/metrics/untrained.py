"""References that were hardly trained: distances to them say nothing."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from torch import nn

from gunlearn.seed import isolated_rng
from gunlearn.training.from_scratch import reset_model

if TYPE_CHECKING:
    from gunlearn.metrics.problem import Evaluator

#: Number of models with new weights that references are compared with.
NUM_FRESH = 3
#: Untrained is a reference with less than this share of what training gave the original model, if that was
#: `LEAST_GAIN` or more.
LEARNED, LEAST_GAIN = 0.25, 0.1


def untrained(problem: Evaluator, original: nn.Module | None) -> dict[int, str]:
    """Return a sentence for each reference, by its place from 1, that is hardly better than new weights.

    The measures are `Evaluator.skills` on retained items. Training gives the difference between the original model's
    and that of the best of `NUM_FRESH` models with new weights, or chance. A measure by which it is below `LEAST_GAIN`
    says nothing, and nobody can tell where the original model is not known. A reference that is better by one of the
    measures is trained.
    """
    if original is None or not problem.references:
        return {}
    before, new = problem.skills(problem.view(original)), _fresh(problem, original)
    found: dict[int, str] = {}
    for k, reference in enumerate(problem.references, start=1):
        weak = []
        for then, now, fresh in zip(before, problem.skills(reference), new or [()] * len(before), strict=True):
            known = [skill for skill in fresh if skill is not None]
            bare = learned_little(now, then, max([0.0, *known]))
            if bare is not None:
                weak.append((bare, now, known, then))
        if weak and all(there for there, *_ in weak):
            _, now, known, then = weak[0]
            among = f", models with new weights at up to {max(known):.2f}" if known else ""
            found[k] = (
                f"Reference {k} looks untrained: it predicts retained items at {now:.2f} (0 by chance, 1 at best)"
                f"{among}, the model before unlearning at {then:.2f}."
            )
    return found


def learned_little(now: float | None, before: float | None, least: float) -> bool | None:
    """Return whether a reference has less than the share `LEARNED` of what training gave the original model.

    Args:
        now: the reference's measure, 1 at best.
        before: the original model's.
        least: what a model with new weights reaches.

    Returns:
        `None` where training gave the original less than `LEAST_GAIN`, which says nothing.
    """
    if before is None or now is None or before - least < LEAST_GAIN:
        return None
    return now < least + LEARNED * (before - least)


def _fresh(problem: Evaluator, original: nn.Module) -> list[tuple[float | None, ...]]:
    """Return by measure what models with new weights reach; nothing where these cannot be drawn."""
    found = []
    for seed in range(NUM_FRESH):
        try:
            with isolated_rng(seed), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of buffers that keep their values
                found.append(problem.skills(problem.view(reset_model(original))))
        except Exception:  # a `reset_parameters` of the caller's own may fail in any way
            return []
    return list(zip(*found, strict=True))
