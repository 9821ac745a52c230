"""Whether a request takes away all that a model learned a class from."""

from typing import Any

from torch import Tensor

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
