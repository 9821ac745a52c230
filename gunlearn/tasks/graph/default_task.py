"""A classifier of nodes in a call that names no task: it would be trained to predict links."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from gunlearn.requests.list_names import SPLIT_PAIRS
from gunlearn.tasks.base import Task
from gunlearn.tasks.named import DefaultTask
from gunlearn.tasks.trial import trial_pass


def warn_of_default_task(named: Any, task: Task, model: nn.Module, data: Data) -> None:
    """Warn where the caller named no task, the data have classes of nodes, and the model has an output for each.

    Args:
        named: the argument `task` of the call.
        task: the task that it stands for.
        model: is called once, where the data have classes and no held-out pairs.
        data: the graph.
    """
    if not isinstance(named, DefaultTask) or any(name in data for name in SPLIT_PAIRS):
        return
    y, mask, size = data.get("y"), data.get("train_mask"), data.num_nodes
    if not isinstance(y, Tensor) or not isinstance(mask, Tensor) or y.numel() != size or mask.size(0) != size:
        return
    if y.is_floating_point() or y.dtype == torch.bool or not size:
        return
    outputs = trial_pass(model, data, task).outputs
    if isinstance(outputs, Tensor) and outputs.size(-1) == int(y.max()) + 1:
        warnings.warn(
            f"no task was named, so that the model learns to predict links (task='{named}'); but data.y and "
            f"data.train_mask hold {outputs.size(-1)} classes of nodes, and the model returns as many columns: pass "
            'task="node_classification" if it is a classifier, or task="link_prediction" to keep quiet',
            UserWarning,
            stacklevel=4,
        )
