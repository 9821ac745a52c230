"""Each item's terms of the training loss."""

from typing import Any

import torch
from torch import Tensor

from gunlearn.attribution.base import InfluenceProblem
from gunlearn.attribution.distinct_items import Items
from gunlearn.curvature.training_loss import training_items
from gunlearn.errors import UnsupportedMethodError
from gunlearn.losses.functional import mean_tokens


def item_losses(problem: InfluenceProblem, outputs: Tensor) -> Tensor:
    """Return each item's share of the mean training loss, `[num_items]`, given outputs `[num_nodes, dim]`.

    Link prediction: an edge has its own positive term, a node those of all its edges; random negatives (as many as
    edges) count in the mean but belong to no item. Node classification: a training node has its label's term, others 0.
    """
    task, training = problem.task, training_items(problem.task, problem.data, problem.seed)
    item, term = own_terms(training, problem.items)
    seeds = task.seeds(training)
    if seeds is None:
        raise UnsupportedMethodError(
            f"Expected a task whose items read rows of the model's outputs (got '{task.name}')"
        )
    mine = task.at_rows(training, term, seeds.view(-1, training.num_items)[:, term], outputs.size(0))
    found = task.decode(problem.model, outputs, mine)
    values = -mean_tokens(found.log_prob, found.mask) / training.num_items
    return values.new_zeros(problem.items.num_items).index_add(0, item, values)


def own_terms(training: Any, items: Items) -> tuple[Tensor, Tensor]:
    """Return pairs of an item and a term of the loss that belongs to it, `[num_pairs]` each, by item.

    An edge has the term that labels it an edge, a node those of all its edges or its own label's, a feature none; where
    labels are of whole graphs nothing has one.
    """
    none = items.ids.new_empty(0)
    if items.of == "features":
        return none, none
    if hasattr(training, "edge_label_index"):
        pairs, positive, n = training.edge_label_index, training.label > 0, items.num_nodes
        if items.of == "edges":  # of an undirected edge both lists hold one direction, the smaller id first
            return _matches(items.ids[0] * n + items.ids[1], pairs[0] * n + pairs[1], positive)
        (item, term), (item_v, term_v) = (_matches(items.ids, end, positive) for end in pairs)
        both = torch.cat([item, item_v]) * training.num_items + torch.cat([term, term_v])
        both = both.unique()  # a self-loop has its node at both ends
        return both // training.num_items, both % training.num_items
    if hasattr(training, "index"):
        if items.of == "edges" or not items.per_node:
            return none, none
        return _matches(items.ids, training.index, torch.ones_like(training.index, dtype=torch.bool))
    raise UnsupportedMethodError(
        f"Expected training items that are pairs of nodes or nodes (got {type(training).__name__})"
    )


def _matches(wanted: Tensor, key: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pairs (i, j) with `wanted[i] == key[j]` and `valid[j]`, grouped by i; `wanted` has no duplicates."""
    ordered, order = wanted.sort()
    place = torch.searchsorted(ordered, key).clamp(max=ordered.numel() - 1)
    term = ((ordered[place] == key) & valid).nonzero().view(-1)
    item, by_item = order[place[term]].sort(stable=True)
    return item, term[by_item]
