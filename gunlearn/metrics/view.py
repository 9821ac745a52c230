"""One model on an unlearning problem, as figures read it."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from gunlearn.core.digest import tensor_digests
from gunlearn.core.modes import evaluating
from gunlearn.errors import InvalidInputError, InvalidTypeError
from gunlearn.losses import Prediction
from gunlearn.metrics import FIGURES
from gunlearn.metrics.resemblance import copied, suspicion, untouched

if TYPE_CHECKING:
    from gunlearn.metrics.problem import Evaluator
    from gunlearn.training.result import Result

SETS = ("forget", "test", "retain")
BINS = 40
_Value = TypeVar("_Value")


class ModelView:
    """One model on one problem. It predicts when a figure first asks, and keeps the predictions.

    Args:
        problem: the evaluator that holds the items and the references.
        model: the model to evaluate; its training mode does not change.
        result: the record of its run, if there is one.
        full_graph: read all items on the original data, as a model before unlearning does.
    """

    def __init__(
        self, problem: Evaluator, model: nn.Module, result: Result | None = None, full_graph: bool = False
    ) -> None:
        self.problem, self.model, self.result, self.full_graph = problem, model, result, full_graph
        self.task, self.partition, self.seed = problem.task, problem.partition, problem.seed
        self._kept: dict[Any, Any] = {}

    @cached_property
    def predictions(self) -> dict[str, Prediction | None]:
        """Predictions of each set of items, in evaluation mode; `None` for a set without items."""
        outputs: dict[int, Any] = {}
        found: dict[str, Prediction | None] = {}
        with evaluating(self.model), torch.no_grad():
            for part, (items, own_data) in self.problem.items.items():
                data = self.partition.data if self.full_graph else own_data
                if items is not None and id(data) not in outputs:
                    outputs[id(data)] = self.problem.encode(self.model, data)
                found[part] = None if items is None else self.problem.decode(self.model, outputs[id(data)], items)
        return found

    def label(self, part: str) -> Tensor | None:
        """Return the labels of the items of a part, `[num_items]`; `None` without items.

        Parts are `"forget"`, `"retain"`, `"test"`, and `"unseen"`: the test items for membership inference.
        """
        part = self.problem.aliases.get(part, part)
        items, prediction = self.problem.items[part][0], self.predictions[part]
        if items is None or prediction is None:
            return None
        return items.label if prediction.label is None else prediction.label

    def probability(self, part: str) -> Tensor | None:
        """Return `Evaluator.probability` of a part; `None` without items, as for `likelihood` and `score`."""
        return self._read(self.problem.probability, part)

    def likelihood(self, part: str) -> Tensor | None:
        return self._read(self.problem.likelihood, part)

    def score(self, part: str) -> Tensor | None:
        return self._read(self.problem.score, part)

    def shown(self, part: str) -> Tensor | None:
        return self._read(self.problem.shown, part)

    def once(self, key: Any, compute: Callable[[], _Value]) -> _Value:
        """Return what `compute` returned at the first call with this `key`."""
        if key not in self._kept:
            self._kept[key] = compute()
        return self._kept[key]

    @property
    def references(self) -> list[ModelView]:
        """Views of the retrained models, without that of this model and without models whose weights it holds."""
        same = copied(self)
        others = [view for k, view in enumerate(self.problem.references, start=1) if k not in same]
        return [view for view in others if view.model is not self.model]

    @cached_property
    def digests(self) -> Counter[str]:
        """Hashes of the model's tensors."""
        return tensor_digests(self.model)

    @property
    def is_finite(self) -> bool:
        """Whether all probabilities are finite."""
        both = (self.probability(part) for part in SETS)
        return all(bool(torch.isfinite(p).all()) for p in both if p is not None)

    def __getitem__(self, name: str) -> float | None:
        """Return a figure by its name; InvalidTypeError where it is no number, InvalidInputError where it is NaN.

        One of another package that fails is `None`, with a warning: it may not even have been asked for.
        """
        try:
            value = self.problem.figures[name].compute(self)
        except Exception as error:
            package = FIGURES.origin(name)
            if not package:
                raise
            got = f"{type(error).__name__}: {error}"
            warnings.warn(f"The figure '{name}' of the package {package} is left out: {got}", stacklevel=2)
            return None
        if value is not None and not isinstance(value, int | float):
            raise InvalidTypeError(f"Expected figure '{name}' to be a number or None (got {type(value).__name__})")
        if value is not None and value != value:
            raise InvalidInputError(f"Expected a number from figure '{name}' (got NaN); the model may be broken")
        return value

    def figures(self) -> dict[str, float | None]:
        """Return all figures by name; without a result, only those of the model."""
        figures = self.problem.figures.items()
        return {name: self[name] for name, figure in figures if self.result is not None or not figure.of_run}

    def row(self) -> dict[str, Any]:
        """Return what is kept of the model: its run, the figures, a histogram of `likelihood("forget")`.

        `references` is the number of retrained models that distances and their floor come from.
        A model with a result has sentences under `unchanged` (its weights are the original's) and `suspicious` (it is
        nearer to retrained models than these are to each other), or `None`.
        """
        run = ("method", "mode", "seed", "num_forget", "request_hash", "versions")
        forget = self.likelihood("forget")
        return {
            **({} if self.result is None else {name: getattr(self.result, name) for name in run}),
            **({} if self.result is None else {"unchanged": untouched(self), "suspicious": suspicion(self)}),
            "task": self.task.measured_as or self.task.name,
            "references": len(self.problem.references),
            **self.figures(),
            "hist_forget": None if forget is None else histogram(forget),
        }

    def _read(self, read: Callable[[Prediction], Tensor], part: str) -> Tensor | None:
        part = self.problem.aliases.get(part, part)
        prediction = self.predictions[part]
        return None if prediction is None else self.once((read.__name__, part), lambda: read(prediction))


def histogram(probabilities: Tensor) -> list[int]:
    """Return counts in `BINS` equal bins of [0, 1]."""
    return [int(n) for n in torch.histc(probabilities.detach().cpu().double(), bins=BINS, min=0.0, max=1.0)]
