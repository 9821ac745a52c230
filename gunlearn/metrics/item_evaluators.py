"""Items of classifiers, and independent items (images, rows of an array), which need no graph."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gunlearn.losses import Prediction
from gunlearn.metrics.problem import Evaluator, logits_of
from gunlearn.tasks.items.arrays import ArrayItems

BATCH = 1024  # items at a time


class CategoricalEvaluator(Evaluator):
    """Items of one of several classes; logits are `[num_items, num_classes]`."""

    headline: ClassVar = ("test_acc", "mia_auc")

    def probability(self, prediction: Prediction) -> Tensor:
        return logits_of(prediction).double().softmax(-1)

    def likelihood(self, prediction: Prediction) -> Tensor:
        return prediction.log_prob.double().exp()

    def score(self, prediction: Prediction) -> Tensor:
        return prediction.log_prob


class ItemEvaluator(CategoricalEvaluator):
    """Classification of independent items: the forgotten rows, the other training rows, those of `data.test_mask`."""

    aliases: ClassVar = {"unseen": "test"}

    def item_sets(self) -> dict[str, tuple[Any | None, Any]]:
        data = self.partition.data
        masks = {"forget": self.partition.forget_mask, "retain": self.partition.retain_mask}
        masks["test"] = data.test_mask if "test_mask" in data else torch.zeros_like(masks["forget"])
        return {
            part: (ArrayItems(data.x[mask], data.y[mask]) if bool(mask.any()) else None, data)
            for part, mask in masks.items()
        }

    def label(self, items: ArrayItems) -> Tensor:
        return items.y

    def decode(self, model: nn.Module, outputs: Any, items: ArrayItems) -> Prediction:
        """Return predictions of items, read `BATCH` at a time."""
        batches = zip(items.x.split(BATCH), items.y.split(BATCH), strict=True)
        found = [self.task.decode(model, outputs, ArrayItems(x, y)) for x, y in batches]
        return Prediction(
            log_prob=torch.cat([p.log_prob for p in found]), logits=torch.cat([logits_of(p) for p in found])
        )
