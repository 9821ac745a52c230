"""A cheap estimate, corrected by the exact influence of a few items."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from torch import Tensor

from gunlearn.attribution import ESTIMATORS
from gunlearn.attribution.base import Estimator, InfluenceProblem
from gunlearn.attribution.removal.exact import Exact
from gunlearn.errors import InvalidInputError

_FOLDS = 5


@dataclass(frozen=True)
class Calibrated(Estimator):
    r"""Exact influence of a random sample; a ridge regression on it corrects a cheap estimate of the rest.

    The logarithm of the score is regressed on a polynomial of second degree in the logarithms of the cheap score and of
    the item's degrees. Predictions of left-out items (five folds of the sample) measure the error on *this* graph and
    model: `notes["spearman"]` is their rank correlation with the truth, and nine of ten lie within the factor
    `notes["factor_90"]` of it. Sampled items keep their exact scores.

    Args:
        base: name of the cheap estimator.
        sample: number of exact items; all items are exact if there are at most twice as many.

    Raises:
        InvalidInputError: a sample of fewer than 20 items.
        UnsupportedMethodError: the cheap estimator refuses the problem; `base="first_order"` takes any model.
    """

    base: str = "local"
    sample: int = 100

    name = "calibrated"
    summary = "a cheap estimate corrected by exact scores of a sample, with a measured error"
    of = ("edges", "nodes")
    targets = ("distance",)
    cost = "the cheap estimate and the exact scores of a sample"

    def __post_init__(self) -> None:
        if self.sample < 20:
            raise InvalidInputError(f"Expected a sample of at least 20 items (got {self.sample})")

    def scores(self, problem: InfluenceProblem) -> Tensor:
        items = problem.items
        if items.num_items <= 2 * self.sample:
            return Exact().scores(problem)
        base = ESTIMATORS.build(self.base, {})
        cheap = base(problem)
        generator = torch.Generator().manual_seed(problem.seed)
        chosen = torch.randperm(items.num_items, generator=generator)[: self.sample].sort().values.to(cheap.device)
        part = problem.take(chosen)
        exact = Exact().scores(part)
        problem.notes |= {"base": self.base, "exact_items": self.sample, "path": part.notes["path"]}
        if not bool((exact > 0).any()):
            return torch.zeros_like(cheap)
        features = np.column_stack([_log(cheap), *_degrees(problem)])
        known, picked = _log(exact), chosen.cpu().numpy()
        model = make_pipeline(StandardScaler(), PolynomialFeatures(2), RidgeCV(np.logspace(-3, 3, 13)))
        held_out = cross_val_predict(model, features[picked], known, cv=_FOLDS)
        model.fit(features[picked], known)
        found = torch.from_numpy(np.exp(model.predict(features).clip(known.min() - 1, known.max() + 1))).to(cheap)
        found[chosen] = exact.to(cheap)
        problem.notes |= {
            "spearman": None if np.ptp(known) == 0 else float(spearmanr(held_out, known).statistic),
            "factor_90": float(np.exp(np.quantile(np.abs(held_out - known), 0.9))),
        }
        return found


def _log(scores: Tensor) -> np.ndarray:
    values = scores.double().cpu().numpy()
    positive = values[values > 0]
    return np.log(np.maximum(values, positive.min() if positive.size else 1.0))


def _degrees(problem: InfluenceProblem) -> list[np.ndarray]:
    """Return the log degree of each node, or of an edge's ends (smaller, larger)."""
    items = problem.items
    degree = torch.bincount(problem.data.edge_index[1], minlength=items.num_nodes)
    ends = degree[items.ids]
    sizes = [ends.amin(dim=0), ends.amax(dim=0)] if items.of == "edges" else [ends]
    return [np.log1p(size.cpu().numpy()) for size in sizes]
