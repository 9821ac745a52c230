"""IMU: influences of forgotten items against dense gradients, their weights, and what moves."""

import copy
import itertools
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector
from torch.utils.data import Dataset, Subset, TensorDataset

import gunlearn as gu
from gunlearn.attribution.training.gradients import last_layer
from gunlearn.curvature.fisher import fisher_diagonal
from gunlearn.errors import InvalidInputError, UnsupportedModelError
from gunlearn.losses import Prediction
from gunlearn.methods import IMU, GradientAscentMethod, run_method
from gunlearn.methods.any_task import imu
from gunlearn.methods.any_task.head_influence import forgotten_influence, head_influence
from gunlearn.methods.any_task.imu import item_weights
from gunlearn.tasks.items.array_parts import ArrayItems
from tests.methods.cases import same_weights
from tests.methods.forgetting import IMAGES, digits, figures, on_digits, threes
from tests.training.callbacks import On


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


def measured(model: nn.Module, probes: int | None = 1) -> Tensor:
    """Influences of the threes under a model, as a run computes them."""
    problem = type("Problem", (), {"task": IMAGES, "model": model})()
    return forgotten_influence(problem, IMAGES.parts(threes()), last_layer(model), 40, 0.01, probes)


class Rounded(nn.Module):
    """The digits' model, whose logits are no longer the head's outputs."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) - 1e-9


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_head_needs_no_autograd(bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The closed form, taken where the head's outputs are the logits, equals the gradients of torch."""
    model = nn.Sequential(*copy.deepcopy(digits()[0])[:2], nn.Linear(48, 10, bias=bias)).double()
    data = digits()[1]
    rows = threes().forget_mask

    class Doubled(type(IMAGES)):
        def decode(self, model: nn.Module, outputs: None, items: ArrayItems) -> Prediction:
            return super().decode(model, outputs, ArrayItems(items.x.double(), items.y, items.fixed))

    monkeypatch.setattr("tests.methods.test_imu.IMAGES", Doubled())
    loss = nn.functional.cross_entropy(model(data.x[rows].double()), data.y[rows], reduction="none")
    head = last_layer(model)
    g = torch.stack([parameters_to_vector(torch.autograd.grad(v, head, retain_graph=True)) for v in loss])
    by_hand = -g @ (g.mean(0) / (g.square().mean(0) + 0.01))
    torch.testing.assert_close(measured(model), by_hand, rtol=1e-6, atol=1e-12)
    # Control: another path, with one probe, is an estimate.
    assert not torch.allclose(measured(Rounded(model)), by_hand, rtol=1e-2)
    torch.testing.assert_close(measured(Rounded(model), None), by_hand, rtol=1e-6, atol=1e-12)


def test_what_influences_keep_to() -> None:
    """The order of items does not matter, twins weigh the same, and damping divides."""
    h, y, head = head_problem(items=12)
    h[7], y[7] = h[2], y[2]
    order = np.random.default_rng(0).permutation(12)

    def found(rows: np.ndarray, damping: float = 0.01) -> np.ndarray:
        return head_influence([lambda: losses(h[rows], y[rows], head)], list(head.parameters()), damping).numpy()

    plain = found(np.arange(12))
    np.testing.assert_allclose(found(order), plain[order], rtol=1e-9)
    assert plain[7] == pytest.approx(plain[2], rel=1e-12)
    assert item_weights(torch.from_numpy(plain))[7] == pytest.approx(float(item_weights(torch.from_numpy(plain))[2]))
    large = [found(np.arange(12), damping) for damping in (1e6, 1e7)]
    np.testing.assert_allclose(large[0], 10 * large[1], rtol=1e-4)
    assert not np.allclose(plain, 10 * found(np.arange(12), 0.1), rtol=0.1)  # control: not for small damping


