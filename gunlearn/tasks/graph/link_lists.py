"""The check of the lists of pairs that a link split adds to a graph."""

import warnings

import torch
from torch import Tensor
from torch_geometric.data import Data

from gunlearn.errors import InvalidInputError
from gunlearn.requests.list_names import SPLIT_PAIRS
from gunlearn.requests.pair_keys import comparable_keys, is_among
from gunlearn.requests.prepared import facts_of
from gunlearn.tasks.graph.node_kinds import node_kinds


def check_link_lists(data: Data) -> None:
    """Refuse held-out edges that the model reads, positives apart from the graph, and pairs listed as both signs.

    Lists are those of a graph that passed `check_graph`. Where edges have relations (`edge_type`) the same pair may be
    an edge of another one, or between nodes of two types of the reverse relation: that is warned of alone, as lists do
    not say which relation is held out. Negatives for the training, which are not used, are warned of, too.

    Raises:
        InvalidInputError: such lists; the message names them.
    """
    lists, facts = {name: data[name] for name in SPLIT_PAIRS if data.get(name) is not None}, facts_of(data)
    if facts is not None and facts.get("link lists"):  # fewer edges and fewer pairs share no more
        return
    _refuse_positives_apart(data)
    _warn_of_given_negatives(data)
    keys = comparable_keys({"edge_index": data.edge_index, "turned": _turned(data), **lists}, int(data.num_nodes))
    inside = _number_inside(keys)
    for part in ("val", "test"):
        pos, neg = (keys.get(f"{part}_{sign}_edge_index") for sign in ("pos", "neg"))
        if pos is None:
            continue
        number = inside[f"{part}_pos_edge_index"]
        if data.get("edge_type") is not None:
            number = _shared(pos, torch.cat([keys["edge_index"], keys["turned"]]))
        if number:
            said = (
                f"Expected held-out edges outside the graph that the model reads (got {number} of {pos.numel()} pairs "
                f"of '{part}_pos_edge_index' in 'edge_index')"
            )
            if data.get("edge_type") is None:
                raise InvalidInputError(f"{said}; see gunlearn.link_split")
            warnings.warn(f"{said}: figures on them are too good where it is the relation held out", stacklevel=4)
        if neg is not None and 2 * inside[f"{part}_neg_edge_index"] > neg.numel():
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
    if facts is not None:
        facts["link lists"] = True


def _warn_of_given_negatives(data: Data) -> None:
    """Warn of negatives that a split drew for the training: the task draws its own."""
    label, apart = data.get("edge_label"), data.get("neg_edge_label_index")
    number = int((label == 0).sum()) if isinstance(label, Tensor) and data.get("edge_label_index") is not None else 0
    where = "with 0 in 'edge_label'"
    if isinstance(apart, Tensor) and apart.dim() == 2:
        number, where = number + apart.size(1), "in 'neg_edge_label_index'"
    if number:
        warnings.warn(
            f"the {number} given negatives ({where}) are not used: link prediction draws as many as positives anew at "
            "each step. A training on given ones was by another loss, away from which the steps lead; train with "
            "RandomLinkSplit(add_negative_train_samples=False) and torch_geometric.utils.negative_sampling at each "
            "step, or by gunlearn.train",
            stacklevel=4,
        )


def _refuse_positives_apart(data: Data) -> None:
    """Refuse a graph whose listed positives are mostly no edges of it: what the model learned is not what it reads."""
    pairs, label = data.get("edge_label_index"), data.get("edge_label")
    if not isinstance(pairs, Tensor) or pairs.dim() != 2 or pairs.size(0) != 2:
        return
    if isinstance(label, Tensor) and label.dim() == 1 and label.numel() == pairs.size(1):
        pairs = pairs[:, label > 0]
    size = int(data.num_nodes)
    if not pairs.numel() or int(pairs.min()) < 0 or int(pairs.max()) >= size:
        return
    keys = comparable_keys({"edges": data.edge_index, "pairs": torch.cat([pairs, pairs.flip(0)], dim=1)}, size)
    inside = is_among(keys["pairs"], keys["edges"]).view(2, -1).any(dim=0)
    apart = int((~inside).sum())
    if 2 * apart > inside.numel():
        raise InvalidInputError(
            f"Expected the positive pairs of 'edge_label_index' among the edges of 'edge_index', which are trained on "
            f"and forgotten (got {apart} of {inside.numel()} outside, as RandomLinkSplit(disjoint_train_ratio=...) "
            "makes them): a training whose positives are no messages cannot go on here. Train with all of them in "
            "'edge_index', or take 'edge_label_index' out of the data where it is held out"
        )


def _turned(data: Data) -> Tensor:
    """Return the edges between nodes of two types in the other direction: they give away those that they reverse."""
    kinds = None if data.get("edge_type") is None else node_kinds(data)
    if kinds is None:
        return data.edge_index[:, :0]
    row, col = data.edge_index
    return data.edge_index[:, kinds[row] != kinds[col]].flip(0)


def _number_inside(keys: dict[str, Tensor]) -> dict[str, int]:
    """Return how many pairs of each held-out list are edges of the graph, found in one pass over its edges."""
    names = [name for name in keys if name.startswith(("val_", "test_"))]
    if not names:
        return {}
    among = is_among(torch.cat([keys[name] for name in names]), keys["edge_index"])
    parts = among.split([keys[name].numel() for name in names])
    return {name: int(part.sum()) for name, part in zip(names, parts, strict=True)}


def _shared(few: Tensor, many: Tensor) -> int:
    """Return how many of the keys `few` are among `many`."""
    return int(is_among(few, many).sum())
