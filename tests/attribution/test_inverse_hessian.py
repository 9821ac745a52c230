import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian, jacobian
from torch.nn.functional import cross_entropy
from torch_geometric.data import Data
from torch_geometric.nn import GCNConv, SAGEConv, SGConv

import gunlearn as gu
from gunlearn.attribution import EdgeEdit, GIFInfluence, InverseHessian
from gunlearn.curvature.training_loss import TrainingLoss, flat
from gunlearn.errors import DivergenceError, GunlearnError, InvalidInputError, UnsupportedMethodError
from tests.attribution.removal import Stack
from tests.attribution.second_order import (
    Regression,
    dense_gauss_newton,
    graph,
    net,
    outputs_at,
    problem,
    slope,
    smoothed,
    start,
    trained,
)

LAMBDA = 0.05
pytestmark = pytest.mark.filterwarnings("ignore:the model does not look trained")


def node_loss(model: nn.Module, data: Data, theta: Tensor, mask: str = "train_mask") -> Tensor:
    return cross_entropy(outputs_at(model, data, theta)[data[mask]], data.y[data[mask]])


@pytest.fixture(scope="module")
def case() -> tuple[nn.Module, Data]:
    data = graph()
    return trained(net("gcn"), data, "node_classification"), data


def test_edge_edit_is_its_formula_on_dense_matrices(case: tuple[nn.Module, Data]) -> None:
    model, data = case
    theta, given = start(model), problem(model, data, "node_classification")
    matrix = dense_gauss_newton(lambda t: outputs_at(model, data, t)[data.train_mask], theta)
    matrix = matrix + LAMBDA * torch.eye(len(theta))
    s = torch.linalg.solve(matrix, slope(lambda t: node_loss(model, data, t, "val_mask"), theta))
    shift, message = [], []
    for i in range(given.items.num_items):
        edited = given.items.edited(data, i)
        after, before = (slope(lambda t, g=g: node_loss(model, g, t), theta) for g in (edited, data))
        shift.append(float(-s @ (after - before)))
        message.append(float(node_loss(model, edited, theta, "val_mask") - node_loss(model, data, theta, "val_mask")))
    options = {"damping": LAMBDA, "tolerance": 1e-10}
    for terms, wanted in (("shift", shift), ("message", message), ("both", np.add(shift, message))):
        found = EdgeEdit(terms=terms, **options).scores(problem(model, data, "node_classification"))
        np.testing.assert_allclose(found.numpy(), wanted, atol=1e-9)
        assert np.abs(wanted).max() > 1e-4
    # the controls: other damping, other curvature
    other = EdgeEdit(terms="shift", damping=2 * LAMBDA).scores(given)
    bent = EdgeEdit(terms="shift", curvature="hessian", damping=1.0).scores(given)
    assert np.abs(other.numpy() - shift).max() > 1e-5
    assert np.abs(bent.numpy() - shift).max() > 1e-5


def test_first_order_edit_is_the_derivative_in_edge_weights(case: tuple[nn.Module, Data]) -> None:
    model, data = case
    given = problem(model, data, "node_classification", items=data.edge_index[:, :4])
    options = {"damping": LAMBDA, "tolerance": 1e-10}
    s = EdgeEdit(**options).solve(given, TrainingLoss.of(given))
    params, items = list(given.model.parameters()), given.items
    column = torch.ones(data.edge_index.size(1), dtype=torch.float64)

    def value(i: int, weight: float, terms: str) -> float:
        """The target, or less the derivative of the training loss along `s`, where an item's columns have a weight."""
        edge_weight = column.index_fill(0, items.column[items.column_ptr[i] : items.column_ptr[i + 1]], weight)
        out = given.model(data.x, data.edge_index, edge_weight)
        mask = data.val_mask if terms == "message" else data.train_mask
        loss = cross_entropy(out[mask], data.y[mask])
        return loss.item() if terms == "message" else -float(flat(torch.autograd.grad(loss, params)) @ s)

    for terms in ("shift", "message"):
        found = EdgeEdit(edit="first_order", terms=terms, **options).scores(given)
        for i in range(items.num_items):
            wanted = -(value(i, 1 + 1e-4, terms) - value(i, 1 - 1e-4, terms)) / 2e-4
            assert float(found[i]) == pytest.approx(wanted, rel=1e-5, abs=1e-9)
    for other in (net("gat"), Stack(SAGEConv(5, 6), GCNConv(6, 4)).double()):  # none of the layers, and one of two
        with pytest.raises(UnsupportedMethodError, match="all of whose layers take 'edge_weight'"):
            EdgeEdit(edit="first_order").scores(problem(other, data, "node_classification"))
    with pytest.raises(UnsupportedMethodError, match="features"):
        EdgeEdit(edit="first_order").scores(problem(model, data, "node_classification", of="features"))


