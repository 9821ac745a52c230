"""Log-likelihoods of several answers to one question, whose prompt is read once."""

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gunlearn.llm.data.collate import Rows
from gunlearn.llm.data.text_items import IGNORE
from gunlearn.llm.metrics import tofu_metrics as tofu
from gunlearn.llm.metrics.scoring import NotANumberError
from gunlearn.llm.model.head import (
    LOGIT_CHUNK,
    evaluating,
    last_linear_head,
    model_device,
    replaced_forward,
    without_peft,
)
from gunlearn.llm.model.token_prediction import takes_positions
from gunlearn.losses.reduction import full_precision

#: By model: whether several answers behind one prompt are scored as they are one by one.
_SHARES: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
#: What configurations call the number of tokens that attention reaches over.
_WINDOWS = (
    "sliding_window",
    "sliding_window_size",
    "sliding_windows",
    "attention_chunk_size",
    "attention_window_size",
    "attention_window",
    "window_size",
    "local_attention",
)
_ROUNDING = 1e-3  # largest difference of mean log-likelihoods, in nats


def grouped_log_probs(model: nn.Module, groups: Sequence[Rows], batch_size: int = 16) -> list[Tensor]:
    """Return the mean log-likelihood per token of several answers to each question, `[num_answers]` for each.

    The same as `answer_log_probs`, in about half the time where prompts are as long as answers: the answers of a
    question stand behind one another, and none reads another. Models that do not take such a mask of attention (tried
    once per model, on the first question) score each answer behind its own prompt. So do models whose attention reaches
    only over a window (of places, or of chunks) that is shorter than a question with its answers: the mask would
    replace it.

    Args:
        model: a causal language model; not changed.
        groups: rows of each question's answers.
        batch_size: rows at a time.

    Raises:
        NotANumberError: a log-likelihood is NaN.
    """
    if not groups or not _is_plain(groups) or _outgrow(model, groups):
        return tofu.answer_log_probs(model, groups, batch_size)
    if model not in _SHARES:
        _SHARES[model] = _agrees(model, groups[0], tofu.answer_log_probs(model, groups[:1], batch_size)[0])
    if not _SHARES[model]:
        return tofu.answer_log_probs(model, groups, batch_size)
    size = max(1, batch_size // 4)
    out = []
    with evaluating(model), torch.no_grad():
        for start in range(0, len(groups), size):
            out += _packed_means(model, groups[start : start + size])
    broken = sum(int(means.isnan().sum()) for means in out)
    if broken:
        raise NotANumberError(f"Expected a model whose log-likelihoods are numbers (got NaN for {broken} rows)")
    return out


def _is_plain(groups: Sequence[Rows]) -> bool:
    """Return whether rows have no padding, a prompt and labels."""
    rows = [row for group in groups for row in group]
    return all("attention_mask" not in row and _start(row) > 0 for row in rows)


def _outgrow(model: nn.Module, groups: Sequence[Rows]) -> bool:
    """Return whether a question with its answers is longer than what a layer's attention reaches."""
    config: Any = getattr(without_peft(model), "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    reach = [value for value in (getattr(config, name, None) for name in _WINDOWS) if isinstance(value, int)]
    reach = [value for value in reach if value > 0]  # 0 and -1 stand for none
    # Rows stand behind one another, and some models count their windows in places: all of them must lie inside.
    return bool(reach) and max(sum(len(row["input_ids"]) for row in group) for group in groups) > min(reach)


def _start(row: Mapping[str, Any]) -> int:
    """Return the place of the first label; 0 without any."""
    return next((i for i, y in enumerate(row["labels"]) if int(y) != IGNORE), 0)


def _agrees(model: nn.Module, group: Rows, means: Tensor) -> bool:
    ids = torch.tensor([list(group[0]["input_ids"])], device=model_device(model))
    if not takes_positions(model) or last_linear_head(model, ids) is None:
        return False
    with evaluating(model), torch.no_grad():
        try:
            found = _packed_means(model, [group])[0]
        except (RuntimeError, ValueError, TypeError, IndexError):
            return False
    return bool((found - means).abs().max() < _ROUNDING)


def _packed_means(model: Any, groups: Sequence[Rows]) -> list[Tensor]:
    packed = [_packed(group) for group in groups]
    longest, device = max(len(p["ids"]) for p in packed), model_device(model)
    ids, positions = torch.zeros(2, len(packed), longest, dtype=torch.long)
    owner = torch.full((len(packed), longest), -1)
    for i, p in enumerate(packed):
        n = len(p["ids"])
        ids[i, :n], positions[i, :n], owner[i, :n] = p["ids"], p["positions"], p["owner"]
    before = torch.ones(longest, longest, dtype=torch.bool).tril()
    seen = (owner[:, :, None] == owner[:, None, :]) | (owner == 0)[:, None, :]  # 0 is the prompt, which all read
    mask = torch.where(before & seen, 0.0, torch.finfo(torch.float32).min)[:, None].to(device, model.dtype)
    head = last_linear_head(model, ids.to(device))
    assert head is not None  # tried in `_agrees`
    inputs = {"input_ids": ids.to(device), "position_ids": positions.to(device), "attention_mask": mask}
    with replaced_forward(head, lambda hidden: hidden):
        hidden = model(**inputs, use_cache=False).logits
    out = []
    for i, p in enumerate(packed):
        read, label = hidden[i, p["read"].to(device)], p["label"].to(device)
        pieces = []
        for h, y in zip(read.split(rows := _rows(head)), label.split(rows), strict=True):
            logits = full_precision(F.linear(h.to(head.weight.dtype), head.weight, head.bias))
            pieces.append(logits.gather(1, y[:, None])[:, 0] - logits.logsumexp(-1))
        out.append(torch.stack([x.mean() for x in torch.cat(pieces).cpu().split(p["lengths"])]))
    return out


def _rows(head: nn.Linear) -> int:
    return max(1, LOGIT_CHUNK // head.out_features)


def _packed(group: Rows) -> dict[str, Any]:
    """Return a question's answers behind its prompt: token ids, positions, which answer each belongs to, and labels."""
    rows = [[int(i) for i in row["input_ids"]] for row in group]
    cut = min(_start(row) for row in group)
    while any(row[:cut] != rows[0][:cut] for row in rows):
        cut -= 1
    if cut < 1:
        raise ValueError("no common prompt")
    ids, positions, owner = list(rows[0][:cut]), list(range(cut)), [0] * cut
    read, label, lengths = [], [], []
    for k, (row, given) in enumerate(zip(rows, group, strict=True), 1):
        place = len(ids)
        found = [t for t, y in enumerate(given["labels"]) if int(y) != IGNORE]
        read += [cut - 1 if t == cut else place + t - cut - 1 for t in found]
        label += [int(given["labels"][t]) for t in found]
        lengths.append(len(found))
        ids += row[cut:]
        positions += range(cut, len(row))
        owner += [k] * (len(row) - cut)
    columns = {"ids": ids, "positions": positions, "owner": owner, "read": read, "label": label}
    return {name: torch.tensor(column) for name, column in columns.items()} | {"lengths": lengths}
