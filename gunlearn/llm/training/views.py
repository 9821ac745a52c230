"""Views of a part: `"forget:target"` are the tokens of the part `"forget"` that `target_mask` marks."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from gunlearn.errors import InvalidInputError
from gunlearn.llm.data.text_items import answer_tokens
from gunlearn.losses import Objective

VIEWS = ("target", "rest")


def base_of(part: str) -> str:
    """Return the part of a view: `"forget"` of `"forget:rest"`, and of `"forget"` itself."""
    return part.partition(":")[0]


def reads_part(parts: Iterable[str], part: str) -> bool:
    """Return whether a part is among `parts`, whole or by one of its views."""
    return any(base_of(own) == part for own in parts)


def view_of(part: str) -> str:
    """Return the view in the name of a part, `"rest"` of `"forget:rest"`; empty for a whole part."""
    return part.partition(":")[2]


def answer_mask(batch: Mapping[str, Tensor], view: str = "") -> Tensor:
    """Return which tokens count in a view, boolean `[batch, tokens - 1]`; all `answer_tokens` in an empty view."""
    mask = answer_tokens(batch)
    if not view:
        return mask
    if "target_mask" not in batch:
        raise InvalidInputError(f"Expected rows with 'target_mask' for the view '{view}' (got {sorted(batch)})")
    target = batch["target_mask"][:, 1:]
    return mask & (target if view == "target" else ~target)


def check_parts(objective: Objective, given: set[str], aligned: set[str]) -> None:
    """Refuse an objective that reads a part without data, an unknown view, or drawn rows where it compares row by row.

    `given` names all parts, `aligned` those whose row `i` belongs to forgotten row `i`.
    """
    for part in objective.parts:
        base, view = base_of(part), view_of(part)
        if base not in given:
            raise InvalidInputError(f"Expected data for part '{base}', which {objective!r} reads (got {sorted(given)})")
        if view and view not in VIEWS:
            raise InvalidInputError(f"Expected a view of '{base}' among {VIEWS} (got '{view}')")
    for _, loss in objective.terms:
        loose = set(map(base_of, loss.aligned_parts)) - aligned
        if loose:
            raise InvalidInputError(
                f"Expected 'paired' rows for {sorted(loose)}, which {loss!r} compares row by row with others "
                "(got drawn ones)"
            )
