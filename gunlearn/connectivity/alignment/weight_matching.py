"""Permutations by the weights alone (Git Re-Basin, arXiv 2209.04836, algorithm 1)."""

import torch
from torch import Tensor

from gunlearn.connectivity.alignment.assignment import best_order
from gunlearn.connectivity.alignment.channel_structure import ChannelStructure
from gunlearn.connectivity.alignment.spaces import positions
from gunlearn.connectivity.alignment.symmetry import State, permuted_weights

_SWEEPS = 100
_GAIN = 1e-12


def match_weights(structure: ChannelStructure, first: State, second: State) -> dict[int, Tensor]:
    r"""Return a permutation per free space that (locally) maximises the inner product of both models' weights.

    Each space in turn gets the best permutation given all others, by an assignment problem; sweeps go on until none
    changes. Two starts are tried and the better result is kept: every permutation at rest, and layer by layer, where a
    first sweep compares a space by those weights alone whose other axes are already matched.

    Args:
        structure: of the models.
        first: weights by name.
        second: weights by name.

    Returns:
        permutations by space.
    """
    one, other = (
        {k: s[k].detach().double().cpu() for k in structure.axes if not k.endswith(("running_mean", "running_var"))}
        for s in (first, second)
    )
    found = []
    for forward in (True, False):
        orders = {s: torch.arange(structure.spaces.sizes[s]) for s in structure.spaces.free()}
        if forward:
            _forward(structure, one, other, orders)
        sweeps = 0
        while sweeps < _SWEEPS and _sweep(structure, one, other, orders):
            sweeps += 1
        found.append((weight_agreement(structure, one, other, orders), orders))
    return max(found, key=lambda entry: entry[0])[1]


def weight_agreement(structure: ChannelStructure, first: State, second: State, orders: dict[int, Tensor]) -> float:
    """Return the inner product of the first model's weights with the second's, permuted."""
    new = permuted_weights(structure, second, orders)
    return sum(float((first[name] * new[name]).sum()) for name in first)


def similarity(
    structure: ChannelStructure,
    first: State,
    second: State,
    space: int,
    orders: dict[int, Tensor],
    known: set[int] | None = None,
) -> Tensor | None:
    """Return the inner products of the weights of every pair of channels of a space, all else permuted by `orders`.

    Args:
        structure: of the models.
        first: weights by name, in double precision.
        second: weights by name, in double precision.
        space: the one that stands for all that are tied to it.
        orders: permutations of the second model's spaces.
        known: read only weights all of whose other axes have these spaces or stay in place; None reads all.

    Returns:
        `[num_channels, num_channels]`; None where no weights are known.
    """
    spaces = structure.spaces
    total: Tensor | None = None
    for name in first:
        axes, shape = structure.axes[name], structure.views.get(name, first[name].shape)
        held = [spaces.order.find(b.space) for e in axes if e is not None for b in e[0] if b.space >= 0]
        fixed = all(o == space or o in (known or ()) or spaces.order.why(o) for o in held) and held.count(space) == 1
        if space not in held or (known is not None and not fixed):
            continue
        for dim, entry in enumerate(axes):
            if entry is None:
                continue
            one, other = first[name].reshape(shape), second[name].reshape(shape)
            for d, e in enumerate(axes):
                if e is not None and d != dim:
                    other = other.index_select(d, positions(e[0], spaces, orders))
            start = 0
            for b in entry[0]:
                size = (spaces.sizes[b.space] if b.space >= 0 else 1) * b.inner
                if b.space >= 0 and spaces.order.find(b.space) == space:
                    parts = [t.narrow(dim, start, size).movedim(dim, 0) for t in (one, other)]
                    rows = [part.reshape(size // b.inner, -1) for part in parts]
                    product = rows[0] @ rows[1].t()
                    total = product if total is None else total + product
                start += size
    return total


def _forward(structure: ChannelStructure, first: State, second: State, orders: dict[int, Tensor]) -> None:
    known: set[int] = set()
    for space in orders:
        values = similarity(structure, first, second, space, orders, known)
        if values is not None:
            orders[space] = best_order(values, structure.spaces.heads[space])
        known.add(space)


def _sweep(structure: ChannelStructure, first: State, second: State, orders: dict[int, Tensor]) -> bool:
    """Improve each space once; return whether one changed."""
    changed = False
    for space in orders:
        values = similarity(structure, first, second, space, orders)
        if values is None:
            continue
        trial = {**orders, space: best_order(values, structure.spaces.heads[space])}
        if torch.equal(trial[space], orders[space]):
            continue
        before = weight_agreement(structure, first, second, orders)
        if weight_agreement(structure, first, second, trial) > before + _GAIN * abs(before):
            orders[space], changed = trial[space], True
    return changed
