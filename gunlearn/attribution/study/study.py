"""The study that tells which estimator to trust: estimates beside the truth, with what they cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from gunlearn.attribution import ESTIMATORS
from gunlearn.attribution.base import Estimator
from gunlearn.attribution.study.agreement import agreement, spearman
from gunlearn.attribution.study.choice import CONTROLS, choose
from gunlearn.attribution.study.measured import Setting, sample_of
from gunlearn.attribution.study.truths import Train, TrueValues, truth_estimator, truth_named
from gunlearn.attribution.targets import Target
from gunlearn.errors import GunlearnError, InvalidInputError, InvalidTypeError
from gunlearn.tasks.base import Task
from gunlearn.tasks.named import as_task

_FIGURES = (
    "spearman", "spearman_ci", "kendall", "pearson", "precision_at_1pct", "seconds", "peak_memory_mb",
)  # fmt: skip
_FAILURES = (GunlearnError, RuntimeError, ArithmeticError, MemoryError)


@dataclass
class Study:
    """Estimates beside the truth.

    Attributes:
        rows: one per estimator: `dataset`, `model`, `of`, `target`, `estimator`, `truth`, `spearman`, `spearman_ci`
            (95 %, bootstrap over items), `kendall`, `pearson`, `precision_at_1pct`, `seconds`, `peak_memory_mb`,
            `num_items` (compared); further `question` and `truth_question`, `num_scored` (what the seconds are for),
            `is_truth`, `behind` (controls that it does not beat), `options`, `notes`, `seed`, `error`. A figure that
            could not be had is `None`.
        items: what was compared: `ids` of `gunlearn.attribution.Items`.
        truth: true values `[num_values]`.
        estimates: by estimator, in the order of `truth`.
        settings: of the study, with the seconds and the notes of the truth.
    """

    rows: list[dict[str, Any]]
    items: Tensor
    truth: Tensor
    estimates: dict[str, Tensor]
    settings: dict[str, Any]

    def __getitem__(self, estimator: str) -> dict[str, Any]:
        """The row of an estimator."""
        for row in self.rows:
            if row["estimator"] == estimator:
                return row
        raise KeyError(f"Expected an estimator among {[row['estimator'] for row in self.rows]} (got {estimator!r})")


def influence_study(
    model: nn.Module,
    data: Data,
    task: str | Task = "link_prediction",
    *,
    of: str = "edges",
    target: str | Target | Callable[[Tensor], Tensor] = "probabilities",
    estimators: Sequence[str | Estimator] | None = None,
    truth: str = "removal",
    items: Any = None,
    num_items: int | None = None,
    truth_items: int | None = None,
    seed: int = 0,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    truth_options: Mapping[str, Any] | None = None,
    train: Train | None = None,
    num_resamples: int = 1000,
    dataset: str | None = None,
    model_name: str | None = None,
    report: Callable[[dict[str, Any]], None] | None = None,
) -> Study:
    """Hold estimators of influence against the truth.

    Seconds are the estimator's own: the model has run forwards and backwards on the graph before, and each estimator
    is given the outputs on the whole graph. Peak memory is the whole process's while it ran.

    Args:
        model: see `gunlearn.attribution`, as `data`, `task`, `of` and `target`.
        data: the graph.
        task: what the model predicts.
        of: kind of the items.
        target: what influence is on.
        estimators: names or objects; `None` for all that answer the truth's question for these items and this target,
            `brute` left out, and the controls.
        truth: `"removal"` (exact), a name in `gunlearn.attribution.study.truths.TRUTHS`, or an estimator's name.
        items: see `gunlearn.attribution`; `None` for all.
        num_items: a random sample of so many of them is the whole study.
        truth_items: the truth of a random sample of so many only, while estimators score all.
        seed: of samples, estimators, truth and bootstrap.
        options: of estimators, by name.
        truth_options: of the truth.
        train: training function `train(data, seed) -> model`, for truths that retrain.
        num_resamples: of the bootstrap.
        dataset: name for the rows.
        model_name: name for the rows; the model's class by default.
        report: told of each row as it comes.

    Returns:
        Rows, scores and settings. An estimator that fails has a row with its `error`, the others go on.

    Raises:
        InvalidInputError: unknown names or options, bad items or target; nothing to compare.
        UnsupportedMethodError: the truth cannot be had for these items or this target.

    Example:
        >>> import gunlearn as gu
        >>> from gunlearn.attribution.study.study import influence_study
        >>> data = gu.load("karate")
        >>> study = influence_study(gu.GCN(data.num_features), data, estimators=["degree", "brute"])
        >>> round(study["brute"]["spearman"], 6)
        1.0
    """
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"Expected 'model' to be a torch module (got {type(model).__name__})")
    if not isinstance(data, Data):
        raise InvalidTypeError(f"Expected 'data' to be a torch_geometric Data (got {type(data).__name__})")
    given = {name: dict(values) for name, values in (options or {}).items()}
    known = truth_named(truth, ESTIMATORS, {**given.get(truth_estimator(truth), {}), **(truth_options or {})})
    setting = Setting(model, data, as_task(task), of, target, items, seed)
    if num_items is not None:
        setting.items = setting.items.take(sample_of(setting.items, num_items, "num_items", seed))
    of_truth = {**known.defaults, **(truth_options or {})}
    chosen = choose(estimators, given, setting, known, {name: of_truth[name] for name in known.defaults})
    sample = None if truth_items is None else sample_of(setting.items, truth_items, "truth_items", seed)
    true = setting.measure(lambda p: known.compute(p, train, dict(of_truth)), sample, warm=True)
    values: TrueValues = true.result
    signed = true.problem.target.kind == "value"
    settings = {
        "dataset": dataset, "model": model_name or type(model).__name__, "task": setting.task.name, "of": of,
        "target": true.problem.target.name, "signed": signed, "truth": truth, "truth_question": known.question,
        "truth_summary": known.summary, "truth_seconds": true.seconds, "truth_peak_memory_mb": true.memory,
        "truth_notes": values.notes, "num_items": values.values.numel(), "grouped": values.groups is not None,
        "num_scored": setting.items.num_items, "seed": seed, "num_nodes": data.num_nodes,
        "num_edges": data.edge_index.size(1), "num_resamples": num_resamples,
    }  # fmt: skip
    study = Study([], true.problem.items.ids.cpu(), values.values.cpu(), {}, settings)

    def compare(label: str, estimator: Estimator) -> dict[str, Any]:
        is_truth = estimator == known.estimator
        row = {
            **{name: settings[name] for name in ("dataset", "model", "of", "target")},
            "estimator": label, "truth": truth, **dict.fromkeys(_FIGURES), "num_items": values.values.numel(),
            "num_scored": true.problem.items.num_items if is_truth else setting.items.num_items,
            "question": estimator.question, "truth_question": known.question, "is_truth": is_truth, "behind": [],
            "options": _options(estimator), "notes": {}, "seed": seed, "error": None,
        }  # fmt: skip
        try:
            if is_truth:
                done, scores = true, values.values
            else:
                done = setting.measure(estimator)
                _check(done.result, label)
                scores = values.of(done.result if sample is None else done.result[sample])
            row |= {"seconds": done.seconds, "peak_memory_mb": done.memory, "notes": done.problem.notes}
            row |= agreement(study.truth, scores.cpu(), signed, num_resamples, seed)
            study.estimates[label] = scores.cpu()
        except _FAILURES as error:
            row["error"] = " ".join(str(error).split()) or type(error).__name__
        return row

    _check(values.values, truth)
    bar = None
    degree = ESTIMATORS["degree"]()
    if of in degree.of and true.problem.target.kind in degree.targets:
        scores = setting.measure(degree).result
        bar = spearman(study.truth, values.of(scores if sample is None else scores[sample]).cpu())
    for label, estimator in chosen.items():
        row = compare(label, estimator)
        row["behind"] = _behind(row, bar)
        study.rows.append(row)
        if report is not None:
            report(row)
    return study


def _options(estimator: Estimator) -> dict[str, Any]:
    """Options as a row holds them: of checkpoints, and whatever else is large, the kind."""
    values = {name: getattr(estimator, name) for name in estimator.options()}
    small = (bool, int, float, str, type(None))
    return {name: value if isinstance(value, small) else type(value).__name__ for name, value in values.items()}


def _behind(row: dict[str, Any], degree: float | None) -> list[str]:
    """Controls that an estimate does not beat; of random scores the correlation is 0, whatever one draw says."""
    if row["error"] is not None or row["spearman"] is None:
        return []
    behind = []
    if row["estimator"] != "random" and row["spearman_ci"][0] <= 0:
        behind.append("random")
    if row["estimator"] not in CONTROLS and degree is not None and row["spearman"] <= degree:
        behind.append("degree")
    return behind


def _check(scores: Tensor, name: str) -> None:
    if not torch.isfinite(scores).all():
        raise InvalidInputError(f"Expected finite scores from '{name}' (got NaN or infinity)")
