"""Train the upper layers on what the frozen ones below return, which is computed once per row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence


class UpperHalf:
    """A decoder of the Llama family, split at a layer.

    Args:
        model: with an adapter of peft on layers from `first` on; all below is frozen.
        first: index of the lowest layer that learns.
        rows: token ids `input_ids`.
        batch: makes tensors of rows.
    """

    def __init__(self, model: Any, first: int, rows: Sequence[Any], batch: Callable[[list[Any]], Any]) -> None:
        self.decoder = model.get_base_model().model
        self.first, self.lengths = first, [len(row["input_ids"]) for row in rows]
        self.hidden: list[Tensor] = []
        for row in rows:  # alone: no padding decides what is kept
            self.hidden.append(self._below(batch([row])))

    @torch.no_grad()
    def _below(self, items: Any) -> Tensor:
        """Hidden states below the first layer that learns, `[tokens, dim]`."""
        found: list[Tensor] = []

        def keep(module: nn.Module, args: tuple[Any, ...]) -> None:
            found.append(args[0])
            raise _ReachedError

        handle = self.decoder.layers[self.first].register_forward_pre_hook(keep)
        try:
            self.decoder(items["input_ids"], attention_mask=items["attention_mask"], use_cache=False)
        except _ReachedError:
            pass
        finally:
            handle.remove()
        return found[0][0]

    @contextmanager
    def reading(self, chosen: Sequence[int]) -> Iterator[None]:
        """Inside, the model reads these rows, in this order, from where the upper half begins."""
        layers, embed = self.decoder.layers, self.decoder.embed_tokens
        hidden = pad_sequence([self.hidden[i] for i in chosen], batch_first=True)
        handle = embed.register_forward_hook(lambda module, args, out: hidden)
        self.decoder.layers = layers[self.first :]
        try:
            yield
        finally:
            self.decoder.layers = layers
            handle.remove()


class _ReachedError(Exception):
    """The first layer that learns was reached."""
