"""One row per registered method and variant, and the models and the graph that the contract tests run them on."""

import copy
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import GAE, GATConv, GCNConv, GINConv, GraphSAGE, SAGEConv
from torch_geometric.utils import to_undirected

import gunlearn as gu
from gunlearn.methods import METHODS, fit_linear_head
from gunlearn.nn import LinearHead
from gunlearn.seed import isolated_rng
from gunlearn.testing import MethodCase

IN_CHANNELS, HIDDEN, OUT = 8, 12, 6
RETAIN, FORGET = ("retain",), ("forget",)
NAN = float("nan")
WEIGHTS = ({"retain_weight": -0.5}, {"retain_weight": NAN}, {"kl_weight": -0.5}, {"kl_weight": NAN})
WHOLE = {"epochs": 2, "max_steps": 1, "min_steps": 1, "batch_size": 10**6, "forget_batch_size": 10**6}
BETAS = ({"beta": 0.0}, {"beta": -1.0}, {"beta": NAN})

CASES = [
    MethodCase(
        "retrain", options={"epochs": 4, "eval_every": 2}, from_scratch=True, learns=RETAIN, validates=True,
        chooses=True,
    ),
    MethodCase("auto", trains=False, random=False, options={"budget": 0.005}, bad=({"budget": 0},)),
    MethodCase("finetune", options={"epochs": 4}, learns=RETAIN),
    MethodCase("l1_sparse", options={"epochs": 4}, learns=RETAIN, bad=({"l1": -1.0}, {"l1": NAN}, {"mode": "x"})),
    MethodCase("l1_sparse", "paper", {"epochs": 4}, learns=RETAIN),
    MethodCase(
        "continued_training", options={"epochs": 4}, learns=(*RETAIN, *FORGET), validates=True,
        bad=(
            {"shrink": 0.0}, {"shrink": 1.5}, {"lr": -1.0}, {"weight_decay": -1.0}, {"budget": 0.5, "steps": 5},
            {"budget": 1.5}, {"optimizer": {"a": 1}},
        ),
    ),
    MethodCase("continued_training", "estimated", {"epochs": 4}, learns=(*RETAIN, *FORGET), validates=True),
    MethodCase("utu", trains=False, random=False),
    MethodCase("gradient_ascent", options={"epochs": 4}, random=False, learns=FORGET),
    MethodCase("graddiff", options={"epochs": 4}, bad=WEIGHTS[:2]),
    MethodCase("npo", options={"epochs": 4}, bad=(*WEIGHTS, *BETAS)),
    MethodCase("inpo", "paper", {"epochs": 4}, random=False, reads_forgotten=True),
    # A low learning rate: the edges must not reach their targets within the few steps.
    MethodCase(
        "inpo", "default", {"epochs": 4, "lr": 1e-4},
        bad=(
            *WEIGHTS[2:], *BETAS, {"entropy_weight": -0.5}, {"entropy_weight": NAN}, {"mode": "fast"},
            {"damping": "square"}, {"influence": "constant", "damping": "min_max"},
        ),
    ),
    MethodCase("inpo", "unseen", {"epochs": 4, "lr": 1e-4}, validates=True),
    MethodCase(
        "gnndelete", options={"epochs": 4}, learns=(),
        bad=(
            {"alpha": 1.5}, {"alpha": NAN}, {"mode": "fast"}, {"init": "zeros"}, {"message_graph": "half"},
            {"subgraph": "some"},
        ),
    ),
    MethodCase("gnndelete", "paper", {"epochs": 4}, learns=(), reads_forgotten=True),
    MethodCase("gnndelete_ni", options={"epochs": 4}, learns=()),
    MethodCase("gnndelete_ni", "paper", {"epochs": 4}, random=False, learns=(), reads_forgotten=True),
    MethodCase("inpo_s", options={"epochs": 4, "lr": 1e-4}, bad=({"mode": "paper"}, {"init": "zeros"})),
    MethodCase("npo", "kl", {"epochs": 4}),
    MethodCase(
        "scrub", options={"epochs": 4, "max_steps": 1, "min_steps": 1},
        bad=(
            {"mode": "fast"}, {"alpha": -1.0}, {"gamma": NAN}, {"alpha": 0.0, "gamma": 0.0}, {"temperature": 0.0},
            {"max_steps": 0}, {"max_epochs": -1}, {"min_steps": 1.5},
        ),
    ),
    MethodCase("scrub", "paper", {"epochs": 4, "max_steps": 1, "min_steps": 1}),
    MethodCase("scrub", "paper_large", {"epochs": 4, "max_steps": 1, "min_steps": 1}),
    *(  # two of the authors' epochs of two steps each
        MethodCase(name, mode, WHOLE, passes=2, validates=name == "scrub_r", chooses=name == "scrub_r")
        for name, mode in (
            ("scrub", "small"), ("scrub", "large"), ("scrub", "ic_small"), ("scrub", "ic_large"), ("scrub", "mia"),
            ("scrub_r", "mia"),
        )
    ),
    MethodCase(
        "scrub_r", options={"epochs": 4, "max_steps": 1, "min_steps": 1}, validates=True, chooses=True,
        bad=({"tie_break": "middle"},),
    ),
    MethodCase(
        "imu", options={"epochs": 4}, random=False, learns=FORGET,
        bad=(
            {"mode": "x"}, {"scope": "tail"}, {"refresh": "often"}, {"refresh": 0}, {"refresh": True},
            {"top": 0.0}, {"cap": 1.5}, {"damping": 0.0}, {"l1": -1.0}, {"probes": 0},
        ),
    ),
    MethodCase("imu", "paper", {"epochs": 4}, random=False, learns=FORGET),
    MethodCase("random_label", options={"epochs": 4}, bad=WEIGHTS[:2]),
    MethodCase(
        "salun", options={"epochs": 4}, bad=(*WEIGHTS[:2], {"saliency": 0.0}, {"saliency": 1.5}, {"saliency": None}),
    ),
    MethodCase("bad_teacher", options={"epochs": 4}, bad=(WEIGHTS[0], {"temperature": 0.0})),
    MethodCase(
        "d2dgn", options={"epochs": 4, "eval_every": 2}, from_scratch=True, validates=True,
        bad=({"alpha": 0.0}, {"alpha": 1.5}),
    ),
    # `chooses`: what it returns is the model of no epoch, but what lies on the other side of the start.
    MethodCase(
        "task_vector", options={"epochs": 4}, random=False, learns=FORGET, chooses=True,
        bad=({"scale": 0.0}, {"scale": NAN}),
    ),
    MethodCase(
        "ssd", options={"alpha": 1.5}, trains=False, moves=True,
        bad=({"mode": "x"}, {"alpha": 0.0}, {"alpha": NAN}, {"dampening": -1.0}, {"probes": 0}, {"batch_size": 0}),
    ),
    MethodCase("ssd", "paper", options={"alpha": 1.5}, trains=False, moves=True),
    MethodCase(
        "mcu", options={"epochs": 4}, validates=True, chooses=True,
        bad=(
            {"pre_method": "mcu"}, {"pre_method": "x"}, {"pre_options": {"x": 1}}, {"epochs": -1}, {"beta": -1.0},
            {"beta": NAN}, {"share": 0.0}, {"spared": 1.0}, {"low": 1.5}, {"points": 0}, {"bound": 0.0}, {"lr": 0.0},
        ),
    ),
    MethodCase(
        "etr", trains=False, moves=True,
        bad=(
            {"mode": "x"}, {"lr": -1.0}, {"lr": NAN}, {"erase_ratio": 1.0}, {"label_smoothing": -0.1}, {"rectify": ""},
        ),
    ),
    MethodCase("etr", "paper", trains=False, moves=True),
    MethodCase(
        "megu", options={"epochs": 4}, random=False, task="node_classification",
        bad=(
            {"mode": "x"}, {"kappa": 0.0}, {"num_hops": 0}, {"init": "x"}, {"read": "x"}, {"temperature": 0.0},
            {"batch_size": 8}, {"retain_samples": 8},
        ),
    ),
    MethodCase("megu", "paper", {"epochs": 4}, task="node_classification"),
    MethodCase(
        "cognac", options={"epochs": 4}, task="node_classification",
        bad=(
            {"mode": "x"}, {"ascent_lr": 0.0}, {"descent_lr": -1.0}, {"contrast_steps": -1}, {"descent_steps": 0},
            {"fraction": 0.0}, {"fraction": 1.5}, {"margin": -1.0}, {"alpha": NAN}, {"num_hops": 0},
        ),
    ),
    MethodCase("cognac", "paper", {"epochs": 4}, task="node_classification", validates=True, chooses=True),
    MethodCase(
        "gif", trains=False, moves=True,
        bad=(
            {"curvature": "fisher"}, {"damping": -1.0}, {"tolerance": 1.0}, {"max_distance": 0.0}, {"mode": "fast"},
            {"scale": 0.0}, {"batch_size": 0},
        ),
    ),
    MethodCase("if", trains=False, moves=True),
    MethodCase("ceu", trains=False, moves=True, bad=({"noise": 0.0}, {"delta": 1.0})),
    MethodCase("idea", trains=False, moves=True, bad=({"noise": -0.1},)),
    *(
        MethodCase(name, "paper", {"iterations": 5, "scale": 1e5, "damping": 0.2, **noise}, trains=False, moves=True)
        for name, noise in (("gif", {}), ("if", {}), ("idea", {"noise": 1e-3}))
    ),
]  # fmt: skip
HEADS = {
    f"{loss}_head": lambda loss=loss: LinearHead(IN_CHANNELS, 4, loss=loss) for loss in ("logistic", "least_squares")
}
HEADED = {"trains": False, "random": False, "moves": True, "task": "node_classification"}
HEAD_CASES = [
    MethodCase("graph_editor", **HEADED, head="least_squares_head"),
    *(
        MethodCase(name, variant, **HEADED, head="logistic_head")
        for name in ("cgu", "scalegun") for variant in ("default", "paper")
    ),
]  # fmt: skip
# They return a model of another class than they are given: `test_grapheraser.py` holds them to the contract.
SHARDS = {"trains": False, "from_scratch": True, "moves": True, "task": "node_classification"}
SHARD_CASES = [
    MethodCase(
        "grapheraser", **SHARDS,
        bad=({"num_shards": 0}, {"partition": "x"}, {"aggregation": "x"}, {"slack": -0.1}),
    ),
    MethodCase("grapheraser", "bekm", **SHARDS),
]  # fmt: skip
# It goes back into the training of the one model that it is given: `test_replay.py` holds it to the contract.
STATE_CASES = [MethodCase("replay", bad=({"budget": 0.0}, {"budget": 1.5}))]
TRAINING = [case for case in CASES if case.trains]
ON_EDGES = [case for case in CASES if case.task == "link_prediction"]


