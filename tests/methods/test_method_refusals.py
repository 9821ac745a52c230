"""What no method may accept, and no method may return."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import GCNConv

import gunlearn as gu
from gunlearn.errors import (
    DivergenceError,
    EmptyForgetSetError,
    InvalidInputError,
    InvalidRequestError,
    InvalidTypeError,
    UnsupportedMethodError,
    UnsupportedModelError,
)
from gunlearn.methods import METHODS, FineTune, Retrain, TrainArguments
from tests.methods.cases import CASES, SHARD_CASES, TRAINING, MethodCase, make_data, run, same_weights, trained_model

per_case = pytest.mark.parametrize("case", CASES, ids=str)
per_training_case = pytest.mark.parametrize("case", TRAINING, ids=str)


class ForgetNothing(gu.Request):
    kind = "edges"

    def select(self, graph: Any, scores: Any) -> Tensor:
        return torch.zeros(graph.num_columns, dtype=torch.bool)

    def content(self) -> str:
        return ""


class Untouchable(nn.Module):
    """A model that must not be called: refusals come before any work."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = GCNConv(8, 4)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        raise RuntimeError("this model was called")


@pytest.mark.parametrize("method", ["utu", "npo", "retrain", "etr", "gif"])
def test_requests_that_do_not_fit(method: str) -> None:
    data = make_data()
    free = next(
        (u, v)
        for u in range(64)
        for v in range(64)
        if not ((data.edge_index[0] == u) & (data.edge_index[1] == v)).any()
    )
    for request, error in (
        (ForgetNothing(), EmptyForgetSetError),
        (gu.ForgetEdges(edge_ids=range(data.num_edges)), InvalidRequestError),
        (gu.ForgetEdges(data.val_pos_edge_index[:, :2]), InvalidRequestError),
        (gu.ForgetEdges(data.test_pos_edge_index), InvalidRequestError),
        (gu.ForgetEdges([free]), InvalidRequestError),
    ):
        with pytest.raises(error):
            run(method, Untouchable(), data, request)


@pytest.mark.parametrize("method", ["utu", "npo", "retrain", "etr", "gif"])
def test_a_broken_model_is_refused(method: str) -> None:
    for spoiled in ("parameter", "buffer"):
        model = trained_model("sage")
        (next(model.parameters()) if spoiled == "parameter" else model.norm.running_var).data.view(-1)[-1] = float(
            "nan"
        )
        with pytest.raises(InvalidInputError, match="finite weights"):
            run(method, model, make_data())


@per_training_case
def test_divergence_is_raised_not_returned(case: MethodCase) -> None:
    # One epoch: the weights are finite but too large to compute with.
    for epochs in (1, 5) if case.method in ("npo", "retrain") else (1,):
        with pytest.raises(DivergenceError, match="finite"):
            run(case, trained_model("gcn"), make_data(), epochs=epochs, lr=1e30)


def test_unknown_names() -> None:
    model, data = Untouchable(), make_data()
    for arguments, match in (
        ({"method": "amnesia"}, r"method among .*'utu'.*\(got 'amnesia'\)"),
        ({"method": "npo:paper"}, r"variant of 'npo' among \['default', 'kl'\] \(got 'paper'\)"),
        ({"method": "npo", "gamma": 1}, r"options of 'npo' among .*'beta'.*got \['gamma'\]"),
        ({"method": "inpo", "mode": "fast"}, "'mode'"),
        ({"method": "inpo", "until": "never"}, "'until'"),
        ({"method": "npo", "message_graph": "half"}, "'message_graph'"),
        ({"method": FineTune(), "epochs": 3}, "options with a method's name only"),
        ({"method": "npo", "task": "node colouring"}, "task among"),
    ):
        with pytest.raises(InvalidInputError, match=match):
            gu.unlearn(model, data, gu.ForgetEdges(count=2), **arguments)
    with pytest.raises(InvalidTypeError, match="forget request"):
        gu.unlearn(model, data, torch.tensor([[0], [1]]))
    with pytest.raises(InvalidTypeError, match="torch module"):
        gu.unlearn(lambda x, edge_index: x, data, gu.ForgetEdges(count=2))
    with pytest.raises(InvalidInputError, match="with parameters"):
        gu.unlearn(nn.ReLU(), data, gu.ForgetEdges(count=2))
    with pytest.raises(InvalidInputError, match="lazy"):
        gu.unlearn(GCNConv(-1, 3), data, gu.ForgetEdges(count=2))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", -1),
        ("lr", 0.0),
        ("lr", -1e-3),
        ("lr", float("nan")),
        ("lr", float("inf")),
        ("weight_decay", -1e-3),
        ("weight_decay", float("nan")),
        ("max_grad_norm", 0.0),
        ("max_grad_norm", -1.0),  # clipping to it would turn the gradient around
        ("max_grad_norm", float("nan")),
    ],
)
def test_settings_that_cannot_be_meant(name: str, value: float) -> None:
    with pytest.raises(InvalidInputError, match=name):
        TrainArguments(**{"epochs": 1, name: value})
    for cls in (c for c in METHODS.values() if name in c.options() and c is not Retrain):
        if cls.name == "etr" and value == 0:
            continue  # erases without a correction
        with pytest.raises(InvalidInputError, match=name):
            cls(**{name: value})


