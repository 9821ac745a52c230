"""Change a model's weights without changing what it computes: permuted channels, positive factors."""

from collections.abc import Mapping

import torch
from torch import Tensor

from gunlearn.connectivity.alignment.channel_structure import ChannelStructure
from gunlearn.connectivity.alignment.spaces import Block, Spaces, positions

State = Mapping[str, Tensor]
_ROUNDS = 2000
_DEAD = 1e-20  # of a tensor's largest square: a channel whose weights were driven to zero


def permuted_weights(
    structure: ChannelStructure, state: State, orders: Mapping[int, Tensor], factors: Mapping[int, Tensor] | None = None
) -> dict[str, Tensor]:
    """Return the weights with channels permuted, then multiplied; a channel's weights downstream are divided.

    Args:
        structure: of the model.
        state: tensors by name.
        orders: a permutation by space (the one that stands for all tied ones).
        factors: positive, by space (likewise), in the new order.
    """
    out = {}
    for name, value in state.items():
        axes = structure.axes.get(name)
        if axes is None or not isinstance(value, Tensor):
            out[name] = value.clone() if isinstance(value, Tensor) else value
            continue
        new = value.detach().reshape(structure.views.get(name, value.shape))
        for dim, entry in enumerate(axes):
            if entry is None:
                continue
            blocks, power = entry
            index = positions(blocks, structure.spaces, dict(orders)).to(new.device)
            new = new.index_select(dim, index)
            if factors:
                along = [1] * new.dim()
                along[dim] = -1
                factor = factor_of(blocks, structure.spaces, factors) ** power
                new = (new.double() * factor.reshape(along).to(new.device)).to(value.dtype)
        out[name] = new.reshape(value.shape).clone()
    return out


def factor_of(blocks: tuple[Block, ...], spaces: Spaces, factors: Mapping[int, Tensor]) -> Tensor:
    """Return the factor of each entry of an axis, in double precision."""
    parts = []
    for space, inner in blocks:
        size = spaces.sizes[space] if space >= 0 else 1
        factor = factors.get(spaces.scale.find(space)) if space >= 0 else None
        parts.append((torch.ones(size, dtype=torch.float64) if factor is None else factor).repeat_interleave(inner))
    return torch.cat(parts)


def balancing_factors(structure: ChannelStructure, state: State) -> dict[int, Tensor]:
    r"""Return for each channel the factor at which its incoming and outgoing weights have one norm.

    A ReLU network computes the same with a channel's incoming weights multiplied by `a > 0` and its outgoing ones
    divided by it. The balanced form minimises the sum of all squares, is the same for all networks that differ by such
    factors, and so removes them before networks are compared. Alternating :math:`a^2 = |out| / |in|` over the spaces
    converges to it. Channels without weights on one side keep the factor 1.

    Returns:
        `[num_channels]` in double precision by the space that stands for all that scale alike.
    """
    spaces = structure.spaces
    free = {r for r in map(spaces.scale.find, range(len(spaces.sizes))) if not spaces.scale.why(r)}
    factors = {r: torch.ones(spaces.sizes[r], dtype=torch.float64) for r in sorted(free)}
    squares = {
        name: state[name].detach().double().cpu().reshape(structure.views.get(name, state[name].shape)) ** 2
        for name, axes in structure.axes.items()
        if any(e is not None and any(b.space >= 0 and spaces.scale.find(b.space) in free for b in e[0]) for e in axes)
    }
    squares = {name: value for name, value in squares.items() if value.numel()}
    for _ in range(_ROUNDS if factors else 0):
        change = 0.0
        for root in factors:
            step = _balance(structure, squares, root)
            factors[root] *= step
            change = max(change, float(step.log().abs().max()))
        if change < 1e-13:
            break
    return factors


def _balance(structure: ChannelStructure, squares: dict[str, Tensor], root: int) -> Tensor:
    """Return the factor that balances one space now, and multiply it into `squares`."""
    spaces = structure.spaces
    sums = {1: torch.zeros(spaces.sizes[root], dtype=torch.float64)}
    sums[-1] = torch.zeros_like(sums[1])
    touched = []
    for name, value in squares.items():
        for dim, entry in enumerate(structure.axes[name]):
            if entry is None or not any(b.space >= 0 and spaces.scale.find(b.space) == root for b in entry[0]):
                continue
            touched.append((name, dim, entry))
            along, start = value.movedim(dim, 0).reshape(value.size(dim), -1).sum(1), 0
            for space, inner in entry[0]:
                size = spaces.sizes[space] if space >= 0 else 1
                if space >= 0 and spaces.scale.find(space) == root:
                    sums[entry[1]] += along[start : start + size * inner].reshape(size, inner).sum(1)
                start += size * inner
    alive = (sums[1] > _DEAD * sums[1].max()) & (sums[-1] > _DEAD * sums[-1].max())
    step = torch.where(alive, (sums[-1] / sums[1].clamp(min=1e-300)), 1.0) ** 0.25
    step = torch.where(alive, step, torch.ones_like(step))
    for name, dim, (blocks, power) in touched:
        shape = [1] * squares[name].dim()
        shape[dim] = -1
        squares[name] = squares[name] * factor_of(blocks, spaces, {root: step ** (2 * power)}).reshape(shape)
    return step
