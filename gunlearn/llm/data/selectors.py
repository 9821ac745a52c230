"""Scores that tell the tokens which carry a fact from those which carry a sentence."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from gunlearn.core.checks import check_number
from gunlearn.errors import InvalidInputError, UnsupportedModelError
from gunlearn.llm.model.causal_lm import IGNORE, CausalLM, answer_tokens

ROWS = 32  # sequences made from the batch (windows, sequences with a hole) that are read at a time


@runtime_checkable
class TokenSelector(Protocol):
    """Anything with `scores`: the higher a token's score, the more of the knowledge to forget sits in it."""

    def scores(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """One score per predicted token.

        Args:
            model: a causal language model in evaluation mode; left as it came.
            batch: `input_ids`, `attention_mask` and `labels` `[batch, tokens]`.

        Returns:
            `[batch, tokens - 1]`, entry `t` about token `t + 1`, 0 where there is no label. A boolean tensor is no
            ranking but the choice itself.
        """


@dataclass(frozen=True)
class ContextDelta:
    r"""What the long context adds to a token's likelihood, beyond the few tokens right before it.

    .. math:: d_t = \log p(x_t | x_{<t}) - \log p(x_t | x_{t-w}, \dots, x_{t-1})

    The short context keeps the first token of the sequence, on which many models rest their attention. A name that is
    copied from a far-off question scores high as well, and a fact whose subject is repeated right before it scores low:
    `ProbeDelta` finds facts more surely (area under the ROC curve on a small model that knows facts: 0.78 here, above
    0.99 there and by `Entropy`). One short sequence is read per answer token.

    A reconstruction: the "delta score" of `DTO <https://arxiv.org/abs/2510.00125>`_ is not known to us.

    Args:
        window: tokens :math:`w` of the short context.

    Raises:
        InvalidInputError: no whole number from 1 on.
    """

    window: int = 3

    def __post_init__(self) -> None:
        """Check the window."""
        if isinstance(self.window, bool) or not isinstance(self.window, int) or self.window < 1:
            raise InvalidInputError(f"Expected 'window' to be a whole number from 1 on (got {self.window!r})")

    @torch.no_grad()
    def scores(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """See `TokenSelector.scores`."""
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
    r"""What one short step of gradient ascent on the answer takes away from each of its tokens.

    .. math:: d_t = \log p_\theta(x_t | x_{<t}) - \log p_{\theta'}(x_t | x_{<t}), \qquad
        \theta' = \theta + \eta \, g / \|g\|, \quad g = -\nabla_\theta \sum_t \log p_\theta(x_t | x_{<t})

    A reconstruction: the "delta score" of `DTO <https://arxiv.org/abs/2510.00125>`_ is not known to us. The step is
    made for each sequence by itself, so that scores do not depend on the batch, over the parameters that can be
    trained; they are put back, and their `grad` is not touched.

    The step moves each weight by very little: below float32 it is rounded away, and scores are 0 or noise.

    Args:
        step: length :math:`\eta` of the step in the space of all trainable parameters.

    Raises:
        InvalidInputError: no positive number.
    """

    step: float = 0.05

    def __post_init__(self) -> None:
        """Check the step."""
        check_number("step", self.step, positive=True)

    def scores(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """See `TokenSelector.scores`.

        Raises:
            UnsupportedModelError: nothing to train.
        """
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
    r"""How much worse the rest of the answer is predicted when a token is left out (its attention is 0).

    .. math:: d_t = \sum_{s > t} \log p(x_s | x_{<s}) - \log p(x_s | x_{<s} \setminus x_t)

    A reconstruction, the literal reading of a delta by leaving out, and no good default: it finds what the *rest*
    depends on, the name that is asked about rather than the value that answers. Facts at the end of a sentence have
    nothing after them and score near 0. One sequence is read per answer token.
    """

    @torch.no_grad()
    def scores(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """See `TokenSelector.scores`."""
        full = token_log_probs(model, batch)
        row, at = answer_tokens(batch).nonzero(as_tuple=True)
        there = present(batch)
        # Padding goes to the right: positions would otherwise be counted past the hole, and shift.
        start = there.long().argmax(1)
        shifted = (torch.arange(there.size(1), device=at.device) + start[:, None]) % there.size(1)
        turned = {name: value.gather(1, shifted) for name, value in batch.items() if name in ("input_ids", "labels")}
        turned["attention_mask"] = there.gather(1, shifted).long()
        turned["labels"] = torch.where(turned["attention_mask"].bool(), turned["labels"], IGNORE)
        index, place = torch.arange(row.numel(), device=at.device), at - start[row]
        holes = {name: value[row] for name, value in turned.items()}
        holes["attention_mask"][index, place + 1] = 0
        # The token behind the hole counts: a hole is no padding.
        without = [token_log_probs(model, few) for few in pieces(holes)]
        if not without:
            return full
        rise = full.gather(1, shifted[:, :-1].clamp_max(full.size(1) - 1))[row] - torch.cat(without)
        later = torch.arange(rise.size(1), device=at.device) > place[:, None]
        later &= holes["labels"][:, 1:] != IGNORE
        return torch.zeros_like(full).index_put_((row, at), torch.where(later, rise, 0).sum(1))


@dataclass(frozen=True)
class Entropy:
    """Entropy of the model's prediction, in nats: facts are where a sentence could have gone on in many ways."""

    @torch.no_grad()
    def scores(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """See `TokenSelector.scores`."""
        logits, mask = CausalLM(("logits",)).decode(model, None, batch).logits, answer_tokens(batch)
        log_prob = logits[mask].float().log_softmax(-1)
        # Logits of minus infinity: 0 log 0 = 0.
        entropy = -torch.where(log_prob == -torch.inf, 0, log_prob.exp() * log_prob).sum(-1)
        return entropy.new_zeros(mask.shape).masked_scatter(mask, entropy)


@dataclass(frozen=True)
class NLLScore:
    """Negative log-likelihood, in nats: tokens that the model finds hard."""

    @torch.no_grad()
    def scores(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """See `TokenSelector.scores`."""
        return -token_log_probs(model, batch)


@dataclass(frozen=True)
class GivenMask:
    """Tokens that somebody else has marked: a regular expression, a tagger of names, a person.

    Args:
        column: of the rows, a list of booleans as long as `input_ids`.
    """

    column: str = "target_mask"

    def scores(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """The mask itself, which is the choice whatever the ratio.

        Raises:
            InvalidInputError: a batch without it.
        """
        if self.column not in batch:
            raise InvalidInputError(f"Expected rows with the column '{self.column}' (got {sorted(batch)})")
        return batch[self.column][:, 1:].bool() & answer_tokens(batch)


def present(batch: Mapping[str, Tensor]) -> Tensor:
    """Which tokens are no padding, `[batch, tokens]`."""
    mask = batch.get("attention_mask")
    return torch.ones_like(batch["input_ids"], dtype=torch.bool) if mask is None else mask.bool()


def token_log_probs(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Log-likelihood of each answer token `[batch, tokens - 1]`, 0 elsewhere."""
    return CausalLM(("log_prob",)).decode(model, None, batch).log_prob


def pieces(batch: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """A batch, `ROWS` rows at a time."""
    for start in range(0, batch["input_ids"].size(0), ROWS):
        yield {name: value[start : start + ROWS] for name, value in batch.items()}


@contextmanager
def moved(params: list[nn.Parameter], direction: tuple[Tensor | None, ...], length: float) -> Iterator[None]:
    """Inside the block parameters are `length` further along a direction; afterwards they hold their own storage."""
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
