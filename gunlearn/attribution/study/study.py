"""Compare estimators of influence with the truth, and compare their costs."""

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch_geometric.data import Data

from gunlearn.attribution.base import Estimator, check_scores
from gunlearn.attribution.study.comparison import Comparison
from gunlearn.attribution.study.finished_truth import measured_truth
from gunlearn.attribution.study.setting import Measured, Setting
from gunlearn.attribution.study.truths import TrueValues, Truth, truth_estimator, truth_named
from gunlearn.attribution.targets import Target
from gunlearn.attribution.training.retraining_influence import Train
from gunlearn.core.checks import check_model
from gunlearn.tasks.base import Task
from gunlearn.tasks.named import as_task


@dataclass
class Study:
    """Estimates beside the truth.

    Attributes:
        rows: one per estimator: `dataset`, `model`, `of`, `target`, `estimator`, `truth`, `spearman`, `spearman_ci` (95
            %, bootstrap over items), `kendall`, `pearson`, `precision_at_1pct`, `seconds`, `peak_memory_mb`,
            `num_items` (compared), `question`, `truth_question`, `num_scored` (items that the seconds count),
            `is_truth`, `behind` (controls that it does not beat), `options`, `notes`, `seed`, `error`. Undefined
            figures are `None`.
        items: the items compared: `ids` of `gunlearn.attribution.Items`.
        truth: true values `[num_values]`.
        estimates: by estimator, in the order of `truth`.
        settings: settings of the study, with the truth's seconds and notes.
    """

    rows: list[dict[str, Any]]
    items: Tensor
    truth: Tensor
    estimates: dict[str, Tensor]
    settings: dict[str, Any]

    def __getitem__(self, estimator: str) -> dict[str, Any]:
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
    finished: MutableMapping[str, Any] | None = None,
) -> Study:
    """Compare estimators of influence with the truth: return rows, scores and settings.

    Seconds are the estimator's own: the model ran forwards and backwards before, and the outputs on the whole graph are
    given. Peak memory is that of the whole process while the estimator runs. An estimator that fails has a row with its
    `error`; the others go on.

    Args:
        model: see `gunlearn.influence`, also for `data`, `task`, `of` and `target`.
        data: the graph.
        task: what the model predicts.
        of: kind of the items.
        target: the quantity that items influence.
        estimators: names or objects; `None` for the controls and all but `brute` that answer the truth's question for
            these items and this target.
        truth: `"removal"` (exact), a name in `gunlearn.attribution.study.truths.TRUTHS`, or an estimator's name.
        items: see `gunlearn.influence`; `None` for all.
        num_items: study a random sample of this size.
        truth_items: compute the truth for a random sample of this size, while estimators score all.
        seed: seed of samples, estimators, truth and bootstrap.
        options: options of estimators, by name.
        truth_options: options of the truth.
        train: training function `train(data, seed) -> model`, for truths that retrain.
        num_resamples: number of bootstrap resamples.
        dataset: name for the rows.
        model_name: name for the rows; the model's class by default.
        report: called with each complete row.
        finished: the truth, and rows with their scores, from an earlier call with the same data, model and settings, by
            estimator, options and truth: they are taken from there, and new ones are added.

    Raises:
        InvalidInputError: unknown names or options, bad items or target; nothing to compare.
        UnsupportedMethodError: the truth cannot be computed for these items or this target.

    Example:
        >>> import gunlearn as gu
        >>> from gunlearn.attribution.study.study import influence_study
        >>> data = gu.load("karate")
        >>> study = influence_study(gu.GCN(data.num_features), data, estimators=["degree", "brute"])
        >>> round(study["brute"]["spearman"], 6)
        1.0
    """
    check_model(model)
    task = as_task(task)
    data = task.check_data(data)
    options, truth_options = options or {}, truth_options or {}
    known = truth_named(truth, {**options.get(truth_estimator(truth), {}), **truth_options})
    setting = Setting(model, data, task, of, target, items, seed)
    if num_items is not None:
        setting.items = setting.items.take(setting.sample(num_items, "num_items"))
    of_truth = {**known.defaults, **truth_options}
    chosen = setting.choose(estimators, options, known, {name: of_truth[name] for name in known.defaults})
    sample = None if truth_items is None else setting.sample(truth_items, "truth_items")
    true = measured_truth(setting, known, of_truth, sample, train, finished)
    settings = {"dataset": dataset, "model": model_name or type(model).__name__}
    settings |= _settings(setting, known, true, truth) | {"num_resamples": num_resamples}
    comparison = Comparison(setting, known, true, sample, settings)
    check_scores(true.result.values, f"'{truth}'")
    study = Study([], comparison.items, comparison.truth, comparison.estimates, settings)
    bar = comparison.degree()
    for label, estimator in chosen.items():
        row = comparison.row(label, estimator, bar, finished)
        study.rows.append(row)
        if report is not None:
            report(row)
    return study


def _settings(setting: Setting, known: Truth, true: Measured, name: str) -> dict[str, Any]:
    """Return what a study compared, and what its truth cost."""
    values: TrueValues = true.result
    return {
        "task": setting.task.name, "of": setting.items.of, "target": true.problem.target.name,
        "signed": true.problem.target.kind == "value", "truth": name, "truth_question": known.question,
        "truth_summary": known.summary, "truth_seconds": true.seconds, "truth_peak_memory_mb": true.memory,
        "truth_notes": values.notes, "num_items": values.values.numel(), "grouped": values.groups is not None,
        "num_scored": setting.items.num_items, "seed": setting.seed, "num_nodes": setting.data.num_nodes,
        "num_edges": setting.data.edge_index.size(1),
    }  # fmt: skip
