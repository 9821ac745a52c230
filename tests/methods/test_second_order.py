"""The second-order updates against dense Newton steps, retraining to convergence, and what went wrong elsewhere."""

import copy
import functools
import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softplus
from torch_geometric.data import Data
from torch_geometric.nn import GCNConv

import gunlearn as gu
from gunlearn.curvature.products import Curvature, SplitGaussNewton
from gunlearn.curvature.training_loss import TrainingLoss
from gunlearn.errors import DivergenceError, InvalidInputError, UnsupportedMethodError
from gunlearn.methods import CEU, GIF, IDEA, IF, FineTune, Problem, Retrain, run_method
from gunlearn.methods.second_order.removal import Removal
from gunlearn.nn.kernels.switch import PlainPathWarning
from gunlearn.seed import isolated_rng
from tests.attribution.second_order import net
from tests.methods.cases import Made, dense_adjacency, same_weights
from tests.methods.forgetting import beyond, cora, cora_figures

NODES, LINKS = gu.NodeClassification(), gu.LinkPrediction()
DECAY = 0.05
WIDTH = 20  # of features
EXACT = {"damping": 0.0, "tolerance": 1e-8, "max_iterations": 200, "weight_decay": DECAY}
REQUESTS = {
    "edges": gu.ForgetEdges(ratio=0.1, seed=0),
    "nodes": gu.ForgetNodes([3, 8, 32]),
    "features": gu.ForgetFeatures([2, 13, 30]),
}


def karate() -> Data:
    """With random features in double precision; training nodes are no prefix of the ids."""
    data = gu.load("karate")
    x = torch.randn(34, WIDTH, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    data.x = torch.nn.functional.normalize(x)
    data.train_mask = torch.arange(34) % 3 != 1
    data.val_mask, data.test_mask = torch.arange(34) == 1, (torch.arange(34) % 3 == 1) & (torch.arange(34) > 1)
    return data


def linear() -> nn.Module:
    """Multinomial regression on once propagated features: convex."""
    return Made(lambda m, x, edge_index: m.conv(x, edge_index), conv=GCNConv(WIDTH, 2, bias=False)).double()


class PairRegression(nn.Module):
    """Logistic regression on products of propagated features, by a decoder of its own: convex."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = GCNConv(WIDTH, WIDTH, bias=False)
        self.conv.lin.weight.data = torch.eye(WIDTH)
        self.conv.requires_grad_(False)
        self.weight = nn.Parameter(torch.zeros(WIDTH))

    def encode(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.conv(x, edge_index)

    def decode(self, z: Tensor, edge_label_index: Tensor) -> Tensor:
        return (z[edge_label_index[0]] * z[edge_label_index[1]]) @ self.weight


class Convex:
    """A convex problem written anew: `L(theta)` on the whole and on the retained data, over the same `n`."""

    def __init__(self, task: Any, kind: str, perturbation: Tensor | float = 0.0) -> None:
        self.task, self.data, self.b = task, karate(), perturbation
        self.partition = REQUESTS[kind].resolve(self.data)
        if task is NODES:
            self.model, self.terms = linear(), self._nodes
        else:
            self.model, self.terms = PairRegression().double(), self._pairs
            with isolated_rng(0):
                self.items = task.training_parts(self.data).sample(["retain"])["retain"]
        self.theta = self.minimum(whole=True)
        with torch.no_grad():
            next(p for p in self.model.parameters() if p.requires_grad).view(-1).copy_(self.theta)

    def _nodes(self, theta: Tensor, whole: bool, messages: bool) -> Tensor:
        graph = self.data if messages else self.partition.retain_data
        logits = dense_adjacency(graph) @ graph.x @ theta.view(2, WIDTH).t()
        mask = self.data.train_mask.clone()
        loss = cross_entropy(logits, self.data.y, reduction="none")
        if not whole:
            mask[self.partition.forget_nodes] = False
        return loss[mask].sum() / self.data.train_mask.sum()

    def _pairs(self, theta: Tensor, whole: bool, messages: bool) -> Tensor:
        graph = self.data if messages else self.partition.retain_data
        z = dense_adjacency(graph) @ graph.x
        (u, v), label = self.items.edge_label_index, self.items.label
        loss = softplus(-(2 * label - 1) * ((z[u] * z[v]) @ theta))
        weight, gone = torch.ones_like(loss), set(map(tuple, self.partition.forget_edge_index.t().tolist()))
        if not whole:
            positives = int(label.sum())
            weight[positives:] -= len(gone) / positives  # so many fewer negatives would have been drawn
            for i in range(positives):  # the published link version keeps forgotten edges as positives
                weight[i] = float((int(u[i]), int(v[i])) not in gone)
        return (weight * loss).sum() / loss.numel()

    def loss(self, theta: Tensor, whole: bool, messages: bool | None = None) -> Tensor:
        data = self.terms(theta, whole, whole if messages is None else messages)
        perturbed = (self.b * theta).sum() / self.num_terms
        return data + DECAY / 2 * theta @ theta + perturbed

    @property
    def num_terms(self) -> int:
        return int(self.data.train_mask.sum()) if self.task is NODES else self.items.label.numel()

    def minimum(self, whole: bool) -> Tensor:
        """By dense Newton steps."""
        theta = torch.zeros(2 * WIDTH if self.task is NODES else WIDTH, dtype=torch.float64)
        for _ in range(10):
            theta = theta - torch.linalg.solve(self.hessian(theta, whole), self.slope(theta, whole))
        return theta

    def hessian(self, theta: Tensor, whole: bool) -> Tensor:
        return torch.autograd.functional.hessian(lambda t: self.loss(t, whole), theta, vectorize=True)

    def slope(self, theta: Tensor, whole: bool, messages: bool | None = None) -> Tensor:
        theta = theta.clone().requires_grad_()
        return torch.autograd.grad(self.loss(theta, whole, messages), theta)[0]

    def newton(self, messages: bool = False) -> Tensor:
        """Step from the whole loss's minimum, by dense matrices."""
        push = self.slope(self.theta, True) - self.slope(self.theta, False, messages)
        return torch.linalg.solve(self.hessian(self.theta, False), push)

    def run(self, method: gu.Method) -> tuple[Tensor, gu.Result]:
        result = run_method(method, self.model, self.partition, self.task)
        return vector(result.model) - self.theta, result


@functools.cache
def convex(task: str, kind: str) -> Convex:
    return Convex({"nodes": NODES, "links": LINKS}[task], kind)


def vector(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters() if p.requires_grad])


