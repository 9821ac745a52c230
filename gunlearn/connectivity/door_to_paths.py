"""`gunlearn.connect`: what lies between two models, in one call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from gunlearn.connectivity.aligned_ends import Align, aligned_end
from gunlearn.connectivity.along_path import evaluate_path
from gunlearn.connectivity.connection import Connection
from gunlearn.connectivity.curve_finding import find_curve
from gunlearn.connectivity.curve_settings import CurveSettings
from gunlearn.connectivity.path_ends import module_of
from gunlearn.connectivity.path_evaluation import BOUND, GRID_POINTS, TOLERANCE
from gunlearn.connectivity.path_families import make_path
from gunlearn.core.checks import check_choice, check_seed
from gunlearn.errors import InvalidInputError, InvalidTypeError
from gunlearn.losses import Loss, Objective
from gunlearn.metrics.base import Figure
from gunlearn.seed import isolated_rng
from gunlearn.tasks.base import Task
from gunlearn.tasks.named import as_task
from gunlearn.tasks.trial import trial_pass
from gunlearn.training.callbacks import Callback
from gunlearn.training.result import Result


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
    points: int | Sequence[float] = GRID_POINTS,
    references: Sequence[Any] = (),
    metrics: Iterable[str | Figure] = (),
    tolerance_retain: float = TOLERANCE,
    tolerance_forget: float = TOLERANCE,
    bound_forget: float = BOUND,
    seed: int = 0,
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
        request: what was forgotten: a request, or a partition; known of results of one request. Without one, the
            models are judged on the training items alone.
        task: what the models predict; known of results of this session.
        path: `"linear"`, `"bezier"` or `"chain"` (straight lines from bend to bend).
        num_bends: points between the ends.
        objective: what is small along the curve; by default the retained items' loss.
        start: where bends begin: `"midpoint"`, on the straight line, or `"original"`, at the model before unlearning.
        original: the model before unlearning; known of results of this session.
        align: `"weights"`, `"activations"` or `"messages"`, see `align_models`; or a function `align(first, second)` of
            the modules that returns the second one with its units in another order, or an object that has it as
            `model`. Two models from different initial weights have a barrier for their units' order alone.
        points: number of points of the evaluation, or the points.
        references: models (or results) trained without the forgotten items, for lines of reference.
        metrics: further figures, see `gunlearn.evaluate`.
        tolerance_retain: how large the barrier of connected models may be, in nats.
        tolerance_forget: the same of the forgotten items.
        bound_forget: where their loss stops to count, in nats: nothing is remembered there.
        seed: of the curve's points and batches, and of figures that draw.
        callbacks: objects with `TrainerCallback` methods, while the curve is trained.
        progress: show a progress bar.
        checkpoint_dir: write checkpoints of the curve there, and resume from them.
        **curve: settings of `CurveSettings`: `steps`, `lr`, `t`, `forgetting`, `batch_size`, ...

    Raises:
        InvalidInputError: no data or task, results of two requests without `request`, or settings of a curve for a
            straight line.
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
    settings = _settings(path, curve, objective, start, num_bends)
    task, partition, data = _problem((first, second), data, request, task)
    original = original if original is not None else _known("original", first, second)
    original = None if original is None else module_of(original)
    ends = module_of(first), module_of(second)
    read = data if partition is None else partition.retain_data
    for model in ends:
        trial = trial_pass(model, read, task)
    if not any(getattr(end, "task", None) is task for end in (first, second)):  # that of a result is fitted
        task = task.fitted(trial.outputs, read)
    second_end, said = aligned_end(*ends, align, task, partition, data)
    ends, notes = (ends[0], second_end), {"alignment": said}
    if start == "original" and original is None:
        raise InvalidInputError("Expected 'original', the model before unlearning, for start='original' (got None)")
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
    found = evaluate_path(
        made,
        task,
        partition,
        points=points,
        references=[module_of(one) for one in references],
        metrics=metrics,
        tolerance_retain=tolerance_retain,
        tolerance_forget=tolerance_forget,
        bound_forget=bound_forget,
        original=original,
        data=data,
        seed=seed,
    )
    found.notes |= notes
    return Connection(made, found, task, partition, history, original, data if partition is None else None)


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


def _known(name: str, *ends: Any) -> Any:
    """Return what the first of the results that has it says."""
    return next((found for end in ends if (found := getattr(end, name, None)) is not None), None)


def _problem(ends: tuple[Any, Any], data: Any, request: Any, task: Any) -> tuple[Task, Any, Any]:
    """Return the task, what was forgotten and the training data: as given, else as the results know them."""
    results = [end for end in ends if isinstance(end, Result)]
    task = task if task is not None else _known("task", *results)
    if task is None:
        raise InvalidInputError("Expected 'task', what the models predict (got None, and no result that knows it)")
    task = as_task(task)
    if hasattr(request, "retain_data"):
        return task, request, request.data
    parts = {result.partition.request_hash: result.partition for result in results if result.partition is not None}
    if request is None and data is None:
        if len(parts) > 1:
            raise InvalidInputError(
                "Expected 'request', by which both models are judged (got results of two different requests)"
            )
        if not parts:
            raise InvalidInputError("Expected 'data' (got None, and no result of this session that knows them)")
        partition = next(iter(parts.values()))
        return task, partition, partition.data
    if data is None:
        data = next(iter(parts.values())).data if parts else None
    if data is None:
        raise InvalidInputError("Expected 'data' beside 'request' (got None)")
    data = task.check_data(data)
    if request is None:
        return task, None, data
    if not callable(getattr(request, "resolve", None)):
        raise InvalidTypeError(f"Expected 'request' to be a forget request (got {type(request).__name__})")
    return task, request.resolve(data), data
