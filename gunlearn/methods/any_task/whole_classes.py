"""Whether a request takes away all that a model learned a class from."""

from typing import Any

from torch import Tensor

from gunlearn.requests.nodes import training_ids
from gunlearn.tasks.base import Task


def classes_that_go(task: Task, partition: Any) -> list[int]:
    """Return the classes of forgotten images of which no retained training image is left, sorted.

    Empty for other tasks. Labels are read as `ForgetItems(label=)` reads them: of a data set, where it keeps them.
    """
    if task.name != "image_classification" or partition.forgets != ("items",):
        return []
    labels = partition.data.y
    y: Tensor = labels.labels() if hasattr(labels, "dataset") else labels
    forget, retain = (mask.to(y.device) for mask in (partition.forget_mask, partition.retain_mask))
    return sorted(set(y[forget].unique().tolist()) - set(y[retain].unique().tolist()))


def node_classes_that_go(task: Task, partition: Any) -> list[int]:
    """Return the classes of forgotten training nodes of which no other training node is left, sorted.

    Empty for other tasks. Going on with the training reads nothing that says such nodes are of another class.
    """
    data = partition.data
    if task.name != "node_classification" or "nodes" not in partition.forgets or data.get("y") is None:
        return []
    y: Tensor = data.y.view(-1)
    if y.is_floating_point() or y.numel() != data.num_nodes:
        return []
    ids = training_ids(data, y.numel()).to(y.device)
    gone = partition.is_forgotten_node.to(y.device)[ids]
    return sorted(set(y[ids[gone]].unique().tolist()) - set(y[ids[~gone]].unique().tolist()))
