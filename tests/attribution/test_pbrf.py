import copy

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd.functional import hessian
from torch.nn.functional import cross_entropy
from torch_geometric.data import Data
from torch_geometric.nn import SGConv

from gunlearn.attribution import EdgeEdit, pbrf
from gunlearn.errors import InvalidInputError, UnsupportedMethodError
from tests.attribution.second_order import Regression, graph, net, outputs_at, problem, smoothed, start, trained

LAMBDA = 0.1


@pytest.mark.parametrize("of", ["edges", "nodes"])
def test_least_squares_in_closed_form(of: str) -> None:
    """Squares of a linear model: the response solves one linear system, own terms left out."""
    data = graph()
    data.y = torch.arange(14) % 4
    model = SGConv(5, 1, K=2, bias=False).double()
    given = problem(model, data, Regression(), of, target=lambda z: z[0, 0])
    theta, mask = start(model).numpy(), data.train_mask.numpy()
    n, y = int(mask.sum()), data.y.numpy().astype(float)
    rows = smoothed(data).numpy()
    wanted = []
    for i in range(given.items.num_items):
        after = smoothed(given.items.edited(data, i)).numpy()
        kept = mask.copy()
        if of == "nodes":
            kept[int(given.items.ids[i])] = False
        # minimise 1/2n |A' t - y|^2 - <(A theta - y) / n, A t> + lambda/2 |t - theta|^2
        left = after[kept].T @ after[kept] / n + LAMBDA * np.eye(5)
        right = after[kept].T @ y[kept] / n + rows[mask].T @ (rows[mask] @ theta - y[mask]) / n + LAMBDA * theta
        wanted.append(after[0] @ np.linalg.solve(left, right) - rows[0] @ theta)
    found = pbrf(given, LAMBDA, tolerance=1e-10)
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-9)
    still = EdgeEdit(terms="message").scores(given).numpy()
    assert np.abs(still - wanted).max() > 1e-3  # the control: parameters that do not move


def test_softmax_regression_against_newton_on_the_objective_as_defined() -> None:
    data = graph()
    model = SGConv(5, 3, K=2).double()
    given = problem(model, data, "node_classification", items=data.edge_index[:, :5])
    theta, mask, y = start(model), data.train_mask, data.y
    with torch.no_grad():
        at = outputs_at(model, data, theta)[mask]
    p = at.softmax(dim=-1) - torch.nn.functional.one_hot(y[mask], 3)
    wanted = []
    for i in range(given.items.num_items):
        edited = given.items.edited(data, i)

        def objective(t: Tensor, edited: Data = edited) -> Tensor:
            z, z_edited = outputs_at(model, data, t)[mask], outputs_at(model, edited, t)[mask]
            far = cross_entropy(z, y[mask]) - cross_entropy(at, y[mask]) - (p * (z - at)).sum() / len(z)
            edit = cross_entropy(z_edited, y[mask]) - cross_entropy(z, y[mask])
            return far + LAMBDA / 2 * (t - theta).square().sum() + edit

        t = theta.clone()
        for _ in range(8):
            t = t.requires_grad_()
            (g,) = torch.autograd.grad(objective(t), t)
            t = (t - torch.linalg.solve(hessian(objective, t), g)).detach()
        after, before = outputs_at(model, edited, t), outputs_at(model, data, theta)
        val = data.val_mask
        wanted.append(float(cross_entropy(after[val], y[val]) - cross_entropy(before[val], y[val])))
    found = pbrf(given, LAMBDA, tolerance=1e-10)
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-9)
    assert given.notes["pbrf_gradient"] <= 1e-10
    assert given.notes["pbrf_steps"] > 1
    assert np.abs(pbrf(given, 2 * LAMBDA, tolerance=1e-10).numpy() - wanted).max() > 1e-5


@pytest.mark.parametrize("task", ["node_classification", "link_prediction"])
def test_edge_edit_predicts_the_response_of_a_network(task: str) -> None:
    data = graph()
    model, some = trained(net("gcn"), data, task, epochs=150), data.edge_index[:, :12]
    given = problem(model, data, task, items=some)
    before = copy.deepcopy(model.state_dict())
    truth = pbrf(given, 0.5)
    assert given.notes["pbrf_gradient"] <= 1e-3
    assert all(torch.equal(v, given.model.state_dict()[k]) for k, v in before.items())
    assert torch.equal(truth, pbrf(problem(model, data, task, items=some), 0.5))
    parts = {
        t: EdgeEdit(damping=0.5, terms=t).scores(problem(model, data, task, items=some)) for t in ("shift", "message")
    }

    def pearson(estimate: Tensor) -> float:
        return float(torch.corrcoef(torch.stack([truth, estimate]))[0, 1])

    both = pearson(parts["shift"] + parts["message"])
    assert both > 0.9
    for control in (-parts["shift"] + parts["message"], parts["shift"] - parts["message"]):
        assert pearson(control) < both - 0.02


def test_without_room_to_move_only_messages_change() -> None:
    data = graph()
    model = trained(net("gat"), data, "node_classification", epochs=50)
    given = problem(model, data, "node_classification", items=data.edge_index[:, :4])
    message = EdgeEdit(terms="message").scores(given)
    torch.testing.assert_close(pbrf(given, 1e9), message, atol=1e-8, rtol=0)
    assert float((pbrf(given, 1.0) - message).abs().max()) > 1e-4


def test_refusals() -> None:
    given = problem(net("gcn"), graph(), "node_classification")
    for wrong in ({"damping": 0.0}, {"damping": 1.0, "steps": 0}, {"damping": 1.0, "tolerance": 0.0}):
        with pytest.raises(InvalidInputError, match="damping"):
            pbrf(given, **wrong)
    with pytest.raises(UnsupportedMethodError, match="value"):
        pbrf(problem(net("gcn"), graph(), "node_classification", target="embeddings"), 1.0)
    with pytest.warns(UserWarning, match="gradient left"):
        pbrf(given, 1e-3, steps=1, tolerance=1e-12)
