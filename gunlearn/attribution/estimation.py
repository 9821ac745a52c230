"""Estimate the influence of edges, nodes or features in one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from gunlearn.attribution import ESTIMATORS
from gunlearn.attribution.base import Estimator, Influence, InfluenceProblem
from gunlearn.attribution.distinct_items import resolve_items
from gunlearn.attribution.targets import Target
from gunlearn.core.checks import check_model
from gunlearn.errors import InvalidInputError
from gunlearn.seed import isolated_rng
from gunlearn.tasks.base import Task
from gunlearn.tasks.graph.base import check_graph
from gunlearn.tasks.named import as_task


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
    **options: Any,
) -> Influence:
    """Return what `influence` returns, with the estimator's remarks (residuals, damping, fallbacks) in `notes`."""
    check_model(model)
    check_graph(data)
    built = ESTIMATORS.build(estimator, options)
    with isolated_rng(seed):
        distinct, place = resolve_items(data, of, items)
        problem = InfluenceProblem.of(model, data, as_task(task), distinct, target, seed)
        scores = built(problem)
    check_scores(scores, f"estimator '{built.name}'")
    return Influence(
        scores[place], built.name, built.question, of, problem.target.name, distinct.num_items, problem.notes
    )


def check_scores(scores: Tensor, source: str) -> None:
    """Refuse scores that are not finite; `source` says where they come from."""
    if not torch.isfinite(scores).all():
        raise InvalidInputError(f"Expected finite scores from {source} (got NaN or infinity)")
