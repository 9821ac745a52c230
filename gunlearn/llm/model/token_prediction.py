"""Predict each labelled token: what `CausalLM` is, whoever trains it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gunlearn.errors import InvalidInputError, InvalidTypeError, UnsupportedModelError
from gunlearn.llm.data.collate import PartCollator
from gunlearn.llm.data.text_items import TextItems, answer_tokens
from gunlearn.llm.model.arithmetic import adapter_scaling
from gunlearn.llm.model.causality import check_declared, check_language_model
from gunlearn.llm.model.head import (
    LOGIT_CHUNK,
    last_linear_head,
    model_device,
    replaced_forward,
    token_log_prob,
    without_peft,
)
from gunlearn.losses import Prediction
from gunlearn.losses.reduction import full_precision
from gunlearn.requests.ids import trainable_mask
from gunlearn.tasks.base import Task, View
from gunlearn.tasks.items.array_parts import ArrayParts
from gunlearn.tasks.items.tables import ItemTable

if TYPE_CHECKING:
    from torch_geometric.data import Data

READS = ("log_prob", "logits", "embeddings", "label")


@dataclass(eq=False, repr=False)
class TokenPrediction(Task):
    """Predict each token from those before it; an item is a sequence.

    A `Prediction` has the shape `[batch, tokens - 1]`; entry `t` is about token `t + 1`. It counts where that token has
    a label other than -100 (prompt and padding have -100) and follows a token that is not padding. Log-probabilities
    are computed in float32, whatever the model's type.

    `UnlearnTrainer` narrows `reads` to the fields that its objective needs; methods written over `Task` read all of
    them. Without `"logits"` (NPO, gradient ascent and difference need none) logits are computed for a few labelled
    tokens at a time, unless the model changes them after its head (see `last_linear_head`).

    Args:
        reads: fields of `Prediction` to fill: `"log_prob"` always, `"logits"` `[batch, tokens - 1, vocab_size]`,
            `"label"`, `"embeddings"` `[batch, tokens - 1, dim]`.
        layer: index of the hidden states in `"embeddings"`: 0 for token embeddings, -1 for the last layer.
        batch_size: sequences of each part per step of `gunlearn.unlearn`; `None` reads all.
        chunk: most logits held at a time.

    Raises:
        InvalidInputError: unknown fields.
    """

    name = "causal_lm"
    summary = "which token comes next?"
    requests = ("items",)
    one_label = False
    fine_tuned = True

    reads: Collection[str] = ("log_prob", "logits", "label")
    layer: int = -1
    batch_size: int | None = None
    chunk: int = LOGIT_CHUNK

    def __post_init__(self) -> None:
        unknown = sorted(set(self.reads) - set(READS))
        if unknown:
            raise InvalidInputError(f"Expected 'reads' among {READS} (got {unknown})")
        self.reads = tuple(self.reads)

    def check_model(self, model: nn.Module) -> None:
        check_language_model(model)

    def check_data(self, data: Any) -> Any:
        """Return rows of `input_ids` and `labels` as a table of `x`, `y` and `attention_mask`, or what is one."""
        if hasattr(data, "x"):
            return data
        if isinstance(data, str | Mapping) or not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
            raise InvalidTypeError(f"Expected rows of 'input_ids' and 'labels' (got {type(data).__name__})")
        given = [data[i] for i in range(len(data))]
        if not given or not all(isinstance(row, Mapping) for row in given):
            got = type(given[0]).__name__ if given else "none"
            raise InvalidInputError(
                f"Expected rows of 'input_ids' and 'labels' (got {got}); encode makes them of records"
            )
        items = PartCollator().pad(given, marked=False)
        columns = {"x": items["input_ids"], "y": items["labels"], "attention_mask": items["attention_mask"]}
        return ItemTable(lambda table: rows_of(table, torch.ones(len(table.x), dtype=torch.bool)), **columns)

    def decode(self, model: nn.Module, outputs: None, items: Mapping[str, Tensor]) -> Prediction:
        """Predict the labelled tokens of `input_ids`, `labels` and `attention_mask` (or all ones), `[batch, tokens]`.

        Raises `InvalidInputError` for missing or disagreeing fields, `UnsupportedModelError` if there are no logits.
        """
        check_declared(model)
        inputs, label = model_inputs(model, items)
        mask, embedded = answer_tokens(items).to(label.device), "embeddings" in self.reads
        label = torch.where(mask, label, 0)
        more = {"use_cache": False, **({"output_hidden_states": True} if embedded else {})}
        head = None if "logits" in self.reads else last_linear_head(model, inputs["input_ids"])
        if head is None:
            out = model(**inputs, **more)
            logits = getattr(out, "logits", None)
            if not isinstance(logits, Tensor) or logits.shape[:2] != inputs["input_ids"].shape:
                got = type(out).__name__ if not isinstance(logits, Tensor) else tuple(logits.shape)
                raise UnsupportedModelError(f"Expected a language model that returns logits per token (got {got})")
            logits = logits[:, :-1]
            log_prob = full_precision(logits.new_zeros(mask.shape)).masked_scatter(
                mask, -F.cross_entropy(full_precision(logits[mask]), label[mask], reduction="none")
            )
        else:
            last, logits = head, None

            def compute(hidden: Tensor) -> Tensor:
                chosen = token_log_prob(hidden[:, :-1][mask], last.weight, last.bias, label[mask], self.chunk)
                # One more column and a last dimension, for models that read the shape of their logits.
                return F.pad(chosen.new_zeros(mask.shape).masked_scatter(mask, chosen), (0, 1)).unsqueeze(-1)

            with replaced_forward(head, compute):
                out = model(**inputs, **more)
            log_prob = out.logits[:, :-1, 0]
        return Prediction(
            log_prob=log_prob,
            logits=logits if "logits" in self.reads else None,
            embeddings=out.hidden_states[self.layer][:, :-1] if embedded else None,
            mask=mask,
            label=label if "label" in self.reads else None,
        )

    def adapter_scaling(self, model: nn.Module) -> Callable[[float], Any]:
        return adapter_scaling(model)

    def make_parts(self, view: View) -> TextParts:
        partition = view.partition
        sizes = {"forget": self.batch_size, "retain": self.batch_size}
        return TextParts(partition.data, partition.forget_mask, partition.retain_mask, sizes)

    def training_parts(self, data: Data) -> TextParts:
        kept = trainable_mask(data, len(data) if isinstance(data, list) else data.x.shape[0])
        return TextParts(data, None, kept, {"retain": self.batch_size})

    def validation_items(self, data: Data) -> TextItems | None:
        return self.held_out_items(data, "val")

    def held_out_items(self, data: Data, part: str) -> TextItems | None:
        mask = f"{part}_mask"
        return rows(data, data[mask]) if mask in data else None


class TextParts(ArrayParts):
    """Parts of a problem over token sequences: `data.x` token ids and `data.y` labels, `[num_items, tokens]`."""

    def items(self, index: Tensor, fixed: bool) -> TextItems:
        items = rows(self.data, index)
        items.fixed = fixed
        return items


def rows_of(data: Any, mask: Tensor) -> list[Any]:
    """Return the rows of `data` in a boolean mask `[num_items]`, without padding, as a Trainer reads them."""
    if isinstance(data, list):
        return [data[i] for i in mask.nonzero().view(-1).tolist()]
    items = rows(data, mask)
    columns = zip(items["input_ids"], items["labels"], items["attention_mask"].bool(), strict=True)
    return [{"input_ids": ids[there].tolist(), "labels": y[there].tolist()} for ids, y, there in columns]


def rows(data: Any, index: Tensor) -> TextItems:
    """Return some rows of a list, or of `data.x`, `data.y` and `data.attention_mask` (default: all ones)."""
    if isinstance(data, list):
        chosen = index.nonzero().view(-1) if index.dtype == torch.bool else index
        return PartCollator().pad([data[i] for i in chosen.tolist()])
    mask = data.attention_mask if "attention_mask" in data else torch.ones_like(data.x)
    return TextItems(input_ids=data.x[index], attention_mask=mask[index], labels=data.y[index])


def token_log_probs(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the log-likelihood of each labelled token in nats `[batch, tokens - 1]`, 0 elsewhere."""
    return TokenPrediction(("log_prob",)).decode(model, None, batch).log_prob


