"""Permutations by what channels say on data: activations, or messages of a graph (GRAMA, NeurIPS 2024)."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from gunlearn.connectivity.alignment.assignment import best_order
from gunlearn.connectivity.alignment.channel_structure import ChannelStructure
from gunlearn.connectivity.alignment.symmetry import State, factor_of
from gunlearn.connectivity.alignment.weight_matching import similarity

#: Rows that are compared at most; more are thinned out evenly.
MAX_ROWS = 1 << 17
_TIE = 1e-9
_SWEEPS = 20
Factors = Mapping[int, Tensor]


def match_features(
    first: ChannelStructure,
    second: ChannelStructure,
    by: str,
    weights: tuple[State, State],
    factors: tuple[Factors, Factors] = ({}, {}),
) -> tuple[dict[int, Tensor], dict[int, str]]:
    r"""Return the permutation of each free space that brings both models' channels nearest to each other on the data.

    With :math:`M_1, M_2` the centred values of a space's channels it maximises :math:`tr(M_1^T M_2 P)`, which minimises
    :math:`|M_1 - M_2 P|^2`. `"messages"` compares what layers return, before the non-linearity: on a graph the
    aggregated messages :math:`A h W` (GRAMA). `"activations"` compares what the next layers read. A model's messages do
    not depend on the order of its channels, so carrying the permutation of one layer into the input of the next changes
    none of them, and each layer is matched by itself. Channels that are constant on the data, and equal values, are
    decided by the weights.

    Args:
        first: structure and run of the first model.
        second: of the second, on the same data.
        by: `"messages"` or `"activations"`.
        weights: of both models, multiplied by `factors`.
        factors: of both models' channels by space, at which they are compared.

    Returns:
        permutations by space, and for spaces of which the data said nothing, what was done instead.
    """
    spaces = first.spaces
    pairs: dict[int, list[tuple[Tensor, Tensor]]] = {}
    recorded = (_recorded(s, by, f) for s, f in zip((first, second), factors, strict=True))
    for (space, seen), (_, also) in zip(*recorded, strict=True):
        pairs.setdefault(spaces.order.find(space), []).append((seen, also))
    values = {space: sum((covariance(*pair) for pair in found), torch.zeros(())) for space, found in pairs.items()}
    one, other = ({k: s[k].detach().double().cpu() for k in first.axes} for s in weights)
    orders = {s: torch.arange(spaces.sizes[s]) for s in spaces.free()}
    left = {s: f"no {by} of them are seen: matched by weights" for s in orders if s not in pairs}
    known: set[int] | None = set()
    for _ in range(_SWEEPS):
        before = dict(orders)
        for space in orders:
            tie = similarity(first, one, other, space, orders, known)
            nothing = torch.zeros(spaces.sizes[space], spaces.sizes[space], dtype=torch.float64)
            worth = _unit(values.get(space, nothing))
            worth = worth if tie is None else worth + _TIE * _unit(tie)
            orders[space] = best_order(worth, spaces.heads[space])
            known = None if known is None else {*known, space}
        if known is None and all(torch.equal(orders[s], before[s]) for s in orders):
            break
        known = None  # from now on all weights decide between equal correlations
    return orders, left


def _unit(values: Tensor) -> Tensor:
    return values / values.abs().max().clamp(min=1e-300)


def _recorded(structure: ChannelStructure, by: str, factors: Factors) -> Iterator[tuple[int, Tensor]]:
    """Yield a space and what its channels said, times their factors, `[rows, num_channels]`."""
    for call in structure.calls:
        blocks, rows = (call.made, call.outputs) if by == "messages" else (call.given, call.inputs)
        if blocks is None or rows is None or (by == "messages" and not call.new):
            continue
        rows, start = rows.cpu(), 0
        for block in blocks:
            size = structure.spaces.sizes[block.space] if block.space >= 0 else 1
            part = rows[:, start : start + size * block.inner] * factor_of((block,), structure.spaces, factors)
            start += size * block.inner
            if block.space >= 0:
                yield block.space, part.reshape(-1, size, block.inner).transpose(1, 2).reshape(-1, size)


def covariance(first: Tensor, second: Tensor) -> Tensor:
    """Return the covariance of each channel of one with each of the other.

    Args:
        first: `[rows, num_channels]`.
        second: `[rows, num_channels]`.

    Returns:
        `[num_channels, num_channels]` in double precision.
    """
    step = -(-len(first) // MAX_ROWS)
    one, other = (rows[::step].double().cpu() for rows in (first, second))
    return (one - one.mean(0)).t() @ (other - other.mean(0)) / len(one)
