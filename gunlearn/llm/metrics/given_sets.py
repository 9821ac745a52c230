"""The sets that an evaluation is given, and what cannot be measured without some of them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from gunlearn.errors import InvalidInputError
from gunlearn.llm.data.collate import Rows
from gunlearn.llm.data.encoding import check_tokenizer
from gunlearn.llm.data.rows import check_ids
from gunlearn.llm.data.shared_records import check_disjoint, row_tokens
from gunlearn.llm.metrics.eval_settings import EvalSettings
from gunlearn.llm.metrics.evaluation import encoded_rows
from gunlearn.llm.model.causality import check_language_model

#: Sets that are read in a way of their own; all others are sets of TOFU's model utility.
KNOWN_SETS = ("forget", "retain", "holdout", "knowledge_forget", "knowledge_retain", "verbatim", "choices")
_NONE_GIVEN = (
    "no such rows were given, so no figures of theirs, no alignment, membership attacks, relearning or rounded weights"
)


def check_names(sets: Mapping[str, Any], compared: bool = False, tasks: bool = False) -> None:
    """Refuse sets from which nothing, or not what was asked for, can be measured.

    Args:
        sets: anything by the name of a set.
        compared: whether other models' logs were given.
        tasks: whether tasks of lm-eval were given, which have rows of their own.

    Raises:
        InvalidInputError: no set, one of forgotten and retained rows alone, or neither beside held-out rows or logs.
    """
    given = sorted({"forget", "retain"} & sets.keys())
    if len(given) == 1 or not (sets or tasks):
        got = f"{given[0]!r} alone" if given else "no rows at all"
        raise InvalidInputError(
            "Expected rows of 'forget' and of 'retain' (--forget and --retain, or --tofu, on the command line), or "
            "neither beside 'choices', 'verbatim', 'knowledge_forget', 'knowledge_retain', sets of utility or tasks of "
            f"lm-eval (got {got})"
        )
    if not given and ("holdout" in sets or compared):
        other = "'holdout'" if "holdout" in sets else "logs of other models"
        raise InvalidInputError(f"Expected rows of 'forget' and of 'retain' beside {other} (got neither)")


def checked_sets(model: nn.Module, tokenizer: Any, sets: Mapping[str, Rows]) -> dict[str, Rows]:
    """Return the sets as lists; refuse a model, rows and tokens that cannot be measured."""
    check_language_model(model)
    check_tokenizer(tokenizer)
    rows: dict[str, Rows] = {part: encoded_rows(part, given) for part, given in sets.items()}
    if hasattr(model, "get_input_embeddings"):
        check_ids(model, rows)
    check_disjoint({part: row_tokens(given) for part, given in rows.items()})
    return rows


def possible_without(settings: EvalSettings, sets: Mapping[str, Any]) -> tuple[EvalSettings, dict[str, str]]:
    """Return the settings without what needs forgotten rows where there are none, and why that is left out."""
    if "forget" in sets:
        return settings, {}
    fewer = replace(settings, attacks=(), align_on=(), quantise=(), relearn_steps=0)
    return fewer, {"forget, retain": _NONE_GIVEN}
