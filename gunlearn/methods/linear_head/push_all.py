"""Propagate the features of a whole graph by pushes; see `push`."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch_geometric.data import Data

from gunlearn.methods.linear_head.gram import Gram
from gunlearn.methods.linear_head.propagation import column_blocks
from gunlearn.methods.linear_head.push import Pushed
from gunlearn.methods.linear_head.row_versions import RowVersions
from gunlearn.methods.linear_head.walk import RandomWalk
from gunlearn.nn.kernels.sparse import multiply

_COLUMNS, _ROWS = 16, 8192  # of the large tables that are read at a time
_WIDEST = 512  # features for which products of all pairs of columns are kept


def push_all(
    data: Data, nodes: Tensor, hops: Sequence[float], r_max: float, normalize: bool, bias: bool = False
) -> Pushed:
    """Return the state of a graph with the training nodes `nodes`, sorted ids `[n]`; see `Pushed` for the rest.

    Beside the state it takes a few columns of the features at a time.
    """
    x, walk, depth = data.x, RandomWalk.of(data.edge_index, int(data.num_nodes)), len(hops) - 1
    like = {"dtype": torch.float64, "device": x.device}
    tables = [torch.zeros(walk.num_nodes, x.size(1), **like) for _ in range(2 * max(depth - 1, 0))]
    tables.append(torch.full((nodes.numel(), x.size(1) + bias), float(bias), **like))
    alive = torch.ones(nodes.numel(), dtype=torch.bool, device=nodes.device)
    state = Pushed(RowVersions(tables), walk, nodes, alive, tuple(hops), r_max, normalize, bias)
    state.pushed = _propagate(state, x)
    lengths = [torch.linalg.vector_norm(table, dim=1).square_() * walk.degree for table in state.hold()[1]]
    state.square = [*lengths, torch.linalg.vector_norm(tables[-1], dim=1).square_()]
    if x.size(1) <= _WIDEST:
        state.grams = [Gram.of(state.residue_blocks(level), x.size(1), x.device) for level in range(1, depth)]
        state.grams.append(Gram.of(tables[-1].split(_ROWS), x.size(1) + bias, x.device))
    return state


def _propagate(state: Pushed, x: Tensor) -> int:
    """Fill tables of zeros; return how many rows were pushed."""
    reserve, residue, z = state.hold()
    pattern, degree = state.walk.pattern(), state.walk.degree.unsqueeze(-1)
    root, pushed = degree.sqrt(), 0

    def add(block: Tensor, columns: slice, hop: float, first: bool = False) -> None:
        part = hop * (root * block)[state.nodes] if hop else 0.0
        z[:, columns] = part if first else z[:, columns] + part

    def send(block: Tensor, columns: slice, level: int) -> None:
        sent = multiply(pattern, block.contiguous()).div_(degree)
        if level < state.depth:
            residue[level - 1][:, columns] = sent
        else:
            add(sent, columns, state.hops[level])

    for columns, block in column_blocks(x, state.normalize, _COLUMNS):
        start = block / root
        add(start, columns, state.hops[0], first=True)
        if state.depth:
            send(start, columns, 1)
    for level in range(1, state.depth):
        table = residue[level - 1]
        large = torch.linalg.vector_norm(table, ord=torch.inf, dim=1) * root.view(-1) > state.r_max
        pushed += int(large.sum())
        for at in range(0, x.size(1), _COLUMNS):
            columns = slice(at, min(at + _COLUMNS, x.size(1)))
            change = table[:, columns] * large.unsqueeze(-1)
            reserve[level - 1][:, columns] = change
            table[:, columns] -= change
            add(change, columns, state.hops[level])
            send(change, columns, level + 1)
    return pushed