BAD = [(case, wrong) for case in (*CASES, *SHARD_CASES) for wrong in case.bad]


@pytest.mark.parametrize(("case", "wrong"), BAD, ids=str)
def test_options_that_cannot_be_meant(case: MethodCase, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=f"Expected.*({'|'.join(wrong)}|weight of)"):
        METHODS[case.method](**wrong)


def items() -> Data:
    return Data(x=torch.randn(20, 8), y=torch.arange(20) % 2)


@pytest.mark.parametrize(
    ("method", "task", "match"),
    [
        ("inpo", "image_classification", "'link_prediction'.*got 'image_classification'"),
        ("inpo:paper", "image_classification", "'link_prediction'"),
        ("utu", "image_classification", "got 'items'"),
        ("npo", "link_prediction", "'edges'.*got 'items'"),
    ],
)
def test_unsupported_on_items(method: str, task: str, match: str) -> None:
    with pytest.raises(UnsupportedMethodError, match=match):
        gu.unlearn(Untouchable(), items(), gu.ForgetItems(count=2), method, task)


@per_case
def test_a_classifier_does_not_forget_edges(case: MethodCase) -> None:
    with pytest.raises(UnsupportedMethodError):
        run(case, Untouchable(), make_data(), task="image_classification")


@per_training_case
def test_errors_of_the_model_are_the_models(case: MethodCase) -> None:
    with pytest.raises(RuntimeError, match="was called"):
        run(case, Untouchable(), make_data())


def test_a_model_that_returns_something_else() -> None:
    class Graphwise(Untouchable):
        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return self.conv(x, edge_index).mean(0)

    with pytest.raises(UnsupportedModelError, match="embeddings of shape"):
        run("npo", Graphwise(), make_data())


def test_a_model_that_cannot_be_copied() -> None:
    model, data = trained_model("sage"), make_data()
    model.last = model(data.x, data.edge_index)  # what forward functions like to leave behind
    with pytest.raises(UnsupportedModelError, match="copied"):
        run("utu", model, data)


def test_a_model_without_trainable_parameters() -> None:
    model = trained_model("gcn").requires_grad_(False)
    with pytest.raises(InvalidInputError, match="trainable"):
        run("npo", model, make_data())


def test_inpo_needs_message_passing_layers() -> None:
    class Perceptron(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(8, 4)

        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return self.lin(x)

    with pytest.raises(UnsupportedModelError, match="MessagePassing"):
        run("inpo", Perceptron(), make_data(), epochs=1)
    assert run("npo", Perceptron(), make_data(), epochs=1).epochs == 1


class ForgottenReset(nn.Module):
    """Its `reset_parameters` leaves one layer as it was trained."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = GCNConv(8, 8), GCNConv(8, 4)

    def reset_parameters(self) -> None:
        self.one.reset_parameters()

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.two(self.one(x, edge_index).relu(), edge_index)


def test_retraining_must_start_anew() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.shift = GCNConv(8, 4), nn.Parameter(torch.randn(4))

        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return self.conv(x, edge_index) + self.shift

    for cls, match in ((ForgottenReset, "'two"), (Bare, "every module with parameters")):
        with pytest.raises(UnsupportedModelError, match=match):
            run("retrain", cls(), make_data(), epochs=1)


def test_a_buffer_that_stays_is_warned_of() -> None:
    class Remembers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = GCNConv(8, 4)
            self.register_buffer("seen", torch.arange(4.0))

        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return self.conv(x, edge_index) + self.seen

    with pytest.warns(UserWarning, match="'seen' kept its value"):
        run("retrain", Remembers(), make_data(), epochs=1)


def test_the_callers_training_function_must_return_a_model() -> None:
    with pytest.raises(UnsupportedModelError, match="return a torch module"):
        run("retrain", trained_model(), make_data(), train=lambda data, seed: None)

    def spoiled(data: Data, seed: int) -> nn.Module:
        model = trained_model()
        next(model.parameters()).data.fill_(float("nan"))
        return model

    with pytest.raises(DivergenceError, match="finite weights"):
        run("retrain", trained_model(), make_data(), train=spoiled)


def test_a_cached_layer_does_not_keep_the_forgotten_edges() -> None:
    # PyG's `cached=True` computes its adjacency once; the unlearned model must read the graph that it is given.
    class Cached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = GCNConv(8, 4, cached=True)

        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return self.conv(x, edge_index)

    data, model = make_data(), Cached()
    plain = GCNConv(8, 4)
    plain.load_state_dict(model.conv.state_dict())
    model(data.x, data.edge_index)
    cache = model.conv._cached_edge_index
    result = run("utu", model, data)
    retain = result.partition.retain_data.edge_index
    torch.testing.assert_close(result.model(data.x, retain), plain(data.x, retain))
    assert not torch.allclose(plain(data.x, retain), plain(data.x, data.edge_index))  # control: it makes a difference
    assert model.conv._cached_edge_index is cache
    assert model.conv.cached
    assert same_weights(model, result.model)
