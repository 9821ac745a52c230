"""Membership attacks: was a text in the training data?

Each attack scores rows, higher for members. The AUC of forgotten rows against unseen rows of the same kind is 1/2 where
the attack cannot separate them, 1 for a model that remembers, and 0 where forgotten rows are conspicuously unlikely.
"""

import zlib
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from gunlearn.errors import InvalidInputError
from gunlearn.llm.data.collate import Rows, collator_of, row_batches
from gunlearn.llm.data.end_tokens import blanks_of, end_mask, ends_of
from gunlearn.llm.data.text_items import IGNORE
from gunlearn.llm.model.causality import check_language_model
from gunlearn.llm.model.head import evaluating
from gunlearn.llm.model.token_prediction import model_inputs
from gunlearn.losses.reduction import full_precision
from gunlearn.metrics.ranking import separation
from gunlearn.metrics.texts import TokenScores


def loss_score(scores: TokenScores) -> Tensor:
    """Return the mean log-likelihood per token, `[num_rows]`."""
    return scores.mean_log_prob


def zlib_score(scores: TokenScores, texts: Sequence[str]) -> Tensor:
    """Return mean log-likelihood / size of the compressed answer, `[num_rows]`; `texts` has an answer per row."""
    if len(texts) != len(scores.mask):
        raise InvalidInputError(f"Expected a text for each of {len(scores.mask)} rows (got {len(texts)})")
    return scores.mean_log_prob / torch.tensor([len(zlib.compress(text.encode())) for text in texts])


def min_k_score(scores: TokenScores, share: float = 0.4) -> Tensor:
    """Min-K%, `arXiv:2310.16789 <https://arxiv.org/abs/2310.16789>`_: mean log-likelihood of the least likely tokens.

    Returns `[num_rows]`, over a `share` in (0, 1] of each row's tokens, rounded down, at least one token. Tokens that
    only end a row (`scores.end`) do not count.
    """
    return _lowest(scores.log_prob, scores, share)


def min_k_plus_score(scores: TokenScores, share: float = 0.4) -> Tensor:
    """Min-K%++, `arXiv:2404.02936 <https://arxiv.org/abs/2404.02936>`_: `min_k_score` of standardised log-likelihoods.

    Mean and deviation are those of the log-likelihood of tokens drawn from the model at that place.
    """
    return _lowest((scores.log_prob - scores.mean) / scores.std.clamp_min(1e-3), scores, share)


def reference_score(scores: TokenScores, reference: TokenScores) -> Tensor:
    """Return the mean log-likelihood per token minus that under another model, `[num_rows]`."""
    return scores.mean_log_prob - reference.mean_log_prob


def gradient_score(model: nn.Module, rows: Rows, *, end: str = "skip", tokenizer: Any = None) -> Tensor:
    """Return minus the size of each row's loss gradient, `[num_rows]`: the mean of the parameters' norms.

    Reads one row at a time, within the model's context. Gradients are those of the trainable parameters, or of all if
    none is trainable. The loss leaves out tokens that only end a row; see `token_scores` for `end` and `tokenizer`.
    """
    check_language_model(model)
    params = {name: p for name, p in model.named_parameters() if p.is_floating_point()}
    chosen = {name: p for name, p in params.items() if p.requires_grad} or params
    leaves = {name: p.detach().requires_grad_() for name, p in chosen.items()}  # shares storage with the parameter
    norms, closing = [], (end, ends_of(model, tokenizer), blanks_of(tokenizer, rows))
    with evaluating(model), torch.enable_grad():
        for batch in row_batches(model, rows, collator_of(model), 1):
            inputs, label = model_inputs(model, batch)
            label = label.masked_fill(end_mask(batch, *closing), IGNORE)
            logits = functional_call(model, leaves, kwargs={**inputs, "use_cache": False}).logits[:, :-1]
            loss = F.cross_entropy(full_precision(logits).flatten(0, 1), label.flatten(), ignore_index=IGNORE)
            grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
            norms.append(torch.stack([full_precision(g).norm() for g in grads if g is not None]).mean())
    return -torch.stack(norms).cpu()


def membership_auc(forget: Tensor, holdout: Tensor) -> float:
    """Return the AUC of scores `[num_forget]` against those of unseen rows `[num_holdout]`; refuse no scores or NaN."""
    auc, _ = separation(forget, holdout)
    if auc is None:
        raise InvalidInputError(f"Expected scores on both sides (got {forget.numel()} and {holdout.numel()})")
    return auc


def privacy_leak(auc: float, reference_auc: float = 0.5) -> float:
    """PrivLeak, `arXiv:2407.06460 <https://arxiv.org/abs/2407.06460>`_: distance of `1 - auc` from a retrained model's.

    In percent of the latter: negative where the attack finds members, positive where they are too unlikely. Refuses an
    `auc` outside [0, 1], and a `reference_auc` outside [0, 1): a retrained model that the attack finds out on every row
    gives nothing to divide by.
    """
    if not 0 <= auc <= 1:
        raise InvalidInputError(f"Expected 'auc' in [0, 1] (got {auc})")
    if not 0 <= reference_auc < 1:
        raise InvalidInputError(f"Expected 'reference_auc' in [0, 1) (got {reference_auc})")
    return ((1 - auc) - (1 - reference_auc)) / (1 - reference_auc) * 100


def _lowest(values: Tensor, scores: TokenScores, share: float) -> Tensor:
    if not 0 < share <= 1:
        raise InvalidInputError(f"Expected 'share' in (0, 1] (got {share})")
    ordered = values.masked_fill(~scores.counted, torch.inf).sort(1).values
    count = (scores.counted.sum(1).double() * share).long().clamp_min(1)  # float32 would round 28.99... up
    chosen = torch.arange(values.size(1)) < count[:, None]
    return torch.where(chosen, ordered, 0).sum(1) / count
