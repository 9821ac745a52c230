"""Node pairs as integers: one key per ordered pair, which sorts and compares faster than two numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gunlearn.core.sorting import sort

# `row * num_nodes + col` must fit into int64; above this bound the nodes that occur are renumbered first.
MAX_NUM_NODES = 2**31


def pair_key(index: Tensor | Sequence[Tensor], num_nodes: int) -> Tensor:
    """Return `row * num_nodes + col` of pairs `[2, n]` as int64 `[n]`, -1 where an id is not in `[0, num_nodes)`.

    `num_nodes` is at most `MAX_NUM_NODES`; rows and columns may be integers of different sizes.
    """
    row, col = index[0].long(), index[1].long()
    key = row * num_nodes + col
    if all(int(low) >= 0 and int(high) < num_nodes for low, high in (ids.aminmax() for ids in (row, col) if len(ids))):
        return key
    return torch.where(((row | col) >= 0) & (torch.maximum(row, col) < num_nodes), key, -1)


def comparable_keys(lists: dict[str, Tensor], num_nodes: int) -> dict[str, Tensor]:
    """Return the keys of several lists of pairs `[2, n]`, equal for equal pairs, of a graph of any size."""
    if num_nodes > MAX_NUM_NODES:
        ids, place = torch.cat([pairs.flatten() for pairs in lists.values()]).unique(return_inverse=True)
        sizes = [pairs.numel() for pairs in lists.values()]
        lists = {k: v.view(2, -1) for k, v in zip(lists, place.split(sizes), strict=True)}
        num_nodes = ids.numel()
    return {name: pair_key(pairs, num_nodes) for name, pairs in lists.items()}


def is_among(few: Tensor, many: Tensor) -> Tensor:
    """Return which keys `few` `[k]` are among `many` `[n]`: `torch.isin`, by the faster sort."""
    if not few.numel() or not many.numel():
        return torch.zeros(few.shape, dtype=torch.bool, device=few.device)
    many = many.to(few.device)
    if few.numel() > 8 * many.numel():
        found = torch.zeros(few.shape, dtype=torch.bool, device=few.device)
        maybe = _maybe_among(few, many)
        found[maybe] = _in_sorted(few[maybe], sort(many))
        return found
    if many.numel() <= 8 * few.numel():
        return _in_sorted(few, sort(many))
    ordered, many = sort(few), many[_maybe_among(many, few)]
    place = torch.searchsorted(ordered, many).clamp_(max=ordered.numel() - 1)
    there = torch.zeros_like(ordered, dtype=torch.bool)
    there[place[ordered[place] == many]] = True
    return there[torch.searchsorted(ordered, few)]


def _in_sorted(key: Tensor, ordered: Tensor) -> Tensor:
    return ordered[torch.searchsorted(ordered, key.contiguous()).clamp_(max=ordered.numel() - 1)] == key


def _maybe_among(many: Tensor, few: Tensor) -> Tensor:
    """Return places of keys that may be among a few others: a look-up in a table of some bits rules most out."""
    bits = min(16 * few.numel(), 2**26).bit_length()
    table = torch.zeros(2**bits, dtype=torch.bool, device=few.device)
    table[_some_bits(few, bits)] = True
    return table[_some_bits(many, bits)].nonzero().view(-1)


def _some_bits(key: Tensor, bits: int) -> Tensor:
    return (key * -7046029254386353131 >> (63 - bits)) & (2**bits - 1)  # an odd constant, whose product's top bits mix
