"""Which concepts of a pipeline are forgotten, in which turns, and which ones stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gunlearn.diffusion.pipelines import PipelineParts
from gunlearn.diffusion.replaced import same_conditions
from gunlearn.errors import InvalidInputError
from gunlearn.methods.base import Method

#: One concept after the other, each in a run of its own, or all in one run.
ORDERS = ("one_by_one", "together")


@dataclass(frozen=True, eq=False)
class WantedConcepts:
    """Concepts of a pipeline by what they are called and by their conditions; see `WantedConcepts.of`.

    Attributes:
        parts: of the pipeline.
        names: of the concepts to forget.
        conditions: theirs, `[num_concepts, ...]`.
        kept: concepts to keep.
        turns: positions in `names` that are forgotten in each run.
    """

    parts: PipelineParts
    names: list[str]
    conditions: Tensor
    kept: list[str | int]
    turns: list[list[int]]

    @classmethod
    def of(
        cls,
        parts: PipelineParts,
        concepts: Sequence[str | int],
        preserve: Sequence[str | int] | None,
        order: str,
    ) -> WantedConcepts:
        """Return concepts that a pipeline knows; by default all other classes are kept, and no text.

        Raises:
            InvalidInputError: no list of texts or classes, unknown ones, one twice, or one both forgotten and kept.
        """
        names = _names("concepts", concepts)
        conditions = parts.encode(concepts)
        if len(conditions.unique(dim=0)) < len(names):
            raise InvalidInputError(f"Expected different concepts (got {names})")
        turns = [[k] for k in range(len(names))] if order == "one_by_one" else [list(range(len(names)))]
        return cls(parts, names, conditions, _kept(parts, conditions, preserve), turns)

    @property
    def all_names(self) -> list[str]:
        """Names of the forgotten and of the kept concepts."""
        return [*self.names, *map(str, self.kept)]

    def of_turn(self, turn: Sequence[int]) -> list[str]:
        """Return the names of the concepts of one turn."""
        return [self.names[k] for k in turn]

    def for_texts(self, method: Method, turn: Sequence[int]) -> Method:
        """Return the method for the texts of a turn, which keeps what earlier turns did, where it edits texts."""
        make = getattr(method, "for_texts", None)
        if make is None:
            return method
        return make(self.parts.pipeline, self.of_turn(turn), [*map(str, self.kept), *self.names[: turn[0]]])


def _names(argument: str, concepts: Any) -> list[str]:
    if isinstance(concepts, str | int) or not isinstance(concepts, Sequence) or not len(concepts):
        raise InvalidInputError(f"Expected '{argument}' as a list of at least one text or class (got {concepts!r})")
    others = [c for c in concepts if isinstance(c, bool) or not isinstance(c, str | int)]
    if others:
        raise InvalidInputError(f"Expected texts or classes in '{argument}' (got {others[0]!r})")
    return [str(concept) for concept in concepts]


def _kept(parts: PipelineParts, conditions: Tensor, preserve: Sequence[str | int] | None) -> list[str | int]:
    """Return the concepts to keep."""
    if preserve is not None:
        _names("preserve", preserve)
        both = [name for name in preserve if bool(same_conditions(conditions, parts.encode([name])).any())]
        if both:
            raise InvalidInputError(f"Expected concepts to keep that are not forgotten (got {both[0]!r} in both)")
        return list(preserve)
    if parts.kind == "text":
        return []
    forgotten = set(conditions.tolist())
    return [number for number in parts.classes if number not in forgotten]