@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize("task", ["nodes", "links"])
def test_gif_is_newtons_step_and_approaches_retraining(task: str, kind: str) -> None:
    problem = convex(task, kind)
    step, result = problem.run(GIF(**EXACT))
    newton = problem.newton()
    assert float((step - newton).norm()) < 1e-5 * float(newton.norm())
    assert result.notes["residual"] < 1e-8
    assert result.notes["distance"] == pytest.approx(float(newton.norm()), rel=1e-5)
    goal = problem.minimum(whole=False) - problem.theta
    distance = {"gif": (step - goal).norm(), "no-op": goal.norm(), "flipped": (-step - goal).norm()}
    tuned = FineTune(epochs=result.notes["iterations"], lr=1e-3, weight_decay=DECAY)
    distance["finetune"] = (problem.run(tuned)[0] - goal).norm()
    assert distance["gif"] < 0.3 * distance["no-op"]  # Newton's step is short of the minimum by second order alone
    assert distance["gif"] < 0.5 * distance["finetune"]
    assert distance["flipped"] > 1.5 * distance["no-op"]
    # The default calibrates itself, and goes the same way.
    calibrated, result = problem.run(GIF(weight_decay=DECAY))
    assert (calibrated - goal).norm() < 0.5 * distance["no-op"]
    assert 0 < result.notes["residual"] <= GIF.tolerance
    assert result.notes["damping"] > 0


@pytest.mark.parametrize(("task", "kind"), [("nodes", "nodes"), ("links", "edges"), ("links", "nodes")])
def test_if_moves_by_the_own_terms_alone(task: str, kind: str) -> None:
    problem = convex(task, kind)
    step, _ = problem.run(IF(**EXACT))
    by_hand = problem.newton(messages=True)
    assert float((step - by_hand).norm()) < 1e-5 * float(by_hand.norm())
    goal = problem.minimum(whole=False) - problem.theta
    assert (step - goal).norm() > 1.2 * (problem.run(GIF(**EXACT))[0] - goal).norm()  # the messages matter


