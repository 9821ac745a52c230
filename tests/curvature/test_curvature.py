import numpy as np
import pytest
import torch
import torch_geometric.typing
from torch import Tensor
from torch.autograd.functional import hessian
from torch.nn.functional import cross_entropy, logsigmoid
from torch_geometric import EdgeIndex
from torch_geometric.data import Data

import gunlearn as gu
from gunlearn.attribution.training.item_losses import own_terms
from gunlearn.curvature.products import Curvature
from gunlearn.curvature.solvers import conjugate_gradient, krylov, lanczos, lissa
from gunlearn.curvature.training_loss import TrainingLoss, gradient, second_order
from gunlearn.errors import DivergenceError, InvalidInputError
from gunlearn.nn.kernels.switch import kernels_enabled
from tests.attribution.second_order import (
    NETS,
    TASKS,
    dense_gauss_newton,
    graph,
    net,
    outputs_at,
    problem,
    slope,
    start,
)


def loss_of(model: torch.nn.Module, data: Data, task: str) -> TrainingLoss:
    return TrainingLoss.of(problem(model, data, task))


def oracle(model: torch.nn.Module, loss: TrainingLoss, theta: Tensor) -> tuple[Tensor, Tensor]:
    """The loss and its logits, written anew."""
    out = outputs_at(model, loss.data, theta)
    if loss.task.name == "node_classification":
        mask = loss.data.train_mask
        return cross_entropy(out[mask], loss.data.y[mask]), out[mask]
    u, v = loss.items.edge_label_index
    score = (out[u] * out[v]).sum(dim=-1)
    return -logsigmoid((2 * loss.items.label - 1) * score).mean(), score


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", NETS)
def test_hessian_products_agree_with_finite_differences_and_the_dense_hessian(name: str, task: str) -> None:
    model = net(name)
    loss = loss_of(model, graph(), task)
    theta, matrix = start(model), Curvature(loss, "hessian")
    v = torch.randn(len(theta), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    dense = hessian(lambda t: oracle(model, loss, t)[0], theta)
    assert relative(matrix @ v, dense @ v) < 1e-10

    eps = 1e-5 / float(v.norm())
    ahead, behind = (slope(lambda t: oracle(model, loss, t)[0], theta + sign * eps * v) for sign in (1, -1))
    assert relative(matrix @ v, (ahead - behind) / (2 * eps)) < 1e-6
    # the control: without the part that the logits' bending adds, neither test would pass
    assert relative(Curvature(loss, "gauss_newton") @ v, dense @ v) > 1e-2


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", NETS)
def test_gauss_newton_products_agree_with_the_dense_matrix(name: str, task: str) -> None:
    model = net(name)
    loss = loss_of(model, graph(), task)
    theta = start(model)
    dense = dense_gauss_newton(lambda t: oracle(model, loss, t)[1], theta)
    matrix = Curvature(loss, weight_decay=0.3)
    vectors = torch.randn(2, len(theta), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert relative(matrix @ vectors, vectors @ dense + 0.3 * vectors) < 1e-10
    assert relative(matrix @ vectors, vectors @ dense) > 1e-3


@pytest.mark.parametrize("kind", ["hessian", "gauss_newton"])
def test_sparse_features_and_dropout_change_nothing(kind: str) -> None:
    data, v = graph(), None
    data.x = data.x.relu()
    found = []
    for layout in ("dense", "dense again", "sparse"):
        torch.manual_seed(0)
        model = gu.GCN(5, 4, 3, dropout=0.5).double().train()  # a private copy is put in evaluation mode
        read = data.clone()
        if layout == "sparse":
            read.x = data.x.to_sparse_csr()
        matrix = Curvature(loss_of(model, read, "node_classification"), kind)
        v = torch.linspace(-1, 1, matrix.size, dtype=torch.float64)
        found.append(matrix @ v)
    assert torch.equal(found[0], found[1])
    assert relative(found[2], found[0]) < 1e-12
    assert float(found[0].norm()) > 1e-3


def test_passes_see_a_plain_edge_index_and_no_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_geometric.typing, "WITH_TORCH_SCATTER", True)
    seen = []

    class Spy(type(net("gcn"))):
        def forward(self, x, edge_index, edge_weight=None):
            seen.append((type(edge_index), torch_geometric.typing.WITH_TORCH_SCATTER, kernels_enabled()))
            return super().forward(x, edge_index, edge_weight)

    model, data = net("gcn"), graph()
    model.__class__ = Spy
    loss = loss_of(model, data, "node_classification")
    data.edge_index = EdgeIndex(data.edge_index, sparse_size=(14, 14), is_undirected=True)
    seen.clear()
    loss(data)
    assert seen == [(Tensor, False, False)]
    assert torch_geometric.typing.WITH_TORCH_SCATTER is True


@pytest.mark.scatter
def test_torch_scatter_cannot_reach_second_order() -> None:
    model, data = net("gat"), graph()
    data.edge_index = EdgeIndex(data.edge_index, sparse_size=(14, 14)).sort_by("col").values
    loss = loss_of(model, data, "node_classification")
    theta = start(model)
    v = torch.linspace(-1, 1, len(theta), dtype=torch.float64)
    dense = hessian(lambda t: oracle(net("gat"), loss_of(net("gat"), graph(), "node_classification"), t)[0], theta)
    assert relative(Curvature(loss, "hessian") @ v, dense @ v) < 1e-8


def test_the_context_restores_after_an_error() -> None:
    before = torch_geometric.typing.WITH_TORCH_SCATTER
    with pytest.raises(RuntimeError), second_order(net("gcn")):
        raise RuntimeError
    assert torch_geometric.typing.WITH_TORCH_SCATTER is before
    assert kernels_enabled()


def test_own_terms_of_nodes_are_their_labels() -> None:
    """Those of edges are tested with the scores that read them, in `tests/attribution/test_inverse_hessian.py`."""
    labels = loss_of(net("gcn"), graph(), "node_classification")
    items = problem(net("gcn"), graph(), "node_classification", "nodes", torch.tensor([0, 1, 2])).items
    item, term = own_terms(labels.items, items)
    assert labels.items.index[term].tolist() == [1, 2]
    assert item.tolist() == [1, 2]


def test_gradient_of_a_constant_is_zero() -> None:
    model = net("gcn")
    assert torch.equal(gradient(torch.tensor(1.0), list(model.parameters())), torch.zeros(len(start(model))).double())


# Solvers, on dense matrices with a known spectrum.


class Dense:
    def __init__(self, matrix: Tensor) -> None:
        self.matrix, self.size, self.products = matrix, matrix.size(0), 0

    def __matmul__(self, v: Tensor) -> Tensor:
        self.products += 1
        return self.matrix @ v


def with_spectrum(values: list[float], seed: int = 0) -> Dense:
    g = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(len(values), len(values), generator=g, dtype=torch.float64))
    return Dense(q @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ q.t())


