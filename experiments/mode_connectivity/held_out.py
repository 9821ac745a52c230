"""The loss of validation nodes along a path, of classes that stay: no training and no curve lowered it."""

from collections.abc import Sequence

import torch
from torch.nn.functional import cross_entropy

from experiments.mode_connectivity.between_problems import Case
from gunlearn.connectivity import Dial


@torch.no_grad()
def held_out_losses(dial: Dial, case: Case, ts: Sequence[float]) -> list[float]:
    """Mean cross-entropy in nats at each `t`, on the graph without what was forgotten.

    Nodes of a class of which no training node is left do not count: their loss rises as the model forgets.
    """
    data = case.partition.retain_data
    counted = data.val_mask & torch.isin(data.y, data.y[data.train_mask])
    losses = []
    for t in ts:
        logits = case.task.encode(dial.at(t), data)
        losses.append(float(cross_entropy(logits[counted], data.y[counted])))
    return losses
