"""`connect` hands each of its arguments on: a value other than the default must show in what comes back."""

from pathlib import Path

import pytest
import torch

import gunlearn as gu
from gunlearn.connectivity import connect
from gunlearn.losses import NLL, BoundedAscent
from tests.connectivity.cases import items, perceptron, trained
from tests.training.callbacks import Kill, On

TASK = gu.ImageClassification()
CURVE = {"path": "bezier", "steps": 4, "lr": 0.05, "points": 3}


@pytest.fixture(scope="module")
def problem():
    """Models with a barrier for both parts, the data and a request."""
    data = items(number=60)
    return [trained(perceptron(seed), data, seed) for seed in (0, 1)], data, gu.ForgetItems(label=1)


def bends(connection) -> torch.Tensor:
    return torch.cat([bend.detach().flatten() for bend in connection.path.bends])


def test_the_seed_is_of_the_curve_and_of_the_evaluation(problem) -> None:
    models, data, request = problem
    one, again, other = (connect(*models, data, request, TASK, seed=seed, **CURVE) for seed in (3, 3, 4))
    assert torch.equal(bends(one), bends(again))
    assert not torch.equal(bends(one), bends(other))
    assert one.seed == 3


def test_an_evaluation_has_the_tolerances_of_the_call(problem) -> None:
    """Each tolerance is held against its own barrier; swapped, both calls would say the other word."""
    models, data, request = problem
    asked = {"tolerance_retain": 7.0, "tolerance_forget": 3.0, "bound_forget": 2.5}
    found = connect(*models, data, request, TASK, points=11, **asked).evaluation
    assert [getattr(found, name) for name in asked] == list(asked.values())
    # a constant path is beneath any bound, so that forgotten items lie on the line between the ends
    assert found.barrier_retain > 0.02
    level = {"points": 11, "bound_forget": 1e-6}
    for retain, forget, word in ((found.barrier_retain * 2, 0.0, True), (0.0, found.barrier_retain * 2, False)):
        said = connect(*models, data, request, TASK, tolerance_retain=retain, tolerance_forget=forget, **level)
        assert said.evaluation.barrier_forget == pytest.approx(0.0, abs=1e-12)
        assert said.connected is word


def test_the_objective_is_that_of_the_steps(problem) -> None:
    models, data, request = problem
    objective = 0.5 * NLL(on="retain") + 0.25 * BoundedAscent(bound=3.0)
    plain, own = (connect(*models, data, request, TASK, objective=one, **CURVE) for one in (None, objective))
    assert set(objective.labels) <= set(own.history[0])
    assert not set(objective.labels) <= set(plain.history[0])
    assert not torch.equal(bends(plain), bends(own))


def test_callbacks_hear_of_the_curve(problem) -> None:
    models, data, request = problem
    heard: list[int] = []
    listening = On(step_end=lambda state, **_: heard.append(state.step))
    connect(*models, data, request, TASK, callbacks=[listening], **CURVE)
    assert heard == [1, 2, 3, 4]


def test_checkpoints_are_written_where_they_should_be(problem, tmp_path: Path) -> None:
    models, data, request = problem
    with pytest.raises(KeyboardInterrupt):
        connect(*models, data, request, TASK, checkpoint_dir=tmp_path / "curve", callbacks=[Kill(2, 3)], **CURVE)
    assert list((tmp_path / "curve").iterdir())
    assert list(tmp_path.iterdir()) == [tmp_path / "curve"]


def test_metrics_are_figures_of_the_rows(problem) -> None:
    models, data, request = problem
    plain, more = (
        connect(*models, data, request, TASK, points=3, metrics=names).evaluation.rows[0]
        for names in ((), ("relearn_steps",))
    )
    assert "relearn_steps" not in plain
    assert "relearn_steps" in more


def test_each_setting_of_the_curve_reaches_the_bends(problem) -> None:
    models, data, request = problem
    plain = bends(connect(*models, data, request, TASK, **CURVE))
    for more in (
        {"lr": 0.01}, {"batch_size": 8}, {"optimizer": "sgd"}, {"optimizer_options": {"betas": (0.5, 0.9)}},
        {"max_grad_norm": 1e-12}, {"epochs": 2, "steps": None}, {"t": "normal"}, {"forgetting": 1.0}, {"l2": 1.0},
    ):  # fmt: skip
        assert not torch.equal(bends(connect(*models, data, request, TASK, **{**CURVE, **more})), plain), more
