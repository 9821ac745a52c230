"""Causal language modelling as a task: what a model says about each token that counts."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gunlearn.core.registry import Registry
from gunlearn.errors import InvalidInputError, InvalidTypeError, UnsupportedMethodError, UnsupportedModelError
from gunlearn.llm.model.head import CHUNK, head_comes_last, output_head, replaced_head, token_log_prob, unwrap
from gunlearn.losses import Prediction
from gunlearn.losses.reduction import full_precision
from gunlearn.tasks.base import Task, View
from gunlearn.tasks.items.arrays import ArrayParts, training_mask

if TYPE_CHECKING:
    from torch_geometric.data import Data

IGNORE = -100  # the label of tokens that take no part, as in transformers
READS = ("log_prob", "logits", "embeddings", "label")


#: Loaded when a model is trained: the task itself needs no Trainer.
BACKENDS: Registry = Registry("backend", {"trainer": "gunlearn.llm.training.backend:TrainerBackend"})


class TextItems(dict[str, Tensor]):
    """A batch of sequences: `input_ids`, `attention_mask` and `labels` `[batch, tokens]`, as the loop wants them."""

    fixed = False

    @property
    def num_items(self) -> int:
        """Number of sequences."""
        return self["input_ids"].size(0)

    @property
    def y(self) -> Tensor:
        """Refused: methods that put another label on each item know one label per item.

        Raises:
            UnsupportedMethodError: always.
        """
        raise UnsupportedMethodError("Expected a method that works on labels per token (got one of a label per item)")

    @property
    def mask(self) -> Tensor:
        """Which predictions count, see `answer_tokens`."""
        return answer_tokens(self)

    def take(self, index: Tensor) -> TextItems:
        """Return some of the sequences, `[k]`."""
        return TextItems({name: value[index] for name, value in self.items()})

    def share(self, rank: int, world: int) -> TextItems:
        """Every `world`-th sequence, from `rank` on."""
        share = TextItems({name: value[rank::world] for name, value in self.items()})
        share.fixed = self.fixed
        return share


class CausalLM(Task):
    """Each token is predicted from those before it; items are sequences, and those of their tokens that have a label.

    A `Prediction` has the shape `[batch, tokens - 1]`: entry `t` is about token `t + 1`, and counts where that token's
    label is not -100 (as that of prompt and padding is, so that no loss sees them) and a token that is no padding comes
    before it, to predict it from. Log-probabilities are computed in float32, whatever the model's type.

    Methods written over `Task` read batches of both parts where `batch_size` is set, and all fields: `reads` narrowed
    to what a method's losses need saves it the logits (`("log_prob",)` does for NPO, gradient ascent and difference).

    Where log-probabilities are all that is read, logits are computed for a few tokens at a time and only where a label
    is (`gunlearn.llm.model.head`), unless the model does something to its logits behind its head.

    Args:
        reads: fields of `Prediction` to fill: `"log_prob"` always, `"logits"` `[batch, tokens - 1, vocab_size]`,
            `"label"`, `"embeddings"` `[batch, tokens - 1, dim]`. A trainer narrows this to what its objective reads.
        layer: whose output `"embeddings"` is: an index into the model's hidden states, 0 the token embeddings, -1 the
            last one.
        batch_size: sequences of each part per step of `gunlearn.unlearn`; `None` reads all.
        chunk: logits held at a time.
        backend: what trains: `"trainer"`, a transformers Trainer with default settings (for methods that are an
            objective over the forgotten rows; others run by the package's own loop), a `TrainerBackend`, or `"loop"`.

    Raises:
        InvalidInputError: unknown fields or backend.
    """

    name = "causal_lm"
    summary = "which token comes next?"
    requests = ("items",)

    def __init__(
        self,
        reads: Collection[str] = ("log_prob", "logits", "label"),
        layer: int = -1,
        batch_size: int | None = None,
        chunk: int = CHUNK,
        backend: Any = "trainer",
    ) -> None:
        """See the class."""
        unknown = sorted(set(reads) - set(READS))
        if unknown:
            raise InvalidInputError(f"Expected 'reads' among {READS} (got {unknown})")
        if isinstance(backend, str) and backend not in ("trainer", "loop"):
            raise InvalidInputError(f"Expected 'backend' to be 'trainer', 'loop' or an object (got {backend!r})")
        self.reads, self.layer, self.batch_size, self.chunk = tuple(reads), layer, batch_size, chunk
        self.backend = backend

    def by(self, backend: Any) -> CausalLM:
        """Return the same task with another backend."""
        return type(self)(self.reads, self.layer, self.batch_size, self.chunk, backend)

    def at_layer(self, layer: int) -> CausalLM:
        """Return a task that reads another layer's hidden states, in whole batches."""
        return type(self)(layer=layer, chunk=self.chunk, backend=self.backend)

    def runner(self, method: Any) -> Any | None:
        """Return the Trainer, for methods that are an objective over the forgotten rows; see `TrainerBackend.runs`."""
        if self.backend == "loop":
            return None
        backend = BACKENDS["trainer"]() if self.backend == "trainer" else self.backend
        return backend.run if backend.runs(method) else None

    def adapts(self, model: nn.Module) -> bool:
        """Return whether the model has an adapter, or gets one."""
        return super().adapts(model) or getattr(self.backend, "peft", None) is not None

    def reading(self, reads: Collection[str]) -> CausalLM:
        """The same task with other fields."""
        return type(self)(reads, self.layer, self.batch_size, self.chunk, self.backend)

    def decode(self, model: nn.Module, outputs: None, items: Mapping[str, Tensor]) -> Prediction:
        """Predictions of the labelled tokens.

        Args:
            model: a causal language model of transformers, with or without an adapter or a distributed wrapper.
            outputs: nothing; `encode` does nothing here.
            items: `input_ids`, `labels` and `attention_mask` (default: all ones) `[batch, tokens]`.

        Raises:
            InvalidInputError: fields are missing or disagree.
            UnsupportedModelError: the model returns no logits.
        """
        inputs, label = model_inputs(model, items)
        mask = answer_tokens(items)
        label = torch.where(mask, label, 0)
        if "logits" not in self.reads and head_comes_last(model, inputs["input_ids"]):
            log_prob, embeddings = self._without_logits(model, inputs, label, mask)
            return Prediction(log_prob=log_prob, mask=mask, label=self._given("label", label), embeddings=embeddings)
        out = model(**inputs, **self._extras())
        logits = getattr(out, "logits", None)
        if not isinstance(logits, Tensor) or logits.shape[:2] != inputs["input_ids"].shape:
            got = type(out).__name__ if not isinstance(logits, Tensor) else tuple(logits.shape)
            raise UnsupportedModelError(f"Expected a causal language model that returns logits per token (got {got})")
        logits = logits[:, :-1]
        log_prob = full_precision(logits.new_zeros(mask.shape)).masked_scatter(
            mask, -F.cross_entropy(full_precision(logits[mask]), label[mask], reduction="none")
        )
        return Prediction(
            log_prob=log_prob,
            logits=self._given("logits", logits),
            embeddings=self._embeddings(out),
            mask=mask,
            label=self._given("label", label),
        )

    def _without_logits(
        self, model: nn.Module, inputs: dict[str, Tensor], label: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        head = output_head(model)

        def compute(hidden: Tensor) -> Tensor:
            chosen = token_log_prob(hidden[:, :-1][mask], head.weight, head.bias, label[mask], self.chunk)
            # One column more and a last dimension, for models that look at the shape of their logits.
            return F.pad(chosen.new_zeros(mask.shape).masked_scatter(mask, chosen), (0, 1)).unsqueeze(-1)

        with replaced_head(model, compute):
            out = model(**inputs, **self._extras())
        return out.logits[:, :-1, 0], self._embeddings(out)

    def _given(self, name: str, value: Tensor) -> Tensor | None:
        return value if name in self.reads else None

    def _extras(self) -> dict[str, bool]:
        return {"use_cache": False, **({"output_hidden_states": True} if "embeddings" in self.reads else {})}

    def _embeddings(self, out: Any) -> Tensor | None:
        return out.hidden_states[self.layer][:, :-1] if "embeddings" in self.reads else None

    def make_parts(self, view: View) -> TextParts:
        """Return the parts; there is no graph to choose."""
        partition = view.partition
        sizes = {"forget": self.batch_size, "retain": self.batch_size}
        return TextParts(partition.data, partition.forget_mask, partition.retain_mask, sizes)

    def training_parts(self, data: Data) -> TextParts:
        """All training rows are retained."""
        return TextParts(data, None, training_mask(data), {"retain": self.batch_size})

    def validation_items(self, data: Data) -> TextItems | None:
        """Rows of `data.val_mask`."""
        return rows(data, data.val_mask) if "val_mask" in data else None


class TextParts(ArrayParts):
    """Parts of a problem over token sequences: `data.x` token ids and `data.y` labels, `[num_items, tokens]`."""

    def items(self, index: Tensor, fixed: bool) -> TextItems:
        """See `ArrayParts.items`."""
        items = rows(self.data, index)
        items.fixed = fixed
        return items


def rows_of(data: Any, mask: Tensor) -> list[Any]:
    """Return the rows that a mask names, without padding, as a Trainer reads them.

    Args:
        data: rows of `input_ids` and `labels`, or a `Data` of `x` and `y` `[num_items, tokens]`.
        mask: boolean `[num_items]`.
    """
    chosen = mask.nonzero().view(-1).tolist()
    if isinstance(data, list):
        return [data[i] for i in chosen]
    out = []
    for i in chosen:
        there = data.attention_mask[i].bool() if "attention_mask" in data else torch.ones_like(data.x[i]).bool()
        out.append({"input_ids": data.x[i][there].tolist(), "labels": data.y[i][there].tolist()})
    return out


def rows(data: Any, index: Tensor) -> TextItems:
    """Some rows of `data.x`, `data.y` and `data.attention_mask` (default: all ones)."""
    if isinstance(data, list):
        from gunlearn.llm.data.collate import PartCollator  # makes TextItems, so that it imports this module

        chosen = index.nonzero().view(-1) if index.dtype == torch.bool else index
        return PartCollator().pad([data[i] for i in chosen.tolist()])
    mask = data.attention_mask if "attention_mask" in data else torch.ones_like(data.x)
    return TextItems(input_ids=data.x[index], attention_mask=mask[index], labels=data.y[index])


def answer_tokens(items: Mapping[str, Tensor]) -> Tensor:
    """Which predictions count, `[batch, tokens - 1]`: of tokens with a label that do not stand right behind padding.

    Padding is what `attention_mask` (default: all ones) has before a row's first token and after its last one; a token
    in between that is not attended to is none. A first token is predicted from nothing, whichever side is padded.
    """
    labelled, there = items["labels"][:, 1:] != IGNORE, items.get("attention_mask")
    if there is None:
        return labelled
    there = there.long()
    inside = there.cummax(1).values & there.flip(1).cummax(1).values.flip(1)
    return labelled & inside[:, :-1].bool()


def model_inputs(model: nn.Module, items: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """What the model is called with, and the labels of the tokens that it predicts `[batch, tokens - 1]`.

    Positions count from the first token that is no padding, whichever side the padding is on.

    Raises:
        InvalidTypeError: `items` is no mapping.
        InvalidInputError: fields are missing or disagree, or there are fewer than two tokens.
    """
    if not isinstance(items, Mapping):
        raise InvalidTypeError(f"Expected a batch as a mapping of tensors (got {type(items).__name__})")
    for name in ("input_ids", "labels"):
        if not isinstance(items.get(name), Tensor):
            raise InvalidInputError(f"Expected a batch with tensors 'input_ids' and 'labels' (got {sorted(items)})")
    input_ids, labels, mask = items["input_ids"], items["labels"], items.get("attention_mask")
    if input_ids.dim() != 2 or input_ids.size(1) < 2:
        raise InvalidInputError(
            f"Expected 'input_ids' [batch, tokens] of at least two tokens (got {tuple(input_ids.shape)})"
        )
    for name, value in (("labels", labels), ("attention_mask", mask)):
        if value is not None and value.shape != input_ids.shape:
            raise InvalidInputError(
                f"Expected '{name}' of the shape of 'input_ids' {tuple(input_ids.shape)} (got {tuple(value.shape)})"
            )
    inputs = {"input_ids": input_ids}
    if mask is not None:
        inputs["attention_mask"] = mask
        if not bool(mask[:, 0].all()) and takes_positions(model):
            inputs["position_ids"] = (mask.long().cumsum(1) - 1).clamp_min(0)
    return inputs, labels[:, 1:]


def takes_positions(model: nn.Module) -> bool:
    """Whether a model can be told where its tokens stand, so that padding on the left moves none of them."""
    inner = unwrap(model)
    base = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    return "position_ids" in inspect.signature(type(base).forward).parameters