def test_what_no_training_term_reads_changes_nothing() -> None:
    data = karate()
    data.train_mask = data.train_mask & (torch.arange(34) < 12)
    data.edge_index = data.edge_index[:, (data.edge_index != 33).all(dim=0)]
    result = run_method(GIF(), linear(), gu.ForgetFeatures([33]).resolve(data), NODES)
    assert same_weights(result.model, result.original)
    assert result.notes["distance"] == 0


def test_scale_1e9_is_a_no_op_and_says_so() -> None:
    problem = convex("nodes", "nodes")
    paper = {"mode": "paper", "weight_decay": DECAY}
    with pytest.warns(UserWarning, match=r"hardly moved.*residual of 1\.0000, a parameter distance of"):
        step, result = problem.run(GIF(scale=1e9, **paper))
    assert result.notes["residual"] > 0.9999
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        real, result = problem.run(GIF(scale=20.0, **paper))
        default, _ = problem.run(GIF(weight_decay=DECAY))
    assert result.notes["residual"] < 0.1
    assert float(step.norm()) < 1e-5 * min(float(real.norm()), float(default.norm()))
    with pytest.raises(DivergenceError, match="raise 'scale'"):
        problem.run(GIF(scale=0.5, **paper))


def test_paper_mode_is_lissa_on_the_summed_hessian() -> None:
    problem = convex("nodes", "nodes")
    step, _ = problem.run(GIF(mode="paper", scale=30.0, iterations=7, damping=0.01, weight_decay=DECAY))
    n = problem.num_terms
    hessian = n * problem.hessian(problem.theta, True)
    v = n * (problem.slope(problem.theta, True) - problem.slope(problem.theta, False))
    h = v.clone()
    for _ in range(7):
        h = v + (1 - 0.01) * h - hessian @ h / 30.0
    assert torch.allclose(step, h / 30.0, rtol=1e-6, atol=1e-9)


def test_a_step_that_is_not_to_be_trusted_is_refused() -> None:
    problem = convex("nodes", "nodes")
    with pytest.raises(DivergenceError, match="a step of length"):
        problem.run(GIF(max_distance=1e-9))
    with pytest.raises(DivergenceError, match="relative residual"):
        problem.run(GIF(damping=1e-9, max_iterations=2, tolerance=1e-6))

    class Collapsing(GIF):
        def step(self, removal: Removal, notes: dict[str, Any]) -> Tensor:
            return super().step(Removal(removal.whole, removal.rest, -40 * removal.push), notes)

    with pytest.raises(DivergenceError, match="a retained loss of"):
        problem.run(Collapsing(damping=1e-2, max_distance=1e9))


def test_refusals() -> None:
    data = karate()
    for request in (REQUESTS["edges"], REQUESTS["nodes"] + REQUESTS["edges"]):  # edges alone, or beside nodes
        with pytest.raises(UnsupportedMethodError, match=r"got edges, without terms.* use 'gif'"):
            run_method(IF(), linear(), request.resolve(data), NODES)
    with pytest.raises(UnsupportedMethodError, match="for 'if'"):
        run_method(IF(), PairRegression().double(), REQUESTS["features"].resolve(data), LINKS)
    with pytest.raises(InvalidInputError, match="frozen"):
        run_method(GIF(), linear().requires_grad_(False), REQUESTS["nodes"].resolve(data), NODES)


def random_graph() -> Data:
    """Enough pairs for the kernels of scores, features sparse enough for theirs."""
    g = torch.Generator().manual_seed(0)
    u, v = torch.randint(120, (2, 1500), generator=g)
    edges = torch.stack([u, v])[:, u != v]
    x = (torch.rand(120, 70, generator=g) < 0.04).double()
    data = Data(x=x, edge_index=torch.cat([edges, edges.flip(0)], dim=1).unique(dim=1))
    data.y, data.train_mask = torch.randint(3, (120,), generator=g), torch.arange(120) % 2 == 0
    return data