@pytest.mark.parametrize("of", ["edges", "nodes"])
def test_own_terms_of_link_prediction(of: str) -> None:
    """`if` against gradients of single terms; nodes and edges."""
    data = graph()
    model = trained(net("gcn"), data, "link_prediction")
    given = problem(model, data, "link_prediction", of)
    loss, theta = TrainingLoss.of(given), start(model)
    n = loss.items.num_items

    (u, v), sign = loss.items.edge_label_index, 2 * loss.items.label - 1

    def terms(t: Tensor, on: Data = data) -> Tensor:
        out = outputs_at(model, on, t)
        return -torch.nn.functional.logsigmoid(sign * (out[u] * out[v]).sum(dim=-1))

    matrix = hessian(lambda t: terms(t).mean(), theta) + 2.0 * torch.eye(len(theta))
    f = slope(lambda t: given.target.value(outputs_at(model, data, t)), theta)
    s = torch.linalg.solve(matrix, f)
    per_term, ids = jacobian(terms, theta) @ s / n, given.items.ids
    if of == "edges":  # [num_items, n]: whether a term goes with an item
        mine = (ids[0, :, None] == u) & (ids[1, :, None] == v) & (sign > 0)
    else:
        mine = ((ids[:, None] == u) | (ids[:, None] == v)) & (sign > 0)
    wanted = mine.to(per_term) @ per_term
    found = InverseHessian(curvature="hessian", damping=2.0, tolerance=1e-10).scores(given)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)
    assert wanted.abs().max() > 1e-4
    # with messages: the gradient of what is left, on the graph that is left
    exact = EdgeEdit(terms="shift", curvature="hessian", damping=2.0, tolerance=1e-10).scores(given)
    for i in (0, 3, given.items.num_items - 1):
        edited = given.items.edited(data, i)
        left = slope(lambda t, e=edited, gone=mine[i]: terms(t, e)[~gone].sum() / n, theta)
        wanted_i = float(-s @ (left - slope(lambda t: terms(t).mean(), theta)))
        assert float(exact[i]) == pytest.approx(wanted_i, abs=1e-9)
        assert abs(wanted_i - float(wanted[i])) > 1e-6  # the control: own terms alone


def test_a_least_squares_model_moves_as_the_closed_form_says() -> None:
    """Linear model, squares: leaving out a node's term solves a linear system that numpy solves anew."""
    data = graph()
    data.y = torch.arange(14) % 4
    model, rows = SGConv(5, 1, K=2, bias=False).double(), smoothed(data).numpy()
    mask = data.train_mask.numpy()
    x, y, n = rows[mask], data.y.numpy()[mask].astype(float), int(mask.sum())
    optimum = np.linalg.solve(x.T @ x / n + LAMBDA * np.eye(5), x.T @ y / n)
    model.lin.weight.data = torch.from_numpy(optimum)[None]

    given = problem(model, data, Regression(), "nodes", torch.tensor([1, 2, 4]), target=lambda z: z[0, 0])
    found = InverseHessian(weight_decay=LAMBDA, damping=0.0, tolerance=1e-12).scores(given)
    wanted = []
    for node in (1, 2, 4):
        r = rows[node] @ optimum - data.y[node].item()
        moved = optimum + np.linalg.solve(x.T @ x / n + LAMBDA * np.eye(5), rows[node] * r / n)
        wanted.append(rows[0] @ (moved - optimum))
        # and to first order it is what refitting without the node does
        kept = mask & (np.arange(14) != node)
        x_kept, y_kept = rows[kept], data.y.numpy()[kept]
        refit = np.linalg.solve(x_kept.T @ x_kept / n + LAMBDA * np.eye(5), x_kept.T @ y_kept / n)
        assert np.sign(rows[0] @ (refit - optimum)) == np.sign(wanted[-1])
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-9)
    assert given.notes["gradient_norm"] < 1e-10  # a stationary point with its weight decay
    assert given.notes["residual"] < 1e-10
    assert given.notes["damping"] == 0


