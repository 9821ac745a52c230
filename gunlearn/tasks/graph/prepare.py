"""Prepare a graph for many requests: check it, sort it and take note of it once."""

from __future__ import annotations

import copy
from typing import Any

from torch_geometric.data import Data

from gunlearn.core.detached import detached
from gunlearn.requests.prepared import take_note
from gunlearn.requests.training_graph import TrainingGraph
from gunlearn.tasks.graph.check_graph import checked_graph


def prepare(data: Any) -> Data:
    """Return a shallow copy of a graph on which requests cost what they reach, not what the graph is.

    It goes wherever data go (`gu.unlearn`, `gu.train`, `request.resolve`), and `result.data` of a request on it is
    prepared, too. What does not depend on the request is done once: checks of indices and features, the sort of the
    edges, and, at the first request with a model of PyG's or this package's modules, the passes that try whether the
    task can call it. Results are those of the plain graph, bit for bit.

    Each call compares sums over all values with those at the time of this call. A graph that has changed
    since then, in place (by numpy too) or by other attributes, is refused; prepare it again, as after
    `data.to(device)`, too. Copies of it (`copy.copy`, `data.clone()`) are plain graphs. It takes 8 bytes per column of
    `edge_index`, 16 where these are not sorted, a sixtieth of the graph for the sums, and once a request has taken
    features away a copy of `x` (on Linux), whose memory the features of all later graphs share.

    In memory the prepared `result.data` of a request keeps the sorted edges and the features of the graph before,
    forgotten ones included, up to a tenth of them; nothing of that is saved or can be read from its tensors.
    `copy.deepcopy(result.data)` holds none of it.

    Args:
        data: a `Data` with `edge_index` `[2, E]`; it does not change.

    Raises:
        InvalidTypeError: no `torch_geometric.data.Data`.
        InvalidInputError: a graph that is refused at every entry point.
        InvalidRequestError: no edges.

    Example:
        >>> import gunlearn as gu
        >>> data = gu.prepare(gu.load("karate"))
        >>> first = gu.ForgetNodes([5]).resolve(data)
        >>> second = gu.ForgetNodes([6]).resolve(first.retain_data)  # prepared as well
        >>> second.retain_data.edge_index.size(1)
        142
    """
    data = copy.copy(detached(checked_graph(data)))
    take_note(data)
    TrainingGraph(data)
    return data
