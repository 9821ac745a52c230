"""Arguments of paths that a user may write in another way: understood, or refused in words."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import gunlearn as gu
from gunlearn.connectivity import BezierPath, Dial, LinearPath, connect, evaluate_path, load_path, save_path
from gunlearn.errors import CheckpointError, InvalidInputError, InvalidTypeError
from tests.connectivity.cases import perceptron, some_classifiers

TASK = gu.ImageClassification()


@pytest.fixture(scope="module")
def problem():
    return some_classifiers(3)


@pytest.mark.parametrize(
    "points", [np.array([0.0, 0.25, 1.0]), torch.tensor([0.0, 0.25, 1.0]), (0, 0.25, 1), np.float64([0, 0.25, 1])]
)
def test_points_may_be_an_array_or_a_tensor(problem, points: object) -> None:
    _, partition, (one, two, _) = problem
    listed = evaluate_path(LinearPath(one, two), TASK, partition, points=[0.0, 0.25, 1.0])
    found = evaluate_path(LinearPath(one, two), TASK, partition, points=points)
    assert found.ts == listed.ts == [0.0, 0.25, 1.0]
    assert found.rows == listed.rows


@pytest.mark.parametrize("points", ["abc", "012", 3.0, True, {0.0, 0.5, 1.0}, [0, "a", 1], [[0.0, 0.5, 1.0]], None])
def test_points_that_are_none_are_refused_by_their_name(problem, points: object) -> None:
    _, partition, (one, two, _) = problem
    with pytest.raises(InvalidInputError, match="Expected 'points' to be a number of points, or at least 3 ascending"):
        evaluate_path(LinearPath(one, two), TASK, partition, points=points)


def test_one_metric_needs_no_list(problem) -> None:
    data, partition, (one, two, original) = problem
    path, given = LinearPath(one, two), {"points": 3, "original": original}
    listed = evaluate_path(path, TASK, partition, metrics=["relearn_steps"], **given)
    alone = evaluate_path(path, TASK, partition, metrics="relearn_steps", **given)
    assert alone.column("relearn_steps") == listed.column("relearn_steps")
    assert None not in alone.column("relearn_steps")
    found = connect(one, two, data, partition, TASK, metrics="relearn_steps", **given)
    assert found.evaluation.column("relearn_steps") == listed.column("relearn_steps")
    assert found.dial.figures(one, "relearn_steps")["relearn_steps"] == listed.rows[0]["relearn_steps"]
    with pytest.raises(InvalidInputError, match="'nonsense'"):
        evaluate_path(path, TASK, partition, metrics="nonsense", points=3)


def test_a_dial_takes_the_name_of_a_task(problem) -> None:
    _, partition, (one, two, _) = problem
    path = LinearPath(one, two)
    named, given = (Dial(path, task, partition) for task in ("image_classification", TASK))
    assert named.figures(one) == given.figures(one)
    with pytest.raises(InvalidInputError, match="'nonsense'"):
        Dial(path, "nonsense", partition)


def test_references_are_modules_or_results_and_may_be_one(problem) -> None:
    data, partition, (one, two, reference) = problem
    dial = Dial(LinearPath(one, two), TASK, partition)
    result = gu.train(perceptron(5), data, TASK, epochs=1, seed=0)
    result.model = reference
    chosen = [dial.choose(100.0, points=5, references=given) for given in (reference, [reference], result)]
    assert len(set(chosen)) == 1
    for wrong, words in (([3], "int as number 1"), ([reference, "x"], "str as number 2"), (3, "int as number 1")):
        for call in (
            lambda given: dial.choose(references=given),
            lambda given: dial.figures(one, (), given),
            lambda given: evaluate_path(dial.path, TASK, partition, references=given),
            lambda given: connect(one, two, data, partition, TASK, references=given),
        ):
            with pytest.raises(InvalidTypeError, match=f"modules or results as references .got {words}"):
                call(wrong)


@pytest.mark.parametrize("bound", ["8", None, math.nan, 0, -1.0])
def test_a_bound_that_is_none_is_refused(problem, bound: object) -> None:
    _, partition, (one, two, _) = problem
    with pytest.raises(InvalidInputError, match=r"Expected 'bound_forget' > 0, math\.inf for none"):
        evaluate_path(LinearPath(one, two), TASK, partition, points=3, bound_forget=bound)
    evaluate_path(LinearPath(one, two), TASK, partition, points=3, bound_forget=math.inf)  # control


@pytest.mark.parametrize("t", [-0.1, 1.1])
def test_both_sides_of_a_path_are_told_alike(problem, t: float) -> None:
    _, _, (one, two, _) = problem
    with pytest.raises(InvalidInputError, match=r"Expected 't' in \[0, 1\]"):
        LinearPath(one, two).weights(t)


def test_a_picture_of_an_unknown_kind_is_refused(problem, tmp_path: Path) -> None:
    _, partition, (one, two, _) = problem
    found = evaluate_path(LinearPath(one, two), TASK, partition, points=3)
    with pytest.raises(InvalidInputError, match=r"a picture's ending among .*png.* \(got 'x.foo'\)"):
        found.plot(tmp_path / "x.foo")
    assert not list(tmp_path.iterdir())
    assert found.plot(tmp_path / "x.svg").exists()  # control


@pytest.mark.parametrize("change", [{"kind": "chain"}, {"num_bends": 0}, {"frozen": ["0.weight"]}, {"settings": {}}])
def test_a_record_that_was_changed_is_refused(problem, tmp_path: Path, change: dict) -> None:
    """A path of another kind between the same points is another path, and its file would fit."""
    _, _, (one, two, _) = problem
    save_path(BezierPath(one, two, 1), tmp_path)
    load_path(tmp_path, one)  # control
    file = tmp_path / "path.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(CheckpointError, match=r"path.json was changed after it was written"):
        load_path(tmp_path, one)
