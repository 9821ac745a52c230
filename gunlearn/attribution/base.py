"""What an estimator of influence is, what it is given, and what it hands back."""

from __future__ import annotations

import copy
import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from gunlearn.attribution.distinct_items import Items, plain_edges
from gunlearn.attribution.targets import Probabilities, Target, as_target
from gunlearn.errors import InvalidInputError, UnsupportedMethodError
from gunlearn.nn.attach.message_layers import message_passing_layers, suspended_caches
from gunlearn.tasks.base import Task


@dataclass
class InfluenceProblem:
    """What an estimator is given.

    Attributes:
        model: a private copy of the caller's model in evaluation mode: dropout is off, running averages stand still.
        data: the graph; shares its tensors with the caller's, which nobody changes.
        task: what the model predicts.
        items: the distinct items whose influence is asked for.
        target: what their influence is on.
        seed: of whatever is random.
        notes: remarks of the estimator, for the result.
    """

    model: nn.Module
    data: Data
    task: Task
    items: Items
    target: Target
    seed: int = 0
    notes: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, model: nn.Module, data: Data, task: Task, items: Items, target: Any = "probabilities", seed: int = 0
    ) -> InfluenceProblem:
        """A problem about a private copy of `model`; `target` is whatever `as_target` takes.

        Raises:
            UnsupportedModelError: the model has no message passing layer.
        """
        message_passing_layers(model)  # raises where there is none
        model, data = copy.deepcopy(model).eval(), plain_edges(copy.copy(data))
        return cls(model, data, task, items, as_target(target, model, data, task), seed)

    def encode(self, data: Data) -> Tensor:
        """Outputs of the model on a graph, `[num_nodes, dim]`; layers with `cached=True` compute afresh."""
        with suspended_caches(self.model):
            return self.task.encode(self.model, data)

    @cached_property
    def outputs(self) -> Tensor:
        """Outputs on the whole graph, without a gradient `[num_nodes, dim]`.

        Raises:
            InvalidInputError: they are not finite.
        """
        with torch.no_grad():
            outputs = self.encode(self.data)
        if not torch.isfinite(outputs).all():
            raise InvalidInputError("Expected finite outputs of the model (got NaN or infinity)")
        return outputs

    def take(self, index: Tensor) -> InfluenceProblem:
        """The same problem about some of its items only."""
        part = dataclasses.replace(self, items=self.items.take(index), notes={})
        if "outputs" in self.__dict__:
            part.outputs = self.outputs
        return part


class Estimator(ABC):
    """Estimates the influence of items; subclasses are frozen dataclasses, whose fields are the options.

    Two questions are kept apart:

    - **removal**: the model stays as it is, the graph it reads changes; what happens to its outputs?
    - **training**: the model would have been trained without the item; what would its outputs be?

    Class attributes describe the estimator in generated tables:

    - `name`, `summary`, `paper`;
    - `question`: `"removal"` or `"training"`;
    - `of`: kinds of item among `"edges"`, `"nodes"`, `"features"`;
    - `targets`: kinds of target among `"distance"` (how far outputs move) and `"value"` (the change of a number);
    - `cost`: in words.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    paper: ClassVar[str] = ""
    question: ClassVar[str]
    of: ClassVar[tuple[str, ...]]
    targets: ClassVar[tuple[str, ...]]
    cost: ClassVar[str] = ""

    def supports(self, problem: InfluenceProblem) -> None:
        """Refuse what the estimator cannot do.

        Raises:
            UnsupportedMethodError: with the reason.
        """
        if problem.items.of not in self.of:
            raise UnsupportedMethodError(
                f"Expected influence of {' or '.join(self.of)} with estimator '{self.name}' (got '{problem.items.of}')"
            )
        if problem.target.kind not in self.targets:
            raise UnsupportedMethodError(
                f"Expected a target of kind {' or '.join(self.targets)} with estimator '{self.name}' "
                f"(got '{problem.target.name}', a {problem.target.kind})"
            )

        if isinstance(problem.target, Probabilities) and problem.outputs.size(1) == 1:
            raise InvalidInputError(
                "Expected outputs of at least two columns with target 'probabilities' (got one, whose softmax is 1)"
            )

    @abstractmethod
    def scores(self, problem: InfluenceProblem) -> Tensor:
        """One score per distinct item, `[problem.items.num_items]`."""

    def __call__(self, problem: InfluenceProblem) -> Tensor:
        """`scores` after `supports`, whatever the caller's gradient mode."""
        self.supports(problem)
        with torch.enable_grad():
            return self.scores(problem).detach()

    @classmethod
    def options(cls) -> tuple[str, ...]:
        """Names of the options."""
        return tuple(f.name for f in dataclasses.fields(cls))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Influence:
    """Scores with the record of how they came about.

    Attributes:
        scores: one per item asked for; for a distance never negative, for a value `after - before`.
        estimator: name of the estimator.
        question: `"removal"` or `"training"`.
        of: kind of the items.
        target: name of the target.
        num_items: number of distinct items (both columns of an undirected edge are one).
        notes: remarks of the estimator: residuals, damping, fallbacks.
    """

    scores: Tensor
    estimator: str
    question: str
    of: str
    target: str
    num_items: int
    notes: dict[str, Any]
