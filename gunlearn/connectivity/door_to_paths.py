"""`gunlearn.connect`: what lies between two models, in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from gunlearn.connectivity.aligned_ends import Align, aligned_end, check_align, settled_end
from gunlearn.connectivity.along_path import checked_points, evaluate_path
from gunlearn.connectivity.children import Child, check_child, child_maker
from gunlearn.connectivity.connected_problem import connected_problem, original_of
from gunlearn.connectivity.connection import Connection
from gunlearn.connectivity.curve_finding import find_curve
from gunlearn.connectivity.curve_settings import CurveSettings
from gunlearn.connectivity.ends_of_paths import checked_end, module_of, modules_of
from gunlearn.connectivity.part_losses import PartLosses
from gunlearn.connectivity.path_evaluation import BOUND, GRID_POINTS, TOLERANCE
from gunlearn.connectivity.path_families import make_path
from gunlearn.connectivity.same_architecture import check_tensors
from gunlearn.core.checks import check_choice, check_seed
from gunlearn.errors import InvalidInputError
from gunlearn.losses import Loss, Objective
from gunlearn.metrics.base import Figure, as_list
from gunlearn.metrics.resemblance import check_references
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
    call: Callable[..., Any] | None = None,
    decode: Callable[..., Any] | None = None,
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
        call: how models are called, if not as while unlearning; see `gunlearn.unlearn`.
        decode: how they score pairs, if not as while unlearning.
        **curve: settings of `CurveSettings`: `steps`, `lr`, `t`, `forgetting`, `batch_size`, ...

    Raises:
        InvalidInputError: no data or task, results of two requests or of other data without `request`, another task
            than theirs, results with different models before unlearning where one is needed, or settings of a curve
            for a straight line.
        ChangedDataError: data of results were edited after `unlearn` had read them.
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
    check_align(align)
    check_child(child, path)
    settings = _settings(path, curve, objective, start, num_bends, callbacks, checkpoint_dir)
    task, partition, data = connected_problem((first, second), data, request, task, call, decode)
    references, metrics = modules_of(references, partition), as_list(metrics)
    checked_points(points, task, partition, metrics, (tolerance_retain, tolerance_forget), bound_forget)
    original, why = original_of((first, second), original, partition)
    if settings is not None:  # before a curve is trained; the evaluation checks them anyhow
        check_references(references, original)
    compares = settings is not None and (start == "original" or settings.objective(objective).reference_parts)
    if compares and original is None:
        what = "start='original'" if start == "original" else "an objective that compares with it"
        raise InvalidInputError(f"Expected 'original', the model before unlearning, for {what} (got {why or None})")
    ends = module_of(first), module_of(second)
    read = data if partition is None else partition.retain_data
    plain = [checked_end(model, which) for model, which in zip(ends, ("first", "second"), strict=True)]
    check_tensors(*(dict(model.named_parameters()) for model in plain))
    del plain
    for model in ends:
        trial = trial_pass(model, read, task)
    if not any(getattr(end, "task", None) is task for end in (first, second)):  # that of a result is fitted
        task = task.fitted(trial.outputs, read)
    items = PartLosses(task, partition, ends[0], data, loader=loader)
    second_end, settings_said = settled_end(*ends, items)
    second_end, said = aligned_end(ends[0], second_end, align, items)
    ends, notes = (ends[0], second_end), {"alignment": said, **({"settings": settings_said} if settings_said else {})}
    made = make_path(path, *ends, num_bends, original if start == "original" else start)
    task.adopt(made.template)  # what its layers cached of other data goes
    made_child, child_said = child_maker(child, made, items)
    notes |= {"child": child_said} if child_said else {}
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
    made.child = made_child
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


def _settings(
    path: str, curve: dict[str, Any], objective: Any, start: str, num_bends: int, callbacks: Any, checkpoint_dir: Any
) -> CurveSettings | None:
    """Return how the curve is trained; `None` for a straight line, which takes no setting."""
    check_choice("start", start, ("midpoint", "original"))
    unknown = sorted(set(curve) - set(CurveSettings.__dataclass_fields__))
    if unknown:
        raise InvalidInputError(f"Expected settings among {sorted(CurveSettings.__dataclass_fields__)} (got {unknown})")
    if path != "linear":
        return CurveSettings(**curve)
    usual: tuple[tuple[str, Any, Any], ...] = (
        ("objective", objective, None), ("start", start, "midpoint"), ("num_bends", num_bends, 1),
        ("callbacks", callbacks or (), ()), ("checkpoint_dir", checkpoint_dir, None),
    )  # fmt: skip
    given = [*curve, *(name for name, value, default in usual if value != default)]
    if given:
        raise InvalidInputError(f"Expected no settings of a curve for path='linear' (got {', '.join(given)})")
    return None
