"""Splits of a graph's edges, or of its nodes, into training, validation and test sets."""

import copy
import math
import warnings

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.utils import negative_sampling, to_undirected

from gunlearn.core.checks import check_seed
from gunlearn.core.sorting import sort
from gunlearn.errors import InvalidInputError
from gunlearn.requests.apply import data_without
from gunlearn.requests.edge_positions import position_lists
from gunlearn.requests.graph_tensors import num_graphs
from gunlearn.requests.pair_keys import MAX_NUM_NODES, comparable_keys, is_among, pair_key
from gunlearn.requests.selection import Selection
from gunlearn.requests.training_graph import TrainingGraph
from gunlearn.seed import isolated_rng
from gunlearn.tasks.graph.check_graph import check_graph
from gunlearn.tasks.graph.negatives import NegativeSampler
from gunlearn.tasks.graph.node_classification import MASKS, labels
from gunlearn.tasks.graph.node_kinds import has_even_cycles, node_kinds
from gunlearn.tasks.graph.own_splits import own_split

PROTOCOLS = ("random", "inpo")


def link_split(
    data: Data, val_ratio: float = 0.05, test_ratio: float = 0.05, seed: int = 0, protocol: str = "random"
) -> Data:
    """Hold out edges for validation and test; the rest is the training graph, for messages and supervision alike.

    Args:
        data: the whole graph. Undirected graphs are split by undirected edges, directed ones by directed edges.
        val_ratio: share of the edges held out for validation.
        test_ratio: share held out for test.
        seed: of the permutation and of the held-out negatives.
        protocol: `"random"` draws held-out negatives among pairs that are no edge of the whole graph, each once, and
            for each edge one that joins the same types of nodes (see `node_kinds`). `"inpo"` repeats the official INPO
            code to the bit: self-loops ignored, negatives that avoid only their own positives.

    Returns:
        A new `Data` with `edge_index` `[2, num_train_columns]` (both directions where undirected) and, one column per
        edge, `train_pos_edge_index`, `val_pos_edge_index`, `val_neg_edge_index`, `test_pos_edge_index`,
        `test_neg_edge_index`. `data` does not change.

    Raises:
        InvalidInputError: unknown protocol, bad ratios, too few edges or non-edges, already split data, or a graph that
            `check_graph` refuses.
        InvalidTypeError: no `torch_geometric.data.Data`.
    """
    if protocol not in PROTOCOLS:
        raise InvalidInputError(f"Expected 'protocol' to be one of {PROTOCOLS} (got '{protocol}')")
    if not (val_ratio >= 0 and test_ratio >= 0 and val_ratio + test_ratio < 1):
        raise InvalidInputError(f"Expected held-out ratios that leave training edges (got {val_ratio}, {test_ratio})")
    data = check_graph(data)
    if "test_pos_edge_index" in data:
        raise InvalidInputError("Expected a whole graph (got data that already holds a link split)")
    graph = TrainingGraph(data)
    edges, undirected = graph.distinct_pairs, graph.is_undirected
    edges = _low_first(edges) if undirected else edges
    edges = edges[:, edges[0] != edges[1]]
    num_val, num_test = math.floor(val_ratio * edges.size(1)), math.floor(test_ratio * edges.size(1))
    if not (edges.size(1) - num_val - num_test > 0 and num_test > 0 and num_val > 0):
        raise InvalidInputError(f"Expected enough edges to hold out {val_ratio} and {test_ratio} (got {edges.size(1)})")

    kinds = node_kinds(data)
    unknown = kinds is None and data.get("node_type") is None
    if unknown and protocol == "random" and has_even_cycles(edges, data.num_nodes):
        warnings.warn(
            "every cycle of the graph is even, as where edges join nodes of two kinds: if they do, set data.node_type "
            "to 0 and 1, so that negatives join one of each; if not, to zeros, which ends this warning",
            stacklevel=2,
        )
    check_seed(seed)
    with isolated_rng(seed):
        perm = torch.randperm(edges.size(1))
        test, val = edges[:, perm[:num_test]], edges[:, perm[num_test : num_test + num_val]]
        train = edges[:, perm[num_test + num_val :]]
        if protocol == "inpo":
            test_neg, val_neg = (
                negative_sampling(pos, num_nodes=data.num_nodes, num_neg_samples=pos.size(1)) for pos in (test, val)
            )
        else:
            sampler = NegativeSampler(data.edge_index, data.num_nodes, node_type=kinds)
            test_neg, val_neg = sampler.distinct((test, val), undirected)

    out = _with_training_edges(graph, train, torch.cat([val, test], dim=1))
    out.train_pos_edge_index = train
    out.val_pos_edge_index, out.val_neg_edge_index = val, val_neg
    out.test_pos_edge_index, out.test_neg_edge_index = test, test_neg
    return out