class Stack(nn.Module):
    """What a user writes: convolutions with BatchNorm, ReLU and dropout between."""

    def __init__(self, first: nn.Module, second: nn.Module, dropout: float = 0.3) -> None:
        super().__init__()
        self.convs = nn.ModuleList([first, second])
        self.norm = nn.BatchNorm1d(HIDDEN)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        h = self.dropout(self.norm(self.convs[0](x, edge_index)).relu())
        return self.convs[1](h, edge_index)


class Made(nn.Module):
    """A model of named modules and a function of it: `Made(lambda m, x, e: m.conv(x, e), conv=GCNConv(8, 4))`."""

    def __init__(self, function: Callable[..., Tensor], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor, edge_index: Tensor | None = None) -> Tensor:
        return self.function(self, x, edge_index)


class Autoencoder(nn.Module):
    """A model of others: `encode`, and a learned decoder that is no inner product."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Stack(GCNConv(IN_CHANNELS, HIDDEN), GCNConv(HIDDEN, OUT))
        self.score = nn.Sequential(nn.Linear(OUT, 8), nn.ReLU(), nn.Linear(8, 1))

    def encode(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.encoder(x, edge_index)

    forward = encode

    def decode(self, z: Tensor, edge_label_index: Tensor) -> Tensor:
        return self.score(z[edge_label_index[0]] * z[edge_label_index[1]]).view(-1)


def _perceptron(size: int) -> nn.Module:
    return nn.Sequential(nn.Linear(size, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN if size == IN_CHANNELS else OUT))


MODELS = {
    "gcn": lambda: gu.GCN(IN_CHANNELS, HIDDEN, OUT),  # the only one without dropout
    "sage": lambda: Stack(SAGEConv(IN_CHANNELS, HIDDEN), SAGEConv(HIDDEN, OUT)),
    "gat": lambda: Stack(GATConv(IN_CHANNELS, HIDDEN // 2, heads=2, dropout=0.2), GATConv(HIDDEN, OUT)),
    "gin": lambda: Stack(GINConv(_perceptron(IN_CHANNELS)), GINConv(_perceptron(HIDDEN))),
    "pyg": lambda: GraphSAGE(IN_CHANNELS, HIDDEN, 2, OUT, dropout=0.3, norm="batch_norm"),
    "gae": lambda: GAE(Stack(GCNConv(IN_CHANNELS, HIDDEN), GCNConv(HIDDEN, OUT))),
    "autoencoder": Autoencoder,
}


def seeded(make: Callable[..., nn.Module], *args: Any, seed: int = 0) -> nn.Module:
    """A new model, its weights drawn under `seed`."""
    with isolated_rng(seed):
        return make(*args)


def fresh_model(name: str, seed: int = 0) -> nn.Module:
    """One of the models above, new."""
    return seeded((MODELS | HEADS)[name], seed=seed)


def make_data(seed: int = 0) -> Data:
    """64 nodes in 4 communities (their classes), one isolated, some 350 edges of which 10 % each are held out."""
    rng = np.random.default_rng(seed)
    block = np.arange(64) % 4
    chance = np.where(block[:, None] == block[None, :], 0.45, 0.08)
    chance[63] = chance[:, 63] = 0.0
    upper = np.triu(rng.random((64, 64)) < chance, k=1)
    edge_index = torch.from_numpy(np.stack(np.nonzero(upper | upper.T)))
    x = torch.from_numpy((np.eye(4)[block].repeat(2, axis=1) + rng.normal(0, 0.3, (64, 8))).astype(np.float32))
    data = gu.link_split(Data(x=x, edge_index=edge_index, num_nodes=64), 0.1, 0.1, seed=seed)
    data.y = torch.from_numpy(block)
    return gu.node_split(data, 0.2, 0.2, seed=seed)


@functools.cache
def _trained(name: str) -> nn.Module:
    if name in HEADS:
        return fit_linear_head(fresh_model(name), make_data(), lam=0.1, alpha=100.0)
    return gu.train(fresh_model(name), make_data(), epochs=40, lr=1e-2, eval_every=20).model


def trained_model(name: str = "gcn") -> nn.Module:
    """A model trained for a while; a copy, yours to change."""
    return copy.deepcopy(_trained(name))


def run(
    case: MethodCase | str, model: nn.Module, data: Data, request: gu.Request | None = None, **more: Any
) -> gu.Result:
    """`gunlearn.unlearn` with the row's options."""
    options = {} if isinstance(case, str) else case.options
    spec = case if isinstance(case, str) else case.spec
    if not isinstance(case, str):
        more.setdefault("task", case.task)
    return gu.unlearn(model, data, request or gu.ForgetEdges(count=12, seed=3), spec, **{**options, **more})


