"""What a method by name is made of: a forget loss, a retain loss, options, and published settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from gunlearn.errors import InvalidInputError
from gunlearn.losses import NLL, JSDToReference, KLToReference, Loss, MSEToReference, Objective, as_objective

#: What holds the model in place on the retained rows.
RETAIN_LOSSES: dict[str, Loss] = {
    "nll": NLL(on="retain"),
    "kl": KLToReference(on="retain"),
    "jsd": JSDToReference(on="retain"),
    "hidden": MSEToReference(on="retain"),
    "logits": MSEToReference(on="retain", field="logits"),
}
OPEN_UNLEARNING = "configuration of open-unlearning (batch 32, weight decay 0.01, one epoch of warm-up)"
OURS = "none at hand; those of the other methods"


@dataclass(frozen=True)
class Plan:
    """What a method asks of a trainer.

    Args:
        objective: what to minimise.
        layer: whose hidden states losses read, see `CausalLM`.
        forget: rows in place of those given, with tokens marked.
        attach: called with the trainer before the first step.
        found: options that were worked out, by name, for the record.
    """

    objective: Objective
    layer: int = -1
    forget: Sequence[Mapping[str, Any]] | None = None
    attach: Callable[[Any], Any] | None = None
    found: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Given:
    """What a method may look into: the model that knows, its tokenizer, and rows."""

    model: nn.Module | None
    tokenizer: Any
    forget: Sequence[Mapping[str, Any]]
    retain: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class LLMMethod:
    """A forget loss with a weight, a retain loss with a weight, and how it is run.

    Args:
        name: as given to `unlearn`.
        summary: what it does, in a few words.
        loss: class of the forget loss; its fields are options of the method.
        forget_weight: of that loss.
        retain_weight: of the retain loss; with 0 no retained rows are read.
        retain_loss: a name of `RETAIN_LOSSES`.
        settings: defaults of options, where they are not those of the loss.
        lr: published learning rate, for all parameters.
        adapter_lr: for an adapter; ten times `lr` where none was published.
        epochs: published number of epochs.
        source: where those settings come from.
    """

    name: str
    summary: str
    loss: type[Loss]
    forget_weight: float = 1.0
    retain_weight: float = 1.0
    retain_loss: str = "nll"
    settings: Mapping[str, Any] = field(default_factory=dict)
    lr: float = 1e-5
    adapter_lr: float | None = None
    epochs: int = 10
    source: str = OPEN_UNLEARNING

    def rate(self, adapter: bool) -> float:
        """Learning rate, for all parameters or for those of an adapter."""
        return (self.adapter_lr or 10 * self.lr) if adapter else self.lr

    def options(self) -> dict[str, Any]:
        """Every option and its default."""
        weights = {name: getattr(self, name) for name in ("forget_weight", "retain_weight", "retain_loss")}
        return self.loss_options() | dict(self.settings) | weights

    def loss_options(self) -> dict[str, Any]:
        """The forget loss's fields and their defaults."""
        fields = dataclasses.fields(self.loss)
        return {f.name: f.default for f in fields if f.name not in ("on", "reduction", "preferred", "point")}

    def plan(
        self,
        options: Mapping[str, Any] | None = None,
        model: nn.Module | None = None,
        tokenizer: Any = None,
        forget: Sequence[Mapping[str, Any]] = (),
        retain: Sequence[Mapping[str, Any]] = (),
    ) -> Plan:
        """Put the objective together.

        Args:
            options: those that differ from `options()`.
            model: the model that knows, for methods that look into it.
            tokenizer: its tokenizer, likewise.
            forget: the forgotten rows, likewise.
            retain: those to retain, likewise.

        Raises:
            InvalidInputError: an option that there is not, or a value that does not fit.
        """
        known = self.options()
        unknown = sorted(set(options or {}) - set(known))
        if unknown:
            raise InvalidInputError(f"Expected options of '{self.name}' among {sorted(known)} (got {unknown})")
        chosen = known | dict(options or {})
        weights = {name: chosen.pop(name) for name in ("forget_weight", "retain_weight")}
        for name, value in weights.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                raise InvalidInputError(f"Expected '{name}' to be a number of at least 0 (got {value!r})")
        kind = chosen.pop("retain_loss")
        if kind not in RETAIN_LOSSES:
            raise InvalidInputError(f"Expected 'retain_loss' among {tuple(RETAIN_LOSSES)} (got {kind!r})")
        plan = self.forgetting(chosen, Given(model, tokenizer, forget, retain))
        objective = plan.objective if weights["forget_weight"] == 1 else weights["forget_weight"] * plan.objective
        if weights["retain_weight"]:
            objective = objective + weights["retain_weight"] * RETAIN_LOSSES[kind]
        return dataclasses.replace(plan, objective=as_objective(objective))

    def forgetting(self, options: dict[str, Any], given: Given) -> Plan:
        """The forget side alone."""
        return Plan(as_objective(self.loss(**options)))
