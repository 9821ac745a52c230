"""Node classification: an item is a node, its label one of several classes."""

import copy
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax
from torch_geometric.data import Data

from gunlearn.errors import InvalidInputError, UnsupportedMethodError, UnsupportedModelError
from gunlearn.losses import Prediction
from gunlearn.nn.kernels.subgraph import Subgraph
from gunlearn.requests.graph_tensors import MASKS
from gunlearn.requests.ids import checked_masks
from gunlearn.requests.split_masks import missing_masks
from gunlearn.tasks.base import PartItems, Parts, View
from gunlearn.tasks.graph.base import GraphTask
from gunlearn.tasks.graph.beside import is_joint
from gunlearn.tasks.logits import log_of_classes, set_outputs
from gunlearn.tasks.sampling import edge_strata


@dataclass(frozen=True)
class NodeItems(PartItems):
    """Nodes with their classes.

    Args:
        index: node ids, `[num_items]`.
        label: their classes, integers from 0, `[num_items]`; of other tasks `[num_items, num_labels]` too.
        fixed: see `PartItems`.
        weight: of each item's loss value, `[num_items]`; `None` for equal ones.
    """

    index: Tensor
    label: Tensor
    fixed: bool = True
    weight: Tensor | None = None


class NodeParts(Parts):
    """Parts of a node classification problem; see `names`."""

    names: ClassVar[dict[str, str]] = {
        "forget": "training nodes that go, or lose features, with their labels, as the original graph shows them",
        "retain": "the training nodes that stay",
    }

    def __init__(
        self, data: Data, retain: NodeItems, start: Tensor | None = None, forget: NodeItems | None = None
    ) -> None:
        """Strata are distances to the nodes `start` `[num_start]`, those that a request touches."""
        self.data, self.retain, self.start, self.forget = data, retain, start, forget
        self.draws = {}

    def count(self, name: str) -> int:
        return self.retain.num_items if name == "retain" else super().count(name)

    def strata(self) -> Tensor:
        return edge_strata(self.retain.index[None], self.start, self.data.edge_index, self.data.num_nodes)

    def sample(self, names: Collection[str]) -> dict[str, NodeItems]:
        """Return the nodes of the named parts; the forget part of an edge request raises `UnsupportedMethodError`."""
        if "forget" in names and self.forget is None:
            raise UnsupportedMethodError(
                "Expected a method that reads retained items alone: where items are nodes or graphs a forgotten edge "
                "leaves the graph, and has no label whose likelihood could be lowered (got one that reads 'forget')"
            )
        unknown = sorted(set(names) - set(self.names))
        if unknown:
            raise InvalidInputError(f"Expected parts among {list(self.names)} (got {unknown})")
        items = {"forget": self.forget, "retain": self.retain}
        return {name: self.drawn(name, items[name]) for name in names}


