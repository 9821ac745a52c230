"""What an unlearned classifier of nodes or graphs is worth: accuracy, membership inference, distance to retraining."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from torch_geometric.data import Data

from gunlearn.losses import Prediction
from gunlearn.metrics.base import Evaluator
from gunlearn.metrics.ranking import separation


@dataclass(frozen=True)
class ClassProbabilities:
    """Probabilities a model gives to classes, `[num_items, num_classes]` for each set, and its log-likelihoods.

    `unseen` are the test items as the original graph shows them, beside which membership inference sets the forgotten
    ones.
    """

    forget: Tensor
    retain: Tensor
    test: Tensor | None
    unseen: Tensor | None
    log_prob: dict[str, Tensor | None]


class ClassEvaluator(Evaluator):
    """Compares classifiers of one unlearning problem; see `Evaluator`.

    The forget set holds the training nodes (or graphs) that go or lose features, as the original graph shows them; for
    a request that names edges alone, the labelled end points of these, on the retained graph.
    """

    headline: ClassVar = (("test_acc", "test accuracy"), ("mia_auc", "membership inference AUC"))

    def item_sets(self) -> dict[str, tuple[Any | None, Data]]:
        """See `Evaluator.item_sets`."""
        partition, data = self.partition, self.partition.retain_data
        there = data if partition.forgets == ("edges",) else partition.data
        edges = partition.forgets == ("edges",)
        return {
            "forget": (self.task.touched(partition) if edges else self.task.forgotten(partition), there),
            "retain": (self.task.train_items(data), data),
            "test": (self.task.held_out_items(data, "test"), data),
            "unseen": (self.task.held_out_items(data, "test"), there),
        }

    def collect(self, predictions: dict[str, Prediction | None]) -> ClassProbabilities:
        """See `Evaluator.collect`."""
        prob = {name: None if p is None else p.logits.double().softmax(-1) for name, p in predictions.items()}
        return ClassProbabilities(
            **prob, log_prob={k: None if p is None else p.log_prob for k, p in predictions.items()}
        )

    def _accuracy(self, p: ClassProbabilities, name: str) -> float | None:
        prob, items = getattr(p, name), self.items[name][0]
        return None if prob is None or not prob.size(0) else float((prob.argmax(-1) == items.label).double().mean())

    def forget_probability(self, p: ClassProbabilities) -> Tensor:
        """See `Evaluator.forget_probability`."""
        return p.log_prob["forget"].double().exp()

    def utility(self, p: ClassProbabilities) -> dict[str, float | None]:
        """Accuracy on test and on retained training items: `test_acc`, `retain_acc`."""
        return {"test_acc": self._accuracy(p, "test"), "retain_acc": self._accuracy(p, "retain")}

    def forgetting(self, p: ClassProbabilities) -> dict[str, float | None]:
        """`forget_acc`, the mean probability `forget_prob` of the true class, and `mia_auc`.

        `mia_auc` is that of a membership inference by the likelihood of the true class: forgotten items against test
        items of the same class, averaged over classes by their number of forgotten items. (Against all test items it
        would measure the class as well.) What an honest retraining has is the value to compare with.
        """
        forget, items = p.log_prob["forget"], self.items["forget"][0]
        prob = float(self.forget_probability(p).mean()) if forget.numel() else None
        out = {"forget_acc": self._accuracy(p, "forget"), "forget_prob": prob, "mia_auc": None}
        if p.unseen is None or self.partition.forgets == ("edges",):
            return out
        unseen, label = p.log_prob["unseen"], self.items["unseen"][0].label
        total = weight = 0.0
        for c in items.label.unique():
            auc, _ = separation(forget[items.label == c], unseen[label == c])
            if auc is not None:
                count = float((items.label == c).sum())
                total, weight = total + count * auc, weight + count
        return {**out, "mia_auc": total / weight if weight else None}
