"""Weights that several layers share, and statistics of batch normalisation, in merging and in calibration."""

import copy

import torch
from torch import Tensor, nn

from gunlearn.connectivity.alignment import MessageCalibration, merge_in_closed_form
from tests.connectivity.alignment.pairs import between


class Tied(nn.Module):
    """Two layers in a row with one weight, each with a bias of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.a, self.b, self.last = (nn.Linear(*sizes) for sizes in ((4, 5), (5, 5), (5, 5), (5, 3)))
        self.b.weight = self.a.weight

    def hidden(self, x: Tensor) -> list[Tensor]:
        """What `a` and `b` read."""
        one = torch.tanh(self.first(x))
        return [one, torch.tanh(self.a(one))]

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.b(self.hidden(x)[1])))


def pair(cls: type[nn.Module]) -> tuple[nn.Module, nn.Module, Tensor]:
    torch.manual_seed(0)
    return cls().double().eval(), cls().double().eval(), torch.randn(60, 4).double()


@torch.no_grad()
def test_a_shared_weight_is_solved_for_once_from_all_its_layers() -> None:
    first, second, x = pair(Tied)
    merged, notes = merge_in_closed_form(first, second, 0.5, inputs=x, ridge=1e-12)
    assert notes["solved"] == ["a", "b", "last"]
    assert merged.b.weight is merged.a.weight
    rows, values = [], []
    for model in (first, second):
        for k, (layer, read) in enumerate(zip((model.a, model.b), model.hidden(x), strict=True)):
            rows.append(torch.cat([read, torch.eye(2).double()[k].expand(len(x), 2)], dim=1))
            values.append(layer(read))
    rows, values = torch.cat(rows), torch.cat(values)
    best = torch.linalg.lstsq(rows, values, driver="gelsd").solution
    got = torch.cat([merged.a.weight.t(), merged.a.bias[None], merged.b.bias[None]])
    torch.testing.assert_close(got, best, rtol=1e-6, atol=1e-8)
    half = len(x)
    alone = torch.cat([rows[half : 2 * half], rows[3 * half :]])[:, [0, 1, 2, 3, 4, 6]]  # control: `b` by itself
    other = torch.linalg.lstsq(alone, torch.cat([values[half : 2 * half], values[3 * half :]])).solution[:5]
    assert not torch.allclose(other, best[:5], atol=1e-2)
    same, _ = merge_in_closed_form(first, copy.deepcopy(first), 0.5, inputs=x)
    torch.testing.assert_close(same.a.weight, first.a.weight)


class Shared(nn.Module):
    """A layer and a plain parameter that are one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 4), nn.Linear(4, 3)
        self.embedding = nn.Embedding(4, 4)
        self.embedding.weight = self.inner.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(torch.tanh(self.inner(x)) + self.embedding.weight.sum(0))


def test_a_weight_that_another_kind_of_layer_has_is_averaged_and_named() -> None:
    first, second, x = pair(Shared)
    merged, notes = merge_in_closed_form(first, second, 0.25, inputs=x)
    assert "inner.weight" in notes["averaged"]
    torch.testing.assert_close(merged.inner.weight, torch.lerp(first.inner.weight, second.inner.weight, 0.25))


def test_layers_that_share_weights_are_not_calibrated_and_named() -> None:
    """The factor of one would change what the other returned; control: untied layers are calibrated."""
    first, second, x = pair(Tied)
    calibrate = MessageCalibration(first, second, inputs=x)
    assert calibrate.notes["left"] == {"a": "'b' has the same weights", "b": "'a' has the same weights"}
    child = calibrate(between(first, second, 0.5), 0.5)
    assert torch.equal(child.a.weight, between(first, second, 0.5).a.weight)
    for model in (first, second):
        model.b.weight = nn.Parameter(model.b.weight.detach().clone())
    assert {"a", "b"} <= set(MessageCalibration(first, second, inputs=x).notes["calibrated"])


class Repeated(nn.Module):
    """One layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.norm, self.last = (
            nn.Linear(4, 5),
            nn.Linear(5, 5),
            nn.LayerNorm(5),
            nn.Linear(5, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.again(torch.tanh(self.again(torch.tanh(self.first(x))))))


def test_layers_that_are_called_twice_are_not_calibrated_and_named() -> None:
    first, second, x = pair(Repeated)
    calibrate = MessageCalibration(first, second, inputs=x)
    assert calibrate.notes["left"]["again"] == "it is called several times"
    child = between(first, second, 0.5)
    assert torch.equal(calibrate(child, 0.5).again.weight, child.again.weight)


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.norm(self.a(x))))


def test_statistics_are_those_of_the_merged_model() -> None:
    first, second, x = pair(Normed)
    for model in (first, second):
        model.norm.running_mean.normal_()
    merged, notes = merge_in_closed_form(first, second, inputs=x)
    assert notes["averaged"] == ["norm.weight", "norm.bias"]
    assert "computed anew" in notes["statistics"]
    hidden = merged.a(x)
    torch.testing.assert_close(merged.norm.running_mean, hidden.mean(0))
    torch.testing.assert_close(merged.norm.running_var, hidden.var(0))
    assert not torch.allclose(merged.norm.running_mean, (first.norm.running_mean + second.norm.running_mean) / 2)
    assert not merged.training
    assert merged.norm.momentum == first.norm.momentum


@torch.no_grad()
def test_directions_that_the_data_do_not_say_keep_the_average() -> None:
    """A hidden channel that is 0 on the data: its outgoing weights are those of the average, and not 0."""
    torch.manual_seed(0)
    first, second = (nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)) for _ in range(2))
    for model in (first, second):
        model[0].bias[2] = -100.0
    merged, notes = merge_in_closed_form(first, second, inputs=torch.randn(50, 4))
    assert "2" in notes["solved"]
    torch.testing.assert_close(merged[2].weight[:, 2], (first[2].weight[:, 2] + second[2].weight[:, 2]) / 2)
    assert merged[2].weight[:, 2].abs().max() > 0.01
