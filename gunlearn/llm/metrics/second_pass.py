"""The second pass of an alignment: a retrained model scores the answers that other models gave."""

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any

from torch import nn

from gunlearn.errors import InvalidInputError
from gunlearn.llm.data.collate import Rows
from gunlearn.llm.metrics.answer_exchange import score_answers
from gunlearn.llm.metrics.eval_settings import EvalSettings
from gunlearn.llm.metrics.evaluation_log import EvaluationLog
from gunlearn.llm.metrics.logged_comparisons import compared
from gunlearn.llm.metrics.measured_sets import SetMeasures
from gunlearn.llm.metrics.reference_logs import ReferenceLog, check_fits, log_at, read_original, read_reference
from gunlearn.llm.metrics.row_digests import row_digest, tokenizer_digest, vocabulary_of, weights_digest
from gunlearn.llm.metrics.row_passes import RowPasses
from gunlearn.training.processes import processes


def score_for(
    model: nn.Module,
    tokenizer: Any,
    sets: Mapping[str, Rows],
    paths: Sequence[str | PathLike[str]],
    batch_size: int = 16,
    name: str = "the model",
    say: Callable[[str], None] | None = None,
) -> list[EvaluationLog]:
    """Let a retrained model score the answers beside logs of other models, and complete these logs.

    Each log gets the half of its alignment that only this model can give, and, once it has both halves with each of
    its references, its figures; those of its floor and gain are read from the logs that it names.

    Args:
        model: the retrained model; not changed.
        tokenizer: its tokenizer.
        sets: the rows whose prompts were answered, `"forget"` and `"retain"`.
        paths: logs of the other models.
        batch_size: rows at a time.
        name: of the model, in errors.
        say: is told what is being done.

    Raises:
        InvalidInputError: a log that does not fit (see `read_reference`), has no answers, or is this model's own.
    """
    weights, team = weights_digest(model), processes()
    logs = [EvaluationLog.load(path) for path in paths]
    for log in logs:
        _check(log, model, tokenizer, sets, weights)
    measures = SetMeasures(model, tokenizer, EvalSettings(batch_size=batch_size), RowPasses(team=team, say=say), name)
    for log in logs:
        score_answers(measures, sets, log, weights)
        if team.main:
            log.save()
        team.wait()
    for log in logs:
        if team.main:
            compare_again(log)
        team.wait()
    return logs


def compare_again(log: EvaluationLog) -> None:
    """Compute a log's comparisons from the logs that it names, as far as these are still there, and save it."""
    references, original = named_logs(log)
    compared(log, references, original)
    log.save()


def named_logs(log: EvaluationLog) -> tuple[list[ReferenceLog], EvaluationLog | None]:
    """Return the references and the original log that a log names; refuse one that is no longer there."""
    references = [read_reference(log_at(log, entry["file"]), log) for entry in log.references]
    return references, None if log.original is None else read_original(log_at(log, log.original["file"]), log)


def _check(log: EvaluationLog, model: nn.Module, tokenizer: Any, sets: Mapping[str, Rows], weights: str) -> None:
    aligned = log.settings.get("aligned", {})
    if not log.answers or not aligned.keys() <= sets.keys():
        raise InvalidInputError(
            f"Expected a log with answers to rows of {sorted(sets)} (got {log.path}, with answers to {sorted(aligned)})"
        )
    rows = {part: [{"digest": row_digest(sets[part][i])} for i in range(len(sets[part]))] for part in aligned}
    own = EvaluationLog(
        {"vocabulary": vocabulary_of(model), "weights": weights},
        {"digest": tokenizer_digest(tokenizer), "size": len(tokenizer)},
        {},
        rows,
    )
    check_fits(log, own)
    if log.model["weights"] == weights:
        raise InvalidInputError(f"Expected the log of another model (got {log.path}, of this one)")
