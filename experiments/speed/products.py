"""The products of a step by other kernels and in other orders of the nodes.

`python -m experiments.speed.products ROOT` prints processor milliseconds, medians of calls in turns.
"""

import statistics
import sys
from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import reverse_cuthill_mckee
from torch import Tensor
from torch_geometric.nn.conv.gcn_conv import gcn_norm

from experiments.common import markdown
from experiments.speed.clocks import timed
from experiments.speed.problems import official
from gunlearn.nn.kernels.bag_of_words import sparse_features
from gunlearn.nn.kernels.sparse import multiply, sparse_matrix

REPEATS, HIDDEN = 15, 128


def mkl(matrix: Tensor, x: Tensor) -> Tensor:
    out = x.new_empty(matrix.size(0), x.size(1))
    return torch.addmm(out, matrix, x, beta=0, out=out)


def embedding_bag(matrix: Tensor, x: Tensor) -> Tensor:
    pointer, col, value = matrix.crow_indices(), matrix.col_indices(), matrix.values()
    return torch.embedding_bag(x, col, pointer, False, 0, False, value, True)[0]


KERNELS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "MKL": mkl, "ours": multiply, "embedding_bag": embedding_bag,
    "torch.sparse.mm(sum)": lambda matrix, x: torch.sparse.mm(matrix, x, "sum"),
}  # fmt: skip


def in_turns(runs: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median processor milliseconds of each."""
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(REPEATS):
        for name, run in runs.items():
            spent[name].append(1e3 * timed(run, "cpu")[0])
    return {name: statistics.median(ms) for name, ms in spent.items()}


def main(root: str) -> None:
    torch.set_num_threads(1)
    kernels, orders = [], []
    for dataset in ("DBLP", "CS", "Photo"):
        data, _ = official(dataset, root, 0.005)
        n, features = data.num_nodes, sparse_features(data.x)
        index, weight = gcn_norm(data.edge_index, None, n, dtype=torch.float32)
        adjacency, hidden = sparse_matrix(index[1], index[0], weight, (n, n)), torch.randn(n, HIDDEN)
        first = torch.randn(data.num_features, HIDDEN)
        products = {"A H": (adjacency.matrix, hidden)}
        if features is not None:
            products |= {"X W": (features.matrix, first), "X^T G": (features.transpose, hidden)}
        for name, (matrix, x) in products.items():
            ms = in_turns({kernel: lambda run=run, m=matrix, x=x: run(m, x) for kernel, run in KERNELS.items()})
            kernels.append([f"{dataset}: {name}", *(f"{ms[kernel]:.2f}" for kernel in KERNELS)])
        if features is None:
            ms = in_turns({"X W": lambda x=data.x, w=first: x @ w, "G^T X": lambda x=data.x, g=hidden: g.t() @ x})
            speed = {name: 2e-6 * data.x.numel() * HIDDEN / value for name, value in ms.items()}
            print(f"{dataset}, dense features: {', '.join(f'{k} {v:.0f} GFLOP/s' for k, v in speed.items())}\n")
        graph = csr_matrix((np.ones(index.size(1)), index.numpy()), shape=(n, n))
        took, narrow = timed(lambda g=graph: reverse_cuthill_mckee(g, symmetric_mode=True), "cpu")
        order = {
            "as read": torch.arange(n),
            "reverse Cuthill-McKee": torch.from_numpy(narrow.copy()).long(),
            "by degree": torch.bincount(index[0], minlength=n).argsort(descending=True),
        }
        runs = {}
        for name, nodes in order.items():
            row, col = torch.empty_like(nodes).index_copy_(0, nodes, torch.arange(n))[index]
            matrix = sparse_matrix(col, row, weight, (n, n)).matrix
            runs[name] = lambda m=matrix, x=hidden: multiply(m, x)
        ms = in_turns(runs)
        orders.append([dataset, *(f"{ms[name]:.2f}" for name in order), f"{1e3 * took:.1f}"])
    print(markdown(("product, ms", *KERNELS), kernels))
    print("\n" + markdown(("A H, ms", "as read", "reverse Cuthill-McKee", "by degree", "to order"), orders))


if __name__ == "__main__":
    main(sys.argv[1])
