"""Reveal and release: unlearn without forget data, in rounds of adapters that are fitted and subtracted."""

import copy
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from gunlearn.errors import InvalidInputError
from gunlearn.llm.data.collate import Rows
from gunlearn.llm.model.arithmetic import merged
from gunlearn.llm.model.causality import check_language_model
from gunlearn.llm.recipes.release_rounds import ReleaseRound, ReleaseRounds, with_weights
from gunlearn.llm.recipes.reveal import Instruction, Revealer
from gunlearn.llm.training.adapter_fit import ReleaseOptions


@dataclass(frozen=True, eq=False)
class ReleaseResult:
    """Result of `reveal_and_release`.

    Args:
        model: the model after the best round, in evaluation mode.
        best_round: number of that round; 0 where no round is better than the model before.
        history: all rounds, beginning with round 0.
        stopped: why the rounds ended.
    """

    model: nn.Module
    best_round: int
    history: list[ReleaseRound]
    stopped: str

    def model_at(self, number: int) -> nn.Module:
        """Return a copy of the model after a round."""
        return with_weights(copy.deepcopy(self.model), self.history[number].weights)


def reveal_and_release(
    model: nn.Module,
    tokenizer: Any,
    score: Callable[[str], float],
    instructions: Sequence[Instruction | str],
    rounds: int = 4,
    retain_rows: Rows | None = None,
    options: ReleaseOptions | None = None,
    metrics: Callable[[nn.Module], Mapping[str, float]] | None = None,
    **reveal: Any,
) -> ReleaseResult:
    r"""Unlearn a concept whose examples the model itself generates.

    Each round makes the model state what it knows (`Revealer`), fits an adapter to these texts, and subtracts the
    adapter's product from the weights, :math:`\theta - \lambda s B_F A_F`. A second adapter, fitted to the retain rows
    and kept orthogonal to the first, is added, :math:`+ \mu s B_R A_R`. Rounds end once the model reveals little.

    A reconstruction of "Reveal and Release" (arXiv 2509.14624): the paper gives the loop; its numbers, the place of the
    orthogonality, the line search and the choice of the best round are ours. The best round has the smallest sum of hit
    rate and lost probability of the retain rows' tokens. A retrained model has hits by chance too: set `stop_rate` to
    the chance level, or the last round may go below it (`ReleaseResult.model_at` returns earlier ones).

    Without retain rows unlearning damages more than the concept. The model can write them itself:
    `Revealer(tokenizer, lambda text: 1 - score(text), neutral_instructions).reveal(model).rows`.

    Args:
        model: a causal language model, not changed; adapters on it are merged into the copy first.
        tokenizer: a tokenizer of transformers.
        score: returns how much a text is about the concept, from 0 to 1.
        instructions: see `Revealer`.
        rounds: most rounds.
        retain_rows: rows on which to keep the model's behaviour.
        options: how to fit and subtract adapters.
        metrics: called with the model after each round; the history keeps its figures.
        reveal: further arguments of `Revealer`.

    Raises:
        EmptyForgetSetError: the model reveals too little for a first round.
        InvalidInputError: a tolerance without retain rows, or an architecture that needs `target_modules`.
        DivergenceError: an adapter's loss, a released weight or the loss of the retain rows became NaN or infinite.

    Warns:
        UserWarning: no round is better than the model before; or there are no retain rows, so that nothing shows what
            else a round destroys.
    """
    check_language_model(model)
    options = options or ReleaseOptions()
    if options.tolerance is not None and not retain_rows:
        raise InvalidInputError("Expected 'retain_rows' to hold to a tolerance (got none)")
    if not retain_rows:
        warnings.warn(
            "Expected retain rows (got none): the best round is the one with the fewest texts about the concept, also "
            "where the model has lost everything else; nothing here would show that",
            stacklevel=2,
        )
    revealer = Revealer(tokenizer, score, instructions, **reveal)
    model = merged(copy.deepcopy(model)).eval()
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    run = ReleaseRounds(model, retain_rows, options, metrics)
    stopped = run.all(revealer, rounds)
    history = run.history
    best = min(range(len(history)), key=lambda number: _regret(history[number], history[0]))
    if best == 0:
        warnings.warn(
            f"Expected a round that is better than the model before (got none of {len(history) - 1}; {stopped}): "
            "the model is returned as it was; a higher 'lr', 'steps' or 'scale' moves it more; 'history' and "
            "'model_at' have the rounds",
            stacklevel=2,
        )
    with_weights(model, history[best].weights)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trainable)
    return ReleaseResult(model, best, history, stopped)


def _regret(after: ReleaseRound, before: ReleaseRound) -> float:
    """Return the hit rate plus the lost probability of the retain rows' tokens."""
    if before.retain_nll is None or after.retain_nll is None:
        return after.hit_rate
    return after.hit_rate + max(0.0, math.exp(-before.retain_nll) - math.exp(-after.retain_nll))
