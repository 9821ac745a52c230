"""Permutations by what channels say on data: activations, or messages of a graph (GRAMA, NeurIPS 2024)."""

from collections.abc import Iterator

import torch
from torch import Tensor

from gunlearn.connectivity.alignment.assignment import best_order
from gunlearn.connectivity.alignment.symmetry import State
from gunlearn.connectivity.alignment.tracing import ChannelStructure
from gunlearn.connectivity.alignment.weight_matching import similarity

#: Rows that are compared at most; more are thinned out evenly.
MAX_ROWS = 1 << 17
_TIE = 1e-6
_SWEEPS = 20


def match_features(
    first: ChannelStructure, second: ChannelStructure, by: str, weights: tuple[State, State]
) -> tuple[dict[int, Tensor], dict[int, str]]:
    r"""Return a permutation per free space that maximises the correlation of both models' channels on the data.

    `"messages"` compares what layers return, before the non-linearity: on a graph the aggregated messages
    :math:`A h W` (GRAMA). `"activations"` compares what the next layers read. Since a model's messages do not depend on
    the order of its channels, carrying the permutation of one layer into the input of the next changes none of them,
    and each layer is matched by itself. Channels that are constant on the data have no correlation; they are matched
    among themselves by their weights, which also decide between equal correlations.

    Args:
        first: structure and run of the first model.
        second: of the second, on the same data.
        by: `"messages"` or `"activations"`.
        weights: of both models.

    Returns:
        permutations by space, and for spaces of which the data said nothing, what was done instead.
    """
    spaces = first.spaces
    pairs: dict[int, list[tuple[Tensor, Tensor]]] = {}
    for (space, seen), (_, also) in zip(_recorded(first, by), _recorded(second, by), strict=True):
        pairs.setdefault(spaces.order.find(space), []).append((seen, also))
    values = {space: sum((correlation(*pair) for pair in found), torch.zeros(())) for space, found in pairs.items()}
    one, other = ({k: s[k].detach().double().cpu() for k in first.axes} for s in weights)
    orders = {s: torch.arange(spaces.sizes[s]) for s in spaces.free()}
    left = {s: f"no {by} of them are seen: matched by weights" for s in orders if s not in pairs}
    known: set[int] | None = set()
    for _ in range(_SWEEPS):
        before = dict(orders)
        for space in orders:
            tie = similarity(first, one, other, space, orders, known)
            worth = values.get(space, torch.zeros(spaces.sizes[space], spaces.sizes[space]))
            if tie is not None:
                worth = worth + _TIE * tie / tie.abs().max().clamp(min=1e-300)
            orders[space] = best_order(worth, spaces.heads[space])
            known = None if known is None else {*known, space}
        if known is None and all(torch.equal(orders[s], before[s]) for s in orders):
            break
        known = None  # from now on all weights decide between equal correlations
    return orders, left


def _recorded(structure: ChannelStructure, by: str) -> Iterator[tuple[int, Tensor]]:
    """Yield a space and what its channels said, `[rows, num_channels * inner]` folded to `[rows, num_channels]`."""
    for call in structure.calls:
        blocks, rows = (call.made, call.outputs) if by == "messages" else (call.given, call.inputs)
        if blocks is None or rows is None or (by == "messages" and not call.new):
            continue
        start = 0
        for space, inner in blocks:
            size = structure.spaces.sizes[space] if space >= 0 else 1
            part = rows[:, start : start + size * inner]
            start += size * inner
            if space >= 0:
                yield space, part.reshape(-1, size, inner).transpose(1, 2).reshape(-1, size)


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Return the correlation of each channel of one with each of the other, 0 for constant ones.

    Args:
        first: `[rows, num_channels]`.
        second: `[rows, num_channels]`.

    Returns:
        `[num_channels, num_channels]` in double precision.
    """
    step = -(-len(first) // MAX_ROWS)
    scaled = []
    for rows in (first[::step], second[::step]):
        rows = rows.double().cpu()
        rows = rows - rows.mean(0)
        length = torch.linalg.vector_norm(rows, dim=0)
        floor = 1e-12 * length.max()
        scaled.append(torch.where(length > floor, rows / length.clamp(min=1e-300), 0.0))
    return scaled[0].t() @ scaled[1]
