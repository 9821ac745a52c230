"""What no method may accept, and no method may return."""

import copy
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
from tests.methods.cases import (
    CASES,
    SHARD_CASES,
    STATE_CASES,
    TRAINING,
    Made,
    MethodCase,
    make_data,
    run,
    same_weights,
    trained_model,
)

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
    edges = set(map(tuple, data.edge_index.t().tolist()))
    free = next((u, v) for u in range(64) for v in range(64) if (u, v) not in edges)
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
    for spoiled in ("norm.weight", "norm.running_var"):
        model = trained_model("sage")
        model.state_dict()[spoiled][-1] = float("nan")
        with pytest.raises(InvalidInputError, match="finite weights"):
            run(method, model, make_data())


@per_training_case
def test_divergence_is_raised_not_returned(case: MethodCase) -> None:
    # One epoch: the weights are finite but too large to compute with. A task vector is subtracted after its epochs:
    # where rounding decides that all hidden units are below 0 then, the model is finite.
    several = {"npo": (1, 5), "retrain": (1, 5), "task_vector": (5,)}
    for epochs in several.get(case.method, (1,)):
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
    request = gu.ForgetEdges(count=2)
    for given, asked, error, match in (
        (model, torch.tensor([[0], [1]]), InvalidTypeError, "forget request"),
        (lambda x, edge_index: x, request, InvalidTypeError, "torch module"),
        (nn.ReLU(), request, InvalidInputError, "with parameters"),
        (GCNConv(-1, 3), request, InvalidInputError, "lazy"),
    ):
        with pytest.raises(error, match=match):
            gu.unlearn(given, data, asked)


class Mixed(nn.Module):
    """Each node's features and those of its neighbours, in code that TorchScript can read."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        rows = self.layer(x)
        return rows.index_add(0, edge_index[1], rows[edge_index[0]])


def in_inference_mode() -> nn.Module:
    with torch.inference_mode():
        return Mixed()


def of_torchscript() -> nn.Module:
    return torch.jit.script(Mixed())  # type: ignore[no-any-return]


class Scripted(nn.Module):
    """A module of Python around one of TorchScript; the control is `Mixed`, in the test below."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = of_torchscript()

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.inner(x, edge_index)  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_part_of_torchscript_is_refused_by_its_name() -> None:
    data = gu.node_split(make_data(), 0.2, 0.2)
    with pytest.raises(UnsupportedModelError, match=r"in 'inner'.*load_state_dict\(model\.inner\.state_dict\(\)\)"):
        gu.unlearn(Scripted(), data, gu.ForgetNodes(count=2), "finetune", task="node_classification")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("method", ["utu", "auto"])
@pytest.mark.parametrize("call", [None, lambda model, data: model(data.x, data.edge_index)])
@pytest.mark.parametrize("make", [in_inference_mode, of_torchscript])
def test_models_without_autograd_or_code_are_refused_with_what_works(make: Any, call: Any, method: str) -> None:
    model, data = make(), gu.node_split(make_data(), 0.2, 0.2)
    data.y = torch.arange(data.num_nodes) % 4
    request, asked = gu.ForgetNodes(count=2), {"task": "node_classification", "call": call}
    with pytest.raises(UnsupportedModelError, match=r"copy.deepcopy|load_state_dict\(model.state_dict"):
        gu.unlearn(model, data, request, method, **asked)
    if make is in_inference_mode:  # what the message says
        other = copy.deepcopy(model)
    else:
        other = Mixed()
        other.load_state_dict(model.state_dict())
    assert gu.unlearn(other, data, request, method, **asked).num_forget == 2


NEVER = [("epochs", -1), *(("lr", value) for value in (0.0, -1e-3, float("nan"), float("inf")))]
NEVER += [(name, value) for name in ("weight_decay", "max_grad_norm") for value in (-1.0, float("nan"))]
NEVER += [("max_grad_norm", 0.0)]  # clipping to less would turn the gradient around


@pytest.mark.parametrize(("name", "value"), NEVER)
def test_settings_that_cannot_be_meant(name: str, value: float) -> None:
    with pytest.raises(InvalidInputError, match=name):
        TrainArguments(**{"epochs": 1, name: value})
    for cls in (c for c in METHODS.values() if name in c.options() and c is not Retrain):
        if cls.name == "etr" and value == 0:
            continue  # erases without a correction
        with pytest.raises(InvalidInputError, match=name):
            cls(**{name: value})


BAD = [(case, wrong) for case in (*CASES, *SHARD_CASES, *STATE_CASES) for wrong in case.bad]


@pytest.mark.parametrize(("case", "wrong"), BAD, ids=str)
def test_options_that_cannot_be_meant(case: MethodCase, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=f"Expected.*({'|'.join(wrong)}|weight of)"):
        METHODS[case.method](**wrong)


