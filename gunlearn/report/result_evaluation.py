"""`gunlearn.evaluate`: compare a result with models that never saw the forgotten data."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import nn
from torch_geometric.nn import MessagePassing

from gunlearn.core.checks import check_seed
from gunlearn.errors import InvalidInputError, InvalidTypeError
from gunlearn.methods.any_task.retrain import Retrain
from gunlearn.methods.door import run_method
from gunlearn.metrics.base import Figure
from gunlearn.metrics.problem import evaluator
from gunlearn.metrics.resemblance import check_predictions, check_references, noisy_copies
from gunlearn.metrics.untrained import untrained
from gunlearn.report.evaluation_of_result import Evaluation
from gunlearn.requests.content import check_content
from gunlearn.seed import alone
from gunlearn.tasks.trial import trial_pass
from gunlearn.training.result import Result, today


@alone()
def evaluate(
    result: Result,
    train: Callable[[Any, int], nn.Module] | None = None,
    references: nn.Module | Sequence[nn.Module] = (),
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
        references: models already retrained, or one, instead of `train`. One gives no noise floor. Without both,
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
    check_seed(seed)
    references = [references] if isinstance(references, nn.Module) else references
    _check_result(result, train, references)
    task = result.task.called(call, decode)
    task.check_data(result.partition.data)
    problem = evaluator(task, result.partition, seed=seed, metrics=metrics)
    problem.original = result.original
    for model in (result.model, *references):
        _try(model, result, task)
    retrained = [_beside(result, model, "retrain", mode="given") for model in references]
    if train is not None:
        retrain = Retrain(train=train)
        retrained = [run_method(retrain, result.model, result.partition, task, seed + k) for k in (1, 2)]
        for one in retrained:
            _try(one.model, result, task)
    models = [one.model for one in retrained]
    check_references(models, result.original)
    problem.refer_to(models)
    check_predictions(problem.references, problem.untouched if retrained else None)
    rows = _rows(problem, result, retrained)
    _warn_of(problem, result, models, rows)
    rows[result.original is not None]["options"] = result.config
    forgets = " and ".join(result.partition.forgets)
    return Evaluation([{**row, "forget": forgets, "date": today()} for row in rows], problem.figures)


def _check_result(result: Result, train: Any, references: Sequence[nn.Module]) -> None:
    """Refuse what cannot be compared, before anything runs."""
    if not isinstance(result, Result):
        raise InvalidTypeError(f"Expected what 'unlearn' returned (got {type(result).__name__})")
    if result.partition is None or result.task is None:
        graph = any(isinstance(module, MessagePassing) for module in result.model.modules())
        likely = [*(() if graph else ("image_classification",)), "node_classification", "link_prediction"]
        raise InvalidInputError(
            "Expected a result of this session (got a loaded one without its partition and task); resolve the request "
            "again on the data before it, result.partition = request.resolve(data), and name the task that it was made "
            f"for, result.task = gunlearn.tasks.as_task('{likely[0]}'), or '{likely[1]}'"
        )
    if result.request_hash is not None and result.request_hash != result.partition.request_hash:
        raise InvalidInputError(
            f"Expected the partition of the request that this result forgot (got {result.partition!r}, of another "
            "request, other data or another owner's key)"
        )
    if train is not None and references:
        raise InvalidInputError("Expected either 'train' or 'references' (got both)")
    if any(model is result.model for model in references):
        raise InvalidInputError("Expected references beside the result (got the result's own model among them)")
    check_content(result.partition)


def _beside(result: Result, model: nn.Module, method: str, **told: Any) -> Result:
    """Return a model that stands beside a result, under the same request."""
    same: dict[str, Any] = {"num_forget": result.num_forget, "request_hash": result.request_hash}
    return Result(model, method, **{"seed": None, "epochs": None, **told, **same})


def _rows(problem: Any, result: Result, retrained: Sequence[Result]) -> list[dict[str, Any]]:
    """Return the figures of the model before, where it is known, the result, the references, and `utu`."""
    views = [problem.view(one.model, one) for one in (result, *retrained)]
    rows = []
    if result.original is not None:
        before = problem.view(result.original, full_graph=True).row()
        rows.append({"method": "original", "mode": "full graph", **before})
        if result.method != "utu" and retrained:  # utu keeps the weights
            told = {"seed": result.seed, "epochs": 0, "original": result.original}
            views.append(problem.view(result.original, _beside(result, result.original, "utu", **told)))
    bare = untrained(problem, result.original)
    rows += [view.row() | {"untrained": bare.get(k)} for k, view in enumerate(views)]
    rows[result.original is not None]["untrained"] = " ".join(bare.values()) or None
    return rows


def _warn_of(problem: Any, result: Result, models: Sequence[nn.Module], rows: Sequence[dict[str, Any]]) -> None:
    """Warn of references that are no evidence, and note it in the row of the result."""
    own = rows[result.original is not None]
    if own["untrained"]:
        warnings.warn(
            f"{own['untrained']} Distances to such a model say nothing; a training function must return the model that "
            "it trained",
            stacklevel=4,
        )
    near = noisy_copies(list(models), {"the result": result.model, "the original model": result.original})
    own["suspicious"] = " ".join([*filter(None, [own["suspicious"]]), *near]) or None
    if own["suspicious"] is not None:
        warnings.warn(
            f"{own['suspicious']} Such a result is no evidence of forgetting; retrain under other seeds", stacklevel=4
        )


def _try(model: Any, result: Result, task: Any) -> None:
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"Expected models as references (got {type(model).__name__})")
    trial_pass(model, result.partition.retain_data, task)
