"""Yes-or-no labels: an item is a node or a graph with one or several labels that are 0 or 1."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from torch_geometric.data import Data

from gunlearn.errors import InvalidInputError, UnsupportedModelError
from gunlearn.losses import Prediction
from gunlearn.requests.graph_tensors import GONE
from gunlearn.tasks.graph.graph_classification import WholeGraphs
from gunlearn.tasks.graph.node_classification import NodeClassification, NodeItems
from gunlearn.tasks.logits import logit_of_pairs


class OwnLabels(NodeClassification):
    """Items with labels that are not one of several classes; a model may return one value per item, `[num_items]`."""

    @abstractmethod
    def known_entries(self, y: Tensor) -> Tensor:
        """Return which entries of `y` are known, in its shape; refuse entries that are no labels."""

    def outcomes(self, model: nn.Module) -> str:
        return ""

    def columns(self, y: Tensor) -> Tensor:
        """Return labels as `[num_items, num_labels]`, also of no items."""
        return y.unsqueeze(-1).flatten(1)

    def read_labels(self, data: Data) -> tuple[Tensor, Tensor]:
        y, size = data.get("y"), self.num_rows(data)
        if not isinstance(y, Tensor) or y.dim() not in (1, 2) or y.size(0) != size or not y.numel():
            got = f"{tuple(y.shape)} of {y.dtype}" if isinstance(y, Tensor) else type(y).__name__
            raise InvalidInputError(f"Expected labels data.y of shape [{size}] or [{size}, num_labels] (got {got})")
        return y, self.columns(self.known_entries(y)).any(1) & ~self.forgotten_items(data)

    def forgotten_items(self, data: Data) -> Tensor:
        """Return which items an earlier request took away, `[num_items]`: their labels are zeros now."""
        gone = data.get(GONE)
        return torch.zeros(self.num_rows(data), dtype=torch.bool, device=data.y.device) if gone is None else gone

    def shaped(self, out: Any, number: int) -> Any:
        return out.unsqueeze(1) if isinstance(out, Tensor) and out.shape == (number,) else out

    def check_width(self, outputs: Tensor, width: int) -> None:
        """Raise `UnsupportedModelError` unless the model returns one value per label."""
        if outputs.size(1) != width:
            raise UnsupportedModelError(
                f"Expected {width} {self.rows[0]} per item under task '{self.name}', one for each column of data.y "
                f"(got {outputs.size(1)})"
            )


class NodeMultilabel(OwnLabels):
    """Each node has labels `data.y` that are 0 or 1, `[num_nodes]` or `[num_nodes, num_labels]`.

    The model returns a logit per label. -1 and NaN mean "unknown"; masks are those of `NodeClassification`. Labels are
    independent given the model. With one label this is binary classification by one logit.
    """

    name = "node_multilabel"
    summary = "which of several labels, or the one, does this node have?"
    rows = ("logits", "num_labels")
    as_logits = staticmethod(logit_of_pairs)

    def outcomes(self, model: nn.Module) -> str:
        return "bernoulli"

    def known_entries(self, y: Tensor) -> Tensor:
        known = ~y.isnan() if y.is_floating_point() else y >= 0 if y.dtype != torch.bool else torch.ones_like(y)
        known = known & (y != -1) if y.dtype != torch.bool else known
        if bool((known & (y != 0) & (y != 1)).any()):
            raise InvalidInputError("Expected labels data.y of 0 and 1 (-1 or NaN where unknown) (got others)")
        return known

    def decode(self, model: nn.Module, outputs: Tensor, items: NodeItems) -> Prediction:
        """Return Bernoulli predictions; logits `[num_items]` of one label, else `[num_items, num_labels]`.

        A model with another number of outputs than there are labels raises `UnsupportedModelError`.
        """
        known, y = self.columns(self.known_entries(items.label)), self.columns(items.label)
        self.check_width(outputs, y.size(1))
        logits = outputs[items.index]
        if y.size(1) == 1:
            logits, y, known = logits.view(-1), y.view(-1), known.view(-1)
        log_prob = logsigmoid(torch.where(y == 1, logits, -logits))
        weight = None if items.weight is None else items.weight.to(logits)
        mask = None if bool(known.all()) else known
        if weight is not None and log_prob.dim() > 1:
            weight = weight.view(-1, 1)
        return Prediction(log_prob=log_prob, logits=logits, mask=mask, weight=weight)


class GraphMultilabel(WholeGraphs, NodeMultilabel):
    """Each graph of a batch has labels `data.y` that are 0 or 1, `[num_graphs]` or `[num_graphs, num_labels]`.

    See `NodeMultilabel` for the labels, `WholeGraphs` for data, model and requests.
    """

    name = "graph_multilabel"
    summary = "which of several labels, or the one, does this graph have?"
