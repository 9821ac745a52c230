"""Newton's steps over independent items, in batches, against dense float64 steps written anew."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset
from torch_geometric.nn import GCN

import gunlearn as gu
from gunlearn.curvature.item_loss import ItemCurvature, ItemTrainingLoss
from gunlearn.errors import UnsupportedMethodError
from gunlearn.seed import isolated_rng
from gunlearn.tasks.items.tables import ItemTable, as_table

ITEMS, WIDTH, CLASSES = 60, 5, 3
DECAY = 0.05
FORGET = torch.tensor([3, 17, 40])
EXACT: dict[str, Any] = {
    "damping": 0.01, "tolerance": 1e-9, "max_iterations": 200, "weight_decay": DECAY, "max_distance": 10.0
}  # fmt: skip


def items() -> ItemTable:
    """Noisy clusters; the last ten rows are held out, and must not count."""
    draw = torch.Generator().manual_seed(0)
    y = torch.arange(ITEMS) % CLASSES
    x = torch.randn(ITEMS, WIDTH, generator=draw, dtype=torch.double) + torch.eye(CLASSES, WIDTH).double()[y]
    return ItemTable(x=x, y=y, test_mask=torch.arange(ITEMS) >= ITEMS - 10)


def model(kind: str) -> nn.Module:
    with isolated_rng(1):
        if kind == "linear":
            net: nn.Module = nn.Linear(WIDTH, CLASSES)
        else:
            norm = (nn.BatchNorm1d(4),) if kind == "norm" else ()
            net = nn.Sequential(nn.Linear(WIDTH, 4), *norm, nn.Tanh(), nn.Linear(4, CLASSES))
    net = net.double()
    data, rows = items(), slice(0, ITEMS - 10)
    adam = torch.optim.Adam(net.parameters(), lr=0.02, weight_decay=DECAY)
    for step in range(300):
        net.train(step < 20)  # then at a minimum of the loss with running statistics
        adam.zero_grad()
        cross_entropy(net(data.x[rows]), data.y[rows]).backward()
        adam.step()
    return net.eval()


def dense(net: nn.Module, curvature: str, retained: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of the forgotten items' losses and the curvature of the others', both over all training items."""
    data, names = items(), [name for name, _ in net.named_parameters()]
    sizes = [p.numel() for p in net.parameters()]
    shapes = [p.shape for p in net.parameters()]
    theta = torch.cat([p.detach().reshape(-1) for p in net.parameters()])

    def logits(theta: Tensor, rows: Tensor) -> Tensor:
        parts = [part.view(shape) for part, shape in zip(theta.split(sizes), shapes, strict=True)]
        return functional_call(net, dict(zip(names, parts, strict=True)), data.x[rows])

    def loss(theta: Tensor, rows: Tensor) -> Tensor:
        return cross_entropy(logits(theta, rows), data.y[rows], reduction="sum") / (ITEMS - 10)

    push = torch.func.grad(loss)(theta, FORGET)
    if curvature == "hessian":
        return push, torch.func.hessian(loss)(theta, retained)
    jacobian = torch.func.jacrev(logits)(theta, retained)
    p = logits(theta, retained).softmax(1)
    inner = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    return push, torch.einsum("ika,ikl,ilb->ab", jacobian, inner, jacobian) / (ITEMS - 10)


def moved(net: nn.Module, data: Any, method: str = "gif", **options: Any) -> Tensor:
    result = gu.unlearn(net, data, gu.ForgetItems(FORGET), method, "image_classification", **{**EXACT, **options})
    assert not result.unchanged
    pairs = zip(result.model.parameters(), net.parameters(), strict=True)
    return torch.cat([(a - b).detach().reshape(-1) for a, b in pairs])


