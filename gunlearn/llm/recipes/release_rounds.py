"""Rounds of Reveal-and-Release: fit an adapter to what the model reveals, and subtract it."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.errors import DivergenceError, EmptyForgetSetError
from gunlearn.llm.data.collate import Rows, collator_of
from gunlearn.llm.model.arithmetic import add_delta, base_weights
from gunlearn.llm.model.bounded import mlp_linears
from gunlearn.llm.recipes.reveal import Revealed, Revealer
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


class ReleaseRounds:
    """Rounds that change a model in place, and their history."""

    def __init__(
        self,
        model: nn.Module,
        retain_rows: Rows | None,
        options: ReleaseOptions,
        metrics: Callable[[nn.Module], Mapping[str, float]] | None,
    ) -> None:
        self.model, self.retain_rows, self.options, self.metrics = model, retain_rows, options, metrics
        self.history: list[ReleaseRound] = []

    def all(self, revealer: Revealer, rounds: int) -> str:
        """Run the rounds, and return why they ended."""
        model, options = self.model, self.options
        targets = options.target_modules or mlp_linears(getattr(getattr(model, "config", None), "model_type", None))
        found = revealer.reveal(model, seed=0)
        if self._little(found):
            raise EmptyForgetSetError(
                f"Expected instructions under which the model speaks about the concept (got {len(found.rows)} usable "
                f"rows, {found.hit_rate:.0%} of the texts); other instructions, a lower 'threshold' or 'min_rows' may "
                "help"
            )
        for number in range(1, rounds + 1):
            seed = 2 * (options.seed * 1000 + number)
            forget, factors = fit_adapter(model, found.rows, targets, options, seed)
            if not self.history:
                self._record(found, 0.0, forget)
            retain: dict[str, Tensor] = {}
            if self.retain_rows:
                retain, _ = fit_adapter(model, self.retain_rows, targets, options, seed + 1, apart_from=factors)
            scale = self._subtract(forget, retain)
            if scale is None:
                return f"no scale keeps the retain rows within {options.tolerance}"
            broken = [name for name, weight in base_weights(model, forget).items() if not bool(weight.isfinite().all())]
            if broken:
                raise DivergenceError(
                    f"Expected finite weights after round {number} (got NaN or infinity in {broken[:3]}); "
                    "a smaller 'scale' or 'lr' may help"
                )
            found = revealer.reveal(model, seed=number)
            self._record(found, scale, forget)
            if self._little(found):
                return f"little is revealed: {found.hit_rate:.0%} of the texts, {len(found.rows)} distinct rows"
        return f"all rounds are done ({rounds})"

    def _little(self, found: Revealed) -> bool:
        return found.hit_rate < self.options.stop_rate or len(found.rows) < self.options.min_rows

    def _retain_nll(self) -> Any:
        if not self.retain_rows:
            return None
        return mean_nll(self.model, self.retain_rows, collator_of(self.model), self.options.batch_size)

    def _subtract(self, forget: dict[str, Tensor], retain: dict[str, Tensor]) -> float | None:
        """Subtract the forget adapter at the largest scale within the tolerance, and return it; nothing if none is."""
        model, options = self.model, self.options
        before: Any = self.history[-1]
        for scale in [options.scale] if options.tolerance is None else sorted(options.scales, reverse=True):
            add_delta(model, forget, -scale, inplace=True)
            add_delta(model, retain, options.retain_scale, inplace=True)
            if options.tolerance is None or self._retain_nll() <= before.retain_nll + options.tolerance:
                return scale
            with_weights(model, before.weights)
        return None

    def _record(self, found: Revealed, scale: float, names: Iterable[str]) -> None:
        """Add a round to the history."""
        nll = self._retain_nll()
        if nll is not None and not math.isfinite(nll):
            raise DivergenceError(f"Expected a finite loss of the retain rows (got {nll} in round {len(self.history)})")
        figures = dict(self.metrics(self.model)) if self.metrics else {}
        weights = _weights(self.model, names)
        self.history.append(ReleaseRound(found.hit_rate, len(found.rows), scale, nll, figures, weights))


def _weights(model: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    return {name: model.get_parameter(f"{name}.weight").detach().cpu().clone() for name in names}


@torch.no_grad()
def with_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """Return the model, with the weights of some modules replaced in place."""
    for name, weight in base_weights(model, weights).items():
        weight.copy_(weights[name])
    return model
