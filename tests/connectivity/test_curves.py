"""Curves through the one loop: gradients, settings, what they reach on digits and on a graph, and what is refused."""

from functools import partial
from pathlib import Path

import pytest
import torch

import gunlearn as gu
from experiments.digits_scrub.problem import TASK as IMAGES
from experiments.digits_scrub.problem import cnn, forgotten_class, train
from experiments.digits_scrub.settings import SCRUB
from gunlearn.connectivity import DRAWS, BezierPath, CurveSettings, LinearPath, connect, find_curve
from gunlearn.connectivity.curve_finding import _CurveStep
from gunlearn.errors import InvalidInputError, InvalidTypeError, UnsupportedModelError
from gunlearn.losses import NLL, NPO, KLToReference
from gunlearn.nn import backbone
from gunlearn.seed import isolated_rng
from gunlearn.tasks.sampling import BatchOptions
from gunlearn.training.feeding import Feed
from gunlearn.training.step import ObjectiveStep
from tests.connectivity.cases import graph, items, perceptron, trained
from tests.training.callbacks import Kill

TASK = gu.ImageClassification()
GRAPH = "node_classification"


def test_a_step_s_gradient_is_that_of_finite_differences() -> None:
    data = items()
    data.x = data.x.double()
    partition = gu.ForgetItems(count=6).resolve(data)
    path = BezierPath(perceptron(0).double(), perceptron(1).double(), 2)
    objective = CurveSettings(forgetting=0.1, bound=1.0).objective(None)
    parts = TASK.parts(partition, "retain", path.template, objective.parts)
    feed = Feed(path.template, TASK, parts, objective.parts, BatchOptions(None))
    step = _CurveStep(path, ObjectiveStep(path.template, TASK, feed, lambda k: objective), lambda: 0.35, 0.01)
    step().total.backward()
    for bend in path.bends:
        at, size, sides = (0,) * bend.dim(), 1e-6, []
        for sign in (1, -1):
            with torch.no_grad():
                bend[at] += sign * size
                sides.append(float(step().total))
                bend[at] -= sign * size
        assert float(bend.grad[at]) == pytest.approx((sides[0] - sides[1]) / (2 * size), rel=1e-6, abs=1e-9)
    plain = _CurveStep(path, step.inner, lambda: 0.35, 0.0)  # control: the penalty on the point's weights counts
    before = path.bends[0].grad.clone()
    path.bends[0].grad = None
    plain().total.backward()
    assert not torch.allclose(path.bends[0].grad, before, rtol=1e-4)


@pytest.fixture(scope="module")
def small():
    data = items()
    partition = gu.ForgetItems(count=6).resolve(data)
    return partition, [trained(perceptron(seed), data, seed) for seed in range(2)]


def flat(path: BezierPath) -> torch.Tensor:
    return torch.cat([bend.detach().flatten() for bend in path.bends])


def test_runs_are_reproducible_and_resume(small, tmp_path: Path) -> None:
    partition, ends = small
    settings = CurveSettings(steps=60, lr=0.02, batch_size=8)

    def run(seed: int = 0, **more: object) -> torch.Tensor:
        path = BezierPath(*ends)
        find_curve(path, TASK, partition, settings=settings, seed=seed, **more)
        return flat(path)

    whole = run()
    assert torch.equal(whole, run())
    assert not torch.equal(whole, run(seed=1))
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint_dir=tmp_path, callbacks=[Kill(4, 6)])
    assert torch.equal(run(checkpoint_dir=tmp_path), whole)


def test_settings_reach_the_loop(small) -> None:
    partition, ends = small
    found = {}
    for name, more in {
        "plain": {}, "normal": {"t": "normal"}, "l2": {"l2": 0.1}, "sgd": {"optimizer": "sgd"},
        "sophia": {"optimizer": "sophia_g"}, "forget": {"forgetting": 0.5},
        "schedule": {"scheduler": "StepLR", "scheduler_options": {"step_size": 3}},
    }.items():  # fmt: skip
        path = BezierPath(*ends)
        state = find_curve(path, TASK, partition, settings=CurveSettings(steps=10, **more))
        assert state.step == 10
        assert ("bounded_ascent(forget)" in state.log_history[0]) == (name == "forget")
        found[name] = flat(path)
    for name, bends in found.items():
        assert name == "plain" or not torch.allclose(bends, found["plain"], atol=1e-6), name


def test_points_are_drawn_as_they_say() -> None:
    with isolated_rng(0):
        uniform, normal = (torch.tensor([DRAWS[name]() for _ in range(4000)]) for name in ("uniform", "normal"))
    assert uniform.mean() == pytest.approx(0.5, abs=0.02)
    assert uniform.std() == pytest.approx(12**-0.5, abs=0.02)
    assert normal.mean() == pytest.approx(0.5, abs=0.01)
    assert normal.std() == pytest.approx(0.1, abs=0.01)


def test_any_objective_of_the_methods(small) -> None:
    partition, ends = small
    path = BezierPath(*ends)
    objective = NPO(beta=5) + NLL(on="retain") + KLToReference(on="retain")
    with pytest.raises(InvalidInputError, match="'original', the model that"):
        find_curve(path, TASK, partition, objective)
    state = find_curve(path, TASK, partition, objective, CurveSettings(steps=5), original=ends[0])
    assert set(objective.labels) <= set(state.log_history[0])


