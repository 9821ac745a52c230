"""A study's influence problem, and the estimators that run on it and are measured."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from gunlearn.attribution import ESTIMATORS
from gunlearn.attribution.base import Estimator, InfluenceProblem
from gunlearn.attribution.distinct_items import Items
from gunlearn.attribution.read_items import resolve_items
from gunlearn.attribution.study.truths import Truth, truth_estimator
from gunlearn.cost import PeakMemory, Stopwatch
from gunlearn.errors import InvalidInputError, UnsupportedMethodError
from gunlearn.seed import isolated_rng
from gunlearn.tasks.base import Task

#: Controls: estimators that every other one must beat.
CONTROLS = ("random", "degree")


@dataclass
class Measured:
    """A result and its cost: seconds, and peak memory in MB if known."""

    problem: InfluenceProblem
    result: Any
    seconds: float
    memory: float | None


class Setting:
    """Makes a new problem, with a private model and the same seed, for each estimator."""

    def __init__(self, model: nn.Module, data: Data, task: Task, of: str, target: Any, items: Any, seed: int) -> None:
        self.model, self.data, self.task, self.target, self.seed = model, data, task, target, seed
        self.items: Items = resolve_items(data, of, items)[0]

    def problem(self) -> InfluenceProblem:
        """Return a new problem."""
        return InfluenceProblem.of(self.model, self.data, self.task, self.items, self.target, self.seed)

    def sample(self, number: int, name: str) -> Tensor:
        """Draw a random sample of the items, sorted indices `[min(number, num_items)]`; `name` is the option's name."""
        if number < 1:
            raise InvalidInputError(f"Expected '{name}' of at least 1 (got {number})")
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.randperm(self.items.num_items, generator=generator)[:number]
        return drawn.sort().values.to(self.items.ids.device)

    def measure(
        self, work: Callable[[InfluenceProblem], Any], sample: Tensor | None = None, warm: bool = False
    ) -> Measured:
        """Run `work` on a new problem, restricted to a sample of the items; `warm` runs the model once before."""
        with isolated_rng(self.seed):
            problem = self.problem() if sample is None else self.problem().take(sample)
            if warm:  # cached matrices and first kernel calls are not the estimator's own cost
                outputs = problem.encode(problem.data)
                if outputs.requires_grad:
                    outputs.sum().backward()
                    problem.model.zero_grad(set_to_none=True)
            device = problem.outputs.device
            _wait(device)
            memory, watch = PeakMemory(device), Stopwatch()
            with torch.enable_grad():
                result = work(problem)
            _wait(device)
            return Measured(problem, result, watch.seconds, memory.mb)

    def choose(
        self,
        estimators: Sequence[str | Estimator] | None,
        options: Mapping[str, Mapping[str, Any]],
        truth: Truth,
        shared: dict[str, Any],
    ) -> dict[str, Estimator]:
        """Return estimators by label: the name, plus options where a name comes more than once.

        `None` takes all estimators that fit and answer the truth's question. `shared` holds options that take the
        truth's value, unless `options` (by name) sets them.
        """

        def build(entry: str | Estimator) -> Estimator:
            if not isinstance(entry, str) or entry not in ESTIMATORS:
                return ESTIMATORS.build(entry, {})
            cls = ESTIMATORS[entry]
            taken = {name: value for name, value in shared.items() if name in cls.options()}
            if getattr(cls, "curvature", None) == "hessian":  # its damping makes it positive definite
                taken.pop("damping", None)
            return ESTIMATORS.build(entry, {**taken, **options.get(entry, {})})

        if estimators is None:
            problem, estimators = self.problem(), []
            for name, cls in ESTIMATORS.items():
                if name in CONTROLS or (cls.question == truth.question and name != "brute"):
                    with suppress(UnsupportedMethodError):
                        estimator = build(name)
                        estimator.supports(problem)
                        estimators.append(estimator)
        if not estimators or isinstance(estimators, str):
            raise InvalidInputError(f"Expected a list of estimators, at least one (got {estimators!r})")
        built = [build(entry) for entry in estimators]
        names = [estimator.name for estimator in built]
        unknown = sorted(set(options) - set(names) - {truth_estimator(truth.name)})
        if unknown:
            raise InvalidInputError(f"Expected options of the chosen estimators (got some of {unknown})")
        return {e.name if names.count(e.name) == 1 else _with_options(e): e for e in built}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _with_options(estimator: Estimator) -> str:
    plain = type(estimator)()
    options = ((name, getattr(estimator, name), getattr(plain, name)) for name in estimator.options())
    told = [f"{name}={value}" for name, value, default in options if value != default]
    return estimator.name + (f" ({', '.join(told)})" if told else "")
