"""Images in a grid and on the command line: the digits, which need no files."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import gunlearn as gu
from gunlearn.bench import Cell, GridConfig, Recipe, run_grid
from gunlearn.bench.forget_file import read_request
from gunlearn.bench.hard_requests import whole_classes
from gunlearn.errors import InvalidInputError, InvalidRequestError
from gunlearn.requests import ForgetItems
from tests.bench.cases import row_of, same
from tests.command import call

RECIPE = Recipe(epochs=2, lr=3e-3, eval_every=1, hidden_channels=16, num_layers=3, backbone="cnn", batch_size=128)
TASK = {"task": "image_classification", "forget": "items"}


def config(**more: Any) -> GridConfig:
    settings = {"methods": ("npo:default",), "recipe": RECIPE, "method_args": ("npo.epochs=1",), **TASK}
    return GridConfig("digits", **{**settings, **more})


def test_whole_classes_end_to_end(tmp_path: Path) -> None:
    recipe = replace(RECIPE, epochs=8, lr=1e-2)
    rows = run_grid(config(forget="classes", labels=(3, 8), recipe=recipe), tmp_path)
    data = gu.item_split(gu.load("digits", images=True), seed=0)
    gone = data.train_mask & torch.isin(data.y, torch.tensor([3, 8]))
    for row in rows:
        assert row["error"] is None
        assert (row["num_forget"], row["num_retain"]) == (int(gone.sum()), int((data.train_mask & ~gone).sum()))
        assert row["labels"] == [3, 8]
        assert row["request_hash"] == ForgetItems(gone.nonzero().view(-1)).resolve(data).request_hash
    assert [row["method"] for row in rows] == ["original", "retrain", "utu", "npo"]
    assert row_of(rows, "retrain")["forget_acc"] == 0.0  # it never saw the classes
    assert row_of(rows, "utu")["forget_acc"] > 0.5
    assert row_of(rows, "utu")["js_forget"] > row_of(rows, "retrain")["js_floor_forget"] > 0
    assert same(run_grid(config(forget="classes", labels=(3, 8), recipe=recipe), tmp_path)) == same(rows)


def test_a_step_reads_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[Any] = []
    monkeypatch.setattr("gunlearn.nn.image_models.SmallCNN.forward", _counting(sizes))
    run_grid(config(count=20, references=False), tmp_path)
    while_training = [size for size, training in sizes if training]  # of the base model and of NPO
    assert max(while_training) == 128
    assert {size for size in while_training if size < 128} >= {20}  # the forget set


def _counting(sizes: list[Any]) -> Any:
    def forward(self: torch.nn.Sequential, x: torch.Tensor) -> torch.Tensor:
        sizes.append((len(x), self.training))
        for module in self:
            x = module(x)
        return x

    return forward


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"recipe": Recipe()}, r"a backbone among \['cnn', 'resnet'\] for task 'image_classification'"),
        ({"task": "node_classification", "forget": "nodes"}, "a backbone among .*'gcn'"),
        ({"forget": "edges"}, "'items' or 'classes'"),
        ({"by": "degree"}, "by='random'"),
        ({"forget": "classes", "ratio": 0.1, "count": None}, "'count', a number of classes, or 'labels'"),
        ({"labels": (1,)}, "'labels' to forget 'classes'"),
        ({"forget": "classes", "labels": (1,), "count": 2}, "without 'count'"),
        ({"protocol": "inpo", "region": "in"}, "protocol 'random'"),
    ],
)
def test_refusals(change: dict[str, Any], match: str) -> None:
    with pytest.raises((InvalidInputError, InvalidRequestError), match=match):
        config(**{"count": None if "labels" in change or "forget" in change else 5, **change})


def test_classes_by_name() -> None:
    """`--labels Shirt 3` are those of the data; the control: without names there is nothing to go by."""
    data = gu.load("digits", images=True)
    cell = Cell("digits", "random", None, None, "any", "random", 0, "image_classification", "classes", None, ("b", 3))
    with pytest.raises(InvalidRequestError, match="no 'classes'"):
        whole_classes(data, cell)
    data.classes = tuple("abcdefghij")
    partition = whole_classes(data, cell)[1].resolve(data)
    assert set(data.y[partition.forget_mask].tolist()) == {1, 3}


@pytest.mark.parametrize("labels", [(11,), tuple(range(10))])
def test_classes_that_are_not_there_or_are_all(labels: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="some of the classes"):
        run_grid(config(forget="classes", labels=labels), tmp_path)


def test_old_rows_keep_their_names() -> None:
    """What is not asked for is in no setting, so that rows and models of graphs are found again."""
    assert "labels" not in Cell("karate", "random", None, 5, "any", "random", 0).settings()
    assert "batch_size" not in Recipe().settings()
    assert RECIPE.settings()["batch_size"] == 128


def test_items_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "items.txt"
    file.write_text("id\n5\n17\n")
    assert read_request(file, "items") == ForgetItems([5, 17])
    file.write_text("name\ncat/1.png\n")
    assert read_request(file, "items") == ForgetItems(["cat/1.png"])


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = (
        "--dataset digits --task image_classification --backbone resnet --hidden-channels 8 --num-layers 2 --epochs 1"
    )
    more = ["--forget", "items", "classes", "--count", "2", "--methods", "scrub:default", "--method-arg", "epochs=1"]
    assert call("run", *words.split(), *more, "--out", str(tmp_path), "--no-progress") == 0
    rows = json.loads((tmp_path / "results.json").read_text())
    assert next(row["num_forget"] for row in rows if row["method"] == "scrub") == 2
    assert {row["recipe"]["batch_size"] for row in rows} == {64}
    assert "images of classes that go as a whole" in (tmp_path / "report.html").read_text()
    assert "statistics" in next(row["notes"] for row in rows if row["method"] == "scrub")
    capsys.readouterr()
    assert call("datasets") == 0
    assert "FashionMNIST" in capsys.readouterr().out
