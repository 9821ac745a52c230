"""Sets of rows for an evaluation, from records; refused where the model does not know their language."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from gunlearn.errors import InvalidInputError
from gunlearn.llm.data.rows import as_rows
from gunlearn.llm.data.text_items import IGNORE
from gunlearn.llm.data.tofu import answer_rows

#: TOFU's sets beside the forgotten one, by name of the set; the first is what is retained.
TOFU_SETS = {
    "retain": "retain_perturbed",
    "real_authors": "real_authors_perturbed",
    "world_facts": "world_facts_perturbed",
}
_MOST_UNKNOWN = 0.5  # share of the answers' tokens


def evaluation_rows(records: Sequence[Mapping[str, Any]], tokenizer: Any, of: str, **how: Any) -> list[dict[str, Any]]:
    """Return rows of records, with `"perturbed"` and `"paraphrased"` rows where all records have such answers.

    Args:
        records: see `read_records`; of TOFU with `perturbed_answer` (a list) and `paraphrased_answer`.
        tokenizer: a tokenizer of transformers.
        of: what holds the records, in errors: a file, or a split of TOFU.
        how: arguments of `encode`.

    Raises:
        InvalidInputError: as `encode`; or most of the answers' tokens are unknown to the tokenizer.

    Warns:
        UserWarning: other answers that are not read, since some records have none or no `question`.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "the answers of .* alone")  # refused below, in words
            rows, _ = as_rows(records, tokenizer, of, **how)
    except InvalidInputError as error:
        raise InvalidInputError(f"{error}" if of in str(error) else f"{error}, in {of}") from error
    check_language(rows, tokenizer, of)
    wrong_given, right_given = (_in_all(records, name, of) for name in ("perturbed_answer", "paraphrased_answer"))
    if right_given and not any("perturbed_answer" in record for record in records):
        warnings.warn(
            f"Expected 'perturbed_answer' beside 'paraphrased_answer' in {of} (got none): the latter is not read",
            stacklevel=2,
        )
    if wrong_given:
        wrong = answer_rows(records, tokenizer, "perturbed_answer", **how)
        rows = [row | {"perturbed": w if isinstance(w, list) else [w]} for row, w in zip(rows, wrong, strict=True)]
        if right_given:
            right = answer_rows(records, tokenizer, "paraphrased_answer", **how)
            rows = [
                row | {"paraphrased": r[0] if isinstance(r, list) else r} for row, r in zip(rows, right, strict=True)
            ]
    return rows


def _in_all(records: Sequence[Mapping[str, Any]], name: str, of: str) -> bool:
    """Return whether all records have a field of other answers beside their question; warn where only some have."""
    given = [record for record in records if record.get(name)]
    asked = sum("question" in record for record in given)
    if given and asked < len(records):
        some = f"it in {len(given)} of {len(records)} records"
        got = some if len(given) < len(records) else "prompts of other shapes"
        warnings.warn(
            f"Expected '{name}' beside 'question' and 'answer' in every record of {of} (got {got}): it is not read",
            stacklevel=3,
        )
    return bool(given) and asked == len(records)


def check_language(rows: Sequence[Mapping[str, Any]], tokenizer: Any, of: str) -> None:
    """Refuse rows whose answers are mostly tokens that the tokenizer has for unknown words."""
    unknown = getattr(tokenizer, "unk_token_id", None)
    kinds = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id} - {unknown}
    labels = [int(y) for row in rows for y in row["labels"] if int(y) != IGNORE and int(y) not in kinds]
    share = sum(y == unknown for y in labels) / max(1, len(labels))
    if unknown is not None and share > _MOST_UNKNOWN:
        raise InvalidInputError(
            f"Expected a model whose tokenizer knows the words of {of} (got unknown tokens for {share:.0%} of the "
            "answers' tokens); take a model of the rows' language"
        )
