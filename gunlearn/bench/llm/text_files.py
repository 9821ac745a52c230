"""A problem from files of records."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from gunlearn.bench.llm.text_problem import TextProblem
from gunlearn.core.checks import check_integer
from gunlearn.errors import InvalidInputError
from gunlearn.llm.data.evaluation_sets import evaluation_rows
from gunlearn.llm.data.records import read_records, refused
from gunlearn.llm.data.rows import as_rows, separate
from gunlearn.llm.data.shared_records import check_disjoint, row_tokens
from gunlearn.llm.data.spacing import spaced


def problem_from_files(
    original: Callable[[], nn.Module],
    tokenizer: Any,
    files: Mapping[str, str | Path | None],
    references: Sequence[Callable[[], nn.Module]] = (),
    utility: Mapping[str, str | Path] | None = None,
    how: Mapping[str, Any] | None = None,
    asked: int = 100,
    training: Mapping[str, Any] | None = None,
    identity: str = "",
    alternatives: bool = False,
    reference_names: Sequence[str] = (),
) -> TextProblem:
    """Read and encode files of records, and return them as a problem.

    Args:
        original: loads the model before unlearning.
        tokenizer: of all models.
        files: `forget`, `retain`, and maybe `holdout` and `alternative`, other answers to the forgotten questions.
        references: load the retrained models.
        utility: files of further sets by name, with `perturbed_answer` beside each answer.
        how: arguments of `encode`.
        asked: retained rows to measure, evenly spaced.
        training: further `TrainingArguments`.
        identity: tells apart models whose rows are the same.
        alternatives: whether a method reads other answers; refusals where no file has some.
        reference_names: what errors call the references.

    Raises:
        InvalidInputError: files that cannot be read or encoded, rows both to forget and to retain or held
            out, a utility set with the name of one of these, too few rows.
        DatasetNotFoundError: no such file.
    """
    check_integer("asked", asked, minimum=1)
    taken = sorted({"forget", "retain", "holdout"} & set(utility or {}))
    if taken:
        raise InvalidInputError(f"Expected other names of utility sets than those of the sets themselves (got {taken})")
    how = dict(how or {})
    rows, records = as_rows(files["forget"], tokenizer, "forget", **how)
    kept_records = read_records(str(files["retain"]))
    kept = evaluation_rows(kept_records, tokenizer, "retain", **how)
    told = None if "input_ids" in kept_records[0] else kept_records
    separate(rows, kept, "error", tokenizer, (records, told))
    unseen = [] if files.get("holdout") is None else as_rows(files["holdout"], tokenizer, "holdout", **how)[0]
    if unseen:
        sets = {"forget": rows, "retain": kept, "holdout": unseen}
        check_disjoint({part: row_tokens(given) for part, given in sets.items()})
    other = None
    if alternatives:
        given = files.get("alternative")
        other = as_rows(refused(records or []) if given is None else given, tokenizer, "alternative", **how)[0]
    return TextProblem(
        original,
        tokenizer,
        rows,
        kept,
        [kept[i] for i in spaced(len(kept), asked)],
        references,
        unseen,
        {name: evaluation_rows(read_records(file), tokenizer, name, **how) for name, file in (utility or {}).items()},
        other,
        dict(training or {}),
        identity,
        reference_names,
    )
