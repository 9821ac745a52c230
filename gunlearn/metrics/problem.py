"""Unlearning problems to compare models on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from gunlearn.errors import UnsupportedMethodError, UnsupportedModelError
from gunlearn.losses import Prediction
from gunlearn.losses.divergences import categorical_js_divergence, js_divergence
from gunlearn.metrics import EVALUATORS, FIGURES
from gunlearn.metrics.base import Figure, figures_of
from gunlearn.metrics.resemblance import check_predictions
from gunlearn.metrics.view import ModelView
from gunlearn.tasks.base import Task

if TYPE_CHECKING:
    from gunlearn.training.result import Result

#: Functions that evaluate models of other tasks.
_ELSEWHERE = {
    "causal_lm": "gunlearn.llm.metrics.evaluate_language_models",
    "denoising": "gunlearn.diffusion.metrics.evaluate_denoisers",
}


class Evaluator(ABC):
    """An unlearning problem: items to predict, and models retrained without the forgotten data.

    Args:
        task: what the models predict.
        partition: what was forgotten.
        references: models retrained without it under different seeds. Without any, distances are `None`; with one, the
            noise floor is `None`.
        seed: of figures that draw.
        metrics: further figures, see `figures_of`.

    Attributes:
        headline: names of the figures of utility and of forgetting that plots show.
        aliases: sets of items by another name for them.
        figures: what is measured, by name.
        original: the model before unlearning, for figures that compare with it; `None` where it is not known.

    Raises:
        InvalidInputError: two references that predict the same of every item.
    """

    headline: ClassVar[tuple[str, str]]
    aliases: ClassVar[dict[str, str]] = {}

    def __init__(
        self,
        task: Task,
        partition: Any,
        references: Sequence[nn.Module] = (),
        seed: int = 0,
        metrics: str | Figure | Iterable[str | Figure] = (),
    ) -> None:
        self.task, self.partition, self.seed = task, partition, seed
        self.figures = figures_of(task.measured_as or task.name, metrics)
        self.original: nn.Module | None = None
        self._untouched: ModelView | None = None
        self.items = self.item_sets()
        self.refer_to(references)

    def refer_to(self, references: Sequence[nn.Module]) -> None:
        """Compare with these retrained models from now on, and predict with each of them."""
        self.references = [ModelView(self, model) for model in references]
        for view in self.references:
            _ = view.predictions
        check_predictions(self.references, None)

    @property
    def untouched(self) -> ModelView | None:
        """The view of the original model on the data that all others read; `None` where it is not known."""
        if self.original is None:
            return None
        if self._untouched is None or self._untouched.model is not self.original:
            self._untouched = self.view(self.original)
        return self._untouched

    @abstractmethod
    def item_sets(self) -> dict[str, tuple[Any | None, Any]]:
        """Return the items of each set and the data they are read on; `None` for a set without items."""

    @abstractmethod
    def probability(self, prediction: Prediction) -> Tensor:
        """Return probabilities in float64: of pairs `[num_items]`, of classes `[num_items, num_classes]`."""

    @abstractmethod
    def likelihood(self, prediction: Prediction) -> Tensor:
        """Return the probability of each item's own label in float64, `[num_items]`."""

    @abstractmethod
    def score(self, prediction: Prediction) -> Tensor:
        """Return what items are ranked by, `[num_items]`: the higher, the surer the model is of them."""

    def shown(self, prediction: Prediction) -> Tensor:
        """Return what tells whether two models predict alike, in float64: scores that no probability near 1 hides."""
        logits, log_prob = prediction.logits, prediction.log_prob
        if logits is None or logits.shape == log_prob.shape or prediction.gaussian:
            return (log_prob if logits is None else logits).double()
        return logits.double().log_softmax(-1)

    def skills(self, view: ModelView) -> tuple[float | None, ...]:
        """Return how well a model predicts the retained items it was trained on, in one way or several.

        Each is 1 at best and 0 by chance, and `None` where the items cannot tell.
        """
        return ()

    def divergence(self, p: Tensor, q: Tensor) -> Tensor:
        """Return the Jensen-Shannon divergence of each item's `probability` under two models, `[num_items]` in nats."""
        return (js_divergence if p.dim() == 1 else categorical_js_divergence)(p, q)

    def encode(self, model: nn.Module, data: Any) -> Any:
        """Return what the task computes once for all items."""
        return self.task.encode(model, data)

    def decode(self, model: nn.Module, outputs: Any, items: Any) -> Prediction:
        """Return predictions of items from what `encode` returned."""
        return self.task.decode(model, outputs, items)

    def view(self, model: nn.Module, result: Result | None = None, full_graph: bool = False) -> ModelView:
        return ModelView(self, model, result, full_graph)

    def row(self, model: nn.Module) -> dict[str, float | None]:
        """Return all figures of a model by name."""
        return self.view(model).figures()


def evaluator(
    task: Task,
    partition: Any,
    references: Sequence[nn.Module] = (),
    seed: int = 0,
    metrics: str | Figure | Iterable[str | Figure] = (),
) -> Evaluator:
    """Return the `Evaluator` of a task, or raise UnsupportedMethodError where there is none."""
    name = task.measured_as or task.name
    if name not in EVALUATORS:
        where = f"; see {_ELSEWHERE[name]}" if name in _ELSEWHERE else ""
        if not type(task).__module__.startswith("gunlearn."):
            where = f"; set '{type(task).__name__}.measured_as' to one of them whose predictions are alike"
        known = ", ".join(EVALUATORS)
        raise UnsupportedMethodError(f"Expected a task among {known} to evaluate (got '{name}'){where}")
    return EVALUATORS[name](task, partition, references, seed=seed, metrics=metrics)


def headline(task: str | None) -> tuple[Figure, Figure]:
    """Return the figures of utility and of forgetting that plots show; those of link prediction for an unknown task."""
    utility, forgetting = EVALUATORS[task if task and task in EVALUATORS else "link_prediction"].headline
    return FIGURES[utility](), FIGURES[forgetting]()


def row_names() -> list[str]:
    """Return the names of all figures that rows of any task may have."""
    return [name for name, cls in FIGURES.items() if not cls.tasks or any(task in EVALUATORS for task in cls.tasks)]


def logits_of(prediction: Prediction) -> Tensor:
    """Return the logits of a prediction, or raise UnsupportedModelError where it has none."""
    if prediction.logits is None:
        raise UnsupportedModelError("Expected predictions with logits to evaluate (got log-likelihoods alone)")
    return prediction.logits
