"""All figures of one language model, with its logs in place of other models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from gunlearn.errors import InvalidInputError
from gunlearn.llm.data.collate import Rows
from gunlearn.llm.data.end_tokens import end_tokens
from gunlearn.llm.metrics.answer_exchange import draw_own, plan_answers, score_references
from gunlearn.llm.metrics.eval_settings import EvalSettings
from gunlearn.llm.metrics.evaluation_log import EvaluationLog
from gunlearn.llm.metrics.given_sets import check_names, checked_sets, possible_without
from gunlearn.llm.metrics.harness import check_harness
from gunlearn.llm.metrics.logged_comparisons import compared
from gunlearn.llm.metrics.measured_sets import SetMeasures
from gunlearn.llm.metrics.own_figures import add_attacks, add_sets
from gunlearn.llm.metrics.reference_logs import check_apart, known_references, log_at, read_original, relative
from gunlearn.llm.metrics.row_digests import identity_of, row_digests, tokenizer_digest, vocabulary_of, weights_digest
from gunlearn.llm.metrics.row_passes import RowPasses
from gunlearn.llm.metrics.weight_storage import measurable
from gunlearn.llm.model.head import without_peft
from gunlearn.training.processes import Processes, processes


def evaluate_one(
    model: nn.Module,
    tokenizer: Any,
    sets: Mapping[str, Rows],
    settings: EvalSettings | None = None,
    *,
    references: Sequence[str | PathLike[str]] = (),
    original_log: str | PathLike[str] | None = None,
    out: str | PathLike[str] | None = None,
    name: str = "model",
    keep_model: bool = True,
    keep_texts: bool = False,
    say: Callable[[str], None] | None = None,
) -> EvaluationLog:
    """Measure one language model; retrained models enter by the logs of their own evaluations.

    The figures are those of `evaluate_language_models` and of the attacks, see docs/llm_eval.md. The alignment with a
    retrained model is there once that model has scored this one's answers (`score_answers`). An evaluation that was
    interrupted goes on where `out` and its passes are; one that is complete only adds comparisons with further logs,
    and keeps those that it names (the original's is replaced by another one).

    Where weights are loaded in few bits or offloaded, roundings, relearning and the gradient attack are left out.

    In several processes (`accelerate launch`) each scores a share of the rows, and the first one writes.

    Args:
        model: a causal language model; not changed, unless `keep_model=False`.
        tokenizer: its tokenizer.
        sets: rows by set: `"forget"` and `"retain"`, with `"perturbed"` and `"paraphrased"` rows for truth ratios;
            `"holdout"`, which no model has seen; `"knowledge_forget"`, `"knowledge_retain"` and `"verbatim"` (MUSE; see
            `continuation_rows`), `"choices"` (see `choice_rows`); further ones are sets of TOFU's model utility.
            Without `"forget"` and `"retain"` the others are measured alone.
        settings: what to measure.
        references: logs of retrained models, ours or open-unlearning's.
        original_log: the log of the model before unlearning.
        out: the log to write, a JSON file; answers lie beside it. Without it nothing is written.
        name: what the log calls the model.
        keep_model: relearn on a copy; else the model itself is trained, at the end.
        keep_texts: write generated answers into the log.
        say: is told what is being done.

    Raises:
        InvalidInputError: rows that are not encoded or have tokens that the model lacks, forgotten or retained rows
            alone, or those of one among those of the other, logs that do not fit (see `read_reference`), an `out` of
            another evaluation, or `keep_texts` for one that is complete without its texts.
        NotANumberError: a log-likelihood is NaN.
        UnsupportedModelError: an encoder-decoder, a bidirectional model, prompt tuning.

    Warns:
        UserWarning: some rows are both to be forgotten and to be retained, or held out.
    """
    team, settings = processes(), settings or EvalSettings()
    check_names(sets, compared=bool(references) or original_log is not None, tasks=bool(settings.harness))
    sets = checked_sets(model, tokenizer, sets)
    settings, not_given = possible_without(settings, sets)
    settings, impossible = measurable(model, settings)
    if settings.harness:
        check_harness(settings.harness)
    own = _new_log(model, tokenizer, sets, settings, name)
    own.path = None if out is None else Path(out)
    identity = _identity(own, sets)
    own.settings["identity"] = identity
    own.left_out |= not_given | impossible
    plan_answers(own, model, settings, sets)
    own = _resumed(own, team, keep_texts)
    found = known_references(own, references)
    if original_log is None and own.original is not None:
        original_log = log_at(own, own.original["file"])
    original = None if original_log is None else read_original(original_log, own)
    check_apart(found, {} if original is None else {"the original model": original})
    own.references = [{"file": relative(r.path, own), "weights": r.weights} for r in found]
    own.original = None if original is None else {"file": relative(Path(original_log or ""), own)}
    folder = None if own.path is None else own.path.with_suffix(".passes")
    passes = RowPasses(folder, identity, team, say)
    if team.main and own.path is not None and not own.complete:
        own.save()
    measures = SetMeasures(model, tokenizer, settings, passes, name)
    answers = None
    if not own.complete:
        add_sets(own, measures, sets, keep_texts)
        answers = draw_own(own, measures, sets)
    score_references(own, measures, sets, found)
    if not own.complete:
        add_attacks(own, measures, sets, keep_model)
    if team.main:
        compared(own, found, original)
        own.complete = True
        if own.path is not None:
            own.save(answers=answers)
    passes.close()
    return own


def _new_log(
    model: nn.Module, tokenizer: Any, sets: Mapping[str, Rows], settings: EvalSettings, name: str
) -> EvaluationLog:
    plain = without_peft(model)
    about = {"name": name, "weights": weights_digest(model), "vocabulary": vocabulary_of(model)}
    about |= {"kind": type(plain).__name__, "parameters": sum(p.numel() for p in plain.parameters())}
    ends = list(end_tokens(tokenizer if settings.ends is None else settings.ends))
    rows = {
        part: [{"index": row.get("index", i)} | row_digests(row) for i, row in enumerate(given)]
        for part, given in sets.items()
    }
    speaker = {"digest": tokenizer_digest(tokenizer), "size": len(tokenizer)}
    return EvaluationLog(about, speaker, settings.recorded() | {"ends": ends}, rows)


def _identity(log: EvaluationLog, sets: Mapping[str, Rows]) -> str:
    """Return a digest of model, settings and rows, with their wrong answers and choices."""
    beside = [
        [row.get("paraphrased", {}).get("input_ids")]
        + [other["input_ids"] for name in ("perturbed", "choices") for other in row.get(name, ())]
        for rows in sets.values()
        for row in rows
    ]
    digests = {part: log.digests(part) for part in log.rows}
    model = {name: value for name, value in log.model.items() if name != "name"}  # a folder may be renamed
    return identity_of(model, log.tokenizer, sorted(log.settings.items()), digests, beside)


def _resumed(own: EvaluationLog, team: Processes, keep_texts: bool) -> EvaluationLog:
    """Return the log that is there already; refuse one of another evaluation, and a complete one without its texts."""
    if own.path is None or not own.path.exists():
        team.wait()
        return own
    there = EvaluationLog.load(own.path)
    team.wait()
    if there.settings.get("identity") != own.settings["identity"]:
        raise InvalidInputError(
            f"Expected a new file, or the log of the same model, rows and settings (got {own.path}, of another "
            "evaluation); remove it, or write to another one"
        )
    spoken = any(name.endswith(("_rougeL", "_memory")) for name in there.figures)
    if there.complete and keep_texts and spoken and not there.texts:
        raise InvalidInputError(
            f"Expected a new file for generated answers as text (got {own.path}, which is complete and whose texts "
            "were not kept); evaluate into another one"
        )
    return there if there.complete else own