@pytest.mark.parametrize("batch_size", [None, 7])
@pytest.mark.parametrize("curvature", ["gauss_newton", "hessian"])
@pytest.mark.parametrize("kind", ["linear", "perceptron", "norm"])
def test_the_step_is_newtons(kind: str, curvature: str, batch_size: int | None) -> None:
    """The control: the curvature of all items, or of the retained ones over their own number, gives another step."""
    net, rows = model(kind), torch.arange(ITEMS - 10)
    rest = rows[~torch.isin(rows, FORGET)]
    push, matrix = dense(net, curvature, rest)
    found = moved(net, items(), curvature=curvature, batch_size=batch_size)

    def step(matrix: Tensor, damping: float = EXACT["damping"]) -> Tensor:
        return torch.linalg.solve(matrix + (DECAY + damping) * torch.eye(len(push)).double(), push)

    assert torch.allclose(found, step(matrix), rtol=1e-5, atol=1e-9)
    for other in (step(dense(net, curvature, rows)[1]), step(matrix * (ITEMS - 10) / len(rest)), step(matrix, 0.0)):
        assert not torch.allclose(found, other, rtol=1e-3, atol=1e-9)


class Pairs(Dataset):
    """Items that are loaded one by one, and a transform that draws."""

    def __init__(self, noise: float = 0.0) -> None:
        self.table, self.noise, self.read = items(), noise, set[int]()

    def __len__(self) -> int:
        return ITEMS - 10

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        self.read.add(i)
        return self.table.x[i] + self.noise * torch.randn(WIDTH).double(), int(self.table.y[i])


def test_items_of_a_data_set_are_read_in_batches() -> None:
    net = model("perceptron")
    assert torch.allclose(moved(net, Pairs(), batch_size=8), moved(net, items()), rtol=1e-6, atol=1e-10)
    # The control: what a transform draws changes the step, and is the same at every pass: the solver converges.
    noisy = moved(net, Pairs(0.1), batch_size=8)
    assert not torch.allclose(noisy, moved(net, items()), rtol=1e-3)


def test_products_do_not_depend_on_the_batch_and_are_symmetric() -> None:
    net, data = model("perceptron"), as_table(items())
    task, rows = gu.ImageClassification(), torch.arange(20)
    size = sum(p.numel() for p in net.parameters())
    u, v = torch.randn(2, size, generator=torch.Generator().manual_seed(3), dtype=torch.double)
    for kind in ("gauss_newton", "hessian"):
        small, large = (ItemCurvature(ItemTrainingLoss(net, task, data, rows, 50, n), kind) for n in (3, 64))
        assert torch.allclose(small @ v, large @ v, rtol=1e-9, atol=1e-12)
        assert float(u @ (small @ v)) == pytest.approx(float(v @ (small @ u)), rel=1e-9)


@pytest.mark.parametrize("method", ["if", "idea"])
def test_the_others_take_the_same_step(method: str) -> None:
    net = model("perceptron")
    found = moved(net, items(), method, **({"noise": 0.0} if method == "idea" else {}))
    assert torch.equal(found, moved(net, items()))


def test_the_papers_lissa_runs_over_items() -> None:
    """With the scale of the summed loss; its control is a scale that hardly moves, of which GIF warns."""
    net = model("linear")
    push, matrix = dense(net, "hessian", torch.arange(ITEMS - 10))
    options = {"mode": "paper", "iterations": 4000, "scale": 40.0, "damping": 0.0}
    found = moved(net, items(), "gif", **options)
    wanted = torch.linalg.solve(matrix + DECAY * torch.eye(len(push)).double(), push)
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-8)
    with pytest.warns(UserWarning, match="hardly moved"):
        moved(net, items(), "gif", **{**options, "scale": 1e6, "iterations": 5})


def test_statistics_stay_and_the_result_says_so() -> None:
    net = model("norm")
    before = net[1].running_mean.clone()
    result = gu.unlearn(net, items(), gu.ForgetItems(FORGET), "gif", "image_classification")
    assert torch.equal(result.model[1].running_mean, before)
    assert result.notes["statistics"] == "of batch normalisation: frozen"


def on_a_graph(**options: Any) -> gu.Result:
    data = gu.load("karate")
    net = GCN(data.num_features, 4, 1, 4)
    return gu.unlearn(net, data, gu.ForgetNodes([3]), "gif", "node_classification", **options)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "edges' own": (lambda: moved(model("linear"), items(), "ceu"), "'ceu'"),
    "a graph in batches": (lambda: on_a_graph(batch_size=4), "Expected independent items for 'batch_size' of 'gif'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    run, words = REFUSED[name]
    with pytest.raises(UnsupportedMethodError, match=words):
        run()
