"""Whether a training read the items that its data has for training now."""

from __future__ import annotations

import warnings
from typing import Any

from gunlearn.core.digest import content_hash
from gunlearn.core.owner_key import keyed_hash
from gunlearn.tasks.base import Task
from gunlearn.training.training_state import TrainingState

_PURPOSE = "training items"


def items_digest(task: Task, data: Any) -> str:
    """Return a digest of the training items of `data`, and one of the owner's key that it was made under.

    Nobody without the key can try out which items these were. Empty where the task cannot name its items.
    """
    items = [tensor.cpu() for tensor in task.training_items(data)]
    if not items:
        return ""
    return " ".join(keyed_hash(part, _PURPOSE) for part in (b"", content_hash(items).encode()))


def warn_of_other_items(state: TrainingState, task: Task, data: Any) -> None:
    """Warn where a state tells that its training was of other items than those of `data`, all before a request."""
    if not state.items:
        return
    now = items_digest(task, data)
    if now != state.items and now.partition(" ")[0] == state.items.partition(" ")[0]:  # under the same key
        warnings.warn(
            "The 'training' was of other items than 'data' has for training now: of another split (its seed?), with "
            "other labels, or the graph has changed since. The steps go on with the items of 'data', which the model "
            "may never have seen, such as its test items, and figures of it mean little; hand in the data that the "
            "model was trained on, split as then",
            UserWarning,
            stacklevel=2,
        )
