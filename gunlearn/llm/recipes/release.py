"""Reveal and release: unlearn without forget data, in rounds of adapters that are fitted and subtracted."""

import copy
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.errors import DivergenceError, EmptyForgetSetError, InvalidInputError
from gunlearn.llm.data.collate import Rows, collator_of
from gunlearn.llm.model.arithmetic import add_delta, base_weights, merged
from gunlearn.llm.model.bounded import mlp_linears
from gunlearn.llm.model.causality import check_language_model
from gunlearn.llm.recipes.reveal import Instruction, Revealed, Revealer
from gunlearn.llm.training.adapter_fit import ReleaseOptions, fit_adapter
from gunlearn.llm.training.until import mean_nll


@dataclass(frozen=True, eq=False)
class ReleaseRound:
    """The model after a round; round 0 is the model before.

    Args:
        hit_rate: share of its texts under the instructions that are about the concept.
        rows: number of rows that it reveals for the next round.
        scale: how much of the forget adapter was subtracted in this round.
        retain_nll: loss of the retain rows, in nats per token, if there are any.
        metrics: figures of the caller's `metrics`.
        weights: weights of the changed modules, on the CPU.
    """

    hit_rate: float
    rows: int
    scale: float
    retain_nll: float | None
    metrics: dict[str, float]
    weights: dict[str, Tensor] = field(repr=False)


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
        return _with_weights(copy.deepcopy(self.model), self.history[number].weights)


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
        UserWarning: no round is better than the model before.
    """
    check_language_model(model)
    options = options or ReleaseOptions()
    if options.tolerance is not None and not retain_rows:
        raise InvalidInputError("Expected 'retain_rows' to hold to a tolerance (got none)")
    revealer = Revealer(tokenizer, score, instructions, **reveal)
    model = merged(copy.deepcopy(model)).eval()
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    targets = options.target_modules or mlp_linears(getattr(getattr(model, "config", None), "model_type", None))
    history: list[ReleaseRound] = []

    def little(found: Revealed) -> bool:
        return found.hit_rate < options.stop_rate or len(found.rows) < options.min_rows

    def retain_nll() -> Any:
        return mean_nll(model, retain_rows, collator_of(model), options.batch_size) if retain_rows else None

    def record(found: Revealed, scale: float, names: Iterable[str]) -> None:
        nll = retain_nll()
        if nll is not None and not math.isfinite(nll):
            raise DivergenceError(f"Expected a finite loss of the retain rows (got {nll} in round {len(history)})")
        figures = dict(metrics(model)) if metrics else {}
        weights = _weights(model, names)
        history.append(ReleaseRound(found.hit_rate, len(found.rows), scale, nll, figures, weights))

    found = revealer.reveal(model, seed=0)
    if little(found):
        raise EmptyForgetSetError(
            f"Expected instructions under which the model speaks about the concept (got {len(found.rows)} usable rows, "
            f"{found.hit_rate:.0%} of the texts); other instructions, a lower threshold or min_rows may help"
        )
    stopped = f"all {rounds} rounds"
    for number in range(1, rounds + 1):
        seed = 2 * (options.seed * 1000 + number)
        forget, factors = fit_adapter(model, found.rows, targets, options, seed)
        if not history:
            record(found, 0.0, forget)
        retain: dict[str, Tensor] = {}
        if retain_rows:
            retain, _ = fit_adapter(model, retain_rows, targets, options, seed + 1, apart_from=factors)
        before: Any = history[-1]
        for scale in [options.scale] if options.tolerance is None else sorted(options.scales, reverse=True):
            add_delta(model, forget, -scale, inplace=True)
            add_delta(model, retain, options.retain_scale, inplace=True)
            if options.tolerance is None or retain_nll() <= before.retain_nll + options.tolerance:
                break
            _with_weights(model, before.weights)
        else:
            stopped = f"no scale keeps the retain rows within {options.tolerance}"
            break
        broken = [name for name, weight in base_weights(model, forget).items() if not bool(weight.isfinite().all())]
        if broken:
            raise DivergenceError(
                f"Expected finite weights after round {number} (got NaN or infinity in {broken[:3]}); "
                "a smaller 'scale' or 'lr' may help"
            )
        found = revealer.reveal(model, seed=number)
        record(found, scale, forget)
        if little(found):
            stopped = f"{found.hit_rate:.0%} of the texts, {len(found.rows)} distinct rows"
            break
    best = min(range(len(history)), key=lambda number: _regret(history[number], history[0]))
    if best == 0:
        warnings.warn(
            f"Expected a round that is better than the model before (got none of {len(history) - 1}; {stopped}): "
            "the model is returned as it was; 'history' and 'model_at' have the rounds",
            stacklevel=2,
        )
    _with_weights(model, history[best].weights)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trainable)
    return ReleaseResult(model, best, history, stopped)


def _regret(after: ReleaseRound, before: ReleaseRound) -> float:
    """Return the hit rate plus the lost probability of the retain rows' tokens."""
    if before.retain_nll is None or after.retain_nll is None:
        return after.hit_rate
    return after.hit_rate + max(0.0, math.exp(-before.retain_nll) - math.exp(-after.retain_nll))


def _weights(model: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    return {name: model.get_parameter(f"{name}.weight").detach().cpu().clone() for name in names}


@torch.no_grad()
def _with_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    for name, weight in base_weights(model, weights).items():
        weight.copy_(weights[name])
    return model
