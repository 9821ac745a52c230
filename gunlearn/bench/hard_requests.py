"""Requests that are hard to meet: items that a model can only learn by heart, and whole classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.utils import coalesce

from gunlearn.errors import InvalidInputError
from gunlearn.requests.base import Request
from gunlearn.requests.edges import ForgetEdges
from gunlearn.requests.ids import number_to_draw
from gunlearn.requests.item_choice import numbered
from gunlearn.requests.items import ForgetItems, training_rows
from gunlearn.requests.nodes import ForgetNodes, training_ids
from gunlearn.requests.pair_keys import comparable_keys, is_among
from gunlearn.requests.training_graph import TrainingGraph
from gunlearn.tasks.graph.node_classification import labels

if TYPE_CHECKING:
    from gunlearn.bench.cell import Cell

_HELD_OUT = ("val_pos_edge_index", "test_pos_edge_index", "val_neg_edge_index", "test_neg_edge_index")


@dataclass(frozen=True)
class HardRequest:
    """A way to make a request together with the data that a base model is trained on.

    Args:
        kind: what is forgotten, `"nodes"` or `"edges"`.
        tasks: the tasks that have it.
        make: from split data and a cell to the data to train on, and the request.
    """

    kind: str
    tasks: tuple[str, ...]
    make: Callable[[Data, Cell], tuple[Data, Request]]


def flipped_labels(data: Data, cell: Cell) -> tuple[Data, Request]:
    """Give drawn training nodes the label of another class, at random; the request names them.

    Nothing that stays tells such a label, so a model that knows it has learnt it by heart.
    """
    y = labels(data)
    drawn = ForgetNodes(ratio=cell.ratio, count=cell.count, by=cell.by, seed=cell.seed)
    nodes, classes = drawn.resolve(data).forget_nodes, y[y >= 0].unique()
    if classes.numel() < 2:
        raise InvalidInputError(f"Expected at least two classes for flipped labels (got {classes.numel()})")
    further = torch.randint(1, classes.numel(), nodes.shape, generator=_generator(cell)).to(y.device)
    wrong = classes[(torch.searchsorted(classes, y[nodes]) + further) % classes.numel()]
    out = data.clone("y")
    out.y = y.index_copy(0, nodes, wrong)
    return out, ForgetNodes(nodes, by_id=False)


def planted_edges(data: Data, cell: Cell) -> tuple[Data, Request]:
    """Add edges between nodes of different classes, which are no edges of the whole graph; the request names them."""
    graph, y = TrainingGraph(data), labels(data)
    along = sorted(key for key, _ in data if not key.endswith("edge_index") and data.is_edge_attr(key))
    if along:
        raise InvalidInputError(f"Expected a graph without attributes of edges to plant some in (got data.{along[0]})")
    number, size = number_to_draw(cell.ratio, cell.count, graph.num_edges, "edge"), int(data.num_nodes)
    held_out = [data[name] for name in _HELD_OUT if isinstance(data.get(name), Tensor)]
    known = torch.cat([data.edge_index, *held_out], dim=1).cpu()
    drawn = torch.randint(size, (2, 16 * number + 256), generator=_generator(cell))
    drawn = torch.stack(drawn.aminmax(dim=0)) if graph.is_undirected else drawn
    own = y.cpu()[drawn]
    drawn = drawn[:, (own[0] != own[1]) & (own >= 0).all(dim=0)]
    keys = comparable_keys({"drawn": drawn, "known": torch.cat([known, known.flip(0)], dim=1)}, size)
    drawn, key = (found[..., ~is_among(keys["drawn"], keys["known"])] for found in (drawn, keys["drawn"]))
    first = np.sort(np.unique(key.numpy(), return_index=True)[1])[:number]
    if len(first) < number:
        raise InvalidInputError(
            f"Expected {number} pairs of nodes of different classes without an edge to plant (found {len(first)})"
        )
    pairs = drawn[:, torch.from_numpy(first)]
    pairs = pairs.to(data.edge_index.device)
    both = torch.cat([pairs, pairs.flip(0)], dim=1) if graph.is_undirected else pairs
    out = data.clone("edge_index")
    out.edge_index = coalesce(torch.cat([data.edge_index, both], dim=1), num_nodes=size)
    if "train_pos_edge_index" in data:
        out.train_pos_edge_index = torch.cat([data.train_pos_edge_index, pairs], dim=1)
    return out, ForgetEdges(pairs, by_id=False)


def whole_classes(data: Any, cell: Cell) -> tuple[Any, Request]:
    """Leave the data as they are; the request names all training nodes or images of some classes.

    These are the cell's `labels`, or `count` classes drawn under the seed.
    """
    images = cell.kind == "items"
    y = data.y if images else labels(data)
    nodes = training_rows(data).nonzero().view(-1) if images else training_ids(data, int(data.num_nodes))
    classes = y[nodes].unique()
    if cell.labels:
        named = numbered(data, cell.labels)
        absent = sorted(set(named) - set(classes.tolist()))
        if absent or len(set(named)) >= classes.numel():
            raise InvalidInputError(
                f"Expected some of the classes {classes.tolist()} of the training items to forget (got "
                f"{list(cell.labels)})"
            )
        return data, _of_classes(images, nodes, y, torch.tensor(named, device=y.device))
    if cell.count is None or cell.count >= classes.numel():
        raise InvalidInputError(f"Expected fewer classes than the {classes.numel()} there are (got {cell.count})")
    chosen = classes[torch.randperm(classes.numel(), generator=_generator(cell)).to(y.device)[: cell.count]]
    return data, _of_classes(images, nodes, y, chosen)


def _of_classes(images: bool, nodes: Tensor, y: Tensor, chosen: Tensor) -> Request:
    rows = nodes[torch.isin(y[nodes], chosen)]
    return ForgetItems(rows) if images else ForgetNodes(rows, by_id=False)


def _generator(cell: Cell) -> torch.Generator:
    return torch.Generator().manual_seed(cell.seed)


#: By the name that a cell's `forget` has.
HARD_REQUESTS = {
    "flipped_labels": HardRequest("nodes", ("node_classification",), flipped_labels),
    "planted_edges": HardRequest("edges", ("link_prediction", "node_classification"), planted_edges),
    "classes": HardRequest("nodes", ("node_classification", "image_classification"), whole_classes),
}
