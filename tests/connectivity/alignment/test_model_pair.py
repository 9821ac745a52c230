"""Models and data that do not fit are refused in words, before work starts."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric import nn as pyg

from gunlearn.connectivity import align_models, register_layer
from gunlearn.connectivity.alignment import Axes, LayerRule, MessageCalibration, merge_in_closed_form
from gunlearn.errors import DivergenceError, InvalidInputError, InvalidTypeError, UnsupportedModelError
from gunlearn.nn import backbone
from tests.connectivity.alignment.pairs import graph

X = torch.randn(12, 4)
pyg.SAGEConv(1, 1)  # PyG writes a layer's `propagate` for the first one of the process: fused, or without for all


def net(*sizes: int, act: type[nn.Module] = nn.ReLU, **kwargs: Any) -> nn.Sequential:
    return nn.Sequential(nn.Linear(sizes[0], sizes[1], **kwargs), act(), nn.Linear(sizes[1], sizes[2]))


def with_nan() -> nn.Module:
    model = net(4, 5, 3)
    with torch.no_grad():
        model[2].weight[0, 0] = float("nan")
    return model


def quantised() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(net(4, 5, 3), {nn.Linear}, dtype=torch.qint8)


REFUSED = {
    "no module": (lambda: net(4, 5, 3), lambda: "model", InvalidTypeError, "'second' to be a torch module"),
    "widths": (lambda: net(4, 5, 3), lambda: net(4, 6, 3), InvalidInputError, r"one shape .*\(5, 4\).*'0.weight'"),
    "missing": (lambda: net(4, 5, 3), lambda: net(4, 5, 3, bias=False), InvalidInputError, "first alone has '0.bias'"),
    "extra": (lambda: net(4, 5, 3, bias=False), lambda: net(4, 5, 3), InvalidInputError, "second alone has '0.bias'"),
    "activation": (lambda: net(4, 5, 3), lambda: net(4, 5, 3, act=nn.Tanh), UnsupportedModelError, "Tanh"),
    "dtype": (lambda: net(4, 5, 3), lambda: net(4, 5, 3).double(), InvalidInputError, "one dtype.*'0.weight'"),
    "half": (lambda: net(4, 5, 3).bfloat16(), lambda: net(4, 5, 3).bfloat16(), InvalidTypeError, r"model\.float\(\)"),
    "NaN": (with_nan, lambda: net(4, 5, 3), InvalidInputError, "NaN or infinity in '2.weight'"),
    "meta": (
        lambda: net(4, 5, 3), lambda: net(4, 5, 3).to("meta"), UnsupportedModelError, "second .*'0.weight' on 'meta'"
    ),
    "lazy": (
        lambda: nn.Sequential(nn.LazyLinear(5)), lambda: nn.Sequential(nn.LazyLinear(5)), InvalidInputError, "lazy"
    ),
    "quantised": (quantised, quantised, InvalidTypeError, "quantised layer '0'"),
    "layer": (
        lambda: nn.GRU(4, 5), lambda: nn.GRU(4, 5), UnsupportedModelError, r"layers of the table \(got GRU '' with"
    ),
    "groups": (
        lambda: nn.Conv1d(4, 4, 1, groups=2), lambda: nn.Conv1d(4, 4, 1, groups=2), UnsupportedModelError, "2 groups"
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("use", [align_models, MessageCalibration, merge_in_closed_form])
def test_pairs_that_do_not_fit_are_refused(name: str, use: Any) -> None:
    one, other, error, words = REFUSED[name]
    with pytest.raises(error, match=words):
        use(one(), other(), inputs=X)


def test_data_that_say_not_how_a_model_is_called_are_refused() -> None:
    pair = net(4, 5, 3), net(4, 5, 3)
    with pytest.raises(InvalidInputError, match="got none"):
        align_models(*pair)
    with pytest.raises(InvalidInputError, match="got both"):
        align_models(*pair, data=graph(), inputs=X)
    with pytest.raises(InvalidInputError, match="x and edge_index"):
        align_models(*pair, data=X)
    with pytest.raises(InvalidInputError, match="'by' to be one of 'weights'"):
        align_models(*pair, by="magic", inputs=X)
    with pytest.raises(UnsupportedModelError, match=r"to run on the data \(got RuntimeError"):
        align_models(*pair, inputs=torch.randn(3, 9))
    with pytest.raises(DivergenceError, match="finite outputs"):
        align_models(*pair, inputs=X * float("nan"))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (backbone("sage", 7, 8, 3, aggr="lstm"), "LSTMAggregation"),
        (pyg.GraphSAGE(7, 8, 2, 3, project=True), "project=True"),
        (pyg.PNA(7, 8, 2, 3, aggregators=["mean"], scalers=["identity"], deg=torch.ones(5)), "layers of the table"),
        (pyg.GCN(7, 8, 2, 3, norm="graph"), "GraphNorm"),
    ],
    ids=["lstm", "project", "pna", "graphnorm"],
)
def test_layers_and_settings_that_the_table_does_not_have_are_named(model: nn.Module, words: str) -> None:
    with pytest.raises(UnsupportedModelError, match=words):
        align_models(model, copy.deepcopy(model), data=graph())


class Gated(nn.Module):
    """A user's own layer: two maps of the input, one through a gate."""

    def __init__(self, size: int, channels: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.randn(size, channels))
        self.gate = nn.Parameter(torch.randn(size, channels))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.value) * torch.sigmoid(x @ self.gate)


