"""IMU: influences of forgotten items against dense gradients, their weights, and what moves."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from gunlearn.curvature.fisher import fisher_diagonal
from gunlearn.errors import InvalidInputError, UnsupportedModelError
from gunlearn.methods import IMU, GradientAscentMethod, run_method
from gunlearn.methods.any_task import imu
from gunlearn.methods.any_task.imu import head_influence, item_weights
from tests.methods.forgetting import IMAGES, digits, on_digits, threes


def head_problem(seed: int = 0, items: int = 9) -> tuple[np.ndarray, np.ndarray, nn.Linear]:
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(items, 5, generator=generator, dtype=torch.float64)
    head = nn.Linear(5, 3).double()
    for parameter in head.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return h.numpy(), np.arange(items) % 3, head


def losses(h: np.ndarray, y: np.ndarray, head: nn.Linear) -> Tensor:
    return nn.functional.cross_entropy(head(torch.from_numpy(h)), torch.from_numpy(y), reduction="none")


def closed_form(h: np.ndarray, y: np.ndarray, head: nn.Linear) -> np.ndarray:
    """Gradients of a softmax head, `[(p - y) h^T, p - y]`, one row per item."""
    z = h @ head.weight.detach().numpy().T + head.bias.detach().numpy()
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    p[np.arange(len(y)), y] -= 1
    return np.concatenate([(p[:, :, None] * h[:, None, :]).reshape(len(y), -1), p], axis=1)


def test_influence_equals_the_closed_form() -> None:
    h, y, head = head_problem()
    g = closed_form(h, y, head)
    by_hand = -g @ (g.mean(0) / ((g**2).mean(0) + 0.01))
    for size in (len(y), 3):
        rows = np.split(np.arange(len(y)), range(size, len(y), size))
        pieces = [partial(losses, h[part], y[part], head) for part in rows]
        found = head_influence(pieces, list(head.parameters()), 0.01)
        np.testing.assert_allclose(found.numpy(), by_hand, rtol=1e-9)
    assert (by_hand > 0).any()  # some items pull the other way
    assert (by_hand < 0).any()


def test_squared_gradients() -> None:
    h, y, head = head_problem(items=40)
    g = (closed_form(h, y, head) ** 2).mean(0)
    for probes in (None, 40):  # no more items than probes: exact
        found = fisher_diagonal(losses(h, y, head), list(head.parameters()), probes)
        np.testing.assert_allclose(parameters_to_vector(found).numpy(), g, rtol=1e-9)
    draws = (fisher_diagonal(losses(h, y, head), list(head.parameters()), 20) for _ in range(100))
    few = torch.stack([parameters_to_vector(draw) for draw in draws])
    spread = few.std(0) / few.mean(0)
    assert (spread < 1.3 * (2 / 20) ** 0.5).all()  # the docstring's bound
    assert ((few.mean(0) - torch.from_numpy(g)).abs() < 5 * few.std(0) / 10).all()  # unbiased
    unread = nn.Parameter(torch.ones(2))
    assert (fisher_diagonal(losses(h, y, head), [*head.parameters(), unread], None)[-1] == 0).all()
    with pytest.raises(InvalidInputError, match="at least one item"):
        fisher_diagonal(torch.zeros(0, requires_grad=True), [unread], None)


def test_weights_by_hand() -> None:
    influence = torch.tensor([-16.0, -4.0, 9.0, -1.0, -0.25, 0.0])
    size = np.array([4.0, 2.0, 3.0, 1.0, 0.5, 0.0])
    cap = np.quantile(size, 0.93)
    expected = [cap, 2.0, 0.0, 1.0, 0.5, 0.0]  # the ninth pulls the other way
    np.testing.assert_allclose(item_weights(influence).numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(item_weights(influence, top=0.5).numpy(), [cap, 2, 0, 0, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(item_weights(influence, cap=1.0).numpy(), [4, 2, 0, 1, 0.5, 0])
    np.testing.assert_allclose(item_weights(influence, top=0.01, cap=1.0).numpy(), [4, 0, 0, 0, 0, 0])
    assert (item_weights(torch.zeros(3)) == 1).all()


def test_weights_of_few_items_among_many_without_influence() -> None:
    """The quantile of all is 0 there: a cap of 0 would leave weights of sum 0, and a loss that is no number."""
    influence = torch.zeros(100)
    influence[[3, 7, 50]] = torch.tensor([-16.0, -4.0, 9.0])
    expected = np.zeros(100)
    expected[[3, 7]] = np.quantile([4.0, 2.0], 0.93), 2.0
    np.testing.assert_allclose(item_weights(influence).numpy(), expected, rtol=1e-6)
    assert np.quantile(influence.abs().sqrt().numpy(), 0.93) == 0  # control: it is that case


def test_influences_are_of_the_loss_without_the_penalty(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    monkeypatch.setattr(imu, "item_weights", lambda *args: seen.append(item_weights(*args)) or seen[-1])
    plain, penalised = (on_digits(IMU(epochs=2, l1=l1, probes=None)) for l1 in (0.0, 0.2))
    assert torch.equal(seen[0], seen[1])
    assert plain.history[0] == penalised.history[0]
    assert not torch.equal(plain.model[2].weight, penalised.model[2].weight)  # control: the penalty is at work


def test_the_first_recorded_loss_is_the_weighted_mean() -> None:
    """On the model as it was trained, by numpy; batches do not enter."""
    model, data = digits()
    rows = threes().forget_mask
    with torch.no_grad():
        h = model[1](model[0](data.x[rows])).double().numpy()
    head = nn.Linear(48, 10).double()
    head.load_state_dict({name: value.double() for name, value in model[2].state_dict().items()})
    y = data.y[rows].numpy()
    g = closed_form(h, y, head)
    influence = -g @ (g.mean(0) / ((g**2).mean(0) + 0.01))
    weight = np.where(influence < 0, np.minimum(np.sqrt(abs(influence)), np.quantile(np.sqrt(abs(influence)), 0.93)), 0)
    values = losses(h, y, head).detach().numpy()
    record = on_digits(IMU(epochs=1, probes=None)).history[0]
    assert record["loss"] == pytest.approx(-(weight * values).sum() / weight.sum(), rel=1e-4)
    assert record["loss"] != pytest.approx(-values.mean(), rel=0.1)  # control: plain ascent


def test_only_the_head_moves_and_the_l1_penalty_shrinks_it() -> None:
    model, _ = digits()
    result = on_digits(IMU())
    assert torch.equal(result.model[0].weight, model[0].weight)
    assert not torch.equal(result.model[2].weight, model[2].weight)
    assert all(p.requires_grad for p in result.model.parameters())
    assert not torch.equal(on_digits(IMU(scope="all")).model[0].weight, model[0].weight)
    sizes = [float(on_digits(IMU(l1=l1)).model[2].weight.abs().sum()) for l1 in (0.0, 10.0)]
    assert sizes[1] < 0.95 * sizes[0]
    assert all(not p._backward_hooks for p in on_digits(IMU(l1=0.2)).model.parameters())


def test_retained_items_are_never_read() -> None:
    """Spoiled retained rows change nothing; spoiled forgotten ones do."""
    model, data = digits()
    partition = threes()
    results = []
    for mask in (None, partition.retain_mask, partition.forget_mask):
        spoiled = data.clone()
        if mask is not None:
            spoiled.x[mask] *= 0.5
        part = type(partition)(**{**vars(partition), "data": spoiled})
        results.append(parameters_to_vector(run_method(IMU(epochs=3), model, part, IMAGES).model.parameters()))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_weights_come_from_the_trained_model() -> None:
    """Not from new weights: the same weights whatever mode or seed the run has."""
    histories = [on_digits(IMU(epochs=1, probes=None), seed=seed).history[0]["loss"] for seed in (1, 2)]
    assert histories[0] == histories[1]
    assert histories[0] != on_digits(GradientAscentMethod(epochs=1)).history[0]["loss"]


@pytest.mark.parametrize("trained", [True, False])
def test_a_head_that_no_loss_reads_is_refused(trained: bool) -> None:
    used, head = nn.Linear(2, 1).requires_grad_(trained), nn.Linear(2, 2)
    with pytest.raises(UnsupportedModelError, match="module defined last"):
        head_influence([lambda: used(torch.ones(3, 2)).view(-1)], list(head.parameters()), 1.0)
