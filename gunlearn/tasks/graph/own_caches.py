"""Models that keep what they computed from the first graph they saw, by code of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from gunlearn.errors import GunlearnError, UnsupportedModelError
from gunlearn.tasks.graph.held_tensors import named_tensors
from gunlearn.tasks.graph.node_records import as_tensor, new_record

if TYPE_CHECKING:
    from gunlearn.tasks.graph.base import GraphTask

_ABSENT = object()


@torch.no_grad()
def check_own_caches(task: GraphTask, model: nn.Module, data: Data, outputs: Tensor) -> None:
    """Refuse a model that reads a value per node which it makes itself where it is missing.

    Such a cache holds the forgotten data after every pass on another graph. A value is one where outputs depend on it,
    and where the model runs without it and has made it anew. A table that the model does not make, and a record that it
    only writes, are none. PyG's own caches are emptied, see `gunlearn.nn.attach.message_layers`.

    Args:
        task: calls the model.
        model: a copy that has been called on `data`; it is left as it was.
        data: the graph.
        outputs: those of the model on it `[num_rows, dim]`.

    Raises:
        UnsupportedModelError: a cache; the message names it.
    """
    size = int(data.num_nodes)
    for name, (owner, value) in named_tensors(model).items():
        if isinstance(value, nn.Parameter) or not value.is_floating_point() or not value.dim() or len(value) != size:
            continue
        attribute = name.rpartition(".")[2]
        kept = getattr(owner, attribute)
        try:
            blank = _outputs(task, model, data, owner, attribute, new_record(kept))
            if blank is None or torch.equal(blank, outputs):
                continue
            for missing in (None, _ABSENT):
                made = _outputs(task, model, data, owner, attribute, missing)
                if made is not None and as_tensor(getattr(owner, attribute, None)) is not None:
                    raise UnsupportedModelError(
                        f"Expected a model that computes from the graph it is given (got '{name}', which "
                        f"{type(model).__name__} keeps from the first graph it saw: forgotten data would stay in it); "
                        "let 'forward' compute it in each call, or in a PyG layer with cached=True, which is emptied"
                    )
        finally:
            setattr(owner, attribute, kept)


def _outputs(task: GraphTask, model: nn.Module, data: Data, owner: Any, name: str, value: Any) -> Tensor | None:
    """Return the outputs with another value (or without the attribute); `None` where the model fails."""
    try:
        delattr(owner, name) if value is _ABSENT else setattr(owner, name, value)
        return task.encode(model, data)
    except (GunlearnError, AttributeError, TypeError):
        return None
