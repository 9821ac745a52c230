"""Draw answers from a model's own distribution, token by token.

`generate` of transformers also applies the model's generation configuration (penalties, truncation), and so draws from
another distribution than is scored. Here each sample has its own random numbers, whatever batch it is in.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gunlearn.errors import InvalidInputError
from gunlearn.llm.model.causality import check_language_model
from gunlearn.llm.model.head import context_of, evaluating, model_device
from gunlearn.llm.model.token_prediction import positions_of, takes_positions
from gunlearn.losses.reduction import full_precision
from gunlearn.metrics.alignment import Sampler


@dataclass(frozen=True, eq=False)
class Samples:
    """Answers of one model, on the CPU.

    Args:
        tokens: `[num_prompts, num_samples, num_tokens]`; values after an answer's end have no meaning.
        mask: boolean, of that shape: an answer's tokens, including its end-of-sequence token.
        ended: boolean `[num_prompts, num_samples]`: the answer ended before it was cut off.
    """

    prompts: list[list[int]]
    tokens: Tensor
    mask: Tensor
    ended: Tensor

    def answers(self, prompt: int) -> list[list[int]]:
        """Return the token ids of the answers to a prompt, without the token that ends them."""
        rows = zip(self.tokens[prompt], self.mask[prompt], self.ended[prompt], strict=True)
        return [tokens[mask][: -1 if ended else None].tolist() for tokens, mask, ended in rows]


def draw_answers(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    ends: Iterable[int],
    sampler: Sampler | None = None,
    max_new_tokens: int = 64,
    batch_size: int = 64,
    chosen: Sequence[int] | None = None,
) -> Samples:
    """Draw answers to prompts.

    Args:
        model: a causal language model, read in evaluation mode; not changed.
        prompts: token ids, at least one each.
        ends: ids that end an answer.
        sampler: how to draw; `None` takes the likeliest token each time, one answer per prompt.
        max_new_tokens: most tokens of an answer.
        batch_size: answers at a time.
        chosen: answer the prompts at these indices alone, as they would be answered among all.

    Raises:
        InvalidInputError: no prompts, or prompts and answers that do not fit into the model's context.
    """
    check_language_model(model)
    if not prompts or max_new_tokens < 1:
        raise InvalidInputError(f"Expected prompts and max_new_tokens >= 1 (got {len(prompts)}, {max_new_tokens})")
    context = context_of(model)
    longest = max(map(len, prompts)) + max_new_tokens
    if context is not None and longest > context:
        raise InvalidInputError(f"Expected prompts and answers within a context of {context} tokens (got {longest})")
    per_prompt = 1 if sampler is None else sampler.n_samples
    generator = torch.Generator().manual_seed(0 if sampler is None else sampler.seed)
    uniform = torch.rand(len(prompts) * per_prompt, max_new_tokens, generator=generator, dtype=torch.float64)
    if chosen is not None:
        uniform = uniform.view(len(prompts), per_prompt, -1)[list(chosen)].flatten(0, 1)
        prompts = [prompts[i] for i in chosen]
    tokens = torch.zeros(uniform.shape, dtype=torch.long)
    device, end_ids = model_device(model), torch.tensor(sorted(ends), dtype=torch.long)
    with evaluating(model), torch.no_grad():
        for index in _batches(prompts, per_prompt, batch_size, takes_positions(model)):
            ids, mask = _padded([prompts[i // per_prompt] for i in index], device)
            answers = _continue(model, ids, mask, uniform[index].to(device), end_ids.to(device), sampler).cpu()
            tokens[index, : answers.size(1)] = answers
    over = torch.isin(tokens, end_ids)
    mask = over.cumsum(1) - over.long() == 0
    ended, shape = over.any(1), (len(prompts), per_prompt)
    width = int(mask.any(0).sum())
    tokens, mask = (x[:, :width].reshape(*shape, width) for x in (tokens, mask))
    return Samples([list(p) for p in prompts], tokens, mask, ended.reshape(shape))


def _batches(prompts: Sequence[Sequence[int]], per_prompt: int, batch_size: int, mixed: bool) -> Iterator[list[int]]:
    """Yield indices of answers by length of their prompts; of one length only if not `mixed`."""
    by_length: dict[int, list[int]] = {}
    for i in sorted(range(len(prompts)), key=lambda i: len(prompts[i])):
        length = 0 if mixed else len(prompts[i])
        by_length.setdefault(length, []).extend(range(i * per_prompt, (i + 1) * per_prompt))
    for index in by_length.values():
        for start in range(0, len(index), batch_size):
            yield index[start : start + batch_size]


def _padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return prompts as ids `[batch, tokens]`, padded on the left, and their attention mask."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + list(p) for p in prompts], device=device)
    lengths = torch.tensor([len(p) for p in prompts], device=device)
    return ids, (torch.arange(longest, device=device) >= longest - lengths[:, None]).long()


def _continue(
    model: nn.Module, ids: Tensor, mask: Tensor, uniform: Tensor, ends: Tensor, sampler: Sampler | None
) -> Tensor:
    cache, read, answers, padded = None, ids.size(1), [], not bool(mask.all())
    over = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    for column in uniform.T:
        positions = positions_of(mask)[:, -read:]
        where = {"attention_mask": mask, "position_ids": positions} if padded else {}
        out = model(input_ids=ids[:, -read:], past_key_values=cache, use_cache=True, **where)
        cache = getattr(out, "past_key_values", None)
        token = choose_tokens(full_precision(out.logits[:, -1]), column, sampler)
        answers.append(token)
        over |= torch.isin(token, ends)
        if bool(over.all()):
            break
        ids, mask = (torch.cat([x, y[:, None]], 1) for x, y in ((ids, token), (mask, torch.ones_like(token))))
        read = ids.size(1) if cache is None else 1  # a model without a cache reads all tokens again
    return torch.stack(answers, 1)


def choose_tokens(logits: Tensor, uniform: Tensor, sampler: Sampler | None) -> Tensor:
    """Choose a token per row of logits `[num_rows, vocab_size]`, where the cumulated probability passes `uniform`.

    `uniform` holds numbers in [0, 1), `[num_rows]` in float64. Without a sampler chooses the likeliest token.
    """
    if sampler is None:
        return logits.argmax(-1)
    logits = logits / sampler.temperature
    if sampler.top_k:
        least = logits.topk(min(sampler.top_k, logits.size(-1))).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if sampler.top_p < 1:
        ordered, order = logits.sort(descending=True)
        prob = ordered.softmax(-1)
        beyond = prob.cumsum(-1) - prob >= sampler.top_p  # the tokens before it already reach top_p
        logits = logits.masked_fill(beyond.gather(1, order.argsort(1)), -torch.inf)
    total = logits.double().softmax(-1).cumsum(-1)
    place = torch.searchsorted(total, (uniform[:, None] * total[:, -1:]), right=True)
    return place[:, 0].clamp_max(logits.size(-1) - 1)
