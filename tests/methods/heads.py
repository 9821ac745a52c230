"""Dense oracles for linear heads, and the real graphs that their tests run on."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

import gunlearn as gu
from gunlearn.methods import fit_linear_head
from gunlearn.nn import LinearHead
from tests.methods.cases import dense_adjacency


def karate() -> Data:
    """34 members, two clubs; features say who they are and who they know."""
    data = gu.load("karate")
    rng = np.random.default_rng(0)
    data.x = torch.from_numpy(rng.normal(size=(34, 12)).astype(np.float32))
    data.x[:, 0] += 2 * data.y
    return gu.node_split(data, 0.1, 0.1, seed=0)


def small_cora(root: Path, columns: int = 120) -> Data:
    """Cora with the first words alone."""
    data = gu.load("Cora", str(root))
    data.x = data.x[:, :columns].contiguous()
    return gu.node_split(data, 0.2, 0.2, seed=0)


def dense_features(data: Data, hops: tuple[float, ...], normalize: bool = True) -> np.ndarray:
    """`sum_l hops[l] S^l X` in numpy, all nodes."""
    s = dense_adjacency(data).numpy()
    x = data.x.to_dense().double().numpy()
    if normalize:
        length = np.linalg.norm(x, axis=1, keepdims=True)
        x = x / np.where(length > 0, length, 1)
    total, power = np.zeros_like(x), x
    for hop in hops:
        total, power = total + hop * power, s @ power
    return total


def training_rows(data: Data, head: LinearHead) -> tuple[Tensor, Tensor]:
    """Propagated rows `[n, f]` and targets of 1 and -1 `[n, num_classes]`."""
    z = torch.from_numpy(dense_features(data, head.hops, head.normalize))[data.train_mask]
    sign = torch.full((z.size(0), head.lin.out_features), -1.0, dtype=torch.float64)
    sign[torch.arange(z.size(0)), data.y[data.train_mask]] = 1.0
    return z, sign


def gradient(head: LinearHead, data: Data, weight: Tensor | None = None) -> Tensor:
    """Of the perturbed loss, summed over nodes, by autograd in double precision: `[num_classes, f]`."""
    z, sign = training_rows(data, head)
    w = (head.lin.weight if weight is None else weight).detach().double().requires_grad_()
    loss = torch.nn.functional.softplus(-sign * (z @ w.t())).sum()
    loss = loss + float(head.lam) * z.size(0) / 2 * w.square().sum() + (head.perturbation.double() * w).sum()
    return torch.autograd.grad(loss, w)[0]


def optimum(head: LinearHead, data: Data) -> Tensor:
    """The exact minimiser of the same, by dense Newton steps: `[num_classes, f]`."""
    z = training_rows(data, head)[0]
    w = torch.zeros(head.lin.weight.shape, dtype=torch.float64)
    ridge = float(head.lam) * z.size(0) * torch.eye(z.size(1), dtype=torch.float64)
    for _ in range(30):
        p = torch.sigmoid(z @ w.t())
        grad = gradient(head, data, w)
        for c in range(w.size(0)):
            w[c] -= torch.linalg.solve(z.t() @ ((p * (1 - p))[:, c, None] * z) + ridge, grad[c])
    assert gradient(head, data, w).norm() < 1e-9
    return w


def fitted(data: Data, alpha: float = 1.0, lam: float = 0.1, double: bool = True, **options: object) -> LinearHead:
    """A trained head."""
    torch.manual_seed(0)
    head = LinearHead(data.num_features, int(data.y.max()) + 1, **options)  # type: ignore[arg-type]
    return fit_linear_head(head.double() if double else head, data, lam=lam, alpha=alpha)
