"""Paths: what lies at the ends, between them, and which pairs of models have none."""

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import gunlearn as gu
from gunlearn.connectivity import (
    WEIGHT_PATHS,
    BezierPath,
    CurveSettings,
    LinearPath,
    PartLosses,
    PolygonalChain,
    find_curve,
    make_path,
    save_path,
)
from gunlearn.connectivity.along_path import arc_lengths
from gunlearn.errors import DivergenceError, InvalidInputError, InvalidTypeError, UnsupportedModelError
from tests.connectivity.cases import gnn, graph, items, perceptron

KINDS = [("linear", 1), ("bezier", 1), ("bezier", 3), ("chain", 2)]


def moved(path):
    """The path, its bends moved somewhere else."""
    with torch.no_grad():
        for bend in path.bends:
            bend.add_(torch.randn(bend.shape, generator=torch.Generator().manual_seed(1)))
    return path


@pytest.mark.parametrize(("kind", "bends"), KINDS)
@pytest.mark.parametrize("norm", [False, True])
def test_ends_are_the_models_bit_for_bit(kind: str, bends: int, norm: bool) -> None:
    first, second = perceptron(0, norm), perceptron(1, norm)
    if norm:
        for model in (first, second):
            model.train()(torch.randn(20, 4))
            model.eval()
    before = copy.deepcopy(first.state_dict())
    path = moved(make_path(kind, first, second, bends))
    for t, model in ((0, first), (1, second)):
        found = path.model_at(t).state_dict()
        assert found.keys() == model.state_dict().keys()
        assert all(torch.equal(value, found[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in first.state_dict().items())
    middle = path.weights(0.5)  # control: elsewhere it is neither
    assert not any(torch.equal(middle["0.weight"], model.state_dict()["0.weight"]) for model in (first, second))


def test_coefficients_are_those_of_the_formulas() -> None:
    first, second = perceptron(0), perceptron(1)
    for t in (0.0, 0.2, 0.7, 1.0):
        assert LinearPath(first, second).coefficients(t) == pytest.approx([1 - t, t])
        quadratic = [(1 - t) ** 2, 2 * t * (1 - t), t**2]
        assert BezierPath(first, second).coefficients(t) == pytest.approx(quadratic)
        for kind, bends in KINDS:
            assert math.fsum(make_path(kind, first, second, bends).coefficients(t)) == pytest.approx(1)
    assert PolygonalChain(first, second, 2).coefficients(0.5) == pytest.approx([0, 0.5, 0.5, 0])


@pytest.mark.parametrize(("kind", "bends"), KINDS)
def test_fresh_bends_lie_on_the_straight_line(kind: str, bends: int) -> None:
    first, second = perceptron(0), perceptron(1)
    path, line = make_path(kind, first, second, bends), LinearPath(first, second)
    for t in (0.1, 0.5, 0.8):
        a, b = path.weights(t), line.weights(t)
        assert all(torch.allclose(a[n], b[n], atol=1e-6) for n in a)
    if path.num_bends:
        away, there = moved(path).weights(0.5), line.weights(0.5)  # control
        assert not torch.allclose(away["0.weight"], there["0.weight"], atol=1e-2)


def test_bends_can_begin_at_the_original() -> None:
    first, second, original = (perceptron(seed) for seed in range(3))
    path = BezierPath(first, second, 2, start=original)
    for number in (1, 2):
        assert all(torch.equal(path.point(number)[n], p) for n, p in original.named_parameters())


@pytest.mark.parametrize(("kind", "bends"), KINDS[1:])
def test_gradients_are_those_of_finite_differences(kind: str, bends: int) -> None:
    data = items()
    data.x = data.x.double()
    path = moved(make_path(kind, perceptron(0).double(), perceptron(1).double(), bends))

    def loss(t: float) -> torch.Tensor:
        return path.call(t, lambda model: nn.functional.cross_entropy(model(data.x), data.y))

    t = 0.3
    loss(t).backward()
    for bend in path.bends:
        at, step = (0,) * bend.dim(), 1e-6
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                bend[at] += sign * step
                sides.append(float(loss(t)))
                bend[at] -= sign * step
        assert float(bend.grad[at]) == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=1e-6, abs=1e-9)
    # Control: without the factor w_k(t) of the chain rule the gradient is that of the point, another number.
    point = path.model_at(t)
    nn.functional.cross_entropy(point(data.x), data.y).backward()
    plain, share = point[0].weight.grad, path.coefficients(t)[1]
    assert torch.allclose(path.bends[0].grad, share * plain, atol=1e-12)
    assert not torch.allclose(path.bends[0].grad, plain, rtol=0.01)


@pytest.mark.parametrize("kind", ["gcn", "sage", "gin", "gat"])
def test_graph_networks_are_called_as_they_are(kind: str) -> None:
    data = graph()
    first, second = (gnn(kind, data, seed).eval() for seed in (0, 1))
    path = LinearPath(first, second)
    for t, model in ((0, first), (1, second)):
        assert torch.equal(path.model_at(t)(data.x, data.edge_index), model(data.x, data.edge_index))
    called = path.call(0.4, lambda model: model.eval()(data.x, data.edge_index))
    assert torch.allclose(called, path.model_at(0.4)(data.x, data.edge_index), atol=1e-6)


class Tied(nn.Module):
    """A decoder that is the transpose of its encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.outer.weight = self.inner.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.outer(torch.tanh(self.inner(x)))


def test_tied_weights_count_once() -> None:
    first, second = Tied(), Tied()
    path, x = BezierPath(first, second), torch.randn(3, 4)
    assert path.moving == ("inner.weight",)
    assert len(path.bends) == 1
    model = path.model_at(0.5)
    assert model.outer.weight is model.inner.weight
    assert torch.allclose(path.call(0.5, lambda m: m(x)), model(x))
    length = arc_lengths(path, [0.0, 1.0])[-1]
    assert length == pytest.approx(float((first.inner.weight - second.inner.weight).norm()), rel=1e-6)
    untied = Tied()
    untied.outer.weight = nn.Parameter(untied.inner.weight.detach().clone())
    with pytest.raises(InvalidInputError, match=r"second alone has 'outer\.weight'"):
        LinearPath(first, untied)


@pytest.mark.filterwarnings("ignore")  # of torch's compiler
def test_compiled_models_are_those_that_they_wrap() -> None:
    first, second = perceptron(0), perceptron(1)
    path = LinearPath(torch.compile(first), second)
    assert set(path.weights(0.5)) == set(dict(first.named_parameters()))


def test_frozen_weights_that_agree_stay() -> None:
    first = perceptron(0)
    second = copy.deepcopy(first)
    with torch.no_grad():
        second[2].weight.add_(1)
    for model in (first, second):
        model[0].requires_grad_(False)
    path = BezierPath(first, second)
    assert set(path.moving) == {"2.weight", "2.bias"}
    assert torch.equal(path.weights(0.5)["0.weight"], first[0].weight)


def test_means_of_weights_along_the_path() -> None:
    path = moved(BezierPath(perceptron(0), perceptron(1)))
    ts = [0.2 + 0.6 * k / 4 for k in range(5)]
    expected = torch.stack([path.weights(t)["0.weight"] for t in ts]).mean(0)
    assert torch.allclose(path.mean(0.2, 0.8, 5)["0.weight"], expected, atol=1e-6)
    assert torch.equal(path.model_at(path.mean(0.2, 0.8, 5))[0].weight, path.mean(0.2, 0.8, 5)["0.weight"])


def test_batch_normalisation_is_computed_anew_or_refused() -> None:
    data = items()
    models = [perceptron(seed, norm=True) for seed in (0, 1)]
    for k, model in enumerate(models):
        model.train()(data.x + 5 * k)
        model.eval()
    path = LinearPath(*models)
    with pytest.raises(UnsupportedModelError, match="statistics of batch normalisation"):
        path.model_at(0.5)
    partition = gu.ForgetItems(count=5).resolve(data)
    losses = PartLosses(gu.ImageClassification(), partition, path.template)
    found = path.model_at(0.5, losses.recompute)
    hidden = found[0](data.x[partition.retain_mask])
    assert torch.allclose(found[1].running_mean, hidden.mean(0), atol=1e-5)
    assert torch.allclose(found[1].running_var, hidden.var(0), atol=1e-5)
    halves = (models[0][1].running_mean + models[1][1].running_mean) / 2  # control: not the mean of both
    assert not torch.allclose(found[1].running_mean, halves, atol=0.1)


def refused(first: object, second: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        LinearPath(first, second)


def test_pairs_without_a_path_are_refused() -> None:
    model = perceptron()
    refused(model, "model", InvalidTypeError, "modules or results")
    refused(model, nn.Sequential(nn.Linear(4, 6), nn.Tanh()), InvalidInputError, r"first alone has '2\.bias'")
    refused(model, nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 3)), InvalidInputError, "shape")
    refused(model, perceptron(1).double(), InvalidInputError, "dtype.*float64")
    refused(model, nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), UnsupportedModelError, "Tanh.*ReLU")
    lazy = nn.Sequential(nn.LazyLinear(6), nn.Tanh(), nn.Linear(6, 3))
    refused(model, lazy, InvalidInputError, "At the second end.*lazy parameter")
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken[0].bias[0] = math.nan
    refused(broken, model, InvalidInputError, "At the first end.*NaN")
    whole = copy.deepcopy(model)
    whole[0].weight = nn.Parameter(torch.zeros(6, 4, dtype=torch.int8), requires_grad=False)
    refused(model, whole, UnsupportedModelError, "floating point weights at the second end.*int8")


@pytest.mark.filterwarnings("ignore")  # of torch's plans for quantisation
def test_packed_weights_are_refused() -> None:
    if "qnnpack" not in torch.backends.quantized.supported_engines:
        pytest.skip("needs an engine for quantised layers")
    model = perceptron()
    packed = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    with pytest.raises((InvalidInputError, UnsupportedModelError), match="Expected"):
        LinearPath(packed, packed)


def test_buffers_that_nobody_can_compute_are_refused() -> None:
    models = [perceptron(seed) for seed in (0, 1)]
    for k, model in enumerate(models):
        model.register_buffer("shift", torch.tensor(float(k)))
    with pytest.raises(UnsupportedModelError, match="'shift', which nobody can compute anew"):
        LinearPath(*models)
    models[1].shift.fill_(0.0)  # control
    assert float(LinearPath(*models).model_at(0.5).shift) == 0


def test_spectral_norm_is_refused_for_its_vectors() -> None:
    models = [nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 4))) for _ in range(2)]
    with pytest.raises(UnsupportedModelError, match="_u"):
        LinearPath(*models)


def test_points_and_kinds_are_checked() -> None:
    first, second = perceptron(0), perceptron(1)
    path = LinearPath(first, second)
    for t in (-0.1, 1.1, math.nan, "0"):
        with pytest.raises(InvalidInputError, match="'t'"):
            path.weights(t)
    with pytest.raises(InvalidInputError, match="num_bends"):
        BezierPath(first, second, 0)
    with pytest.raises(InvalidInputError, match="'path'"):
        make_path("circle", first, second)
    assert set(WEIGHT_PATHS) == {"linear", "bezier", "chain"}


def test_a_curve_with_nan_is_refused() -> None:
    data = items()
    partition = gu.ForgetItems(count=5).resolve(data)
    path = BezierPath(perceptron(0), perceptron(1))
    with torch.no_grad():
        path.bends[0][0, 0] = math.nan
    with pytest.raises(DivergenceError, match=r"NaN or infinity in '0\.weight'"):
        path.model_at(0.5)
    with pytest.raises(DivergenceError):
        find_curve(path, gu.ImageClassification(), partition, settings=CurveSettings(steps=2))


def operated(model: nn.Module, data: object, nodes: list[int]) -> nn.Module:
    """A copy of the model with GNNDelete's operators for some nodes."""
    options = {"epochs": 2}
    return gu.unlearn(model, data, gu.ForgetNodes(nodes), "gnndelete", "node_classification", **options).model


@pytest.mark.filterwarnings("ignore")
def test_operators_at_both_ends_or_at_neither(tmp_path: Path) -> None:
    data = graph()
    base = gu.train(gnn("gcn", data), data, "node_classification", epochs=20).model
    train = data.train_mask.nonzero().view(-1)[:4].tolist()
    first = operated(base, data, train[:2])
    with pytest.raises(UnsupportedModelError, match="deletion operators in both models"):
        LinearPath(base, first)
    with pytest.raises(UnsupportedModelError, match="operators on the same nodes"):
        LinearPath(first, operated(base, data, train[2:]))
    again = operated(base, data, train[:2])
    with torch.no_grad():
        for name, parameter in again.named_parameters():
            if "deletions" in name:
                parameter.mul_(3)
    with pytest.raises(UnsupportedModelError, match="node ids tell what was forgotten"):
        save_path(LinearPath(first, again), tmp_path / "path")
    assert not list(tmp_path.iterdir())
    middle = LinearPath(first, again).model_at(0.5)
    one, two, between = (dict(m.named_parameters()) for m in (first, again, middle))
    assert all(torch.allclose(between[n], (one[n] + two[n]) / 2, atol=1e-6) for n in between)