def test_what_cannot_be_trained_is_refused(small) -> None:
    partition, ends = small
    with pytest.raises(InvalidInputError, match="straight line"):
        find_curve(LinearPath(*ends), TASK, partition)
    with pytest.raises(InvalidTypeError, match="Expected a path"):
        find_curve(ends[0], TASK, partition)
    with pytest.raises(InvalidInputError, match="Expected a request"):
        find_curve(BezierPath(*ends), TASK, None, settings=CurveSettings(forgetting=0.1), data=partition.data)
    for bad in ({"steps": 0}, {"lr": 0.0}, {"t": "beta"}, {"forgetting": -1.0}, {"l2": float("nan")}):
        with pytest.raises(InvalidInputError, match=next(iter(bad))):
            CurveSettings(**bad)


def test_the_models_do_not_change(small) -> None:
    partition, ends = small
    before = [[p.detach().clone() for p in model.parameters()] for model in ends]
    connect(*ends, partition.data, partition, TASK, path="bezier", steps=5, points=3)
    for model, kept in zip(ends, before, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(model.parameters(), kept, strict=True))
        assert all(p.grad is None for p in model.parameters())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def middle(evaluation, name: str) -> list[float]:
    """A figure in the middle of a path, from .3 to .7."""
    return [row[name] for row in evaluation.rows if 0.3 <= row["t"] <= 0.7]


def test_digits_connect_by_curves_alone_and_remember_without_a_forgetting_term() -> None:
    # The specification's check of mode connectivity on images, in a short form: one class, a small network.
    data, mask = forgotten_class(0)
    make = partial(cnn, 8)
    request = gu.ForgetItems(mask=mask)
    partition = request.resolve(data)
    base = train(make, data, 0, epochs=12, lr=3e-3).model
    options = {**SCRUB, "epochs": 20, "temperature": 1.0, "forget_batch_size": 32}
    one, two = (gu.unlearn(base, data, request, "scrub", IMAGES, seed=s, **options).model for s in (1, 2))
    other = train(make, partition.retain_data, 100, epochs=12, lr=3e-3).model
    problem = {"data": data, "request": partition, "task": IMAGES, "points": 11}
    assert connect(one, two, **problem).evaluation.barrier_retain < 0.01
    line = connect(one, other, **problem).evaluation
    assert line.barrier_retain > 1.0
    curve = connect(one, other, path="bezier", lr=5e-3, batch_size=64, **problem).evaluation
    assert curve.barrier_retain < 0.15
    # From the original model on, a curve of low retained loss between two unlearned models remembers in its middle.
    start = {"start": "original", "original": base, "path": "bezier", "steps": 150, "lr": 3e-4, "batch_size": 64}
    plain = connect(one, two, **start, **problem).evaluation
    kept = connect(one, two, forgetting=0.003, **start, **problem).evaluation
    assert max(middle(plain, "forget_acc")) > 0.05
    assert max(middle(kept, "forget_acc")) <= 0.02
    assert max(middle(kept, "loss_retain")) < 1.1 * max(middle(plain, "loss_retain"))  # a weight of .1 costs half more


def test_a_graph_connects_by_curves_alone_and_remembers_without_a_forgetting_term() -> None:
    # The same on a graph: a class of nodes, two layers of GCN with dropout, whose seeds part.
    data = gu.node_split(gu.load("digits"), seed=0)
    request = gu.ForgetNodes((data.train_mask & (data.y == 3)).nonzero().view(-1))
    partition = request.resolve(data)

    def gcn(seed: int, on) -> torch.nn.Module:
        with isolated_rng(seed):
            model = backbone("gcn", data.num_features, 32, 10, dropout=0.5)
        return gu.train(model, on, GRAPH, epochs=150, lr=0.01, eval_every=1000, seed=seed).model

    base, other = gcn(0, data), gcn(7, partition.retain_data)
    options = {"epochs": 40, "lr": 5e-3}
    one, two = (gu.unlearn(base, data, request, "scrub", GRAPH, seed=s, **options).model for s in (1, 2))
    problem = {"data": data, "request": partition, "task": GRAPH, "points": 11}
    assert connect(one, two, **problem).evaluation.barrier_retain < 0.01
    assert connect(one, other, **problem).evaluation.barrier_retain > 0.2
    assert connect(one, other, path="bezier", steps=300, **problem).evaluation.barrier_retain < 0.02
    start = {"start": "original", "original": base, "path": "bezier", "steps": 150, "lr": 1e-3}
    plain = connect(one, two, **start, **problem).evaluation
    kept = connect(one, two, forgetting=0.003, **start, **problem).evaluation
    assert max(middle(plain, "forget_acc")) > 0.2
    assert max(middle(kept, "forget_acc")) <= 0.02
    assert max(middle(kept, "loss_retain")) < 1.1 * max(middle(plain, "loss_retain"))  # of .1 it is a fifth more


def test_a_data_set_that_does_not_fit_is_refused() -> None:
    data = graph()
    models = [backbone("gcn", 9, 8, 2), backbone("gcn", 9, 8, 2)]
    with pytest.raises(UnsupportedModelError):
        connect(*models, data, gu.ForgetNodes([0]), GRAPH)
