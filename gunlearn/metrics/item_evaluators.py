"""Evaluators of classifiers, and of independent items (images, rows of an array)."""

import math
import warnings
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gunlearn.losses import Prediction
from gunlearn.metrics.problem import Evaluator, logits_of
from gunlearn.metrics.view import ModelView
from gunlearn.tasks.items.array_parts import TableRows
from gunlearn.tasks.items.columns import Column


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
        if isinstance(data.x, Column) and data.x.draws():
            warnings.warn(
                "items differ when they are read again: a transform of the data set draws (augmentation). Figures are "
                "of one draw, the same for all models; make the figures' data set without it",
                stacklevel=6,
            )
        masks = {"forget": self.partition.forget_mask, "retain": self.partition.retain_mask}
        masks["test"] = data.test_mask if "test_mask" in data else torch.zeros_like(masks["forget"])
        rows = {part: TableRows(data, mask.nonzero().view(-1)) for part, mask in masks.items()}
        return {part: (items if items.index.numel() else None, data) for part, items in rows.items()}

    def decode(self, model: nn.Module, outputs: Any, items: TableRows) -> Prediction:
        return items.decode(self.task, model, outputs)
