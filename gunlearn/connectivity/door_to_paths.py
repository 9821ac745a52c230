"""`gunlearn.connect`: what lies between two models, in one call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from gunlearn.connectivity.aligned_ends import Align, aligned_end, settled_end
from gunlearn.connectivity.along_path import evaluate_path
from gunlearn.connectivity.children import Child, child_maker
from gunlearn.connectivity.connected_problem import connected_problem, original_of
from gunlearn.connectivity.connection import Connection
from gunlearn.connectivity.curve_finding import find_curve
from gunlearn.connectivity.curve_settings import CurveSettings
from gunlearn.connectivity.ends_of_paths import checked_end, module_of, modules_of
from gunlearn.connectivity.part_losses import PartLosses
from gunlearn.connectivity.path_evaluation import BOUND, GRID_POINTS, TOLERANCE
from gunlearn.connectivity.path_families import make_path
from gunlearn.core.checks import check_choice, check_seed
from gunlearn.errors import InvalidInputError
from gunlearn.losses import Loss, Objective
from gunlearn.metrics.base import Figure
from gunlearn.seed import isolated_rng
from gunlearn.tasks.base import Task
from gunlearn.tasks.trial import trial_pass
from gunlearn.training.callbacks import Callback


@isolated_rng()
def connect(
    first: Any,
    second: Any,
    data: Any = None,
    request: Any = None,
    task: str | Task | None = None,
    *,
    path: str = "linear",
    num_bends: int = 1,
    objective: Loss | Objective | None = None,
    start: str = "midpoint",
    original: Any = None,
    align: Align = None,
    child: Child = None,
    points: int | Sequence[float] = GRID_POINTS,
    references: Any = (),
    metrics: str | Figure | Iterable[str | Figure] = (),
    tolerance_retain: float = TOLERANCE,
    tolerance_forget: float = TOLERANCE,
    bound_forget: float = BOUND,
    seed: int = 0,
    loader: Any = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = False,
    checkpoint_dir: str | Path | None = None,
    **curve: Any,
) -> Connection:
    """Connect two models of one architecture: a straight line, or a curve that is trained; and evaluate it.

    Args:
        first: a module, or what `unlearn` returned; the end at `t = 0`. Neither end changes.
        second: the end at `t = 1`.
        data: what the models were trained on; known of results of this session.
        request: what was forgotten: a request, or a partition, with which `data` must be its own; known of results of
            one request. Of modules without one, training items alone judge.
        task: what the models predict; known of results of this session.
        path: `"linear"`, `"bezier"` or `"chain"` (straight lines from bend to bend).
        num_bends: points between the ends.
        objective: what is small along the curve; by default the retained items' loss.
        start: where bends begin: `"midpoint"`, on the straight line, or `"original"`, at the model before unlearning.
        original: the model before unlearning; known of results of this session that have the same.
        align: `"weights"`, `"activations"` or `"messages"`, see `align_models`; or a function `align(first, second)` of
            the modules that returns the second one with its units in another order, or an object that has it as
            `model`. Two models from different initial weights have a barrier for their units' order alone.
        child: what stands between the ends in place of the path's models: `"calibrated"` (`MessageCalibration`),
            `"merged"` (`merge_in_closed_form`, of a straight line) or a function `child(model, t)`.
        points: number of points of the evaluation, or the points.
        references: models (or results) trained without the forgotten items, or one, for lines of reference.
        metrics: further figures, see `gunlearn.evaluate`.
        tolerance_retain: how large the barrier of connected models may be, in nats.
        tolerance_forget: the same of the forgotten items.
        bound_forget: where their loss stops to count, in nats: nothing is remembered there.
        seed: of the curve's points and batches, and of figures that draw.
        loader: training items (data, or a loader of them) on which statistics of batch normalisation are computed at
            every point; by default the retained items.
        callbacks: objects with `TrainerCallback` methods, while the curve is trained.
        progress: show a progress bar.
        checkpoint_dir: write checkpoints of the curve there, and resume from them.
        **curve: settings of `CurveSettings`: `steps`, `lr`, `t`, `forgetting`, `batch_size`, ...

    Raises:
        InvalidInputError: no data or task, results of two requests or of other data without `request`, results with
            different models before unlearning where one is needed, or settings of a curve for a straight line.
        GunlearnError: see `path_ends`, `find_curve` and `evaluate_path`.

    Example:
        >>> import gunlearn as gu
        >>> data = gu.link_split(gu.load("karate"), val_ratio=0.1, test_ratio=0.1)
        >>> model = gu.train(gu.GCN(data.num_features), data, epochs=50).model
        >>> a, b = (gu.unlearn(model, data, gu.ForgetEdges(count=3), m, epochs=5) for m in ("npo", "gradient_ascent"))
        >>> gu.connect(a, b).connected
        True
    """
    check_seed(seed)
    references = modules_of(references)
    settings = _settings(path, curve, objective, start, num_bends)
    task, partition, data = connected_problem((first, second), data, request, task)
    original, why = original_of((first, second), original)
    compares = settings is not None and (start == "original" or settings.objective(objective).reference_parts)
    if compares and original is None:
        what = "start='original'" if start == "original" else "an objective that compares with it"
        raise InvalidInputError(f"Expected 'original', the model before unlearning, for {what} (got {why or None})")
    ends = module_of(first), module_of(second)
    read = data if partition is None else partition.retain_data
    for model, which in zip(ends, ("first", "second"), strict=True):
        checked_end(model, which)
        trial = trial_pass(model, read, task)
    if not any(getattr(end, "task", None) is task for end in (first, second)):  # that of a result is fitted
        task = task.fitted(trial.outputs, read)
    items = PartLosses(task, partition, ends[0], data)
    second_end, settings_said = settled_end(*ends, items)
    second_end, said = aligned_end(ends[0], second_end, align, items)
    ends, notes = (ends[0], second_end), {"alignment": said, **({"settings": settings_said} if settings_said else {})}
    made = make_path(path, *ends, num_bends, original if start == "original" else start)
    task.adopt(made.template)  # what its layers cached of other data goes
    history = []
    if settings is not None:
        state = find_curve(
            made,
            task,
            partition,
            objective,
            settings,
            original=original,
            data=data,
            seed=seed,
            callbacks=callbacks,
            progress=progress,
            checkpoint_dir=checkpoint_dir,
        )
        history = state.log_history
    made.child, child_said = child_maker(child, made, items)
    notes |= {"child": child_said} if child_said else {}
    found = evaluate_path(
        made,
        task,
        partition,
        points=points,
        references=references,
        metrics=metrics,
        tolerance_retain=tolerance_retain,
        tolerance_forget=tolerance_forget,
        bound_forget=bound_forget,
        original=original,
        data=data,
        seed=seed,
        loader=loader,
    )
    found.notes |= notes | ({"original": f"not known: {why}"} if why else {})
    read = data if partition is None else None
    return Connection(made, found, task, partition, history, original, read, seed, loader)


def _settings(path: str, curve: dict[str, Any], objective: Any, start: str, num_bends: int) -> CurveSettings | None:
    """Return how the curve is trained; `None` for a straight line, which takes no setting."""
    check_choice("start", start, ("midpoint", "original"))
    unknown = sorted(set(curve) - set(CurveSettings.__dataclass_fields__))
    if unknown:
        raise InvalidInputError(f"Expected settings among {sorted(CurveSettings.__dataclass_fields__)} (got {unknown})")
    if path != "linear":
        return CurveSettings(**curve)
    given = [*curve, *(["objective"] if objective is not None else [])]
    given += [
        name for name, value, usual in (("start", start, "midpoint"), ("num_bends", num_bends, 1)) if value != usual
    ]
    if given:
        raise InvalidInputError(f"Expected no settings of a curve for path='linear' (got {', '.join(given)})")
    return None
