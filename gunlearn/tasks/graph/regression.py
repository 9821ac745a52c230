"""Regression: an item is a node or a graph, its label one or several numbers."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from gunlearn.core.checks import check_number
from gunlearn.errors import InvalidInputError
from gunlearn.losses import Prediction
from gunlearn.tasks.graph.graph_classification import WholeGraphs
from gunlearn.tasks.graph.multilabel import OwnLabels
from gunlearn.tasks.graph.node_classification import NodeItems


class NodeRegression(OwnLabels):
    """Each node has the numbers `data.y`, `[num_nodes]` or `[num_nodes, num_targets]`; the model returns as many.

    NaN means "unknown", but a training node needs one number; masks are those of `NodeClassification`. A node's
    likelihood is normal around the model's output: `log_prob` is minus half the squared error in units of `scale`, up
    to a constant. So training minimises half the squared error (summed over targets), and divergences between models
    are those of normal distributions.

    Args:
        scale: standard deviation of each target, one number for all or one each. `None` trains with 1, and takes the
            root mean squared error of the model's retained training nodes to unlearn and evaluate with.

    Raises:
        InvalidInputError: a scale that is not positive, or labels that are no finite numbers.
    """

    name = "node_regression"
    summary = "which number belongs to this node?"
    rows = ("predictions", "num_targets")

    def __init__(self, scale: float | Sequence[float] | None = None) -> None:
        values = () if scale is None else tuple(scale) if isinstance(scale, Sequence) else (scale,)
        for value in values:
            check_number("scale", value, positive=True)
        self.scale = values or None
        self.fit: tuple[float, ...] | None = None

    def unit(self, like: Tensor) -> Tensor:
        """Return the standard deviation of each target, `[1]` or `[num_targets]`."""
        return torch.tensor(self.scale or self.fit or (1.0,), dtype=like.dtype, device=like.device)

    def known_entries(self, y: Tensor) -> Tensor:
        if not y.is_floating_point():
            raise InvalidInputError(f"Expected numbers data.y of a floating point type (got {y.dtype}); pass y.float()")
        if bool(y.isinf().any()):
            place = y.isinf().nonzero()[0].tolist()
            raise InvalidInputError(f"Expected numbers data.y that are finite, NaN where unknown (got inf at {place})")
        return ~y.isnan()

    def decode(self, model: nn.Module, outputs: Tensor, items: NodeItems) -> Prediction:
        """Return the normal prediction of each node; `logits` `[num_items, num_targets]` are means by `scale`.

        A model with another number of outputs than there are targets raises `UnsupportedModelError`.
        """
        truth = self.columns(items.label)
        self.check_width(outputs, truth.size(1))
        unit = self.unit(outputs)
        if unit.numel() not in (1, truth.size(1)):
            raise InvalidInputError(f"Expected a scale of each of {truth.size(1)} targets (got {unit.numel()})")
        mean, truth = outputs[items.index] / unit, truth.to(outputs) / unit
        error = torch.where(truth.isnan(), 0, mean - truth.nan_to_num())
        weight = None if items.weight is None else items.weight.to(mean)
        return Prediction(log_prob=-error.square().sum(1) / 2, logits=mean, weight=weight, gaussian=True)

    def fitted(self, outputs: Tensor, data: Data) -> "NodeRegression":
        """Take the root mean squared error of the training items as the scale, unless the caller gave one."""
        if self.scale is not None:
            return self
        items = self.train_items(data)
        truth = self.columns(items.label).to(outputs).double()
        error = (outputs[items.index].double() - truth).square().nanmean(0).sqrt()
        # A model that recalls every label would have none: a thousandth of the labels' own spread is the least.
        spread = (truth - truth.nanmean(0)).square().nanmean(0).sqrt()
        least = torch.where(spread > 0, spread, torch.ones_like(spread)) / 1000
        task = copy.copy(self)
        task.fit = tuple(torch.where(error > least, error, least).tolist())
        return task

    def guess(self, prediction: Prediction, items: Any) -> float:
        truth = self.columns(items.label).to(prediction.log_prob).double()
        error = ((truth - truth.nanmean(0)) / self.unit(truth)).nan_to_num()
        return float(error.square().sum(1).mean() / 2)

    def for_training(self) -> "NodeRegression":
        task = copy.copy(self)
        task.fit = None
        return task

    def remarks(self, model: nn.Module) -> dict[str, Any]:
        used = self.scale or self.fit
        return {**super().remarks(model), **({} if used is None else {"scale": list(used)})}


class GraphRegression(WholeGraphs, NodeRegression):
    """Each graph of a batch has the numbers `data.y`, `[num_graphs]` or `[num_graphs, num_targets]`.

    See `NodeRegression` for the likelihood, `WholeGraphs` for data, model and requests.
    """

    name = "graph_regression"
    summary = "which number belongs to this graph?"
