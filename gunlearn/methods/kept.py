"""What a model knows of retained items before and after a run."""

from typing import Any

import torch
from torch import nn

from gunlearn.core.modes import evaluating
from gunlearn.errors import GunlearnError
from gunlearn.losses import as_objective
from gunlearn.methods.base import Method
from gunlearn.seed import isolated_rng
from gunlearn.tasks.base import Task
from gunlearn.training.collapse import Knowledge, collapse

#: Most items to read where each takes a pass of its own; never more than a step reads.
_ROWS = 256


def check_kept(method: Method, task: Task, data: Any, original: nn.Module, outputs: Any, model: nn.Module) -> str:
    """Return a sentence, and warn, where `model` lost what `original` knew of retained items; see `collapse`.

    Args:
        method: that made the model.
        task: what the models predict.
        data: the retained data.
        original: the model before unlearning.
        outputs: what it returned for `data` in the trial pass.
        model: the result.
    """
    with isolated_rng(), torch.no_grad(), evaluating(model):
        try:
            parts = task.training_parts(data)
            if not task.shared_pass:
                sizes = [getattr(one, "batch_size", None) or _ROWS for one in (method, task)]
                count = parts.count("retain")
                index = torch.linspace(0, max(count - 1, 0), min(count, _ROWS, *sizes)).long()
                parts.limit(lambda: (index, None))
            items = parts.sample(["retain"])["retain"]
        except GunlearnError:  # no item stays, or none can be read alone
            return ""
        found = []
        for which, out in ((original, outputs), (model, None)):
            out = task.encode(which, data) if out is None and task.shared_pass else out
            prediction = task.read(which, out, items)
            guess = task.guess(prediction, items)
            if guess is None or not prediction.log_prob.numel():
                return ""
            found.append(Knowledge.of(prediction, guess))
    return collapse(found[0], found[1], method.name, _reads_retained(method), task.tolerated)


def spares_retained(method: Method, partition: Any) -> bool:
    """Return whether no retained item may be read: a data set loads each of them, and the method needs none."""
    return hasattr(getattr(partition.data, "x", None), "dataset") and not _reads_retained(method)


def _reads_retained(method: Method) -> bool:
    objective = getattr(method, "objective", None)
    if objective is None:
        return "retained data" in method.needs
    return any(part.partition(":")[0] == "retain" for part in as_objective(objective()).parts)
