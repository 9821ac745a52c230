r"""Functional alignment with one model at a time: a model's answers are stored, and another one scores them later.

The exact divergence of each step, :math:`\sum_v p_v (\log p_v - \log q_v)`, reads both models' whole distributions. A
log keeps those of the `kept` likeliest tokens :math:`K` and of the drawn one, `y`; the step's term is

.. math:: \sum_{v \in K} p_v (\log p_v - \log q_v) + [y \notin K] (\log p_y - \log q_y)

which has the same expectation, and is the exact divergence where `K` is the vocabulary (ours; with no token kept it is
the Monte Carlo estimate). Its variance comes from what lies outside of `K` alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.errors import InvalidInputError
from gunlearn.llm.data.collate import PartCollator
from gunlearn.llm.data.text_items import IGNORE
from gunlearn.llm.metrics.generation import Samples, draw_answers
from gunlearn.llm.metrics.scoring import answer_logits
from gunlearn.llm.metrics.text_alignment import sampled_rows
from gunlearn.llm.model.causality import check_language_model
from gunlearn.llm.model.head import LOGIT_CHUNK, evaluating, model_device
from gunlearn.metrics.alignment import Sampler

#: Most tokens of each step whose probability a log keeps.
KEPT_TOKENS = 64


@dataclass(frozen=True)
class AnswerSpec:
    """How answers are drawn, the same for every model that is compared.

    Args:
        sampler: how to draw.
        ends: ids that end an answer.
        max_new_tokens: most tokens of an answer.
        kept: likeliest tokens of each step whose probability is kept.
        batch_size: answers at a time.
        chunk: most logits held at a time.
    """

    sampler: Sampler
    ends: tuple[int, ...]
    max_new_tokens: int
    kept: int = KEPT_TOKENS
    batch_size: int = 64
    chunk: int = LOGIT_CHUNK


#: The answers to one prompt, as tensors: `tokens` and `mask` `[num_samples, num_tokens]`, `ended` `[num_samples]`; of
#: all their tokens in order `own` `[num_steps]`, their log-probability, `top` `[num_steps, kept]`, the likeliest
#: tokens, and `top_log_prob`.
Answers = Mapping[str, Tensor]


def stored_answers(
    model: nn.Module, prompts: Sequence[Sequence[int]], chosen: Sequence[int], spec: AnswerSpec
) -> list[dict[str, Tensor]]:
    """Return `Answers` of a model to the prompts at the indices `chosen`, drawn as among all prompts."""
    how = spec.sampler, spec.max_new_tokens, spec.batch_size
    return with_likelihoods(model, draw_answers(model, prompts, spec.ends, *how, chosen=chosen), spec)


def with_likelihoods(model: nn.Module, samples: Samples, spec: AnswerSpec) -> list[dict[str, Tensor]]:
    """Return a model's samples as `Answers`, one per prompt."""

    def read(log_p: Tensor, label: Tensor, steps: Tensor) -> Tensor:
        kept = log_p.topk(min(spec.kept, log_p.size(-1)))
        return torch.cat([log_p.gather(1, label[:, None]), kept.indices.to(log_p.dtype), kept.values], 1).double()

    found = _read_steps(model, samples, spec, read)
    out, lengths = [], samples.mask.sum((1, 2)).tolist()
    for i, values in enumerate(found.split(lengths)):
        width = (values.size(1) - 1) // 2
        parts = {"tokens": samples.tokens[i].int(), "mask": samples.mask[i], "ended": samples.ended[i]}
        parts |= {"own": values[:, 0].float(), "top": values[:, 1 : 1 + width].int()}
        out.append(
            {name: value.clone() for name, value in parts.items()} | {"top_log_prob": values[:, 1 + width :].float()}
        )
    return out


def step_terms(
    model: nn.Module, prompts: Sequence[Sequence[int]], answers: Sequence[Answers], spec: AnswerSpec
) -> list[list[float]]:
    r"""Return :math:`KL(p \| q)` along each stored answer of `p`, `[num_prompts][num_samples]`; `model` is `q`.

    Raises:
        InvalidInputError: the model returns NaN.
    """
    width = max(answer["tokens"].size(1) for answer in answers)
    padded = [
        [torch.nn.functional.pad(a[name], (0, width - a[name].size(1))) for a in answers] for name in ("tokens", "mask")
    ]
    tokens, mask = map(torch.stack, padded)
    samples = Samples([list(p) for p in prompts], tokens.long(), mask, torch.stack([a["ended"] for a in answers]))
    own, top, top_log_p = (torch.cat([a[name] for a in answers]) for name in ("own", "top", "top_log_prob"))

    def read(log_q: Tensor, label: Tensor, steps: Tensor) -> Tensor:
        ids, log_p = top[steps].long().to(log_q.device), top_log_p[steps].to(log_q.device)
        whole = ids.size(1) == log_q.size(1)
        within = torch.where(log_p.isneginf(), 0, log_p.exp() * (log_p - log_q.gather(1, ids))).sum(1)
        if whole:
            return within.clamp_min(0)[:, None]  # rounding can go below 0
        drawn = own[steps].to(log_q.device) - log_q.gather(1, label[:, None])[:, 0]
        return torch.where((ids == label[:, None]).any(1), within, within + drawn)[:, None]

    values = _read_steps(model, samples, spec, read)[:, 0]
    if bool(values.isnan().any()):
        raise InvalidInputError("Expected likelihoods without NaN (got some); the model is broken")
    whole = torch.zeros(mask.shape, dtype=values.dtype).masked_scatter(mask, values)
    return whole.double().sum(-1).tolist()


def _read_steps(
    model: nn.Module, samples: Samples, spec: AnswerSpec, read: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Tensor:
    """Return what `read` returns of each step's log-probabilities `[n, vocab_size]`, labels and indices, in order."""
    check_language_model(model)
    mask, rows = samples.mask.flatten(0, 1), sampled_rows(samples)
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    starts, device = mask.sum(1).cumsum(0) - mask.sum(1), model_device(model)
    pieces: list[Tensor] = []
    order: list[Tensor] = []
    with evaluating(model), torch.no_grad():
        for index in lengths.argsort().split(spec.batch_size):
            batch: Any = PartCollator().pad([rows[i] for i in index.tolist()])
            labels = batch["labels"][:, 1:]
            inputs = {name: batch[name].to(device) for name in ("input_ids", "attention_mask")}
            label = labels[labels != IGNORE].to(device)
            steps = torch.cat([starts[i] + torch.arange(int(mask[i].sum())) for i in index])
            order.append(steps)
            for logits in answer_logits(model, inputs, (labels != IGNORE).to(device), spec.chunk):
                size = logits.size(0)
                pieces.append(read(logits.log_softmax(-1), label[:size], steps[:size]).cpu())
                label, steps = label[size:], steps[size:]
    found, places = torch.cat(pieces), torch.cat(order)
    return torch.empty_like(found).index_copy_(0, places, found)