class NodeClassification(GraphTask):
    """Each node is an item of class `data.y`; the model returns logits `[num_nodes, num_classes]`.

    Training reads the labels of `data.train_mask`; without one, those of all nodes outside `val_mask` and `test_mask`.
    Ids in `data.split_idx` (`{"train": ..., "valid": ..., "test": ...}`) or `data.train_idx`, `val_idx` and `test_idx`
    are read as these masks.
    Negative labels mean "unlabelled". To forget an edge means that messages no longer pass along it: it has no label of
    its own, so methods that raise the loss of the forgotten items do not apply. To forget a node, or features of one,
    means that the model must not know its label from what the original graph shows of it.

    Args:
        outputs: what the model returns, `"logits"` (log-probabilities are) or `"probabilities"`, whose logarithms are
            read then. Methods and figures take either alike, but for `cognac` and `megu`, which compute with logits
            themselves and so run on log-probabilities.

    Raises:
        InvalidInputError: another value of `outputs`.
    """

    name = "node_classification"
    summary = "which class is this node?"
    requests: ClassVar[tuple[str, ...]] = ("edges", "nodes", "features")
    rows = ("logits", "num_classes")

    def __init__(self, outputs: str = "logits") -> None:
        set_outputs(self, outputs)

    def check_data(self, data: Any) -> Data:
        """Return the graph; see `check_graph`. Labels, where there are any, and masks must fit its items.

        Where it has no `train_mask`, and lists of ids in its place (`split_idx`, `train_idx`), it is a copy with masks.
        """
        data, given = super().check_data(data), data
        masks = missing_masks(data, self.num_rows(data))
        data = copy.copy(data) if masks and data is given else data
        for name, mask in masks.items():
            data[name] = mask
        checked_masks(data, self.num_rows(data))
        if data.get("y") is not None:
            self.read_labels(data)
        return data

    #: Turns probabilities `[num_items, ...]` into logits.
    as_logits = staticmethod(log_of_classes)

    def outcomes(self, model: nn.Module) -> str:
        return "categorical"

    def encode(self, model: nn.Module, data: Data) -> Tensor:
        """Return the logits of each item, `[num_items, num_classes]`; see `GraphTask.encode`."""
        outputs = super().encode(model, data)
        return self.as_logits(outputs) if self.outputs == "probabilities" else outputs

    def read_labels(self, data: Data) -> tuple[Tensor, Tensor]:
        """Return the labels of all items `[num_items, ...]`, and which of them are known `[num_items]`."""
        y = labels(data, self.num_rows(data))
        return y, y >= 0

    def items_at(self, data: Data, index: Tensor) -> NodeItems:
        """Return the items `index` `[k]` with their labels."""
        return NodeItems(index, self.read_labels(data)[0][index])

    def train_items(self, data: Data) -> NodeItems:
        """Return the items that may be learned from."""
        y, known = self.read_labels(data)
        index = training_mask(data, known).nonzero().view(-1)
        return NodeItems(index, y[index])

    def trial_items(self, data: Data) -> NodeItems | None:
        """Return the training items; `None` where the data has no labels."""
        return None if data.get("y") is None else self.train_items(data)

    def holding(self, partition: Any, nodes: Tensor) -> Tensor:
        """Return the ids of the items that some nodes belong to: here the nodes themselves."""
        return nodes

    def forgotten(self, partition: Any) -> NodeItems:
        """Return the training items that go or lose features, with their original labels; possibly none.

        Validation and test items may be forgotten, but their labels enter no loss.
        """
        data, nodes = partition.data, torch.cat([partition.forget_nodes, partition.feature_nodes]).unique()
        items = self.items_at(data, self.holding(partition, nodes))
        return items.rows(torch.isin(items.index, self.train_items(data).index))

    def touched(self, partition: Any) -> NodeItems:
        """Return labelled items that stay, but whose own input the request changes."""
        index = self.holding(partition, partition.touched_nodes)
        return self.items_at(partition.retain_data, index[self.read_labels(partition.retain_data)[1][index]])

    def decode(self, model: nn.Module, outputs: Tensor, items: NodeItems) -> Prediction:
        """Return the categorical prediction of each node.

        A model with fewer classes than the labels raises `UnsupportedModelError`.
        """
        classes = int(items.label.max()) + 1 if items.num_items else 0
        if outputs.size(1) == 1:
            raise UnsupportedModelError(
                f"Expected a logit for each of at least two classes under task '{self.name}' (got one per item); for "
                f"one yes or no use task '{self.name.replace('classification', 'multilabel')}'"
            )
        if outputs.size(1) < classes:
            raise UnsupportedModelError(f"Expected logits of at least {classes} classes (got {outputs.size(1)})")
        logits = outputs[items.index]
        log_prob = log_softmax(logits, dim=-1).gather(1, items.label.view(-1, 1)).view(-1)
        weight = None if items.weight is None else items.weight.to(logits)
        return Prediction(log_prob=log_prob, logits=logits, weight=weight)

    def seeds(self, items: Any) -> Tensor | None:
        """Return the node ids of items with an `index`, of whatever shape."""
        return items.index.flatten()

    def relabel(self, items: Any, subgraph: Subgraph) -> Any:
        return replace(items, index=subgraph.relabel(items.index))

    def at_rows(self, items: NodeItems, index: Tensor, ends: Tensor, num_rows: int) -> NodeItems:
        return NodeItems(ends[0], items.label[index], fixed=False)

    def make_parts(self, view: View) -> NodeParts:
        partition = view.partition
        forget = None if partition.forgets == ("edges",) else self.forgotten(partition)
        data, place = self.graphs(view, partition.touched_nodes[:0] if forget is None else forget.index)
        if forget is not None:
            forget = replace(forget, index=place(forget.index))
        parts = NodeParts(data, self.train_items(partition.retain_data), partition.touched_nodes, forget)
        parts.joint = is_joint(data, partition)
        parts.retained = partition.retain_data if parts.joint else None  # its rows come first in the joint graph
        return parts

    def training_parts(self, data: Data) -> NodeParts:
        return NodeParts(data, self.train_items(data))

    def training_items(self, data: Data) -> list[Tensor]:
        items = self.train_items(data)
        return [items.index, items.label]

    def held_out_items(self, data: Data, part: str) -> NodeItems | None:
        """Return the labelled nodes of `{part}_mask`."""
        name = f"{part}_mask"
        if name not in data:
            return None
        y, known = self.read_labels(data)
        index = (_mask(data, name, known.numel()) & known).nonzero().view(-1)
        return NodeItems(index, y[index]) if index.numel() else None


