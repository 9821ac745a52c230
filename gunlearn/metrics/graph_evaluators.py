"""Items of graph tasks. Models read the retained graph; items that are not in it are read on the original graph."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from gunlearn.errors import UnsupportedMethodError
from gunlearn.losses import Prediction
from gunlearn.metrics.item_evaluators import CategoricalEvaluator
from gunlearn.metrics.problem import Evaluator, logits_of
from gunlearn.metrics.ranking import separation
from gunlearn.metrics.view import ModelView
from gunlearn.nn.attach.message_layers import suspended_caches
from gunlearn.tasks.graph.link_prediction import LinkPrediction, forgotten_edges
from gunlearn.tasks.graph.node_classification import NodeClassification


class GraphEvaluator(Evaluator):
    """Set aside the caches of layers with `cached=True` while models are evaluated."""

    def encode(self, model: nn.Module, data: Any) -> Any:
        with suspended_caches(model):
            return super().encode(model, data)


class LinkEvaluator(GraphEvaluator):
    """Link prediction. The forget set of nodes, or of their features, holds all edges of these nodes.

    Test items are positives, then negatives. Items are ranked by logits, since probabilities are 1 above a logit of 37.

    Raises:
        UnsupportedMethodError: another task.
    """

    headline: ClassVar = ("retain_auc", "forget_auc")
    aliases: ClassVar = {"unseen": "test"}

    def item_sets(self) -> dict[str, tuple[Any | None, Any]]:
        if not isinstance(self.task, LinkPrediction):
            raise UnsupportedMethodError(f"Expected a link prediction task to evaluate (got '{self.task.name}')")
        task, partition, data = self.task, self.partition, self.partition.retain_data
        there = data if partition.forgets == ("edges",) else partition.data
        retain, blank = partition.retain_edge_index, torch.zeros(data.num_nodes, dtype=torch.bool)
        blank[partition.feature_nodes.cpu()] = True  # their edges belong to the forget set
        retain = retain[:, ~blank.to(retain.device)[retain].any(dim=0)]
        return {
            "forget": (task.edge_items(there, forgotten_edges(partition)), there),
            "retain": (task.edge_items(data, retain), data),
            "test": (task.held_out_items(data, "test"), data),
        }

    def probability(self, prediction: Prediction) -> Tensor:
        return self.score(prediction).double().sigmoid()

    def likelihood(self, prediction: Prediction) -> Tensor:
        return self.probability(prediction)  # forgotten and retained edges are all labelled 1

    def score(self, prediction: Prediction) -> Tensor:
        return logits_of(prediction)

    def skills(self, view: ModelView) -> tuple[float | None, ...]:
        """Return what AUC retained edges have against test negatives, and the log-likelihood, as shares."""
        retain, test, label = view.score("retain"), view.score("test"), view.label("test")
        auc = None if retain is None or test is None else separation(retain, test[label != 1])[0]
        if auc is None or retain is None or test is None:
            return ()
        loss = softplus(-retain.double()).mean() + softplus(test[label != 1].double()).mean()
        return 2 * auc - 1, 1 - float(loss) / (2 * math.log(2))


class ClassEvaluator(GraphEvaluator, CategoricalEvaluator):
    """Classification of nodes or graphs.

    The forget set holds the training nodes (or graphs) that are removed or lose features, read on the original graph.
    For edges it holds their labelled end points, read on the retained graph. There are no unseen items then: an edge is
    no member.
    """

    task: NodeClassification

    def item_sets(self) -> dict[str, tuple[Any | None, Any]]:
        task, partition, data = self.task, self.partition, self.partition.retain_data
        test = task.held_out_items(data, "test")
        edges = partition.forgets == ("edges",)
        there = data if edges else partition.data
        return {
            "forget": (task.touched(partition) if edges else task.forgotten(partition), there),
            "retain": (task.train_items(data), data),
            "test": (test, data),
            "unseen": (None if edges else test, there),
        }
