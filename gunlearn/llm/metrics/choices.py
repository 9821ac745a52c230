"""Multiple choice, as WMDP and MMLU ask: is the right choice the likeliest?"""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.core.checks import check_choice
from gunlearn.errors import InvalidInputError
from gunlearn.llm.data.encoding import encode
from gunlearn.llm.data.records import read_objects
from gunlearn.llm.metrics.scoring import token_scores

#: How a choice is scored: by its letter after a list of all choices, or by its own text after the question.
STYLES = ("letters", "texts")


def read_choices(path: str | PathLike[str]) -> list[dict[str, Any]]:
    """Read questions with choices: JSON objects with `question`, `choices` (texts) and `answer` (index, or letter).

    Raises:
        DatasetNotFoundError: no such file.
        InvalidInputError: no JSON, or an object without these fields; the message names the line.
    """
    out = []
    for where, record in read_objects(Path(path)):
        out.append(_checked(record, where))
    return out


def choice_rows(
    records: Sequence[Mapping[str, Any]], tokenizer: Any, style: str = "letters", max_length: int | None = None
) -> list[dict[str, Any]]:
    """Return a row per question: that of its right choice, with the rows of all choices under `"choices"`.

    `"letters"` lists the choices behind `A.`, `B.`, ... and asks for a letter, as lm-eval does for WMDP; `"texts"` puts
    each choice's text behind the question. No chat template is used, and no end-of-sequence token is scored.
    Prompts are cut from the left, so that they have at most `max_length` tokens with the answer.
    """
    check_choice("style", style, STYLES)
    flat = []
    for record in records:
        letters = ascii_uppercase[: len(record["choices"])]
        if style == "letters":
            listed = "".join(f"\n{letter}. {text}" for letter, text in zip(letters, record["choices"], strict=True))
            flat += [
                {"prompt": f"{record['question']}{listed}\nAnswer:", "completion": f" {letter}"} for letter in letters
            ]
        else:
            flat += [{"prompt": f"{record['question']}\nAnswer:", "completion": f" {t}"} for t in record["choices"]]
    rows = iter(encode(flat, tokenizer, eos=False, max_length=max_length))
    out = []
    for record in records:
        choices = [next(rows) for _ in record["choices"]]
        out.append(choices[record["answer"]] | {"choices": choices, "right": record["answer"]})
    return out


def chosen_right(model: nn.Module, rows: Sequence[Mapping[str, Any]], batch_size: int = 16) -> Tensor:
    """Return whether the right choice has the highest mean log-likelihood per token, boolean `[num_questions]`.

    The first of equally likely choices counts as chosen.
    """
    flat = [choice for row in rows for choice in row["choices"]]
    means = token_scores(model, flat, batch_size).mean_log_prob.split([len(row["choices"]) for row in rows])
    return torch.tensor([int(mean.argmax()) == row["right"] for mean, row in zip(means, rows, strict=True)])


def _checked(record: Mapping[str, Any], where: str) -> dict[str, Any]:
    choices, answer = record.get("choices"), record.get("answer")
    if not isinstance(record.get("question"), str) or not isinstance(choices, list) or len(choices) < 2:
        raise InvalidInputError(
            f"Expected 'question', two or more 'choices' and 'answer' (got {sorted(record)}, {where})"
        )
    if isinstance(answer, str) and len(answer) == 1 and answer in ascii_uppercase:
        answer = ascii_uppercase.index(answer)
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise InvalidInputError(
            f"Expected 'answer' as an index below {len(choices)} or a letter (got {_kind(answer)}, {where})"
        )
    if not all(isinstance(choice, str) and choice.strip() for choice in choices) or len(choices) > len(ascii_uppercase):
        raise InvalidInputError(
            f"Expected 2 to {len(ascii_uppercase)} texts that are not empty as 'choices' (got {len(choices)}: "
            f"{', '.join(map(_kind, choices))}, {where})"
        )
    if len({choice.strip() for choice in choices}) < len(choices):
        raise InvalidInputError(f"Expected choices that differ (got one twice, {where})")
    return {"question": record["question"], "choices": choices, "answer": answer}


def _kind(value: Any) -> str:
    """Return what a value is, without its text, which may be one to forget."""
    plain = isinstance(value, int | float | None) and not isinstance(value, bool)
    return repr(value) if plain else "an empty text" if value == "" else f"a {type(value).__name__}"
