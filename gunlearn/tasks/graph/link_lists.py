"""The check of the lists of pairs that a link split adds to a graph."""

import warnings

import torch
from torch import Tensor
from torch_geometric.data import Data

from gunlearn.errors import InvalidInputError
from gunlearn.requests.training_graph import MAX_NUM_NODES
from gunlearn.tasks.graph.check_graph import PAIRS


def check_link_lists(data: Data) -> None:
    """Refuse held-out edges that the model reads, and pairs that a list of negatives shares with that of positives.

    Lists are those of a graph that passed `check_graph`. Where edges have relations (`edge_type`) the same pair, in
    either direction, may be an edge of another one: that is warned of alone, as lists do not say which is held out.

    Raises:
        InvalidInputError: such lists; the message names them.
    """
    lists = {name: data[name] for name in PAIRS if data.get(name) is not None}
    both_ways = {"edge_index": data.edge_index, "reversed": data.edge_index.flip(0)}
    keys = _keys({**both_ways, **lists}, int(data.num_nodes))
    for part in ("val", "test"):
        pos, neg = (keys.get(f"{part}_{sign}_edge_index") for sign in ("pos", "neg"))
        if pos is None:
            continue
        inside = _shared(pos, keys["edge_index"])
        if data.get("edge_type") is not None:  # the reverse relation gives an edge away too
            inside = _shared(pos, torch.cat([keys["edge_index"], keys["reversed"]]))
        if inside:
            said = (
                f"Expected held-out edges outside the graph that the model reads (got {inside} of {pos.numel()} pairs "
                f"of '{part}_pos_edge_index' in 'edge_index')"
            )
            if data.get("edge_type") is None:
                raise InvalidInputError(f"{said}; see gunlearn.link_split")
            warnings.warn(f"{said}: figures on them are too good where it is the relation held out", stacklevel=4)
        if neg is not None and 2 * _shared(neg, keys["edge_index"]) > neg.numel():
            warnings.warn(f"most pairs of '{part}_neg_edge_index' are edges of the graph", stacklevel=4)
        if neg is not None and _shared(neg, pos):
            raise InvalidInputError(
                f"Expected pairs of '{part}_neg_edge_index' that are no edges (got {_shared(neg, pos)} that "
                f"'{part}_pos_edge_index' holds too)"
            )
    if {"val_pos_edge_index", "test_pos_edge_index"} <= set(keys):
        both = _shared(keys["val_pos_edge_index"], keys["test_pos_edge_index"])
        if both:
            warnings.warn(f"{both} pairs are both in 'val_pos_edge_index' and in 'test_pos_edge_index'", stacklevel=4)


def _keys(lists: dict[str, Tensor], num_nodes: int) -> dict[str, Tensor]:
    """Return one integer per pair; ids are renumbered first where there are too many for int64."""
    if num_nodes > MAX_NUM_NODES:
        ids, place = torch.cat([pairs.flatten() for pairs in lists.values()]).unique(return_inverse=True)
        sizes = [pairs.numel() for pairs in lists.values()]
        lists = {k: v.view(2, -1) for k, v in zip(lists, place.split(sizes), strict=True)}
        num_nodes = ids.numel()
    return {name: pairs[0] * num_nodes + pairs[1] for name, pairs in lists.items()}


def _shared(few: Tensor, many: Tensor) -> int:
    """Return how many of the keys `few` are among `many`."""
    if not few.numel() or not many.numel():
        return 0
    ordered, many = few.sort().values, many.to(few.device)
    place = torch.searchsorted(ordered, many).clamp_(max=ordered.numel() - 1)
    there = torch.zeros_like(ordered, dtype=torch.bool)
    there[place[ordered[place] == many]] = True
    return int(there[torch.searchsorted(ordered, few)].sum())