@pytest.mark.parametrize("task", [NODES, LINKS], ids=lambda task: task.name)
@pytest.mark.parametrize("name", ["gcn", "sage", "gat"])
def test_products_on_the_kernels_agree_with_plain_ones(name: str, task: Any) -> None:
    model, data = net(name, 70), random_graph()
    kind = gu.ForgetNodes(ratio=0.1, seed=0)
    fast = Removal.of(Problem(copy.deepcopy(model), model, kind.resolve(data), task)).rest
    plain = TrainingLoss(fast.model, task, fast.data, fast.items, fast.weight)
    v = torch.randn(vector(model).numel(), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error", PlainPathWarning)
        found = SplitGaussNewton(fast, weight_decay=0.3) @ v
    expected = Curvature(plain, "gauss_newton", weight_decay=0.3) @ v
    assert (found - expected).norm() < 1e-9 * expected.norm()
    assert (found - Curvature(plain, "hessian", 0.3) @ v).norm() > 1e-3 * expected.norm()  # control


def drawn(seed: int) -> Tensor:
    """A perturbation of standard deviation 0.5."""
    return 0.5 * torch.randn(2 * WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def perturbed() -> tuple[Convex, Tensor]:
    return Convex(NODES, "edges", drawn(0)), drawn(0)


def test_ceu_certifies_what_another_perturbation_would_have_trained() -> None:
    problem, b = perturbed()
    options = {**EXACT, "perturbation": b, "noise": 0.5, "delta": 1e-3}
    step, result = problem.run(CEU(**options))
    certificate, theta = result.notes["certificate"], problem.theta + step
    beta = problem.num_terms * problem.slope(theta, False)
    assert certificate["beta"] == pytest.approx(float(beta.norm()), rel=1e-6)
    assert certificate["epsilon"] == pytest.approx(float(beta.norm()) * math.sqrt(2 * math.log(1.5e3)) / 0.5, rel=1e-6)
    problem.b = b - beta  # training on the retained data with this one ends at the same weights
    assert torch.allclose(problem.minimum(whole=False), theta, atol=1e-6, rtol=0)
    problem.b = b
    assert (problem.minimum(whole=False) - theta).norm() > 1e-5  # control: with its own it does not
    # A cruder step has a worse bound.
    cruder = problem.run(CEU(**{**options, "damping": 0.01}))[1].notes["certificate"]
    assert cruder["epsilon"] > 2 * certificate["epsilon"]


def test_ceu_certifies_no_epsilon_above_one() -> None:
    """The Gaussian tail bound that epsilon comes from is false there."""
    problem, b = perturbed()
    step, result = problem.run(CEU(**{**EXACT, "perturbation": b, "noise": 0.5, "delta": 1e-3, "damping": 1.0}))
    beta = float((problem.num_terms * problem.slope(problem.theta + step, False)).norm())
    epsilon = beta * math.sqrt(2 * math.log(1.5e3)) / 0.5
    assert epsilon > 1
    reason = f"epsilon would be {epsilon:.3g}, and the bound holds up to 1"
    assert result.notes["certificate"] == {"status": "uncertified", "reason": reason}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"perturbation": None}, "no perturbation"),
        ({"weight_decay": 0.0}, "strictly convex"),
        ({"perturbation": drawn(1)}, "not at the minimum"),
        ({"noise": 100.0}, "no draw of N(0, 100^2)"),
        ({"noise": 0.05}, "no draw of N(0, 0.05^2)"),
    ],
)
def test_ceu_says_uncertified_where_an_assumption_fails(change: dict[str, Any], reason: str) -> None:
    problem, b = perturbed()
    _, result = problem.run(CEU(**{**EXACT, "damping": 1.0, "perturbation": b, "noise": 0.5, **change}))
    assert result.notes["certificate"]["status"] == "uncertified"
    assert reason in result.notes["certificate"]["reason"]
    assert result.notes["distance"] > 0


def test_ceu_is_uncertified_for_a_network() -> None:
    model, data = gu.GCN(WIDTH, 4, 2).double(), karate()
    method = CEU(perturbation=torch.ones(vector(model).numel()), weight_decay=0.1)
    note = run_method(method, model, REQUESTS["nodes"].resolve(data), NODES).notes["certificate"]
    assert note["status"] == "uncertified"
    assert note["reason"].startswith("the logits are not linear")
    with pytest.raises(InvalidInputError, match="perturbation of shape"):
        run_method(CEU(perturbation=torch.ones(3)), model, REQUESTS["nodes"].resolve(data), NODES)


