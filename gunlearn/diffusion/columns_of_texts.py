"""What a pipeline's text encoder gives for a concept, position by position, beside what stands in its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gunlearn.core.checks import check_choice
from gunlearn.core.digest import content_hash
from gunlearn.core.modes import evaluating
from gunlearn.errors import InvalidInputError, InvalidTypeError

#: Which positions of a prompt are sent elsewhere.
POSITIONS = ("all", "last", "others")
#: Prompts that a concept is erased from, beside the concept alone.
TEMPLATES = ("{}", "a {}", "the {}", "a photo of {}", "a photo of a {}", "a picture of {}", "a picture of a {}")


@dataclass(frozen=True, eq=False)
class TextColumns:
    """Embeddings of a text encoder, a row per position of a prompt.

    Args:
        concepts: `[count, dim]`, of prompts with a concept.
        anchors: `[count, dim]`, at the same positions of the prompts that stand in their place.
        preserve: `[num_preserved, dim]`, of prompts that must stay.
        names: the concepts.
    """

    concepts: Tensor
    anchors: Tensor
    preserve: Tensor
    names: tuple[str, ...] = ()

    def __repr__(self) -> str:
        content = content_hash([self.concepts, self.anchors, self.preserve])[:8]
        return f"TextColumns({len(self.concepts)} to erase, {len(self.preserve)} to preserve, {content})"


def text_columns(
    pipeline: Any,
    concepts: Sequence[str],
    anchors: Mapping[str, str] | str = "",
    preserve: Sequence[str] = (),
    positions: str = "all",
    templates: Sequence[str] = TEMPLATES,
) -> TextColumns:
    """Return the embeddings of concepts, of what stands in their place, and of what must stay.

    Args:
        pipeline: of diffusers, with `tokenizer` and `encode_prompt`; neither it nor the random state is changed.
        concepts: texts.
        anchors: the text that takes the place of each concept, or of all; empty for the empty prompt.
        preserve: texts.
        positions: which positions of a prompt are sent elsewhere: `"all"` that differ from the anchor's, the end and
            the padding behind it included (the others are preserved); `"last"`, the last token of the concept, to that
            of its anchor, and of texts to preserve the last token alone (with `templates=("{}",)` as in the code of
            UCE); `"others"`, the words behind the concept that both prompts share, with the end and the padding (MACE's
            refinement).
        templates: prompts with `{}` in place of the concept.

    Raises:
        InvalidInputError: no concept, one that the tokenizer reads as nothing or that is longer than a prompt, an
            anchor for something else, a concept that is its own anchor or is to be preserved, or a template without
            `{}`.
        InvalidTypeError: a pipeline without a tokenizer or a text encoder.
    """
    for name in ("tokenizer", "encode_prompt"):
        if getattr(pipeline, name, None) is None:
            raise InvalidTypeError(
                f"Expected a text-to-image pipeline with '{name}' (got {type(pipeline).__name__} without); a model "
                "that is conditioned on classes has no text to edit"
            )
    check_choice("positions", positions, POSITIONS)
    concepts, preserve = _texts("concepts", concepts), _texts("preserve", preserve)
    if not concepts:
        raise InvalidInputError("Expected at least one concept (got none)")
    bad = [template for template in templates if template.count("{}") != 1]
    if bad or not templates:
        raise InvalidInputError(f"Expected templates with one {{}} for the concept (got {bad or 'none'})")
    towards = dict.fromkeys(concepts, anchors) if isinstance(anchors, str) else dict(anchors)
    if set(towards) != set(concepts):
        raise InvalidInputError(f"Expected an anchor for each of {list(concepts)} (got them for {sorted(towards)})")
    tokens = {text: _tokens(pipeline, text) for text in (*concepts, *preserve)}
    tokens |= {text: _tokens(pipeline, text) if text.strip() else [] for text in towards.values()}
    for concept, anchor in towards.items():
        if tokens[concept] == tokens[anchor]:
            raise InvalidInputError(f"Expected another anchor than the concept itself (got '{anchor}' for '{concept}')")
        same = [text for text in preserve if tokens[text] == tokens[concept]]
        if same:
            raise InvalidInputError(f"Expected to preserve other texts than the concepts (got '{same[0]}' in both)")
    found: list[tuple[Tensor, Tensor]] = []
    kept: list[Tensor] = []
    for concept, anchor in towards.items():
        for template in templates:
            # The anchor's prompt: the empty one where nothing takes the concept's place.
            prompts = template.format(concept), template.format(anchor) if anchor.strip() else ""
            ids = [_tokens(pipeline, prompt) if prompt else [] for prompt in prompts]
            old, new = _encoded(pipeline, prompts)
            if positions == "all":
                differ = (old != new).any(1)
                found.append((old[differ], new[differ]))
                kept.append(old[~differ])
                continue
            index = _positions(positions == "last", ids[0], ids[1], tokens[concept], tokens[anchor], len(old))
            found.append((old[index[0]], new[index[1]]))
    for prompt in [template.format(text) for text in preserve for template in templates]:
        (rows,) = _encoded(pipeline, (prompt,))
        end = len(_tokens(pipeline, prompt))
        kept.append(rows[end : end + 1] if positions == "last" else rows)
    sources, aims = (torch.cat(rows) for rows in zip(*found, strict=True))
    return TextColumns(sources, aims, torch.cat([sources[:0], *kept]).unique(dim=0), concepts)


def _texts(name: str, texts: Any) -> tuple[str, ...]:
    texts = (texts,) if isinstance(texts, str) else tuple(texts)
    if any(not isinstance(text, str) for text in texts):
        raise InvalidTypeError(f"Expected '{name}' as texts (got {texts!r})")
    return tuple(dict.fromkeys(texts))


def _tokens(pipeline: Any, text: str) -> list[int]:
    """Return the ids of a text without the marks of start and end."""
    tokenizer = pipeline.tokenizer
    ids = list(tokenizer(text, add_special_tokens=False).input_ids)
    if not [i for i in ids if i not in tokenizer.all_special_ids]:
        raise InvalidInputError(
            f"Expected a text that the pipeline's tokenizer reads as at least one token (got {text!r}, which it reads "
            "as none)"
        )
    room = int(tokenizer.model_max_length) - 2
    if len(ids) > room:
        raise InvalidInputError(
            f"Expected a prompt of at most {room} tokens (got {len(ids)} of {text!r}); shorten it, or give other "
            "templates"
        )
    return ids


@torch.no_grad()
def _encoded(pipeline: Any, prompts: Sequence[str]) -> list[Tensor]:
    """Return the text encoder's output of each prompt, `[num_positions, dim]`."""
    with evaluating(pipeline.text_encoder):
        found = pipeline.encode_prompt(
            prompt=list(prompts), device=pipeline.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
    return list(found[0].float())


def _positions(
    last: bool, ids: list[int], others: list[int], concept: list[int], anchor: list[int], length: int
) -> tuple[list[int], list[int]]:
    """Return the positions of the concept's prompt and those of the anchor's; position 0 is the mark of the start."""
    if last:
        return [_end(ids, concept)], [_end(others, anchor) if anchor else len(others)]
    head = next((k for k, (a, b) in enumerate(zip(ids, others, strict=False)) if a != b), min(len(ids), len(others)))
    tail, most = 0, min(len(ids), len(others)) - head
    while tail < most and ids[-1 - tail] == others[-1 - tail]:
        tail += 1
    # From the first word behind the concept on, with the end and the padding behind it.
    starts = 1 + len(ids) - tail, 1 + len(others) - tail
    count = length - max(starts)
    return [starts[0] + k for k in range(count)], [starts[1] + k for k in range(count)]


def _end(ids: list[int], part: list[int]) -> int:
    """Return the position of a part's last token, counted with the mark of the start."""
    for k in range(len(ids) - len(part), -1, -1):
        if ids[k : k + len(part)] == part:
            return k + len(part)
    return len(ids)
