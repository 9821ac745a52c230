"""Damage to the classes nearest to a forgotten one, apart from that to all others."""

import torch
from torch import Tensor

from gunlearn.metrics.base import CLASSES, Figure
from gunlearn.metrics.judged import mean_confusion, nearest_classes
from gunlearn.metrics.view import ModelView


class NearestAccuracy(Figure):
    """Accuracy on test items of the two retained classes nearest to the forgotten ones; only where whole classes go.

    Near is what the model before unlearning confuses: it gives the one class's items the most probability of the other,
    in the mean of both directions, over training items.

    Args:
        count: how many classes count as nearest.
    """

    name, heading, near = "nearest_acc", "acc. nearest", True
    tasks, optional = CLASSES, True

    def __init__(self, count: int = 2) -> None:
        self.count = count

    def compute(self, view: ModelView) -> float | None:
        chosen, probability, label = near_classes(view, self.count), view.probability("test"), view.label("test")
        if chosen is None or probability is None or label is None:
            return None
        forgotten, near = (torch.tensor(classes, device=label.device) for classes in chosen)
        inside = torch.isin(label, near)
        kept = inside if self.near else ~inside & ~torch.isin(label, forgotten)
        return float((probability.argmax(-1) == label)[kept].double().mean()) if bool(kept.any()) else None


class RestAccuracy(NearestAccuracy):
    """Accuracy on test items of all other retained classes."""

    name, heading, near = "rest_acc", "acc. rest", False


def near_classes(view: ModelView, count: int = 2) -> tuple[list[int], list[int]] | None:
    """Return the forgotten classes and the retained ones nearest to them; `None` where no whole class is forgotten.

    A class is forgotten where it has forgotten items and no retained one. The order is that of `nearest_classes` on the
    confusion matrix of the model before unlearning; without it (`None`) nothing is near.
    """
    before = view.problem.untouched
    if before is None:
        return None
    labels = [before.label(part) for part in ("forget", "retain")]
    probabilities = [before.probability(part) for part in ("forget", "retain")]
    gone, kept = labels
    if gone is None or kept is None or any(p is None for p in probabilities):
        return None
    forgotten = sorted(set(gone.tolist()) - set(kept.tolist()))
    if not forgotten:
        return None

    def compute() -> Tensor:
        return mean_confusion(torch.cat([p for p in probabilities if p is not None]), torch.cat([gone, kept]))

    near = nearest_classes(before.once("confusion", compute), forgotten, len(set(kept.tolist())))
    return forgotten, [c for c in near if c in set(kept.tolist())][:count]
