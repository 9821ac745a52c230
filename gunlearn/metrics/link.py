"""What an unlearned link predictor is worth: utility, forgetting, distance to retraining with its noise floor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from gunlearn.errors import UnsupportedMethodError
from gunlearn.losses import Prediction
from gunlearn.metrics.base import Evaluator
from gunlearn.metrics.ranking import forget_separation, separation
from gunlearn.tasks.graph.link_prediction import LinkPrediction, forgotten_edges


@dataclass(frozen=True)
class EdgeProbabilities:
    """Probabilities a model gives: `forget` `[num_forget]`, `retain` `[num_retain]`, `test` `[num_test]`.

    Items are ranked by `logits`: probabilities above a logit of 37 are all 1.
    """

    forget: Tensor
    retain: Tensor
    test: Tensor | None
    logits: dict[str, Tensor | None]


class LinkEvaluator(Evaluator):
    """Compares link predictors of one unlearning problem; see `Evaluator`.

    Args:
        task: the link prediction task.
        partition: what was forgotten. With a node all its edges are, with features what they say of a node's edges.
        references: see `Evaluator`.
        draws: equal-size draws of retained edges for the forget AUC.
        seed: of the draws.
    """

    headline: ClassVar = (
        ("retain_auc", "retain AUC (test edges)"),
        ("forget_auc", "forget AUC (retained against forgotten edges)"),
    )

    def __init__(
        self,
        task: LinkPrediction,
        partition: Any,
        references: Sequence[nn.Module] = (),
        draws: int = 5,
        seed: int = 0,
    ) -> None:
        """Score the references once."""
        if not isinstance(task, LinkPrediction):
            raise UnsupportedMethodError(f"Expected a link prediction task to evaluate (got '{task.name}')")
        self.draws = draws
        super().__init__(task, partition, references, seed)

    def item_sets(self) -> dict[str, tuple[Any | None, Data]]:
        """See `Evaluator.item_sets`; the order of test items is positives, then negatives."""
        task, partition, data = self.task, self.partition, self.partition.retain_data
        there = data if partition.forgets == ("edges",) else partition.data
        self.test = task.held_out_items(data, "test")
        retain, blank = partition.retain_edge_index, torch.zeros(data.num_nodes, dtype=torch.bool)
        blank[partition.feature_nodes.cpu()] = True  # edges of nodes that lost features are the forget set's
        retain = retain[:, ~blank.to(retain.device)[retain].any(dim=0)]
        return {
            "forget": (task.edge_items(there, forgotten_edges(partition)), there),
            "retain": (task.edge_items(data, retain), data),
            "test": (self.test, data),
        }

    def collect(self, predictions: dict[str, Prediction | None]) -> EdgeProbabilities:
        """See `Evaluator.collect`."""
        logits = {name: None if p is None else p.logits for name, p in predictions.items()}
        probability = {name: None if score is None else score.double().sigmoid() for name, score in logits.items()}
        return EdgeProbabilities(**probability, logits=logits)

    def utility(self, p: EdgeProbabilities) -> dict[str, float | None]:
        """AUC and AP of test edges against their negatives: `retain_auc`, `retain_ap`."""
        auc = ap = None
        if p.test is not None:
            positive = self.test.label == 1
            auc, ap = separation(p.logits["test"][positive], p.logits["test"][~positive])
        return {"retain_auc": auc, "retain_ap": ap}

    def forgetting(self, p: EdgeProbabilities) -> dict[str, float | None]:
        """`forget_auc`, `forget_ap`, the mean probabilities `forget_prob`, `retain_prob`, and `mia_auc`.

        `mia_auc` is that of the simplest membership inference: how well the score tells forgotten edges, which the
        model was trained on, from test edges, which it never saw. Both kinds may differ in other ways, so the value of
        an honest retraining is what to compare with, not one half.
        """
        auc, ap = forget_separation(p.logits["forget"], p.logits["retain"], self.draws, self.seed)
        sets = (("forget_prob", p.forget), ("retain_prob", p.retain))
        means = {name: float(values.mean()) if values.numel() else None for name, values in sets}
        unseen = None if p.test is None else p.logits["test"][self.test.label == 1]
        mia = None if unseen is None else separation(p.logits["forget"], unseen)[0]
        return {"forget_auc": auc, "forget_ap": ap, **means, "mia_auc": mia}
