"""Work on an influence problem, with what it cost."""

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
    """What a piece of work gave and cost."""

    problem: InfluenceProblem
    result: Any
    seconds: float
    memory: float | None


class Setting:
    """The problem, made anew for each estimator: a private model each, the same seed."""

    def __init__(self, model: nn.Module, data: Data, task: Task, of: str, target: Any, items: Any, seed: int) -> None:
        self.model, self.data, self.task, self.target, self.seed = model, data, task, target, seed
        self.items: Items = resolve_items(data, of, items)[0]

    def problem(self) -> InfluenceProblem:
        """A new one."""
        return InfluenceProblem.of(self.model, self.data, self.task, self.items, self.target, self.seed)

    def measure(
        self, work: Callable[[InfluenceProblem], Any], sample: Tensor | None = None, warm: bool = False
    ) -> Measured:
        """Run a piece of work on a new problem, about a sample of the items."""
        with isolated_rng(self.seed):
            problem = self.problem() if sample is None else self.problem().take(sample)
            if warm:  # matrices that are remembered by the graph, first calls of kernels: nobody's own cost
                outputs = problem.encode(problem.data)
                if outputs.requires_grad:
                    outputs.sum().backward()
                    problem.model.zero_grad(set_to_none=True)
            _ = problem.outputs
            device = problem.outputs.device
            _wait(device)
            memory, watch = PeakMemory(device), Stopwatch()
            with torch.enable_grad():  # whatever the caller's setting
                result = work(problem)
            _wait(device)
            return Measured(problem, result, watch.seconds, memory.mb)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def sample_of(items: Items, number: int, name: str, seed: int) -> Tensor:
    """Places of a random sample of items, in order `[min(number, num_items)]`.

    Raises:
        InvalidInputError: none asked for; `name` says where.
    """
    if number < 1:
        raise InvalidInputError(f"Expected '{name}' of at least 1 (got {number})")
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(items.num_items, generator=generator)[:number]
    return drawn.sort().values.to(items.ids.device)
