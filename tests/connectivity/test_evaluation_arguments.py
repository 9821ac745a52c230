"""What an evaluation hands to its judges, what its picture draws, and which task and model a connection keeps."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from matplotlib.axes import Axes
from torch_geometric.data import Data

import gunlearn as gu
from gunlearn.connectivity import Dial, LinearPath, PathEvaluation, along_path, connect, dial, evaluate_path
from gunlearn.connectivity.part_losses import _size
from gunlearn.losses import Prediction
from gunlearn.nn import backbone
from tests.connectivity.cases import graph, perceptron, some_classifiers

TASK = gu.ImageClassification()


@pytest.fixture(scope="module")
def problem():
    return some_classifiers(4)


def test_judges_have_the_seed_and_the_original_of_the_call(problem, monkeypatch: pytest.MonkeyPatch) -> None:
    _, partition, (one, two, original, _) = problem
    made: list = []

    def look(*given: object):
        made.append((given, along_evaluator(*given)))
        return made[-1][1]

    along_evaluator = along_path.evaluator
    monkeypatch.setattr(along_path, "evaluator", look)
    evaluate_path(LinearPath(one, two), TASK, partition, points=3, seed=7, original=original)
    ((given, judge),) = made
    assert given[3] == judge.seed == 7
    assert judge.original is original


def test_a_dial_hands_its_seed_and_original_on(problem, monkeypatch: pytest.MonkeyPatch) -> None:
    data, partition, (one, two, original, reference) = problem
    asked: list[dict] = []
    plain = dial.evaluate_path

    def look(*given: object, **named: object) -> PathEvaluation:
        asked.append(named)
        return plain(*given, **named)

    monkeypatch.setattr(dial, "evaluate_path", look)
    found = connect(one, two, data, partition, TASK, points=3, seed=7, original=original)
    found.dial.choose(100.0, points=3, references=[reference])
    assert asked[0]["seed"] == 7
    assert found.dial.original is original
    new = perceptron(9)
    dials = [found.dial, *(Dial(found.path, TASK, partition, original=model) for model in (original, new))]
    steps = [each.figures(new, ["relearn_steps"])["relearn_steps"] for each in dials]
    assert steps[0] == steps[1]
    assert steps[2] == 0 < steps[1]  # control: a model knows at once what it knows itself


def test_a_regression_has_the_scale_of_a_model_s_errors() -> None:
    data = graph()
    y = torch.randn(40, generator=torch.Generator().manual_seed(0)) * 50
    data = gu.node_split(Data(x=data.x, edge_index=data.edge_index, y=y), seed=0)
    torch.manual_seed(0)
    models = [backbone("gcn", 5, 8, 1).eval() for _ in range(2)]
    found = connect(*models, data, task="node_regression", points=3)
    errors = [(m(data.x, data.edge_index)[:, 0] - y)[data.train_mask].double() for m in models]
    scale = float(errors[1].square().mean().sqrt())
    assert found.task.fit == pytest.approx((scale,), rel=1e-5)
    expected = [float((e / scale).square().mean()) / 2 for e in errors]
    assert [found.evaluation.rows[k]["loss_retain"] for k in (0, -1)] == pytest.approx(expected, rel=1e-4)


def test_masked_values_do_not_count() -> None:
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert _size(Prediction(log_prob=torch.zeros(2, 3), mask=mask)) == 3
    assert _size(Prediction(log_prob=torch.zeros(2, 3))) == 6  # control


def recording(plain: Callable, seen: list) -> Callable:
    """A method of axes that writes down its arguments and its label."""

    def look(axes: Axes, *given: object, **named: object) -> object:
        seen.append((given, named.get("label")))
        return plain(axes, *given, **named)

    return look


def test_the_picture_draws_every_loss_and_every_retrained_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, list] = {}
    for name in ("plot", "axhline"):
        monkeypatch.setattr(Axes, name, recording(getattr(Axes, name), drawn.setdefault(name, [])))
    losses = {"loss_retain": 1.0, "loss_forget": 2.0, "loss_val": 3.0, "loss_test": 4.0, "forget_acc": 0.5}
    rows = [{"t": t, "arc": t, **{name: value + t for name, value in losses.items()}} for t in (0.0, 0.5, 1.0)]
    references = [{name: value + shift for name, value in losses.items()} for shift in (0.25, 0.75)]
    PathEvaluation("linear", rows, references).plot(tmp_path / "path.png")
    lines = {label: given[1] for given, label in drawn["plot"]}
    assert lines.keys() == {"retained", "forgotten", "validation", "test"}
    plots = [given[1] for given, _ in drawn["plot"]]
    assert plots == [[value, value + 0.5, value + 1.0] for value in losses.values()]
    levels = sorted(given[0] for given, _ in drawn["axhline"])
    assert levels == sorted(value + shift for value in losses.values() for shift in (0.25, 0.75))