def _with_training_edges(graph: TrainingGraph, train: Tensor, held_out: Tensor) -> Data:
    """Return the graph without held-out edges, which leave every list and matrix that holds them, and self-loops."""
    data, undirected = graph.data, graph.is_undirected
    pairs = _low_first(graph.pairs) if undirected else graph.pairs
    keys = comparable_keys({"all": pairs, "held out": held_out}, int(data.num_nodes))
    gone = is_among(keys["all"], keys["held out"]) | (pairs[0] == pairs[1])
    out = data_without(graph, Selection.of(graph, gone[graph.edge_of_column]))
    probe = copy.copy(data)  # `is_edge_attr` caches its answers on its object
    values = {key: value for key, value in data if key != "edge_index"}
    along = any(probe.is_edge_attr(key) for key in values) or position_lists(values, graph.num_columns, set())
    if not along:  # With attributes and lists of their numbers the columns keep their order.
        out.edge_index = _both_ways(train, int(data.num_nodes)) if undirected else train
    return out


def _low_first(pairs: Tensor) -> Tensor:
    return torch.stack(pairs.aminmax(dim=0))


def _both_ways(edges: Tensor, num_nodes: int) -> Tensor:
    """Return distinct undirected edges in both directions, sorted as PyG's `to_undirected` sorts them."""
    if num_nodes > MAX_NUM_NODES:
        return to_undirected(edges, num_nodes=num_nodes)
    key = sort(torch.cat([pair_key(edges, num_nodes), pair_key(edges.flip(0), num_nodes)]))
    row = key // num_nodes
    return torch.stack([row, key - row * num_nodes])


