"""What evaluators share: every model reads the same graphs in evaluation mode, and is compared with retrained ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import combinations
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from gunlearn.errors import InvalidInputError
from gunlearn.losses import Prediction
from gunlearn.losses.divergences import categorical_js_divergence, js_divergence
from gunlearn.nn.attach.message_layers import suspended_caches
from gunlearn.tasks.base import Task

SETS = ("forget", "test", "retain")


class Evaluator(ABC):
    """Compares models of one unlearning problem.

    Every model reads the retained graph. Forgotten nodes and features are not in it, so their items are read where they
    still are, on the original graph, by unlearned and retrained models alike.

    Args:
        task: what the models predict.
        partition: what was forgotten.
        references: models retrained without it, under different seeds; with none, distances are `None`, with one, the
            noise floor is `None`.
        seed: of whatever is drawn.

    Attributes:
        headline: the figures of utility and of forgetting that plots show, name and words.
    """

    headline: ClassVar[tuple[tuple[str, str], tuple[str, str]]]

    def __init__(self, task: Task, partition: Any, references: Sequence[nn.Module] = (), seed: int = 0) -> None:
        """Score the references once."""
        self.task, self.partition, self.seed = task, partition, seed
        self.items = self.item_sets()
        self.references = [(model, self.probabilities(model)) for model in references]
        for (_, p), (_, q) in combinations(self.references, 2):
            if torch.equal(p.retain, q.retain) and torch.equal(p.forget, q.forget):
                raise InvalidInputError(
                    "Expected references that were retrained under different seeds (got two that score every item "
                    "alike); their distance would be no noise floor"
                )

    @abstractmethod
    def item_sets(self) -> dict[str, tuple[Any | None, Data]]:
        """Items of each set and the graph they are read on; `None` for items that there are none of."""

    @abstractmethod
    def collect(self, predictions: dict[str, Prediction | None]) -> Any:
        """What `probabilities` returns; it has an attribute of each of `SETS`."""

    @abstractmethod
    def utility(self, p: Any) -> dict[str, float | None]:
        """What the model is good for."""

    @abstractmethod
    def forgetting(self, p: Any) -> dict[str, float | None]:
        """What it still knows."""

    def forget_probability(self, p: Any) -> Tensor:
        """Probability of each forgotten item's own label, `[num_forget]`."""
        return p.forget

    @torch.no_grad()
    def probabilities(self, model: nn.Module, full_graph: bool = False) -> Any:
        """What the model says of each set; `full_graph` reads all of them on the original graph."""
        modes = {module: module.training for module in model.modules()}
        model.eval()
        outputs: dict[int, Any] = {}
        try:
            predictions = {}
            for name, (items, graph) in self.items.items():
                data = self.partition.data if full_graph else graph
                if items is None:
                    predictions[name] = None
                    continue
                if id(data) not in outputs:
                    with suspended_caches(model):
                        outputs[id(data)] = self.task.encode(model, data)
                predictions[name] = self.task.decode(model, outputs[id(data)], items)
        finally:
            for module, mode in modes.items():
                module.training = mode
        return self.collect(predictions)

    def distance(self, model: nn.Module, p: Any) -> dict[str, float | None]:
        """Mean Jensen-Shannon divergence (nats per item) to the references and among them.

        `js_forget`, `js_test`, `js_retain` average over the references, leaving out `model` itself;
        `js_floor_*` average over pairs of references: what two honest retrainings differ by.

        Raises:
            InvalidInputError: NaN among the probabilities.
        """
        out: dict[str, float | None] = {}
        others = [q for reference, q in self.references if reference is not model]
        for name in SETS:
            out[f"js_{name}"] = _mean([_js(getattr(p, name), getattr(q, name)) for q in others])
            pairs = combinations([getattr(q, name) for _, q in self.references], 2)
            out[f"js_floor_{name}"] = _mean([_js(a, b) for a, b in pairs])
        return out

    def row(self, model: nn.Module) -> dict[str, float | None]:
        """All figures for one model."""
        p = self.probabilities(model)
        return {**self.utility(p), **self.forgetting(p), **self.distance(model, p)}


def _js(p: Tensor | None, q: Tensor | None) -> float | None:
    if p is None or q is None or not p.numel():
        return None
    divergence = float((js_divergence if p.dim() == 1 else categorical_js_divergence)(p, q).mean())
    if divergence != divergence:
        raise InvalidInputError("Expected probabilities without NaN (got some); the model is broken")
    return divergence


def _mean(values: list[float | None]) -> float | None:
    return None if not values or any(v is None for v in values) else sum(values) / len(values)
