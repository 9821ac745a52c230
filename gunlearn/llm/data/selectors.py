"""Token selectors: scores that separate the tokens of a fact from those of the sentence around it."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from gunlearn.core.checks import check_integer, check_number
from gunlearn.errors import InvalidInputError, UnsupportedModelError
from gunlearn.llm.data.text_items import IGNORE, answer_tokens
from gunlearn.llm.model.token_prediction import TokenPrediction, token_log_probs
from gunlearn.losses.divergences import cross_entropy

_AT_A_TIME = 32  # sequences made from a batch that the model reads together


@runtime_checkable
class TokenSelector(Protocol):
    """Anything with `scores`: a high score marks a token that holds the knowledge to forget."""

    def scores(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Return scores `[batch, tokens - 1]` of a batch (`input_ids`, `attention_mask`, `labels` `[batch, tokens]`).

        Entry `t` scores token `t + 1`, 0 without a label; booleans select tokens directly. The model is in evaluation
        mode and stays unchanged.
        """


@dataclass(frozen=True)
class ContextDelta:
    r"""Score a token by how much the long context raises its likelihood, compared with the few tokens before it.

    .. math:: d_t = \log p(x_t | x_{<t}) - \log p(x_t | x_{t-w}, \dots, x_{t-1})

    The short context keeps the first token of the sequence, to which many models attend by default. A name copied from
    a distant question also scores high, and a fact whose subject stands right before it scores low: `ProbeDelta` and
    `Entropy` find facts more reliably. The model reads one short sequence per answer token. A reconstruction: the
    "delta score" of `DTO <https://arxiv.org/abs/2510.00125>`_ is not known to us.

    Args:
        window: number :math:`w` of tokens in the short context, at least 1.
    """

    window: int = 3

    def __post_init__(self) -> None:
        check_integer("window", self.window, minimum=1)

    @torch.no_grad()
    def scores(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        full, there = token_log_probs(model, batch), present(batch)
        row, at = answer_tokens(batch).nonzero(as_tuple=True)
        column = at[:, None] + 1 + torch.arange(-self.window, 1, device=at.device)
        first = there.long().argmax(1)[row, None]
        inside = torch.cat((column[:, :1] > first, column >= first), 1)
        column = torch.cat((first, column.clamp_min(0)), 1)
        short = {
            "input_ids": batch["input_ids"][row[:, None], column],
            "attention_mask": (there[row[:, None], column] & inside).long(),
        }
        short["labels"] = torch.full_like(column, IGNORE)
        short["labels"][:, -1] = short["input_ids"][:, -1]
        local = [token_log_probs(model, few)[:, -1] for few in pieces(short)]
        return torch.zeros_like(full).index_put_((row, at), full[row, at] - torch.cat(local)) if local else full


@dataclass(frozen=True)
class ProbeDelta:
    r"""Score a token by the likelihood that it loses in one short step of gradient ascent on the answer.

    .. math:: d_t = \log p_\theta(x_t | x_{<t}) - \log p_{\theta'}(x_t | x_{<t}), \qquad
        \theta' = \theta + \eta \, g / \|g\|, \quad g = -\nabla_\theta \sum_t \log p_\theta(x_t | x_{<t})

    A reconstruction: the "delta score" of `DTO <https://arxiv.org/abs/2510.00125>`_ is not known to us. Each sequence
    has its own step, so that scores do not depend on the batch. The model needs trainable parameters; they are moved
    and put back. Below float32 the small step is rounded away, and scores are 0 or noise (a warning says so).

    Args:
        step: length :math:`\eta` of the step in the space of all trainable parameters, positive.
    """

    step: float = 0.05

    def __post_init__(self) -> None:
        check_number("step", self.step, positive=True)

    def scores(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        params = [p for p in model.parameters() if p.requires_grad]
        if not params:
            raise UnsupportedModelError("Expected a model with trainable parameters for ProbeDelta (got none)")
        coarse = next((p.dtype for p in params if torch.finfo(p.dtype).bits < 32), None)
        if coarse is not None:
            warnings.warn(
                f"Expected weights of at least float32 for ProbeDelta, whose step is rounded away (got {coarse}); "
                "score with model.float()",
                stacklevel=2,
            )
        rows = []
        for i in range(batch["input_ids"].size(0)):
            row = {name: value[i : i + 1] for name, value in batch.items()}
            if not bool(answer_tokens(row).any()):
                rows.append(torch.zeros_like(row["labels"][:, 1:], dtype=torch.float32))
                continue
            with torch.enable_grad():
                before = token_log_probs(model, row)
                grads = torch.autograd.grad(-before.sum(), params, allow_unused=True)
            with torch.no_grad(), moved(params, grads, self.step):
                after = token_log_probs(model, row)
            rows.append(before.detach() - after)
        return torch.cat(rows)


@dataclass(frozen=True)
class SuffixDelta:
    r"""Score a token by how much worse the rest of the answer is predicted without it (its attention is 0).

    .. math:: d_t = \sum_{s > t} \log p(x_s | x_{<s}) - \log p(x_s | x_{<s} \setminus x_t)

    A reconstruction (a delta by leaving out), and a poor default: it finds what the *rest* depends on, the name in
    question rather than the value that answers it. Facts at the end of a sentence score near 0. The model reads one
    sequence per answer token.
    """

    @torch.no_grad()
    def scores(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        full = token_log_probs(model, batch)
        row, at = answer_tokens(batch).nonzero(as_tuple=True)
        there = present(batch)
        # Padding moves to the right: behind padding on the left, positions would shift at the hole.
        start = there.long().argmax(1)
        shifted = (torch.arange(there.size(1), device=at.device) + start[:, None]) % there.size(1)
        turned = {name: value.gather(1, shifted) for name, value in batch.items() if name in ("input_ids", "labels")}
        turned["attention_mask"] = there.gather(1, shifted).long()
        turned["labels"] = torch.where(turned["attention_mask"].bool(), turned["labels"], IGNORE)
        index, place = torch.arange(row.numel(), device=at.device), at - start[row]
        holes = {name: value[row] for name, value in turned.items()}
        holes["attention_mask"][index, place + 1] = 0
        without = [token_log_probs(model, few) for few in pieces(holes)]
        if not without:
            return full
        rise = full.gather(1, shifted[:, :-1].clamp_max(full.size(1) - 1))[row] - torch.cat(without)
        later = torch.arange(rise.size(1), device=at.device) > place[:, None]
        later &= holes["labels"][:, 1:] != IGNORE
        return torch.zeros_like(full).index_put_((row, at), torch.where(later, rise, 0).sum(1))


@dataclass(frozen=True)
class Entropy:
    """Score a token by the entropy of the model's prediction, in nats: it is high where many values are plausible."""

    @torch.no_grad()
    def scores(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        mask = answer_tokens(batch)
        logits = cast(Tensor, TokenPrediction(("logits",)).decode(model, None, batch).logits)[mask].float()
        entropy = cross_entropy(logits.log_softmax(-1).exp(), logits)
        return entropy.new_zeros(mask.shape).masked_scatter(mask, entropy)


@dataclass(frozen=True)
class NLLScore:
    """Score a token by its negative log-likelihood, in nats."""

    @torch.no_grad()
    def scores(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        return -token_log_probs(model, batch)


@dataclass(frozen=True)
class GivenMask:
    """Select the tokens that a column of the rows marks (made by a regular expression, a tagger of names, by hand).

    Args:
        column: name of the column, a list of booleans as long as `input_ids`.
    """

    column: str = "target_mask"

    def scores(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        if self.column not in batch:
            raise InvalidInputError(f"Expected rows with the column '{self.column}' (got {sorted(batch)})")
        return batch[self.column][:, 1:].bool() & answer_tokens(batch)


def present(batch: Mapping[str, Tensor]) -> Tensor:
    """Return which tokens are not padding, boolean `[batch, tokens]`."""
    mask = batch.get("attention_mask")
    return torch.ones_like(batch["input_ids"], dtype=torch.bool) if mask is None else mask.bool()


def pieces(batch: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Yield a batch in pieces of `_AT_A_TIME` rows."""
    for start in range(0, batch["input_ids"].size(0), _AT_A_TIME):
        yield {name: value[start : start + _AT_A_TIME] for name, value in batch.items()}


@contextmanager
def moved(params: list[nn.Parameter], direction: tuple[Tensor | None, ...], length: float) -> Iterator[None]:
    """Move parameters by `length` along a direction inside the block, then restore their old storage."""
    norm = torch.stack([g.double().square().sum() for g in direction if g is not None]).sum().sqrt()
    scale = float(length / norm) if norm > 0 else 0.0
    kept = [p.data for p in params]
    try:
        for p, g in zip(params, direction, strict=True):
            if g is not None:
                p.data = p.data + scale * g.to(p.dtype)
        yield
    finally:
        for p, data in zip(params, kept, strict=True):
            p.data = data
