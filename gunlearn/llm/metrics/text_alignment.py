"""Functional alignment of causal language models: both answer the same prompts, and both score all answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.core.checks import check_choice
from gunlearn.llm.data.collate import PartCollator
from gunlearn.llm.data.end_tokens import end_tokens
from gunlearn.llm.data.text_items import IGNORE
from gunlearn.llm.metrics.generation import Samples, draw_answers
from gunlearn.llm.metrics.scoring import answer_logits, prompt_of
from gunlearn.llm.model.causality import check_language_models
from gunlearn.llm.model.frozen import check_vocabulary
from gunlearn.llm.model.head import LOGIT_CHUNK, evaluating, model_device
from gunlearn.metrics.alignment import KL_ESTIMATORS, Alignment, Sampler, StepTerms, align, categorical_kl


@dataclass(eq=False)
class TextAlignment:
    r"""Supply `gunlearn.metrics.alignment` with answers and their scores.

    An answer's end-of-sequence token counts. Answers are scored in float32, after their prompts, padded on the right,
    so that every token keeps its position.

    `"rao_blackwell"` replaces each token's log-ratio by the exact divergence over the vocabulary,

    .. math:: \sum_t \sum_v p(v | x, y_{<t}) [\log p(v | x, y_{<t}) - \log q(v | x, y_{<t})]

    which has the same expectation by the chain rule, is never negative, and varies far less.

    Args:
        prompts: rows, of which the tokens before the first label are read, or token ids.
        tokenizer: gives the tokens that end an answer; or their ids, see `end_tokens`.
        estimator: `"rao_blackwell"` or `"monte_carlo"`.
        max_new_tokens: most tokens of an answer: of longer answers only the beginnings are compared, a lower bound.
        chunk: most logits held at a time.

    Raises:
        InvalidInputError: an unknown estimator, a row without a prompt, no token that ends an answer, or models with
            different vocabularies.
    """

    prompts: Sequence[Any]
    tokenizer: Any
    sampler: Sampler | None = None
    estimator: str = "rao_blackwell"
    max_new_tokens: int = 64
    batch_size: int = 64
    chunk: int = LOGIT_CHUNK

    def __post_init__(self) -> None:
        check_choice("estimator", self.estimator, KL_ESTIMATORS)
        self.prompts = [prompt_of(self.prompts[i]) for i in range(len(self.prompts))]
        self.ends = end_tokens(self.tokenizer)
        self.sampler = self.sampler or Sampler()

    def draw(self, model: nn.Module) -> Samples:
        return draw_answers(model, self.prompts, self.ends, self.sampler, self.max_new_tokens, self.batch_size)

    def terms(self, samples: Samples, p: nn.Module, q: nn.Module) -> StepTerms:
        check_language_models((p, q))
        check_vocabulary(p, q)
        mask, rows = samples.mask.flatten(0, 1), sampled_rows(samples)
        values, total = torch.zeros(mask.shape), torch.tensor([len(row["input_ids"]) for row in rows])
        with evaluating(p), evaluating(q), torch.no_grad():
            for index in total.argsort().split(self.batch_size):
                batch = PartCollator().pad([rows[i] for i in index.tolist()])
                found = torch.cat(self._steps(p, q, batch))
                values[index] = torch.zeros(len(index), mask.size(1)).masked_scatter(mask[index], found)
        truncated = 1 - float(samples.ended.double().mean())
        return StepTerms(values.reshape(samples.mask.shape), samples.mask, truncated)

    def _steps(self, p: nn.Module, q: nn.Module, batch: Mapping[str, Tensor]) -> list[Tensor]:
        labels = batch["labels"][:, 1:]
        label, out, logits = labels[labels != IGNORE], [], []
        for model in (p, q):
            device = model_device(model)
            inputs = {name: batch[name].to(device) for name in ("input_ids", "attention_mask")}
            logits.append(answer_logits(model, inputs, (labels != IGNORE).to(device), self.chunk))
        for a, b in zip(*logits, strict=True):
            b = b.to(a.device)
            if self.estimator == "rao_blackwell":
                out.append(categorical_kl(a, b).float().cpu())
            else:
                y, label = label[: a.size(0), None].to(a.device), label[a.size(0) :]
                ratio = a.log_softmax(-1).gather(1, y) - b.log_softmax(-1).gather(1, y)
                out.append(ratio[:, 0].float().cpu())
        return out


def sampled_rows(samples: Samples) -> list[dict[str, list[int]]]:
    """Return a row per answer, `[num_prompts * num_samples]`: its prompt, and its tokens as labels."""
    mask, rows = samples.mask.flatten(0, 1), []
    for i, tokens in enumerate(samples.tokens.flatten(0, 1)):
        prompt, answer = samples.prompts[i // samples.mask.size(1)], tokens[mask[i]].tolist()
        rows.append({"input_ids": prompt + answer, "labels": [IGNORE] * len(prompt) + answer})
    return rows


def functional_alignment(
    current: nn.Module,
    reference: nn.Module,
    prompts: Sequence[Mapping[str, Any] | Sequence[int]],
    tokenizer: Any,
    sampler: Sampler | None = None,
    estimator: str = "rao_blackwell",
    per: str = "sequence",
    max_new_tokens: int = 64,
    batch_size: int = 64,
) -> Alignment:
    """Return the symmetric divergence of two models' answers, in nats; 0 means the same answers.

    A reconstruction of FADE, see `gunlearn.metrics.alignment`. `reference` was retrained without the forgotten rows;
    `per` is `"sequence"` or `"token"`; further arguments are those of `TextAlignment`. To compare several models with
    several retrained ones, with a noise floor, use `gunlearn.metrics.standings` with a `TextAlignment`.

    Example:
        >>> functional_alignment(unlearned, retrained, forget_rows, tokenizer).value  # doctest: +SKIP
    """
    supplier = TextAlignment(prompts, tokenizer, sampler, estimator, max_new_tokens, batch_size)
    precision = supplier.terms(supplier.draw(current), current, reference)
    recall = supplier.terms(supplier.draw(reference), reference, current)
    return align(precision, recall, estimator, per, supplier.sampler)


fade_metric = functional_alignment
