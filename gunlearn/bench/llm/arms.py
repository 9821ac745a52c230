"""What is compared: methods, each with its learning rates, and how all are trained and measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gunlearn.core.checks import check_integer, check_number
from gunlearn.errors import InvalidInputError
from gunlearn.llm.model.adapters import ADAPTERS
from gunlearn.llm.training.causal_lm import CausalLM
from gunlearn.llm.training.views import reads_part
from gunlearn.losses import as_objective
from gunlearn.methods.for_task import find_method
from gunlearn.methods.gradient import GradientMethod
from gunlearn.methods.published import build_method


@dataclass(frozen=True)
class Arm:
    """A method with its learning rates.

    Args:
        method: `"name"` or `"name:variant"` of `gunlearn.METHODS`.
        rates: learning rates, each a run of its own; none of a method that has no learning rate (`replay`, `ssd`).
        name: in tables; by default the method's, with the adapter's.
        options: of the method.
        peft: `"lora"` or `"bounded"`, to train an adapter; `None` trains all parameters.
        epochs: passes over the forgotten rows (of methods that read retained rows alone, over these); `None` takes the
            number of the whole bench.
        batch_size: rows per step; `None` takes that of the bench.

    Raises:
        InvalidInputError: an unknown method (with the one that was probably meant) or option, an unknown adapter, no
            rate, one that is not above 0 or given twice, or a `batch_size` that is no whole number.
        UnsupportedMethodError: a method of other tasks than texts.
    """

    method: str
    rates: tuple[float, ...]
    name: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    peft: str | None = None
    epochs: float | None = None
    batch_size: int | None = None
    built: Any = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.method.partition(":")[0] == "auto":
            raise InvalidInputError("Expected a method by name in a bench (got 'auto', which takes another's)")
        has_rate = "lr" in find_method(self.method, CausalLM())[0].options()
        if has_rate != bool(self.rates):
            wanted = "at least one learning rate" if has_rate else "no learning rates"
            raise InvalidInputError(f"Expected {wanted} for '{self.method}' (got {list(self.rates) or 'none'})")
        for rate in self.rates:
            check_number("rates", rate, positive=True)
        if len({*self.rates}) < len(self.rates):
            raise InvalidInputError(f"Expected each learning rate of '{self.method}' once (got {list(self.rates)})")
        if self.peft not in (None, *ADAPTERS):
            raise InvalidInputError(f"Expected 'peft' among {ADAPTERS} (got {self.peft!r})")
        if self.epochs is not None:
            check_number("epochs", self.epochs, positive=True)
        if self.batch_size is not None:
            check_integer("batch_size", self.batch_size, minimum=1)
        clash = sorted({"lr", "epochs", "batch_size"} & set(self.options))
        if clash:
            raise InvalidInputError(f"Expected 'rates', 'epochs' and 'batch_size' beside the options (got {clash})")
        object.__setattr__(self, "built", build_method(self.method, {**self.options, **self.rate(0)}, CausalLM()))
        if not self.name:
            object.__setattr__(self, "name", f"{self.method} {self.peft}" if self.peft else self.method)

    def rate(self, number: int) -> dict[str, float]:
        """Return a learning rate as an option; nothing where the method has none."""
        return {"lr": self.rates[number]} if self.rates else {}

    @property
    def reads_alternative(self) -> bool:
        """Return whether the method teaches other answers."""
        objective = getattr(self.built, "objective", None)
        return objective is not None and reads_part(as_objective(objective()).parts, "alternative")

    @property
    def passes(self) -> bool:
        """Return whether the model between two passes is one that the method could have ended with."""
        built = self.built
        return isinstance(built, GradientMethod) and not built.overrides("run")


@dataclass(frozen=True)
class TextBench:
    """Methods, seeds, and how runs are trained and measured.

    Args:
        arms: the methods, in the order in which they run.
        seeds: of adapters, order and dropout.
        epochs: passes over the forgotten rows, unless a method has its own number.
        batch_size: forgotten rows per step.
        every: epochs between two points of a run; its end is always one.
        samples: answers per prompt and model for the alignment.
        max_new_tokens: length of generated answers; `None` as in `evaluate_language_models`.
        measured_batch: rows at a time while measuring.
        rouge: generate answers for ROUGE.

    Raises:
        InvalidInputError: no methods, two of one name, or numbers out of range.
    """

    arms: Sequence[Arm]
    seeds: Sequence[int] = (0,)
    epochs: float = 5
    batch_size: int = 8
    every: int = 1
    samples: int = 4
    max_new_tokens: int | None = None
    measured_batch: int = 16
    rouge: bool = True

    def __post_init__(self) -> None:
        if not self.arms or not self.seeds:
            raise InvalidInputError(f"Expected methods and seeds (got {len(self.arms)} and {len(self.seeds)})")
        names = [arm.name for arm in self.arms]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InvalidInputError(f"Expected a name of its own for each method (got {twice} twice); give one a name")
        for name in ("batch_size", "every", "samples", "measured_batch"):
            check_integer(name, getattr(self, name), minimum=1)
        for seed in self.seeds:
            check_integer("seeds", seed, minimum=0)
        if len({*self.seeds}) < len(self.seeds):
            raise InvalidInputError(f"Expected each seed once (got {list(self.seeds)})")
        check_number("epochs", self.epochs, positive=True)
        if self.max_new_tokens is not None:
            check_integer("max_new_tokens", self.max_new_tokens, minimum=1)

    def cells(self) -> list[tuple[int, Arm, float | None]]:
        """Return seed, method and rate of every run: all rates of a method, then the next one."""
        return [(seed, arm, rate) for seed in self.seeds for arm in self.arms for rate in arm.rates or (None,)]

    def training_of(self, arm: Arm) -> dict[str, Any]:
        """Return epochs and rows per step of a method."""
        epochs = arm.epochs if arm.epochs is not None or "steps" in arm.options else self.epochs
        epochs = epochs if "epochs" in arm.built.options() else None
        return {"epochs": epochs, "batch_size": arm.batch_size or self.batch_size}

    def told(self, arm: Arm | None = None) -> dict[str, Any]:
        """Return what the figures of a model depend on: how it is measured, and how a method trains."""
        measured = {name: getattr(self, name) for name in ("samples", "max_new_tokens", "rouge")}
        if arm is None:
            return measured
        own = {name: getattr(arm, name) for name in ("method", "name", "options", "peft")}
        return measured | own | self.training_of(arm) | {"every": self.every}
