"""A batch of sequences, and which of its tokens are predicted."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from gunlearn.errors import UnsupportedMethodError

IGNORE = -100  # the label of tokens that no loss reads, as in transformers


class TextItems(dict[str, Tensor]):
    """A batch of sequences for the training loop: `input_ids`, `attention_mask` and `labels` `[batch, tokens]`."""

    fixed = False  # whether every step reads the same sequences

    @property
    def num_items(self) -> int:
        return self["input_ids"].size(0)

    @property
    def y(self) -> Tensor:
        """Refuse methods that relabel items: they assume one label per item."""
        raise UnsupportedMethodError("Expected a method that works on labels per token (got one of a label per item)")

    @property
    def mask(self) -> Tensor:
        return answer_tokens(self)

    def take(self, index: Tensor) -> TextItems:
        return TextItems({name: value[index] for name, value in self.items()})

    def share(self, rank: int, world: int) -> TextItems:
        """Return every `world`-th sequence, from `rank` on."""
        share = TextItems({name: value[rank::world] for name, value in self.items()})
        share.fixed = self.fixed
        return share


def answer_tokens(items: Mapping[str, Tensor]) -> Tensor:
    """Return which predictions count, boolean `[batch, tokens - 1]`: of labelled tokens that follow no padding.

    Padding lies before a row's first attended token and after its last one; unattended tokens in between are not
    padding. A row's first token is never predicted, whichever side is padded.
    """
    labelled, there = items["labels"][:, 1:] != IGNORE, items.get("attention_mask")
    if there is None:
        return labelled
    there = there.long()
    inside = there.cummax(1).values & there.flip(1).cummax(1).values.flip(1)
    return labelled & inside[:, :-1].bool()
