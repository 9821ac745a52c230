"""Requests that choose edges by their influence on a trained model."""

from typing import Any

from torch import nn
from torch_geometric.data import Data

from gunlearn.attribution.base import estimate
from gunlearn.requests.base import Request
from gunlearn.tasks.base import Task


def resolve_for(request: Request, model: nn.Module, data: Data, task: Task) -> Any:
    """Return the partition of `data` that a request makes, for any kind of request.

    One with `by="influence"` draws the edges of the largest exact removal influence on `model` (see
    `gunlearn.influence`), whoever calls: `gunlearn.unlearn`, grids and the command line.
    """
    if not request.needs_scores:
        return request.resolve(data)
    return request.resolve(data, estimate(model, data, task, of="edges", estimator="exact").scores)