VECTOR = torch.ones(40, dtype=torch.float64)


def test_lanczos_bounds_hold_and_are_exact_on_an_invariant_space() -> None:
    values = torch.linspace(-0.5, 8, 40).tolist()
    ends = lanczos(with_spectrum(values), VECTOR, steps=15)
    assert ends.smallest >= -0.5 - 1e-9
    assert ends.largest <= 8 + 1e-9
    low, high = ends.bounds
    assert low <= -0.5 + 1e-9
    assert high >= 8 - 1e-9
    assert high < 9
    few = lanczos(with_spectrum([1.0] * 20 + [3.0] * 20), VECTOR, steps=15)  # two distinct eigenvalues: two steps
    assert (few.smallest, few.largest) == pytest.approx((1, 3))
    assert few.largest_error < 1e-8


def test_damping_makes_an_indefinite_matrix_positive_definite() -> None:
    matrix = with_spectrum(torch.linspace(-2, 5, 40).tolist())
    damping = lanczos(matrix, VECTOR, steps=30).damping()
    assert 2 < damping < 3
    assert conjugate_gradient(matrix, VECTOR, damping).residual < 2e-4
    with pytest.raises(DivergenceError, match="positive definite"):
        conjugate_gradient(matrix, VECTOR, 0.1)


def test_conjugate_gradient_solves_the_damped_system() -> None:
    matrix = with_spectrum(torch.linspace(0.1, 5, 40).tolist())
    b = torch.randn(40, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = conjugate_gradient(matrix, b, damping=0.2, tolerance=1e-10)
    assert relative(found.x, torch.linalg.solve(matrix.matrix + 0.2 * torch.eye(40), b)) < 1e-8
    assert relative(found.x, torch.linalg.solve(matrix.matrix, b)) > 1e-2
    assert found.residual == pytest.approx(relative(matrix @ found.x + 0.2 * found.x, b), rel=1e-6)
    assert conjugate_gradient(matrix, torch.zeros(40).double()).x.abs().max() == 0


def test_one_krylov_space_serves_every_damping() -> None:
    g = torch.Generator().manual_seed(0)
    root = torch.randn(40, 25, generator=g, dtype=torch.float64)
    dense, b = root @ root.t(), torch.randn(40, generator=g, dtype=torch.float64)
    matrix = Dense(dense)
    for steps in (6, 40):
        span = krylov(matrix, b, steps)
        for damping in (0.1, 1.0, 30.0):
            solution = span.solve(damping)
            residual = (b - dense @ solution.x - damping * solution.x).norm() / b.norm()
            assert solution.residual == pytest.approx(float(residual), rel=1e-6, abs=1e-10)
            exact = torch.linalg.solve(dense + damping * torch.eye(40, dtype=torch.float64), b)
            assert ((solution.x - exact).norm() < 1e-8 * exact.norm()) == (steps == 40)
    tolerance = krylov(matrix, b, 6).solve(30.0).residual * 1.001
    same = conjugate_gradient(matrix, b, 30.0, tolerance)
    assert same.iterations == 6
    assert torch.allclose(same.x, krylov(matrix, b, 6).solve(30.0).x, rtol=1e-8)
    assert krylov(matrix, b, 40).spectrum.largest == pytest.approx(float(torch.linalg.eigvalsh(dense)[-1]), rel=1e-9)
    assert len(krylov(matrix, b, 40, lambda span: span.solve(30.0).residual < 0.5).basis) < 40
    with pytest.raises(DivergenceError, match="positive definite"):
        krylov(Dense(dense - 5 * torch.eye(40)), b, 40).solve(1.0)


def test_conjugate_gradient_refuses_what_it_did_not_solve() -> None:
    matrix = with_spectrum(np.logspace(-8, 0, 40).tolist())
    with pytest.raises(DivergenceError, match="relative residual"):
        conjugate_gradient(matrix, VECTOR, max_iterations=5)
    with pytest.raises(DivergenceError, match="NaN"):
        conjugate_gradient(Dense(torch.full((40, 40), float("nan")).double()), VECTOR)
    with pytest.raises(DivergenceError, match="finite"):
        lanczos(Dense(torch.full((40, 40), float("inf")).double()), VECTOR)


@pytest.mark.parametrize("damping", [0.0, 0.01])
def test_lissa_is_the_truncated_series(damping: float) -> None:
    matrix, iterations, scale = with_spectrum(torch.linspace(0.1, 30, 40).tolist()), 100, 50.0
    value, vector = np.linalg.eigh(matrix.matrix.numpy())
    shrink = 1 - damping - value / scale
    series = sum(shrink**k for k in range(iterations + 1)) / scale  # h starts at b: one term more than steps
    wanted = vector @ (series * (vector.T @ VECTOR.numpy()))
    found = lissa(matrix, VECTOR, iterations, scale, damping)
    np.testing.assert_allclose(found.x.numpy(), wanted, rtol=1e-10)
    inverse = np.linalg.solve(matrix.matrix.numpy() + damping * scale * np.eye(40), VECTOR.numpy())
    residual = matrix.matrix.numpy() @ wanted + damping * scale * wanted - VECTOR.numpy()
    assert found.residual == pytest.approx(np.linalg.norm(residual) / np.linalg.norm(VECTOR.numpy()))
    assert np.linalg.norm(wanted - inverse) > 1e-3 * np.linalg.norm(inverse) or damping  # cut off, it is not solved


def test_lissa_refuses_divergence() -> None:
    with pytest.raises(DivergenceError, match="scale"):
        lissa(with_spectrum(torch.linspace(0.1, 30, 40).tolist()), VECTOR, 100, scale=10.0)
    with pytest.raises(DivergenceError):
        lissa(with_spectrum(torch.linspace(0.1, 3e9, 40).tolist()), VECTOR, 1000, scale=1.0)
    with pytest.raises(InvalidInputError, match="scale"):
        lissa(with_spectrum([1.0] * 40), VECTOR, scale=0.0)


def test_bad_settings() -> None:
    loss = loss_of(net("gcn"), graph(), "node_classification")
    frozen = net("gcn").requires_grad_(False)
    for build, match in (
        (lambda: Curvature(loss, "fisher"), "curvature"),
        (lambda: Curvature(loss, weight_decay=-1.0), "weight_decay"),
        (lambda: Curvature(loss) @ torch.ones(3), "vector"),
        (lambda: loss_of(frozen, graph(), "node_classification"), "trainable"),
    ):
        with pytest.raises(InvalidInputError, match=match):
            build()
