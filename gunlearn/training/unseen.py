"""What a training minimises beside its loss, so that forgotten items are predicted like items that it never saw."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from gunlearn.losses import NLL, KLToReference, Objective, as_objective
from gunlearn.requests.base import Partition
from gunlearn.tasks.base import Parts, Task

#: Weight of the divergence against the mean over retained items.
UNSEEN_WEIGHT = 0.03


@dataclass(frozen=True)
class Unseen:
    r"""A training's loss on retained items, plus a divergence of forgotten ones from what unseen ones would get.

    .. math:: \frac{1}{n} \sum_{i \in retained} -\log p_\theta(y_i)
        + \frac{w}{m} \sum_{j \in forgotten} KL(q_j \,\|\, p_\theta(j))

    Args:
        parts: the retained items as a training reads them, and the forgotten ones.
        logits: of :math:`q_j`, `[m, ...]`.
        weight: :math:`w`.
    """

    parts: Parts
    logits: Tensor
    weight: float


def find_unseen(
    task: Task, original: nn.Module, partition: Partition, weight: float, sampler: str = "k_hop"
) -> Unseen | None:
    """Return what forgotten items are drawn to; `None` at weight 0, or where a task cannot tell how unseen ones score.

    Args:
        task: what the model predicts, see `Task.unseen`.
        original: the model before unlearning.
        partition: the request.
        weight: of the divergence, against a mean over retained items.
        sampler: what a step reads; random parts of the graph (`"random_node"`) hold no forgotten items.
    """
    found = task.unseen(original, partition) if weight and sampler != "random_node" else None
    return None if found is None else Unseen(*found, weight)


def weight_of(unseen: Unseen | None) -> float:
    """Return the weight in effect, for a result's notes."""
    return 0.0 if unseen is None else unseen.weight


def training_objective(unseen: Unseen | None) -> Objective:
    """Return the mean negative log-likelihood of retained items, and what `unseen` adds to it."""
    loss = NLL(on="retain")
    return as_objective(loss) if unseen is None else loss + unseen.weight * KLToReference(on="forget")