def training_nodes(data: Data, size: int | None = None) -> NodeItems:
    """Return the nodes whose classes may be learned from; of `size` items, where these are no nodes.

    Raises:
        InvalidInputError: no labels, none of them for training, or an unlabelled training node.
    """
    y = labels(data, size)
    index = training_mask(data, y >= 0).nonzero().view(-1)
    return NodeItems(index, y[index])


def training_mask(data: Data, known: Tensor) -> Tensor:
    """Return which items may be learned from, of those with a known label, both boolean `[num_items]`.

    `InvalidInputError` where there is none, or `data.train_mask` holds an unlabelled one.
    """
    size = known.numel()
    if "train_mask" in data:
        mask = _mask(data, "train_mask", size)
        if bool((mask & ~known).any()):
            raise InvalidInputError(
                f"Expected a label of every training node (got {int((mask & ~known).sum())} without); take nodes "
                "without one out of data.train_mask"
            )
    else:
        mask = known
        for name in MASKS[1:]:
            mask = mask & ~_mask(data, name, size) if name in data else mask
    if not bool(mask.any()):
        raise InvalidInputError("Expected training nodes with labels (got none); see gunlearn.node_split")
    return mask


def node_items(data: Data, nodes: Tensor, size: int | None = None) -> NodeItems:
    """Return nodes with their labels, from a mask `[num_nodes]` or ids `[num_items]`."""
    index = nodes.nonzero().view(-1) if nodes.dtype == torch.bool else nodes
    return NodeItems(index, labels(data, size)[index])


def labels(data: Data, size: int | None = None) -> Tensor:
    """Return the classes of the nodes `[num_nodes]`; negative ones are unknown."""
    y, size = data.get("y"), int(data.num_nodes) if size is None else size
    if not isinstance(y, Tensor) or y.is_floating_point() or y.dtype == torch.bool or y.numel() != size:
        got = f"{tuple(y.shape)} of {y.dtype}" if isinstance(y, Tensor) else type(y).__name__
        whole = isinstance(y, Tensor) and y.is_floating_point() and y.numel() == size
        classes = whole and bool((y == y.round()).all())
        remedy = (
            "call data.y.long() if they are classes"
            if classes
            else "for numbers use a task of regression, for several yes or no labels a multilabel one "
            "(gunlearn.tasks.TASKS lists all)"
        )
        raise InvalidInputError(f"Expected integer labels data.y of shape [{size}] (got {got}); {remedy}")
    return y.view(-1).long()


def _mask(data: Data, name: str, size: int) -> Tensor:
    mask = data[name]
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != (size,):
        got = f"{tuple(mask.shape)} of {mask.dtype}" if isinstance(mask, Tensor) else type(mask).__name__
        raise InvalidInputError(f"Expected a boolean data.{name} of shape [{size}] (got {got})")
    return mask
