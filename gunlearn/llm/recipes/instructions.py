"""Instructions: prompts that may make a model state what it knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from gunlearn.errors import InvalidInputError


@dataclass(frozen=True)
class Instruction:
    """A prompt that may make the model state what it knows.

    Args:
        text: the whole prompt; for chats, with the template applied.
        keep: prompt in its place in the rows, so that an adapter learns the answer, not to obey; empty by default.
    """

    text: str
    keep: str = ""


def fill_templates(templates: Sequence[str], slots: Mapping[str, Sequence[str]], keep: str = "") -> list[Instruction]:
    """Return the instructions of every template (a format string) with every choice of values for its slots.

    >>> [i.text for i in fill_templates(["Tell me about {topic}."], {"topic": ["owls", "rain"]})]
    ['Tell me about owls.', 'Tell me about rain.']

    Slots in `keep`, see `Instruction`, are filled in too.

    Raises:
        InvalidInputError: a template names a slot that has no values.
    """
    filled: dict[Instruction, None] = {}
    for values in product(*slots.values()):
        named = dict(zip(slots, values, strict=True))
        try:
            filled.update({Instruction(t.format(**named), keep.format(**named)): None for t in templates})
        except (KeyError, IndexError) as error:
            raise InvalidInputError(f"Expected templates with slots among {sorted(slots)} (got {error})") from error
    return list(filled)