def ring(num_nodes: int = 40, num_features: int = 5) -> Data:
    """Nodes in a ring, each beside two others, in four classes by turns."""
    u = torch.arange(num_nodes)
    x = torch.randn(num_nodes, num_features, generator=torch.Generator().manual_seed(0))
    return Data(x=x, edge_index=to_undirected(torch.stack([u, (u + 1) % num_nodes])), y=u % 4)


def watched(task: Any, seen: Callable[[nn.Module, Data], None]) -> Any:
    """The task, telling a function of each pass of a model."""

    class Watched(type(gu.tasks.as_task(task))):
        def encode(self, model: nn.Module, data: Data) -> Tensor:
            seen(model, data)
            return super().encode(model, data)

    return Watched()


def dense_adjacency(data: Data, edge_index: Tensor | None = None) -> Tensor:
    """`D^-1/2 (A + I) D^-1/2` of PyG's GCN layers, dense, float64."""
    row, col = data.edge_index if edge_index is None else edge_index
    a = torch.eye(int(data.num_nodes), dtype=torch.float64)
    a[col, row] = 1.0
    d = a.sum(1).rsqrt()
    return d[:, None] * a * d


def dense_gcn(values: dict[str, Tensor], data: Data, edge_index: Tensor, scale: Tensor | float = 1.0) -> Tensor:
    """Embeddings of the model "gcn" by dense float64 matrices, messages `j -> i` times `scale[i, j]`."""
    p = {name: value if value.requires_grad else value.detach().double() for name, value in values.items()}
    a = dense_adjacency(data, edge_index) * scale
    h = (a @ data.x.double() @ p["convs.0.lin.weight"].t() + p["convs.0.bias"]).relu()
    return a @ h @ p["convs.1.lin.weight"].t() + p["convs.1.bias"]


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, copied."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    """Bit by bit."""
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def nudge(module: nn.Module) -> None:
    """For `Module.apply`: change the last number of each parameter a little."""
    for parameter in module.parameters(recurse=False):
        parameter.data.view(-1)[-1] += 1e-3


def registered_specs() -> set[str]:
    """Every method and variant but those of language models and of denoisers alone, whose rows stand elsewhere."""
    rooms = ("gunlearn.methods.", "gunlearn.connectivity.")
    here = {name: cls for name, cls in METHODS.items() if cls.__module__.startswith(rooms)}
    return {f"{name}:{variant}" for name, cls in here.items() for variant in cls.variants}