def gated(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), Gated(6, 5), nn.Linear(5, 3))


def test_a_layer_of_ones_own_is_refused_until_the_table_has_it() -> None:
    from gunlearn.nn.channels import channel_rules

    with pytest.raises(UnsupportedModelError, match="got Gated '2' with value, gate"):
        align_models(gated(0), gated(1), inputs=X)
    try:
        register_layer(Gated, LayerRule({"value": ("in", "out")}))
        with pytest.raises(UnsupportedModelError, match="got none for gate"):
            align_models(gated(0), gated(1), inputs=X)
        register_layer(Gated, LayerRule({"value": ("in", "out"), "gate": ("in",)}))
        with pytest.raises(InvalidInputError, match="label per axis of 'gate'"):
            align_models(gated(0), gated(1), inputs=X)
        # A rule that is wrong is found out: the gate does not scale as an input does.
        register_layer(Gated, LayerRule({"value": ("in", "out"), "gate": ("out", None)}))
        with pytest.raises(InvalidInputError, match="the layer's rule does not fit"):
            align_models(gated(0), gated(1), inputs=X)
        register_layer(Gated, LayerRule({"value": ("in", "out"), "gate": ("in", "out")}))
        with pytest.raises(UnsupportedModelError, match="was not seen"):
            align_models(gated(0), gated(1), inputs=X)
        register_layer(Gated, LayerRule({"value": ("in", "out"), "gate": ("in", "out")}, scales=lambda layer: False))
        found = align_models(gated(0), gated(1), inputs=X)
        assert sorted(found.permutations) == ["0", "2"]
        assert found.notes["not_rescaled"]["2"] == "'2' normalises them"
    finally:
        channel_rules._TABLE.pop(Gated, None)


def test_what_the_table_takes() -> None:
    with pytest.raises(InvalidTypeError, match="class of torch modules"):
        register_layer(dict, LayerRule({}))  # type: ignore[arg-type]
    with pytest.raises(InvalidTypeError, match="LayerRule"):
        register_layer(Gated, {"value": ("in", "out")})  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="'output' to be one of 'new', 'permuted', 'same'"):
        LayerRule({}, output="other")
    assert Axes(("out",)).view is None


def test_a_layer_that_is_not_called_is_named() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = net(4, 5, 3), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    found = align_models(Idle(), Idle(), inputs=X)
    assert found.notes["left"]["idle"] == "the model did not call it"


def test_models_may_be_called_in_other_ways() -> None:
    first, second = net(4, 5, 3), net(4, 5, 3)
    ways = [
        align_models(first, second, inputs=X),
        align_models(first, second, inputs=(X,)),
        align_models(first, second, inputs={"input": X}),
        align_models(first, second, data={"x": X}, call=lambda model, data: model(data["x"])),
    ]
    for found in ways[1:]:
        assert torch.equal(found.permutations["0"], ways[0].permutations["0"])