def test_gif_paper_mode_is_the_truncated_series_on_the_summed_hessian(case: tuple[nn.Module, Data]) -> None:
    model, data = case
    theta, n = start(model), int(data.train_mask.sum())
    given = problem(model, data, "node_classification", items=data.edge_index[:, :3])
    summed = hessian(lambda t: n * node_loss(model, data, t), theta)
    f = slope(lambda t: node_loss(model, data, t, "val_mask"), theta)
    wanted = []
    for i in range(given.items.num_items):
        edited = given.items.edited(data, i)
        before, after = (slope(lambda t, g=g: n * node_loss(model, g, t), theta) for g in (data, edited))
        v = before - after
        h = v.clone()
        for _ in range(100):
            h = v + h - summed @ h / 500
        wanted.append(float(f @ h / 500))
    found = GIFInfluence(mode="paper").scores(given)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-8)
    assert 0.01 < given.notes["residual"] <= 1  # far from solved, and it says so
    with pytest.raises(DivergenceError, match="scale"):
        GIFInfluence(mode="paper", scale=0.1).scores(given)


def test_chosen_damping_lifts_a_hessian_that_is_not_positive(case: tuple[nn.Module, Data]) -> None:
    data = graph()
    model = net("gcn", seed=3)  # not trained: its Hessian has negative eigenvalues
    eigenvalues = torch.linalg.eigvalsh(hessian(lambda t: node_loss(model, data, t), start(model)))
    assert eigenvalues[0] < -0.01
    given = problem(model, data, "node_classification")
    with pytest.warns(UserWarning, match="does not look trained"):
        GIFInfluence().scores(given)
    assert given.notes["damping"] > -float(eigenvalues[0])
    assert given.notes["largest_eigenvalue"] == pytest.approx(float(eigenvalues[-1]), rel=1e-3)
    assert given.notes["smallest_eigenvalue"] == pytest.approx(float(eigenvalues[0]), rel=1e-2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for damping in (0.0, -0.5 * float(eigenvalues[0])):
            with pytest.raises(DivergenceError, match="positive definite"):
                GIFInfluence(damping=damping).scores(given)
        EdgeEdit(damping=1e-3).scores(given)  # Gauss-Newton is never negative
        with pytest.raises(DivergenceError, match="residual"):
            EdgeEdit(damping=1e-3, tolerance=1e-12, max_iterations=2).scores(given)


def test_a_trained_model_does_not_warn(case: tuple[nn.Module, Data]) -> None:
    model, data = case
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        EdgeEdit(weight_decay=1e-2, terms="shift").scores(problem(model, data, "node_classification"))


@pytest.mark.parametrize("of", ["nodes", "features"])
def test_other_items(case: tuple[nn.Module, Data], of: str) -> None:
    model, data = case
    given = problem(model, data, "node_classification", of)
    message = EdgeEdit(terms="message").scores(given)
    brute = gu.influence(model, data, "node_classification", of=of, estimator="brute", target="loss")
    torch.testing.assert_close(message, brute)
    assert float(EdgeEdit(terms="shift").scores(given).abs().max()) > 1e-6


def test_refusals(case: tuple[nn.Module, Data]) -> None:
    model, data = case
    with pytest.raises(UnsupportedMethodError, match="edge_edit"):
        gu.influence(model, data, "node_classification", estimator="if", target="loss")
    for wrong in (
        {"damping": -1.0}, {"tolerance": 0.0}, {"max_iterations": 0}, {"edit": "none"}, {"terms": "neither"},
        {"damping": float("nan")}, {"curvature": "fisher"}, {"weight_decay": -1.0},
    ):  # fmt: skip
        with pytest.raises(GunlearnError):
            EdgeEdit(**wrong).scores(problem(model, data, "node_classification"))
    with pytest.raises(InvalidInputError, match="mode"):
        GIFInfluence(mode="fast")
