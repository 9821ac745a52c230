"""Run and measure estimators on an influence problem."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from gunlearn.attribution.base import InfluenceProblem
from gunlearn.attribution.distinct_items import Items, resolve_items
from gunlearn.cost import PeakMemory, Stopwatch
from gunlearn.errors import InvalidInputError
from gunlearn.seed import isolated_rng
from gunlearn.tasks.base import Task


@dataclass
class Measured:
    """The result and the cost of a piece of work: seconds, and peak memory in MB where it is known."""

    problem: InfluenceProblem
    result: Any
    seconds: float
    memory: float | None


class Setting:
    """Makes a new problem for each estimator, with a private model and the same seed."""

    def __init__(self, model: nn.Module, data: Data, task: Task, of: str, target: Any, items: Any, seed: int) -> None:
        self.model, self.data, self.task, self.target, self.seed = model, data, task, target, seed
        self.items: Items = resolve_items(data, of, items)[0]

    def problem(self) -> InfluenceProblem:
        """Return a new problem."""
        return InfluenceProblem.of(self.model, self.data, self.task, self.items, self.target, self.seed)

    def measure(
        self, work: Callable[[InfluenceProblem], Any], sample: Tensor | None = None, warm: bool = False
    ) -> Measured:
        """Run `work` on a new problem, restricted to a sample of the items; `warm` runs the model once before."""
        with isolated_rng(self.seed):
            problem = self.problem() if sample is None else self.problem().take(sample)
            if warm:  # matrices kept for the graph, first calls of kernels: they are no estimator's own cost
                outputs = problem.encode(problem.data)
                if outputs.requires_grad:
                    outputs.sum().backward()
                    problem.model.zero_grad(set_to_none=True)
            _ = problem.outputs
            device = problem.outputs.device
            _wait(device)
            memory, watch = PeakMemory(device), Stopwatch()
            with torch.enable_grad():
                result = work(problem)
            _wait(device)
            return Measured(problem, result, watch.seconds, memory.mb)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def sample_of(items: Items, number: int, name: str, seed: int) -> Tensor:
    """Draw a random sample of items: sorted indices `[min(number, num_items)]`.

    Raises:
        InvalidInputError: a number below 1; `name` is the option's name.
    """
    if number < 1:
        raise InvalidInputError(f"Expected '{name}' of at least 1 (got {number})")
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(items.num_items, generator=generator)[:number]
    return drawn.sort().values.to(items.ids.device)
