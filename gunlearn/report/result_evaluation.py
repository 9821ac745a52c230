"""`gunlearn.evaluate`: compare a result with models that never saw the forgotten data."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from gunlearn.bench.store import atomic_write, csv_text, json_plain
from gunlearn.core.options import did_you_mean
from gunlearn.errors import CheckpointError, InvalidInputError, InvalidTypeError, UnsupportedMethodError
from gunlearn.methods.any_task.retrain import Retrain
from gunlearn.methods.door import run_method
from gunlearn.metrics import FIGURES
from gunlearn.metrics.base import Figure, figures_of
from gunlearn.metrics.problem import evaluator
from gunlearn.metrics.resemblance import check_predictions, check_references, noisy_copies
from gunlearn.metrics.untrained import untrained
from gunlearn.report.table import text_table
from gunlearn.requests.content import check_content
from gunlearn.seed import alone
from gunlearn.tasks.trial import trial_pass
from gunlearn.training.result import Result, today


class Evaluation(Mapping[str, Any]):
    """The figures of a result by their names, beside those of its references.

    Three more entries are sentences, or `None`: `"unchanged"` says that the weights are the original's, `"suspicious"`
    that the model is nearer to the references than they are to each other, or that a reference looks like a copy of
    this model or the original with noise, `"untrained"` which references are hardly better on retained items than new
    weights.

    Args:
        drawn: rows of the models for the report; the model before unlearning comes first, where it is known.
        figures: the figures by name.

    Attributes:
        rows: one row per model: the result, the references, then `utu`, which every method must beat.
    """

    def __init__(self, drawn: list[dict[str, Any]], figures: Mapping[str, Figure]) -> None:
        self.drawn, self.figures = drawn, dict(figures)
        self.rows = [
            {name: value for name, value in row.items() if name not in ("hist_forget", "options")}
            for row in drawn
            if row["method"] != "original"
        ]

    def __getitem__(self, name: str) -> Any:
        """Return a figure of the result, or another entry of its row (`"method"`)."""
        row = self.rows[0]
        if name not in row:
            raise KeyError(f"Expected a figure among {sorted(self.figures)} (got {name!r}){did_you_mean(name, row)}")
        return row[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.figures)

    def __len__(self) -> int:
        return len(self.figures)

    def __str__(self) -> str:
        return text_table(self.rows, list(self.figures.values()))

    def report(self, path: str | Path) -> Path:
        """Write a self-contained HTML report."""
        from gunlearn.report.html import evaluation_report  # loads matplotlib

        return evaluation_report(self, path)

    def save_csv(self, path: str | Path) -> Path:
        """Write the rows as CSV."""
        return atomic_write(path, csv_text(self.rows))

    def save(self, path: str | Path) -> Path:
        """Write everything but the models as JSON; forgotten data appear as a number and a hash only."""
        described = Figure.__annotations__
        own = [{k: getattr(f, k) for k in described} for name, f in self.figures.items() if name not in FIGURES]
        text = json.dumps({"rows": json_plain(self.drawn), "figures": own}, indent=1, allow_nan=False)
        return atomic_write(path, text + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Evaluation:
        """Read what `save` wrote; CheckpointError where there is no such file, or `save` did not write it."""
        try:
            saved = json.loads(Path(path).read_text(encoding="utf-8"))
            drawn, own = saved["rows"], [SavedFigure(**said) for said in saved["figures"]]
            return cls(drawn, figures_of(drawn[-1]["task"], own))
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise CheckpointError(f"Expected a saved evaluation in {path} (got: {error})") from error


class SavedFigure(Figure):
    """The description of a figure in a saved evaluation: tables show it, but it computes nothing."""

    def __init__(self, **said: Any) -> None:
        vars(self).update(said)

    def compute(self, view: Any) -> float | None:
        raise UnsupportedMethodError(f"Expected the class of figure '{self.name}' (got its description alone)")


@alone()
def evaluate(
    result: Result,
    train: Callable[[Any, int], nn.Module] | None = None,
    references: Sequence[nn.Module] = (),
    seed: int = 0,
    metrics: Iterable[str | Figure] = (),
    call: Callable[..., Any] | None = None,
    decode: Callable[..., Any] | None = None,
) -> Evaluation:
    """Compare an unlearned model with models that never saw the data.

    Args:
        result: what `unlearn` returned.
        train: a training function `train(data, seed) -> model`. It is called twice, on the retained data under
            `seed + 1` and `seed + 2`: the noise floor needs two models.
        references: models already retrained, instead of `train`. One gives no noise floor. Without both,
            distances are `None`.
        seed: of figures that draw, and of the retrainings.
        metrics: figures beside the registered ones of the task: `Figure` objects of your own, or names (`gunlearn
            figures` lists them).
        call: how models are called, if not as while unlearning; see `gunlearn.unlearn`.
        decode: how they score pairs, if not as while unlearning.

    Raises:
        InvalidInputError: a loaded result (it has no partition), both `train` and `references`, references that predict
            alike or are the original model, or bad `metrics`.
        ChangedDataError: the data were edited after `unlearn` had read them.
        InvalidTypeError: neither figures nor names in `metrics`.
        UnsupportedMethodError: a task without evaluator.
        UnsupportedModelError: the model cannot be called; nothing is retrained then.

    Warns:
        UserWarning: the result has the weights of a reference (it is compared with the others then), is nearer to the
            references than they are to each other, or a reference is of another architecture or looks untrained.
    """
    if not isinstance(result, Result):
        raise InvalidTypeError(f"Expected what 'unlearn' returned (got {type(result).__name__})")
    if result.partition is None or result.task is None:
        raise InvalidInputError(
            "Expected a result of this session (got a loaded one without its partition and task); resolve the request "
            "again on the data before it, result.partition = request.resolve(data), and name the task, result.task = "
            "gunlearn.tasks.as_task('node_classification')"
        )
    if result.request_hash is not None and result.request_hash != result.partition.request_hash:
        raise InvalidInputError(
            f"Expected the partition of the request that this result forgot (got {result.partition!r}, of another "
            "request, other data or another owner's key)"
        )
    if train is not None and references:
        raise InvalidInputError("Expected either 'train' or 'references' (got both)")
    check_content(result.partition)
    task = result.task.called(call, decode)
    task.check_data(result.partition.data)
    problem = evaluator(task, result.partition, seed=seed, metrics=metrics)
    problem.original = result.original
    if any(model is result.model for model in references):
        raise InvalidInputError("Expected references beside the result (got the result's own model among them)")
    for model in (result.model, *references):
        _try(model, result, task)
    same: dict[str, Any] = {"num_forget": result.num_forget, "request_hash": result.request_hash}
    retrained = [Result(model, "retrain", mode="given", seed=None, epochs=None, **same) for model in references]
    if train is not None:
        retrain = Retrain(train=train)
        retrained = [run_method(retrain, result.model, result.partition, task, seed + k) for k in (1, 2)]
        for r in retrained:
            _try(r.model, result, task)
    check_references([r.model for r in retrained], result.original)
    problem.refer_to([r.model for r in retrained])
    kept = problem.untouched if retrained else None
    check_predictions(problem.references, kept)
    near = noisy_copies(
        [r.model for r in retrained], {"the result": result.model, "the original model": result.original}
    )
    views = [problem.view(r.model, r) for r in (result, *retrained)]
    drawn = []
    if result.original is not None:
        before = problem.view(result.original, full_graph=True).row()
        drawn.append({"method": "original", "mode": "full graph", **before})
        if result.method != "utu" and retrained:  # utu keeps the weights
            views.append(
                problem.view(
                    result.original, Result(result.original, "utu", seed=result.seed, original=result.original, **same)
                )
            )
    bare = untrained(problem, result.original)
    drawn += [view.row() | {"untrained": bare.get(k)} for k, view in enumerate(views)]
    own = drawn[result.original is not None]
    own["untrained"] = " ".join(bare.values()) or None
    if bare:
        warnings.warn(
            f"{own['untrained']} Distances to such a model say nothing; a training function must return the model that "
            "it trained",
            stacklevel=2,
        )
    own["suspicious"] = suspicious = " ".join([*filter(None, [own["suspicious"]]), *near]) or None
    if suspicious is not None:
        warnings.warn(
            f"{suspicious} Such a result is no evidence of forgetting; retrain under other seeds", stacklevel=2
        )
    own["options"] = result.config
    drawn = [{**row, "forget": " and ".join(result.partition.forgets), "date": today()} for row in drawn]
    return Evaluation(drawn, problem.figures)


def _try(model: Any, result: Result, task: Any) -> None:
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"Expected models as references (got {type(model).__name__})")
    trial_pass(model, result.partition.retain_data, task)
