"""The base class of unlearning methods, what a method gets and what it returns."""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from gunlearn.core.checks import check_choice
from gunlearn.core.digest import content_hash
from gunlearn.errors import InvalidInputError, UnsupportedMethodError
from gunlearn.tasks.base import Task
from gunlearn.training.callbacks import Callback, TrainState
from gunlearn.training.training_state import TrainingState

#: What methods may need beyond the model and the forget set.
NEEDS = (
    "retained data",  # training items that stay
    "reference model",  # outputs of the original model
    "second order",  # derivatives of the gradient
    "layer outputs",  # what each message passing layer returns
    "trainable layers",  # layers of its own, put into the model
    "linear head",  # one linear map on propagated features
    "retraining",  # a training from new weights, at least in part
)


@dataclass(frozen=True)
class Problem:
    """What a method gets: copies of the caller's model, the resolved request, the task, settings of the run.

    Attributes:
        model: a copy to change.
        reference: a copy in evaluation mode, never changed.
        fingerprint: hash of the whole run; a checkpoint of another run is refused.
        fresh: new values for what the model keeps of forgotten nodes; `None` if it keeps nothing.
    """

    model: nn.Module
    reference: nn.Module
    partition: Any
    task: Task
    seed: int = 0
    callbacks: Sequence[Callback] = ()
    progress: bool = False
    checkpoint_dir: str | Path | None = None
    fingerprint: str = ""
    fresh: Any = None

    @property
    def loop_settings(self) -> dict[str, Any]:
        """Return the arguments of `TrainArguments` that the run sets, not the method."""
        return {name: getattr(self, name) for name in ("progress", "checkpoint_dir", "fingerprint")}


@dataclass
class Outcome:
    """The unlearned model, the loop's state (`None` if the caller's function trained), and notes for the result.

    Attributes:
        unchanged: why no weight changed, where the method knows more of it than the state.
        training: what the next request goes on from, without the hash of the weights.
        proven: the gradient on the retained data is bounded, so that nothing learned from these can be lost.
    """

    model: nn.Module
    state: TrainState | None = field(default_factory=TrainState)
    notes: dict[str, Any] = field(default_factory=dict)
    unchanged: str = ""
    training: TrainingState | None = None
    proven: bool = False


