"""Evaluate the models on a path: losses, and every figure of the task."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gunlearn.connectivity.ends_of_paths import module_of, modules_of
from gunlearn.connectivity.part_losses import PartLosses
from gunlearn.connectivity.path_evaluation import BOUND, GRID_POINTS, TOLERANCE, PathEvaluation
from gunlearn.connectivity.same_architecture import factored_weights, listed
from gunlearn.connectivity.weight_paths import WeightPath
from gunlearn.core.checks import check_integer, check_number
from gunlearn.errors import InvalidInputError, InvalidTypeError, UnsupportedMethodError
from gunlearn.metrics.base import Figure, as_list, figures_of
from gunlearn.metrics.problem import evaluator
from gunlearn.metrics.resemblance import check_references
from gunlearn.tasks.base import Task
from gunlearn.tasks.named import as_task
from gunlearn.tasks.trial import plain_copy


def evaluate_path(
    path: WeightPath,
    task: str | Task,
    partition: Any,
    *,
    points: int | Sequence[float] = GRID_POINTS,
    references: Any = (),
    metrics: str | Figure | Iterable[str | Figure] = (),
    tolerance_retain: float = TOLERANCE,
    tolerance_forget: float = TOLERANCE,
    bound_forget: float = BOUND,
    original: Any = None,
    data: Any = None,
    seed: int = 0,
    loader: Any = None,
) -> PathEvaluation:
    """Evaluate the models on a path: losses, and the figures that `gunlearn.evaluate` computes.

    Of language models there are losses, and the probability of rows (`forget_prob`, `retain_prob`): the mean over rows
    of the geometric mean of their tokens' probabilities, as in TOFU (arXiv 2401.06121).

    Models with batch normalisation have statistics of the retained items, computed anew at each point, the ends
    included: the models' own would jump there. What the two have with their own stands in `own_ends`.

    Args:
        path: see `WeightPath`.
        task: what the models predict.
        partition: what was forgotten; `None` where nothing was: then there are losses, but no figures.
        points: number of equally spaced points (at least 3), or the points themselves, ascending.
        references: models (or results) that were trained without the forgotten items, or one.
        metrics: further figures, see `gunlearn.evaluate`.
        tolerance_retain: how large the barrier of connected models may be, in nats.
        tolerance_forget: the same of the forgotten items.
        bound_forget: where their loss stops to count, in nats.
        original: the model (or the result with it) before unlearning, for figures that compare with it.
        data: training data, where there is no partition.
        seed: of figures that draw, and of drawn pairs.
        loader: training items for these statistics in place of the retained ones, see `PartLosses`.

    Raises:
        DivergenceError: NaN or infinity on the path.
        InvalidInputError: bad points, tolerances or bound, a `loader` without statistics to compute, metrics without a
            request, or references that are the original model or forgot something else.
    """
    task, metrics, references = as_task(task), as_list(metrics), modules_of(references, partition)
    if not isinstance(path, WeightPath):
        raise InvalidTypeError(f"Expected a path to evaluate (got {type(path).__name__})")
    ts = checked_points(points, task, partition, metrics, (tolerance_retain, tolerance_forget), bound_forget)
    original = None if original is None else module_of(original)
    check_references(references, original)
    model = task.adopt(plain_copy(path.template))
    losses = PartLosses(task, partition, model, data, seed, loader)
    notes: dict[str, str] = {}
    judge = None
    try:
        judge = None if partition is None else evaluator(task, partition, references, seed, metrics)
    except UnsupportedMethodError as error:
        of = "losses and probabilities" if task.name == "causal_lm" else "losses"
        notes["figures"] = f"{of} alone: {error}"
    if judge is not None:
        judge.original = original

    def row(which: nn.Module) -> dict[str, float | None]:
        found: dict[str, float | None] = {f"loss_{part}": v for part, v in losses.losses(which).items()}
        if judge is None:
            return {
                **found,
                **(losses.probabilities(which) if task.name == "causal_lm" and partition is not None else {}),
            }
        return {**found, **judge.view(which).figures()}

    rows = []
    for t, arc in zip(ts, arc_lengths(path, ts), strict=True):
        path.put(model, t, losses.recompute, at_ends=True).eval()
        rows.append({"t": t, "arc": arc, **row(model)})
    own = [row(path.put(model, t).eval()) for t in (0, 1)] if path.ends.statistics else []
    judged = [row(one) for one in references]
    missing = [n for n, v in (("'original'", original), ("'references'", references or None)) if v is None]
    notes |= _remarks(path, rows, metrics, " and ".join(missing), loader)
    return PathEvaluation(path.name, rows, judged, tolerance_retain, tolerance_forget, bound_forget, notes, own)


def checked_points(
    points: Any, task: Task, partition: Any, metrics: list[Any], tolerances: tuple[Any, Any], bound_forget: Any
) -> list[float]:
    """Return the points of an evaluation, and refuse what it could not be made with; nothing is computed.

    Raises:
        InvalidInputError: bad points, tolerances or bound, unknown metrics, or metrics without a request.
        InvalidTypeError: metrics that are neither figures nor names.
    """
    ts = _grid(points)
    for name, value in zip(("tolerance_retain", "tolerance_forget"), tolerances, strict=True):
        check_number(name, value, minimum=0.0)
    if not isinstance(bound_forget, Real) or not float(bound_forget) > 0:  # NaN as well
        raise InvalidInputError(f"Expected 'bound_forget' > 0, math.inf for none (got {bound_forget!r})")
    if metrics and partition is None:
        raise InvalidInputError(
            "Expected a request for 'metrics', which compare forgotten items with others (got None)"
        )
    figures_of(task.measured_as or task.name, metrics)
    return ts


def arc_lengths(path: WeightPath, points: list[float]) -> list[float]:
    """Return the length of the path from its first point to each of `points`, by straight lines between them."""
    lengths, before = [0.0], path.weights(points[0])
    with torch.no_grad():
        for t in points[1:]:
            now = path.weights(t)
            squares = [float((now[n] - before[n]).double().square().sum()) for n in path.moving]
            lengths.append(lengths[-1] + math.sqrt(math.fsum(squares)))
            before = now
    return lengths


def _remarks(path: WeightPath, rows: list[Any], metrics: list[Any], missing: str, loader: Any) -> dict[str, str]:
    """Return remarks on statistics, on weights that are products, and on metrics that have no value anywhere."""
    notes = {}
    if path.ends.statistics:
        of = "the retained items" if loader is None else "the loader's items"
        notes["statistics"] = f"of batch normalisation: computed anew on {of} at every point, the ends included"
    if factors := factored_weights(path.template):
        notes["factors"] = (
            f"the path runs on the factors of {listed(factors)}, and its middle is no mean of these weights"
        )
    asked = {m.partition(":")[0] if isinstance(m, str) else m.name for m in metrics}
    unknown = [name for name in rows[0] if name in asked and all(row[name] is None for row in rows)]
    if unknown:
        notes["metrics"] = f"without a value: {', '.join(unknown)}{f' (got no {missing})' if missing else ''}"
    return notes


def _grid(points: Any) -> list[float]:
    """Return the points to evaluate."""
    if isinstance(points, Integral) and not isinstance(points, bool):
        check_integer("points", points, minimum=3)  # at the ends alone there is no barrier to see
        return [k / (int(points) - 1) for k in range(int(points))]
    listed = points.tolist() if isinstance(points, Tensor | np.ndarray) else points
    ts = list(listed) if isinstance(listed, Sequence) and not isinstance(listed, str) else []
    ts = [t.item() if isinstance(t, Tensor) and t.numel() == 1 else t for t in ts]
    if not all(isinstance(t, Real) for t in ts) or not _ascending([float(t) for t in ts]):
        raise InvalidInputError(
            "Expected 'points' to be a number of points, or at least 3 ascending ones from 0 to 1, ends included (got "
            f"{ts[:5] or points!r})"
        )
    return [float(t) for t in ts]


def _ascending(ts: list[float]) -> bool:
    return len(ts) >= 3 and (ts[0], ts[-1]) == (0, 1) and all(a < b for a, b in pairwise(ts))
