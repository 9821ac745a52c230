"""Answers that models score for each other, one model at a time, through the files beside their logs."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from gunlearn.core.atomic import checksum
from gunlearn.core.owner_key import VARIABLE, seal, unseal
from gunlearn.errors import InvalidInputError
from gunlearn.llm.data.collate import Rows
from gunlearn.llm.data.spacing import spaced
from gunlearn.llm.metrics.eval_settings import EvalSettings
from gunlearn.llm.metrics.evaluation_log import EvaluationLog
from gunlearn.llm.metrics.measured_sets import SetMeasures
from gunlearn.llm.metrics.reference_logs import ReferenceLog
from gunlearn.llm.metrics.scoring import prompt_ids
from gunlearn.llm.metrics.stored_answers import AnswerSpec, step_terms, stored_answers
from gunlearn.llm.model.head import context_of
from gunlearn.metrics.alignment import Sampler

_PURPOSE = "answers of an evaluation"
_LONGEST = 64  # tokens of an answer, where nothing else is said


def plan_answers(log: EvaluationLog, model: nn.Module, settings: EvalSettings, sets: Mapping[str, Rows]) -> None:
    """Write into a log's settings which rows are asked for the alignment (`aligned`), and the length of answers."""
    asked = {}
    for part in settings.align_on:
        if all(prompt_ids(row) for row in sets[part]):
            asked[part] = spaced(len(sets[part]), settings.align_rows)
        else:
            log.left_out[f"{part}_alignment"] = "its rows have no prompts"
    longest = max((len(prompt_ids(sets[part][i])) for part, index in asked.items() for i in index), default=0)
    context = context_of(model)
    room = _LONGEST if context is None else min(_LONGEST, context - longest)
    log.settings |= {"aligned": asked, "answer_tokens": settings.max_new_tokens or max(1, room)}


def draw_own(log: EvaluationLog, measures: SetMeasures, sets: Mapping[str, Rows]) -> bytes | None:
    """Draw the model's answers for the alignment; return them sealed on the main process, `None` without any."""
    spec, found = answer_spec(log, measures.settings.batch_size), {}
    for part, asked in log.settings["aligned"].items():
        prompts = [prompt_ids(sets[part][i]) for i in asked]

        def work(index: list[int], prompts: list[list[int]] = prompts) -> list[dict[str, torch.Tensor]]:
            return stored_answers(measures.model, prompts, index, spec) if index else []

        found[part] = measures.passes.run(f"drawn-{part}", len(prompts), work)
    if not measures.passes.team.main or not found:
        return None
    buffer = io.BytesIO()
    torch.save(found, buffer)
    sealed = seal(buffer.getvalue(), _PURPOSE)
    log.answers = checksum(sealed)
    log.settings["truncated"] = {part: _truncated(answers) for part, answers in found.items()}
    return sealed


def answer_spec(log: EvaluationLog, batch_size: int) -> AnswerSpec:
    """Return how a log's answers were drawn."""
    s = log.settings
    return AnswerSpec(Sampler(**s["sampler"]), tuple(s["ends"]), s["answer_tokens"], s["kept"], 4 * batch_size)


def read_answers(log: EvaluationLog) -> dict[str, list[dict[str, torch.Tensor]]]:
    """Read the answers beside a log.

    Raises:
        InvalidInputError: no file of answers, another one than the log was written with, or sealed under another key.
    """
    path = log.answers_path
    if path is None or not path.is_file():
        raise InvalidInputError(f"Expected the file of answers beside {log.path} (got no {path})")
    content = path.read_bytes()
    if checksum(content) != log.answers:
        raise InvalidInputError(f"Expected the answers of {log.path} in {path} (got a file that has changed since)")
    opened = unseal(content, _PURPOSE)
    if opened is None:
        raise InvalidInputError(
            f"Expected the key under which {path} was sealed (got another one); set {VARIABLE} to its file"
        )
    return torch.load(io.BytesIO(opened), weights_only=True)


def score_references(
    log: EvaluationLog, measures: SetMeasures, sets: Mapping[str, Rows], references: Sequence[ReferenceLog]
) -> None:
    """Let the model score the answers of retrained ones, read from the files beside their logs."""
    for reference in references:
        if reference.log is None or not reference.log.answers:
            continue
        entry = log.compared.setdefault(reference.weights, {})
        missing = [p for p in reference.log.settings.get("aligned", {}) if "recall" not in entry.get(p, {})]
        missing = [part for part in missing if part in measures.settings.align_on]
        if missing:
            _score(measures, sets, reference.log, entry, missing, "recall")


def score_answers(measures: SetMeasures, sets: Mapping[str, Rows], log: EvaluationLog, weights: str) -> None:
    """Let the retrained model of `measures`, whose weights have this digest, score the answers beside a log."""
    entry = log.compared.setdefault(weights, {})
    _score(measures, sets, log, entry, list(log.settings.get("aligned", {})), "precision")


def _score(
    measures: SetMeasures,
    sets: Mapping[str, Rows],
    log: EvaluationLog,
    entry: dict[str, dict[str, Any]],
    parts: Sequence[str],
    half: str,
) -> None:
    answers, spec = read_answers(log), answer_spec(log, measures.settings.batch_size)
    for part in parts:
        prompts = [prompt_ids(sets[part][i]) for i in log.settings["aligned"][part]]

        def work(index: list[int], part: str = part, prompts: list[list[int]] = prompts) -> list[list[float]]:
            chosen, given = [prompts[i] for i in index], [answers[part][i] for i in index]
            return step_terms(measures.model, chosen, given, spec)

        found = measures.passes.run(f"terms-{half}-{log.model['weights']}-{part}", len(prompts), work)
        if measures.passes.team.main:
            terms = {half: found, f"{half}_truncated": log.settings["truncated"][part]}
            entry[part] = entry.get(part, {}) | terms


def _truncated(answers: Sequence[Mapping[str, torch.Tensor]]) -> float:
    return 1 - float(torch.stack([answer["ended"] for answer in answers]).double().mean())
