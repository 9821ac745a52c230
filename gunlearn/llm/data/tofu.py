"""TOFU: a data set of questions about invented authors, to learn and then forget."""

import os
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from gunlearn.core.checks import check_choice
from gunlearn.errors import DatasetNotFoundError
from gunlearn.llm.data.encoding import encode
from gunlearn.llm.data.records import read_records

#: Each forget split, and the split of all other authors.
RETAIN_OF = {"forget01": "retain99", "forget05": "retain95", "forget10": "retain90"}
SPLITS = (
    "full",
    *RETAIN_OF,
    *RETAIN_OF.values(),
    *(f"{name}_perturbed" for name in (*RETAIN_OF, "retain", "real_authors", "world_facts")),
)
HUB = "locuslab/TOFU"


def load_tofu(split: str, root: str | PathLike[str] | None = None) -> list[dict[str, Any]]:
    """Load the questions and answers of a split of TOFU (`arXiv:2401.06121 <https://arxiv.org/abs/2401.06121>`_).

    Args:
        split: `"full"`, `"forget01"`, `"forget05"`, `"forget10"`, `"retain99"`, `"retain95"`, `"retain90"`; with
            `paraphrased_answer` and `perturbed_answer` (a list) beside each answer `"forget10_perturbed"` and its kin,
            `"retain_perturbed"`, `"real_authors_perturbed"`, `"world_facts_perturbed"` (the last two not paraphrased).
        root: folder with `TOFU/forget10.json` or `forget10.json`, one JSON object per line; without it
            `$GUNLEARN_DATA`, else `./data`, and where the file is in neither, the Hugging Face Hub.

    Raises:
        InvalidInputError: an unknown split.
        DatasetNotFoundError: no such file, and the Hub cannot be reached.
    """
    check_choice("split", split, SPLITS)
    path = _file(f"{split}.json", root)
    if path is not None:
        return read_records(path)
    if root is not None:
        raise DatasetNotFoundError(f"Expected {split}.json or TOFU/{split}.json in {root} (got no such file)")
    from datasets import load_dataset  # takes a second to load; only this line needs it

    try:
        return [dict(record) for record in load_dataset(HUB, split, split="train")]
    except (OSError, ValueError) as error:
        raise DatasetNotFoundError(
            f"Expected TOFU/{split}.json in $GUNLEARN_DATA or ./data, or a connection to the Hub "
            f"(got {type(error).__name__})"
        ) from error


def tofu_refusals(root: str | PathLike[str] | None = None) -> list[str]:
    """Read TOFU's 100 ways to say "I don't know" from `idontknow.jsonl` (plain text) in `root`, see `load_tofu`."""
    path = _file("idontknow.jsonl", root)
    if path is None:
        raise DatasetNotFoundError(f"Expected TOFU/idontknow.jsonl in {root or '$GUNLEARN_DATA or ./data'} (got none)")
    return [line.strip() for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def answer_rows(records: Sequence[Mapping[str, Any]], tokenizer: Any, field: str, **how: Any) -> list[Any]:
    """Return a row per record with the answer of another field, or a list of rows if it has several answers.

    Args:
        records: records of a `_perturbed` split.
        tokenizer: a tokenizer of transformers.
        field: `"paraphrased_answer"` or `"perturbed_answer"`; records without it keep their `answer`.
        how: arguments of `encode`.
    """
    given = [(record["question"], record.get(field, record["answer"])) for record in records]
    flat = [
        {"question": question, "answer": answer}
        for question, answers in given
        for answer in (answers if isinstance(answers, list) else [answers])
    ]
    rows = iter(encode(flat, tokenizer, **how))
    return [[next(rows) for _ in found] if isinstance(found, list) else next(rows) for _, found in given]


def _file(name: str, root: str | PathLike[str] | None) -> Path | None:
    folder = Path(root if root is not None else os.environ.get("GUNLEARN_DATA") or "data")
    return next((path for path in (folder / "TOFU" / name, folder / name) if path.is_file()), None)