class Method(ABC):
    """Base class: turns (model, data, request) into an unlearned model. Subclasses are dataclasses, one file each.

    Generated tables show these class attributes:

    - `name`, `summary`, `paper` (title or arXiv id, empty for a baseline);
    - `requests`, `tasks`: kinds of request and names of tasks that it takes, empty for any;
    - `needs`: words of `NEEDS`, separated by commas;
    - `state`: when what the model keeps of forgotten nodes (see `Task.forgotten_state`) is replaced: `"first"`, so that
      the method starts without it, and again at the end; `"last"` for one that computes on the trained model what the
      forgotten items did to it; `"own"` for one that makes it anew, or must not be changed afterwards; `"chosen"`
      for one that runs another method;
    - `rewrites`: the model that it returns has modules that the given one lacks, so that no path of weights joins them;
    - `one_label`: it reads one label of each item, which sequences of tokens do not have;
    - `runs_model`: it calls the model; without, a prepared graph (`gunlearn.prepare`) saves the trial pass too;
    - `certified`: it can give a guarantee; `notes["certificate"]` of the result says whether it does;
    - `cost`: passes over the data, in words;
    - `compared`: the study that held its paper mode against the authors' code; empty where it never was;
    - `variants`: label -> options; each is a row of its own in a comparison.
    """

    name: ClassVar[str] = "own"
    summary: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    requests: ClassVar[tuple[str, ...]] = ()
    tasks: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[str] = ""
    state: ClassVar[str] = "first"
    certified: ClassVar[bool] = False
    one_label: ClassVar[bool] = False
    runs_model: ClassVar[bool] = True
    rewrites: ClassVar[bool] = False
    cost: ClassVar[str] = ""
    compared: ClassVar[str] = ""
    variants: ClassVar[dict[str, dict[str, Any]]] = {"default": {}}

    def supports(self, task: Task, partition: Any) -> None:
        """Raise `UnsupportedMethodError` with the reason if the method cannot do this."""
        if self.tasks and task.name not in self.tasks:
            raise UnsupportedMethodError(f"Expected a task among {self.tasks} for '{self.name}' (got '{task.name}')")
        if self.one_label and not task.one_label:
            raise UnsupportedMethodError(
                f"Expected a method that works on labels per token for task '{task.name}' (got '{self.name}', which "
                "reads one label of each item)"
            )
        for kinds, whose in ((getattr(task, "requests", ()), f"task '{task.name}'"), (self.requests, f"'{self.name}'")):
            if kinds and not set(partition.forgets) <= set(kinds):
                got = " and ".join(f"'{kind}'" for kind in partition.forgets)
                raise UnsupportedMethodError(f"Expected a request for {kinds} for {whose} (got {got})")

    @classmethod
    def check_registered(cls) -> None:
        """Refuse a class of another package that `gunlearn.unlearn` could not build, or tables could not show."""
        if not dataclasses.is_dataclass(cls) or not cls.summary:
            raise InvalidInputError(f"Expected a dataclass with a 'summary' (got {cls.__name__} without)")
        unknown = sorted({*filter(None, cls.needs.split(", "))} - set(NEEDS))
        if unknown:
            raise InvalidInputError(f"Expected 'needs' among {', '.join(NEEDS)} (got {', '.join(unknown)})")

    @abstractmethod
    def run(self, problem: Problem) -> Outcome:
        """Unlearn; called under the run's own random state."""

    def run_with_fresh_state(self, problem: Problem) -> Outcome:
        """Run, and replace what the model keeps of forgotten nodes, see `state`: no method may bring it back."""
        fresh = problem.fresh if self.state in ("first", "last") else None
        if fresh is not None and self.state == "first":
            fresh.put(problem.model)
        outcome = self.run(problem)
        if fresh is not None:
            with torch.no_grad():
                outcome.model.eval()  # first: a memory is brought up to date when training ends
            fresh.put(outcome.model)
            outcome.notes |= fresh.notes()
            if outcome.training is not None:
                outcome.training = outcome.training.without_rows(outcome.model, fresh.put)
        return outcome

    @property
    def label(self) -> str:
        """Return the name of the variant in tables: the mode, if there is one."""
        return getattr(self, "mode", "default")

    def config(self) -> dict[str, Any]:
        """Return all options as plain values; functions by their names, which are the same in every process.

        Of states of optimisers there is a digest.
        """
        return {
            f.name: value
            if isinstance(value, str | int | float | bool | None)
            else getattr(value, "__qualname__", None) or _described(value)
            for f in dataclasses.fields(self)  # type: ignore[arg-type]
            for value in [getattr(self, f.name)]
        }

    @classmethod
    def options(cls) -> tuple[str, ...]:
        return tuple(f.name for f in dataclasses.fields(cls))  # type: ignore[arg-type]


def _described(value: Any) -> str:
    """Return how an option appears in a record: states, which hold tensors, by a digest."""
    state = value.state_dict() if isinstance(value, torch.optim.Optimizer) else value
    if isinstance(state, Mapping) and "param_groups" in state:
        return f"{type(value).__name__}({content_hash(state)[:8]})"
    return repr(value)


#: The default `None` of an option that the method's mode fills in: `lr: float = BY_MODE`.
BY_MODE: Any = None


def fill_in(method: Method, modes: Mapping[str, Mapping[str, Any]]) -> None:
    """Set options that are `None` to the values of the method's `mode`; call it in `__post_init__`.

    `optimizer_options` and `scheduler_options` stay `None` if the caller names an optimiser or scheduler.
    """
    mode = getattr(method, "mode", "")
    check_choice("mode", mode, tuple(modes))
    given = {name for name in modes[mode] if getattr(method, name) is not None}
    for name, value in modes[mode].items():
        if name not in given and name.removesuffix("_options") not in given:
            object.__setattr__(method, name, value)


_INTERVALS: dict[str, Callable[[float], bool]] = {
    "> 0": lambda value: 0 < value < math.inf,
    ">= 0": lambda value: 0 <= value < math.inf,
    "in (0, 1]": lambda value: 0 < value <= 1,
    "in [0, 1)": lambda value: 0 <= value < 1,
    "in [0, 1]": lambda value: 0 <= value <= 1,
}


def check_interval(method: Method, bounds: str, *names: str) -> None:
    """Refuse options outside one of `_INTERVALS`, NaN and infinity included."""
    for name in names:
        value = getattr(method, name)
        if not _INTERVALS[bounds](value):
            raise InvalidInputError(f"Expected '{name}' {bounds} (got {value})")


def check_whole(method: Method, **least: int) -> None:
    """Refuse options that are not integers of at least the given bound."""
    for name, bound in least.items():
        value = getattr(method, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < bound:
            raise InvalidInputError(f"Expected '{name}' to be an integer >= {bound} (got {value!r})")