@pytest.mark.parametrize(("refresh", "batch_size"), [("once", 40), ("epoch", 40), (3, 40), (2, None)])
def test_when_weights_are_computed_anew(
    refresh: str | int, batch_size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    monkeypatch.setattr(imu, "item_weights", lambda *args: seen.append(item_weights(*args)) or seen[-1])
    steps = -(-threes().num_forget // 40)
    result = on_digits(IMU(epochs=2, refresh=refresh, batch_size=batch_size))
    expected = {"once": 1, "epoch": 2}.get(refresh) or -(-len(result.history) // refresh)
    assert len(seen) == expected
    assert len(result.history) == (2 * steps if batch_size else 2)
    assert result.config["refresh"] == refresh
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(seen))


def test_weights_of_a_resumed_run(tmp_path: Path) -> None:
    """A run that was killed between two refreshments goes on with the weights that it had."""

    def stop(state: Any, **_: Any) -> None:
        if state.step == 5:
            raise KeyboardInterrupt

    given = (digits()[0], threes(), IMAGES)
    method = IMU(epochs=8, refresh=4)
    save = On(step_end=lambda control, state, **_: setattr(control, "should_save", state.step == 5))
    whole = run_method(method, *given, callbacks=[save])
    with pytest.raises(KeyboardInterrupt):
        run_method(method, *given, callbacks=[save, On(save=stop)], checkpoint_dir=tmp_path)
    again = run_method(method, *given, callbacks=[save], checkpoint_dir=tmp_path)
    assert same_weights(again.model, whole.model)


class Guarded(Dataset):
    """The digits as a data set that breaks where a retained item is read."""

    def __init__(self) -> None:
        self.x, self.labels = digits()[1].x[:1000], digits()[1].y[:1000]
        self.read: set[int] = set()

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if self.labels[index] != 3:
            raise RuntimeError(f"item {index} is retained")
        self.read.add(index)
        return self.x[index], int(self.labels[index])


@pytest.mark.parametrize("options", [{}, {"scope": "all", "batch_size": 16}, {"refresh": "epoch", "l1": 0.1}])
def test_no_retained_item_of_a_data_set_is_loaded(options: dict[str, Any]) -> None:
    model, data = digits()
    rows = (data.y[:1000] == 3).nonzero().view(-1)
    dataset = Guarded()
    found = gu.unlearn(model, dataset, gu.ForgetItems(rows), "imu", IMAGES, epochs=2, **options)
    assert dataset.read == set(rows.tolist())
    assert "no item was read at all" in found.notes["retained"]
    for other in ("finetune", "scrub"):  # control
        with pytest.raises(RuntimeError, match="is retained"):
            gu.unlearn(model, dataset, gu.ForgetItems(rows), other, IMAGES, epochs=2)


def test_it_takes_fewer_steps_than_plain_ascent_to_forget_as_much() -> None:
    """Both on the head alone, by the same optimiser, until hardly any forgotten item is right."""
    model, data = digits()
    frozen = copy.deepcopy(model)
    for parameter in frozen[:-1].parameters():
        parameter.requires_grad_(False)
    rows, steps, kept = threes().forget_mask, [], []
    for method, start in (("imu", model), ("gradient_ascent", frozen)):

        def stop(model: nn.Module, control: Any, **_: Any) -> None:
            control.should_training_stop = figures(model.eval(), data, rows)[0] <= 0.02

        options = {"optimizer": "sgd", "lr": 1e-2, "epochs": 2000, "callbacks": [On(epoch_end=stop)]}
        result = gu.unlearn(start, data, gu.ForgetItems(mask=rows), method, IMAGES, **options)
        steps.append(result.epochs)
        kept.append(figures(result.model, data, threes().retain_mask)[0])
    assert steps[0] <= steps[1] / 2
    assert kept[0] >= kept[1] - 0.03


@pytest.mark.parametrize("trained", [True, False])
def test_a_head_that_no_loss_reads_is_refused(trained: bool) -> None:
    used, head = nn.Linear(2, 1).requires_grad_(trained), nn.Linear(2, 2)
    with pytest.raises(UnsupportedModelError, match="module defined last"):
        head_influence([lambda: used(torch.ones(3, 2)).view(-1)], list(head.parameters()), 1.0)


def test_retained_items_that_are_read_for_statistics_are_told() -> None:
    x, y = torch.randn(30, 4, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 3
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3))
    task = gu.ImageClassification(statistics="recalibrated")
    found = gu.unlearn(model, Subset(TensorDataset(x, y), range(30)), gu.ForgetItems(label=1), "imu", task, epochs=1)
    assert found.notes["retained"].startswith("no item was read but for the statistics of batch normalisation")
