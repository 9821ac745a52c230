"""Evaluators of classifiers, and of independent items (images, rows of an array)."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gunlearn.losses import Prediction
from gunlearn.metrics.problem import Evaluator, logits_of
from gunlearn.metrics.view import ModelView
from gunlearn.tasks.items.arrays import ArrayItems
from gunlearn.tasks.items.tables import rows_at

BATCH = 1024  # items that are loaded at a time


@dataclass(frozen=True)
class TableRows:
    """Rows `index` `[num_items]` of a table of items, not yet loaded."""

    data: Any
    index: Tensor


class CategoricalEvaluator(Evaluator):
    """Items of one of several classes; logits are `[num_items, num_classes]`."""

    headline: ClassVar = ("test_acc", "mia_auc")

    def probability(self, prediction: Prediction) -> Tensor:
        return logits_of(prediction).double().softmax(-1)

    def likelihood(self, prediction: Prediction) -> Tensor:
        return prediction.log_prob.double().exp()

    def score(self, prediction: Prediction) -> Tensor:
        return prediction.log_prob

    def skills(self, view: ModelView) -> tuple[float | None, ...]:
        """Return balanced accuracy, and the mean log-likelihood as a share of what a uniform guess lacks."""
        probability, label, score = view.probability("retain"), view.label("retain"), view.score("retain")
        if probability is None or label is None or score is None or not label.numel():
            return ()
        hits = (probability.argmax(-1) == label).double()
        shares = torch.stack([hits[label == c].mean() for c in label.unique()])
        chance = 1 / shares.numel()
        likelihood = 1 + float(score.double().mean()) / math.log(max(probability.size(-1), 2))
        return None if chance == 1 else float((shares.mean() - chance) / (1 - chance)), likelihood


class ItemEvaluator(CategoricalEvaluator):
    """Classification of independent items; the test set is `data.test_mask`."""

    aliases: ClassVar = {"unseen": "test"}

    def item_sets(self) -> dict[str, tuple[Any | None, Any]]:
        data = self.partition.data
        masks = {"forget": self.partition.forget_mask, "retain": self.partition.retain_mask}
        masks["test"] = data.test_mask if "test_mask" in data else torch.zeros_like(masks["forget"])
        rows = {part: TableRows(data, mask.nonzero().view(-1)) for part, mask in masks.items()}
        return {part: (items if items.index.numel() else None, data) for part, items in rows.items()}

    def decode(self, model: nn.Module, outputs: Any, items: TableRows) -> Prediction:
        batches = (ArrayItems(*rows_at(items.data, index)) for index in items.index.split(BATCH))
        found = [(self.task.decode(model, outputs, batch), batch.y) for batch in batches]
        return Prediction(
            log_prob=torch.cat([prediction.log_prob for prediction, _ in found]),
            logits=torch.cat([logits_of(prediction) for prediction, _ in found]),
            label=torch.cat([y for _, y in found]),
        )