@pytest.mark.parametrize(
    ("method", "task", "match"),
    [
        ("inpo", "image_classification", "'link_prediction'.*got 'image_classification'"),
        ("inpo:paper", "image_classification", "'link_prediction'"),
    ],
)
def test_unsupported_on_items(method: str, task: str, match: str) -> None:
    data = Data(x=torch.randn(20, 8), y=torch.arange(20) % 2)
    with pytest.raises(UnsupportedMethodError, match=match):
        gu.unlearn(Untouchable(), data, gu.ForgetItems(count=2), method, task)


def test_items_without_a_graph_under_link_prediction() -> None:
    data = Data(x=torch.randn(20, 8), y=torch.arange(20) % 2)
    with pytest.raises(InvalidInputError, match=r"Expected data\.edge_index"):
        gu.unlearn(Untouchable(), data, gu.ForgetItems(count=2), "npo", "link_prediction")


@per_case
def test_a_classifier_does_not_forget_edges(case: MethodCase) -> None:
    with pytest.raises(UnsupportedMethodError):
        run(case, Untouchable(), make_data(), task="image_classification")


@per_training_case
def test_errors_of_the_model_are_the_models(case: MethodCase) -> None:
    with pytest.raises(UnsupportedModelError, match="RuntimeError of Untouchable: this model was called"):
        run(case, Untouchable(), make_data())


def test_a_model_that_cannot_be_copied() -> None:
    model, data = trained_model("sage"), make_data()
    model.last = [model(data.x, data.edge_index)]  # what forward functions like to leave behind
    with pytest.raises(UnsupportedModelError, match="copied"):
        run("utu", model, data)


GRAPHWISE = Made(lambda m, x, edge_index: m.conv(x, edge_index).mean(0), conv=GCNConv(8, 4))
PERCEPTRON = Made(lambda m, x, edge_index: m.lin(x), lin=nn.Linear(8, 4))


def test_models_that_do_not_fit() -> None:
    for method, model, error, match in (
        ("npo", GRAPHWISE, UnsupportedModelError, "embeddings of shape"),
        ("npo", trained_model().requires_grad_(False), InvalidInputError, "trainable"),
        ("inpo", PERCEPTRON, UnsupportedModelError, "MessagePassing"),
    ):
        with pytest.raises(error, match=match):
            run(method, model, make_data(), epochs=1)
    assert run("npo", PERCEPTRON, make_data(), epochs=1).epochs == 1


class ForgottenReset(Made):
    """Its `reset_parameters` leaves one layer as it was trained."""

    def reset_parameters(self) -> None:
        self.one.reset_parameters()


def test_retraining_must_start_anew() -> None:
    two = {"one": GCNConv(8, 8), "two": GCNConv(8, 4)}
    shifted = {"conv": GCNConv(8, 4), "shift": nn.Parameter(torch.randn(4))}
    for model, match in (
        (ForgottenReset(lambda m, x, e: m.two(m.one(x, e).relu(), e), **two), "'two"),
        (Made(lambda m, x, e: m.conv(x, e) + m.shift, **shifted), "every module with parameters"),
    ):
        with pytest.raises(UnsupportedModelError, match=match):
            run("retrain", model, make_data(), epochs=1)


def test_a_buffer_that_stays_is_warned_of() -> None:
    model = Made(lambda m, x, e: m.conv(x, e) + m.seen, conv=GCNConv(8, 4))
    model.register_buffer("seen", torch.arange(4.0))
    with pytest.warns(UserWarning, match="'seen' kept its value"):
        run("retrain", model, make_data(), epochs=1)


def test_the_callers_training_function_must_return_a_model() -> None:
    with pytest.raises(UnsupportedModelError, match="return a torch module"):
        run("retrain", trained_model(), make_data(), train=lambda data, seed: None)

    model = trained_model()
    next(model.parameters()).data.fill_(float("nan"))
    with pytest.raises(DivergenceError, match="finite weights"):
        run(
            "retrain", trained_model(), make_data(), train=lambda data, seed: model if data.edge_index.numel() else None
        )


def test_a_cached_layer_does_not_keep_the_forgotten_edges() -> None:
    # PyG's `cached=True` computes its adjacency once; the unlearned model must read the graph that it is given.
    data, model = make_data(), Made(lambda m, x, e: m.conv(x, e), conv=GCNConv(8, 4, cached=True))
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


@pytest.mark.parametrize("train", [lambda data: None, lambda: None, lambda data, seed, more: None])
def test_a_training_function_of_other_arguments_is_refused(train) -> None:
    with pytest.raises(InvalidTypeError, match=r"train\(data, seed\)"):
        METHODS["retrain"](train=train)
    METHODS["retrain"](train=lambda data, seed=0: None)  # control
