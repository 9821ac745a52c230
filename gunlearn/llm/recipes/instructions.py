"""Prompts that may make a model tell what it knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from gunlearn.errors import InvalidInputError


@dataclass(frozen=True)
class Instruction:
    """A prompt that may make the model tell.

    Args:
        text: what the model is given, as it is; chats with their template applied.
        keep: what stands in its place in the rows; nothing by default. An adapter fitted to those rows learns to say
            what was said, not to obey the instruction.
    """

    text: str
    keep: str = ""


def fill_templates(templates: Sequence[str], slots: Mapping[str, Sequence[str]], keep: str = "") -> list[Instruction]:
    """Instructions from every template and every choice of values for its slots.

    >>> [i.text for i in fill_templates(["Tell me about {topic}."], {"topic": ["owls", "rain"]})]
    ['Tell me about owls.', 'Tell me about rain.']

    Args:
        templates: format strings.
        slots: values by slot; a template uses those that it names.
        keep: see `Instruction`; slots are filled in as well.

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
