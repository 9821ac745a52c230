"""Which relations of a graph are each other's reverse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gunlearn.core.sorting import unique

if TYPE_CHECKING:
    from gunlearn.requests.training_graph import TrainingGraph

# How the pairs of a relation are turned into those of its edges.
DIRECTED, FORWARD, REVERSE, SYMMETRIC = range(4)


def relations_and_reverses(graph: TrainingGraph) -> tuple[Tensor, Tensor]:
    """Return the number that the edges of each relation go by, and how their pairs are turned, `[num_relations]` both.

    Two relations are each other's reverse where the data know their names (those of `gunlearn.nn.homogeneous` and of
    PyG's `to_homogeneous` do) and one is the other's `rev_*`, or where one holds the other's pairs flipped. They go by
    the smaller number, and pairs of the larger one are turned.
    """
    device = graph.edge_index.device
    if graph.index is not None:
        one = DIRECTED if graph.index.one_way else SYMMETRIC
        return torch.tensor([0], device=device), torch.tensor([one], device=device)
    ahead, back = graph.ordered_key(graph.edge_index), graph.ordered_key(graph.edge_index.flip(0))
    if graph.edge_type is None:
        one = SYMMETRIC if same_both_ways(ahead, back) else DIRECTED
        return torch.tensor([0], device=device), torch.tensor([one], device=device)
    prints, turned = (_fingerprints(pair, graph.edge_type, graph.num_relations) for pair in (ahead, back))
    symmetric = [a == b for a, b in zip(prints, turned, strict=True)]
    reverse = _named_reverses(graph)
    by_print = {prints[r]: r for r in reversed(range(len(prints))) if r not in reverse and not symmetric[r]}
    for relation, print_ in enumerate(turned):
        other = by_print.get(print_, relation)
        if other != relation and relation in by_print.values() and not {relation, other} & set(reverse):
            reverse |= {relation: other, other: relation}
    forward, turn = list(range(len(prints))), [SYMMETRIC if own else DIRECTED for own in symmetric]
    for relation, other in reverse.items():
        forward[relation] = min(relation, other)
        if not (symmetric[relation] and symmetric[other]):
            turn[relation] = FORWARD if relation < other else REVERSE
    return torch.tensor(forward, device=device), torch.tensor(turn, device=device)


def _named_reverses(graph: TrainingGraph) -> dict[int, int]:
    """Return the relations whose reverse is known by its name, `rev_*` between the same types, both ways."""
    names = [tuple(name) for name in getattr(graph.data, "_edge_type_names", None) or ()][: graph.num_relations]
    number = {name: i for i, name in enumerate(names)}
    found: dict[int, int] = {}
    for relation, (source, name, target) in enumerate(names):
        other = number.get((target, f"rev_{name}", source))
        if other is not None:
            found |= {relation: other, other: relation}
    return found


def _fingerprints(pair: Tensor, relation: Tensor, number: int) -> list[tuple[int, int]]:
    """Return, of each relation, the number of its distinct pairs and a 64-bit sum of their hashes."""
    distinct = (pair * number + relation).unique()
    relation, mixed = distinct % number, distinct // number * -7046029254386353131  # odd constants of splitmix64
    mixed = (mixed ^ (mixed >> 29)) * -4658895280553007687
    mixed = mixed ^ (mixed >> 32)
    total = torch.zeros(number, dtype=torch.long, device=pair.device).index_add_(0, relation, mixed)
    return list(zip(torch.bincount(relation, minlength=number).tolist(), total.tolist(), strict=True))


def same_both_ways(forward: Tensor, backward: Tensor) -> bool:
    """Return whether a graph is undirected as a set of pairs, from keys `[E]` of its edges and of the reversed ones."""
    return torch.equal(unique(forward), unique(backward))
