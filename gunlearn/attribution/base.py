"""Estimators of influence: their input, base class and result, and `estimate`."""

from __future__ import annotations

import copy
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from gunlearn.attribution import ESTIMATORS
from gunlearn.attribution.distinct_items import Items, plain_edges
from gunlearn.attribution.read_items import resolve_items
from gunlearn.attribution.targets import Probabilities, Target, as_target, as_value
from gunlearn.core.checks import check_model, check_seed
from gunlearn.core.detached import detached
from gunlearn.errors import InvalidInputError, InvalidTypeError, UnsupportedMethodError
from gunlearn.nn.attach.message_layers import message_passing_layers, suspended_caches
from gunlearn.seed import isolated_rng
from gunlearn.tasks.base import Task
from gunlearn.tasks.named import as_task
from gunlearn.tasks.trial import private_copy, trial_pass


@dataclass
class InfluenceProblem:
    """The input of an estimator.

    Attributes:
        model: a private copy of the caller's model in evaluation mode.
        data: the graph; shares its tensors with the caller's graph and must not change them.
        target: the quantity that the items influence.
        notes: the estimator's remarks for the result.
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
        """Return a problem on a private copy of `model`; `target` is anything that `as_target` takes.

        A model without message passing layers raises `UnsupportedModelError`.
        """
        message_passing_layers(model)  # raises where there is none
        model = getattr(model, "_orig_mod", model)  # a compiled model's backward pass runs once
        model, data = private_copy(model, task).eval(), plain_edges(detached(copy.copy(data)))
        items = dataclasses.replace(items, per_node=getattr(task, "per_node", True))
        return cls(model, data, task, items, as_target(target, model, data, task), seed)

    def encode(self, data: Data) -> Tensor:
        """Return the model's outputs on a graph, `[num_nodes, dim]`, without the caches of `cached=True` layers."""
        with suspended_caches(self.model):
            return self.task.encode(self.model, data)

    def value(self, outputs: Tensor) -> Tensor:
        """Return the target's value, a scalar, at outputs `[num_nodes, dim]`."""
        return as_value(self.target, "an estimator of values").value(outputs)

    @cached_property
    def outputs(self) -> Tensor:
        """Outputs on the whole graph, without a gradient `[num_nodes, dim]`; `InvalidInputError` if not finite."""
        with torch.no_grad():
            outputs = self.encode(self.data)
        if not torch.isfinite(outputs).all():
            raise InvalidInputError("Expected finite outputs of the model (got NaN or infinity)")
        return outputs

    def take(self, index: Tensor) -> InfluenceProblem:
        """Return the same problem for some of its items."""
        part = dataclasses.replace(self, items=self.items.take(index), notes={})
        if "outputs" in self.__dict__:
            part.outputs = self.outputs
        return part


class Estimator(ABC):
    """Estimates the influence of items; subclasses are frozen dataclasses whose fields are the options.

    An estimator answers one of two questions. How do the outputs change if

    - **removal**: the same model reads a graph without the item?
    - **training**: the model is trained without the item?

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
    question: ClassVar[str] = "removal"
    of: ClassVar[tuple[str, ...]] = ("edges", "nodes", "features")
    targets: ClassVar[tuple[str, ...]] = ("distance", "value")
    cost: ClassVar[str] = ""

    def supports(self, problem: InfluenceProblem) -> None:
        """Raise `UnsupportedMethodError`, with the reason, for a problem that the estimator cannot solve."""
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
        """Return one score per distinct item, `[problem.items.num_items]`."""

    def __call__(self, problem: InfluenceProblem) -> Tensor:
        """Check `supports` and return `scores`, whatever the caller's gradient mode."""
        self.supports(problem)
        with torch.enable_grad():
            return self.scores(problem).detach()

    @classmethod
    def options(cls) -> tuple[str, ...]:
        """Return the names of the options."""
        return tuple(f.name for f in dataclasses.fields(cls))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Influence:
    """Scores, with a record of how they were computed.

    Attributes:
        scores: one per item asked for; never negative for a distance, `after - before` for a value.
        question: `"removal"` or `"training"`.
        of: kind of the items.
        num_items: number of distinct items (both columns of an undirected edge are one).
        notes: the estimator's remarks: residuals, damping, fallbacks.
    """

    scores: Tensor
    estimator: str
    question: str
    of: str
    target: str
    num_items: int
    notes: dict[str, Any]


def estimate(
    model: nn.Module,
    data: Data,
    task: str | Task = "link_prediction",
    *,
    of: str = "edges",
    estimator: str | Estimator = "exact",
    target: str | Target | Callable[[Tensor], Tensor] = "probabilities",
    items: Any = None,
    seed: int = 0,
    call: Callable[..., Any] | None = None,
    decode: Callable[..., Any] | None = None,
    **options: Any,
) -> Influence:
    """Return the scores of `influence` with the estimator's remarks (residuals, damping, fallbacks) in `notes`."""
    check_model(model)
    check_seed(seed)
    task = as_task(task, call, decode)
    task.check_model(model)  # before its layers are looked at
    data = task.check_data(data)
    if not isinstance(estimator, str | Estimator):
        raise InvalidTypeError(f"Expected an estimator's name or an Estimator (got {type(estimator).__name__})")
    built = ESTIMATORS.build(estimator, options)
    task = as_task(task, call, decode)
    message_passing_layers(model)  # raises where there is none
    trial = trial_pass(model, data, task)
    task.warn_of_arguments(model, data, trial.outputs)
    task.warn_of_derived(data, edges=of != "features", features=of != "edges")
    with isolated_rng(seed):
        distinct, place = resolve_items(data, of, items)
        problem = InfluenceProblem.of(model, data, task, distinct, target, seed)
        scores = built(problem)
    check_scores(scores, f"estimator '{built.name}'")
    return Influence(
        scores[place], built.name, built.question, of, problem.target.name, distinct.num_items, problem.notes
    )


def check_scores(scores: Tensor, source: str) -> None:
    """Raise `InvalidInputError` for scores that are not finite; `source` names their origin."""
    if not torch.isfinite(scores).all():
        raise InvalidInputError(f"Expected finite scores from {source} (got NaN or infinity)")