def test_idea_is_gif_and_noise_under_the_seed() -> None:
    problem = convex("links", "edges")
    gif, _ = problem.run(GIF(weight_decay=DECAY))
    for noise in (None, 1e-3):
        steps, results = zip(*(problem.run(IDEA(weight_decay=DECAY, noise=noise)) for _ in range(2)), strict=True)
        assert torch.equal(*steps)
        expected = torch.randn(gif.numel(), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        std = float(gif.norm()) / gif.numel() ** 0.5 if noise is None else noise
        assert torch.allclose(steps[0] - gif, std * expected, rtol=1e-6, atol=1e-9)
        assert results[0].notes["noise"] == pytest.approx(std)
        assert results[0].notes["certificate"]["status"] == "uncertified"
    with pytest.raises(DivergenceError, match="lower 'noise'"):
        problem.run(IDEA(weight_decay=DECAY, noise=50.0))
    quiet = {"mode": "paper", "scale": 100.0, "weight_decay": DECAY}
    step, _ = problem.run(GIF(**quiet))
    noisy, result = problem.run(IDEA(**quiet))
    assert result.notes["noise"] == 0.6
    assert float((noisy - step).std()) == pytest.approx(0.6, rel=0.3)


@pytest.mark.parametrize("method", [GIF(), GIF(curvature="hessian"), IF(), CEU(), IDEA()], ids=lambda m: m.name)
def test_cora_node_requests_move_the_weights_and_keep_the_accuracy(method: gu.Method, data_root: Path) -> None:
    model, partition, retrained = without_a_tenth(data_root)
    result = run_method(method, model, partition, NODES)
    step = vector(result.model) - vector(model)
    assert 1e-3 * vector(model).norm() < step.norm() < (vector(retrained) - vector(model)).norm()
    assert result.notes["iterations"] <= 12
    tuned = run_method(FineTune(epochs=10, lr=1e-3), model, partition, NODES).model
    models = {"now": result.model, "before": model, "flipped": beyond(model, result.model), "tuned": tuned}
    figures = {name: cora_figures(other, partition) for name, other in {**models, "retrained": retrained}.items()}
    assert figures["now"][2] > figures["retrained"][2] - 0.03
    # The forgotten labels are less likely where they still are.
    assert figures["now"][0] > figures["before"][0] > figures["flipped"][0]
    assert figures["now"][0] > figures["tuned"][0]


@functools.cache
def without_a_tenth(root: Path) -> tuple[nn.Module, Any, nn.Module]:
    """A model of Cora, a tenth of its nodes to forget, and a model retrained without them."""
    model, data = cora(root)
    partition = gu.ForgetNodes(ratio=0.1).resolve(data)
    return model, partition, run_method(Retrain(epochs=60, lr=1e-2), model, partition, NODES).model


@pytest.mark.parametrize("kind", ["whole class", "all neighbours", "half", "half the edges", "leaf"])
def test_degenerate_requests_give_a_working_model(kind: str, data_root: Path) -> None:
    model, data = cora(data_root)
    degree = torch.bincount(data.edge_index[0], minlength=data.num_nodes)
    request = {
        "whole class": lambda: gu.ForgetNodes(mask=data.y == 3),
        "all neighbours": lambda: gu.ForgetNodes(data.edge_index[1][data.edge_index[0] == degree.argmax()].unique()),
        "half": lambda: gu.ForgetNodes(ratio=0.5),
        "half the edges": lambda: gu.ForgetEdges(ratio=0.5, seed=0),
        "leaf": lambda: gu.ForgetNodes((degree == 1).nonzero()[0]),
    }[kind]()
    partition = request.resolve(data)
    result = run_method(GIF(), model, partition, NODES)
    assert result.notes["distance"] > 0
    share = float(partition.retain_data.train_mask.sum() / data.train_mask.sum())
    loss = cora_figures(result.model, partition)[1]
    assert loss * share == pytest.approx(result.notes["retained_loss"], rel=1e-4)
    assert loss < cora_figures(model, partition)[1] + 0.021 * math.log(7)