def node_split(
    data: Data,
    val_ratio: float = 0.1,
    test_ratio: float = 0.1,
    train_per_class: int | None = None,
    seed: int = 0,
    split: int | None = None,
) -> Data:
    """Hold out labelled nodes for validation and test; the others' labels are for training.

    The graph stays whole: held-out nodes still pass messages on (transductive). Existing masks, such as those of
    Planetoid's public split, are replaced, unless `split` chooses among them.

    Args:
        data: with labels `y`, classes `[num_nodes]`, or numbers or yes-or-no labels `[num_nodes]` or `[num_nodes,
            num_labels]`; nodes whose labels are all negative integers or NaN are in no mask.
        val_ratio: share of the labelled nodes held out for validation.
        test_ratio: share held out for test.
        train_per_class: number of training nodes of each class among the others; `None` trains on all of them.
        seed: of the draw; the global random state does not change.
        split: number of one of the data's own splits, in place of a draw: a column of masks `[num_nodes, num_splits]`;
            masks `[num_nodes]` are split 0.

    Returns:
        A shallow copy with `train_mask`, `val_mask`, `test_mask`, boolean `[num_nodes]`, disjoint; with `split` those
        of them that the data have.

    Raises:
        InvalidInputError: bad labels, ratios or counts, too few nodes, no such split, or settings of a draw beside it.

    Example:
        >>> import gunlearn as gu
        >>> data = gu.node_split(gu.load("karate"), seed=1)
        >>> data = gu.node_split(gu.load("minesweeper", "data"), split=3)  # doctest: +SKIP
    """
    if split is not None:
        if (val_ratio, test_ratio, train_per_class, seed) != (0.1, 0.1, None, 0):
            raise InvalidInputError(f"Expected 'split' or settings of a draw (got split={split!r} and others)")
        return own_split(check_graph(data), split)
    if not (val_ratio >= 0 and test_ratio >= 0 and val_ratio + test_ratio < 1):
        raise InvalidInputError(f"Expected held-out ratios that leave training nodes (got {val_ratio}, {test_ratio})")
    if train_per_class is not None and (isinstance(train_per_class, bool) or train_per_class < 1):
        raise InvalidInputError(f"Expected 'train_per_class' >= 1 or None (got {train_per_class!r})")
    data = check_graph(data)
    y, known = _known_labels(data)
    if train_per_class is not None and (y.dim() > 1 or y.is_floating_point() or y.dtype == torch.bool):
        raise InvalidInputError(f"Expected classes data.y for 'train_per_class' (got {tuple(y.shape)} of {y.dtype})")
    known = known.nonzero().view(-1)
    check_seed(seed)
    with isolated_rng(seed):
        known = known[torch.randperm(known.numel()).to(known.device)]
    val, test = int(val_ratio * known.numel()), int(test_ratio * known.numel())
    val, test, train = known.split([val, test, known.numel() - val - test])
    if train_per_class is not None:
        present = torch.bincount(y[known]) > 0
        count = torch.bincount(y[train], minlength=present.numel())
        if int(count[present].min()) < train_per_class:
            raise InvalidInputError(
                f"Expected at least {train_per_class} training nodes of each class (got {int(count[present].min())})"
            )
        order = train[torch.argsort(y[train], stable=True)]
        before = torch.repeat_interleave(count.cumsum(0) - count, count)
        train = order[torch.arange(order.numel(), device=order.device) - before < train_per_class]
    if not train.numel():
        raise InvalidInputError("Expected training nodes with labels (got none)")
    out = copy.copy(data)
    for name, index in zip(MASKS, (train, val, test), strict=True):
        out[name] = torch.zeros(data.num_nodes, dtype=torch.bool, device=y.device).index_fill(0, index, True)
    return out


def graph_split(data: Data, val_ratio: float = 0.1, test_ratio: float = 0.1, seed: int = 0) -> Data:
    """Hold out graphs of a batch for validation and test; the others are for training.

    Args:
        data: a batch of graphs with labels `y`, a row per graph.
        val_ratio: share of the graphs held out for validation.
        test_ratio: share held out for test.
        seed: of the draw; the global random state does not change.

    Returns:
        A shallow copy with `train_mask`, `val_mask`, `test_mask`, boolean `[num_graphs]`, disjoint.

    Raises:
        InvalidRequestError: data that is no batch of graphs.
        InvalidInputError: bad ratios, or too few graphs.
    """
    if not (val_ratio >= 0 and test_ratio >= 0 and val_ratio + test_ratio < 1):
        raise InvalidInputError(f"Expected held-out ratios that leave training graphs (got {val_ratio}, {test_ratio})")
    size, device = num_graphs(data), data.edge_index.device
    check_seed(seed)
    with isolated_rng(seed):
        order = torch.randperm(size).to(device)
    val, test = int(val_ratio * size), int(test_ratio * size)
    if val + test >= size:
        raise InvalidInputError(f"Expected training graphs beside the held-out ones (got {size} graphs)")
    out = copy.copy(data)
    for name, index in zip(MASKS, order.split([size - val - test, val, test]), strict=True):
        out[name] = torch.zeros(size, dtype=torch.bool, device=device).index_fill(0, index, True)
    return out


def _known_labels(data: Data) -> tuple[Tensor, Tensor]:
    """Return the labels of the nodes, and which nodes have one, `[num_nodes]`."""
    y = data.get("y")
    own = isinstance(y, Tensor) and (y.is_floating_point() or y.dtype == torch.bool or (y.dim() == 2 and y.size(1) > 1))
    if not own or y.size(0) != data.num_nodes or y.dim() > 2:
        y = labels(data)
    entries = ~y.isnan() if y.is_floating_point() else y >= 0 if y.dtype != torch.bool else torch.ones_like(y)
    return y, entries.view(y.size(0), -1).any(1)