def total_nll(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the negative log-likelihood of all labelled tokens together, in nats, and their number."""
    return -token_log_probs(model, batch).sum(), answer_tokens(batch).sum()


def token_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the negative log-likelihood per labelled token, in nats; 0 without any."""
    nll, tokens = total_nll(model, batch)
    return nll / tokens.clamp_min(1)


def model_inputs(model: nn.Module, items: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """Return the model's arguments, and the labels of the tokens that it predicts `[batch, tokens - 1]`.

    Both are on the device of the model's first parameter, wherever the items are. Positions count from a row's first
    token that is no padding, whichever side is padded.
    """
    if not isinstance(items, Mapping):
        raise InvalidTypeError(f"Expected a batch as a mapping of tensors (got {type(items).__name__})")
    input_ids, labels, mask = map(items.get, ("input_ids", "labels", "attention_mask"))
    if not isinstance(input_ids, Tensor) or not isinstance(labels, Tensor):
        raise InvalidInputError(f"Expected a batch with tensors 'input_ids' and 'labels' (got {sorted(items)})")
    if input_ids.dim() != 2 or input_ids.size(1) < 2:
        raise InvalidInputError(f"Expected 'input_ids' of at least two tokens (got {tuple(input_ids.shape)})")
    for name, value in (("labels", labels), ("attention_mask", mask)):
        if value is not None and value.shape != input_ids.shape:
            wanted, got = tuple(input_ids.shape), tuple(value.shape)
            raise InvalidInputError(f"Expected '{name}' of the shape of 'input_ids', {wanted} (got {got})")
    device = model_device(model)
    inputs, labels = {"input_ids": input_ids.to(device)}, labels.to(device)
    if mask is not None:
        inputs["attention_mask"] = mask.to(device)
        if not bool(mask[:, 0].all()) and takes_positions(model):
            inputs["position_ids"] = positions_of(inputs["attention_mask"])
    return inputs, labels[:, 1:]


def positions_of(mask: Tensor) -> Tensor:
    """Return the position of each token `[batch, tokens]`, counted from the first one that the mask keeps."""
    return (mask.long().cumsum(1) - 1).clamp_min(0)


def takes_positions(model: nn.Module) -> bool:
    """Return whether a model takes `position_ids`, so that padding on the left moves no token."""
    return "position_ids" in inspect.signature(type(without_peft(model)).forward).parameters
