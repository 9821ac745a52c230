"""The best assignment of one model's channels to another's."""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from gunlearn.errors import DivergenceError


def best_order(similarity: Tensor, heads: int = 1) -> Tensor:
    r"""Return the permutation `p` that maximises :math:`\sum_i S_{i, p(i)}`, `[num_channels]`.

    With several heads a head moves as a whole and its channels within it. The best such permutation comes from an
    assignment of channels for each pair of heads, and one of heads by the values of these.

    Args:
        similarity: `S`, of the first model's channel `i` with the second's `j`, `[num_channels, num_channels]`.
        heads: equal blocks of channels that move as wholes.

    Raises:
        DivergenceError: a similarity is NaN or infinite.
    """
    if not torch.isfinite(similarity).all():
        raise DivergenceError("Expected finite similarities of channels (got NaN or infinity)")
    values = similarity.double().cpu().numpy()
    if heads == 1:
        return torch.from_numpy(linear_sum_assignment(values, maximize=True)[1])
    size = len(values) // heads
    within = np.empty((heads, heads, size), dtype=np.int64)
    worth = np.empty((heads, heads))
    for i in range(heads):
        for j in range(heads):
            part = values[i * size : (i + 1) * size, j * size : (j + 1) * size]
            rows, within[i, j] = linear_sum_assignment(part, maximize=True)
            worth[i, j] = part[rows, within[i, j]].sum()
    chosen = linear_sum_assignment(worth, maximize=True)[1]
    return torch.from_numpy(np.concatenate([chosen[i] * size + within[i, chosen[i]] for i in range(heads)]))
