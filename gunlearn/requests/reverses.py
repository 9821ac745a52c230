"""Reverses of forgotten edges, in graphs that are symmetric but for some edges."""

import warnings

from torch import Tensor

from gunlearn.requests.pair_keys import is_among
from gunlearn.requests.training_graph import TrainingGraph

_MOSTLY = 0.5  # share of edges with a reverse, above which a graph is read as one that was meant to be symmetric


def warn_of_reverses(graph: TrainingGraph, columns: Tensor) -> None:
    """Warn where forgotten edges, columns `[k]` of a directed graph, have a reverse that stays.

    In a graph most of whose edges have a reverse, an edge is rarely meant in one direction alone: one missing reverse,
    or a split that holds out directions one by one, makes a symmetric graph a directed one. Graphs with relations are
    left alone: another relation back is another fact.

    Warns:
        UserWarning: how many reverses stay, and what to do.
    """
    if graph.is_undirected or graph.edge_type is not None or not columns.numel():
        return
    ends = graph.edge_index[:, columns]
    turned = ends.flip(0)
    gone = is_among(graph.ordered_key(turned), graph.ordered_key(ends))
    stays = int((graph.is_edge(turned) & ~gone).sum())
    if not stays:
        return
    others = graph.edge_index[:, graph.edge_index[0] != graph.edge_index[1]]
    share = float(graph.is_edge(others.flip(0)).float().mean())
    if share <= _MOSTLY:
        return
    warnings.warn(
        f"{stays} of {columns.numel()} forgotten edges have a reverse that stays: {share:.1%} of the graph's edges "
        "have one, but not all, so it counts as directed. Name both directions, or make it symmetric first "
        "(torch_geometric.utils.to_undirected; RandomLinkSplit with is_undirected=True)",
        stacklevel=3,
    )
