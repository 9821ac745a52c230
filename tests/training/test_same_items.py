"""A training and data that do not belong together: said, and by nobody but the owner to be tried out."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch_geometric.data import Data

import gunlearn as gu
from gunlearn.tasks import TASKS
from gunlearn.training.same_items import items_digest
from tests.methods.forgetting import club

NODES, LINKS, IMAGES = "node_classification", "link_prediction", "image_classification"
OTHER = "was of other items than 'data' has"


def split(task: str, seed: int = 0) -> Any:
    if task == IMAGES:
        torch.manual_seed(1)
        mask = torch.zeros(60, dtype=torch.bool)
        mask[torch.randperm(60, generator=torch.Generator().manual_seed(seed))[:40]] = True
        return Data(x=torch.rand(60, 1, 8, 8), y=torch.arange(60) % 4, train_mask=mask)
    return (gu.node_split if task == NODES else gu.link_split)(club(), 0.2, 0.2, seed=seed)


def trained(task: str) -> gu.Result:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4)) if task == IMAGES else gu.GCN(20, 8, 4)
    return gu.train(model, split(task), task, epochs=60, lr=1e-2)


def request(task: str) -> Any:
    return {NODES: gu.ForgetNodes, LINKS: gu.ForgetEdges, IMAGES: gu.ForgetItems}[task](count=2)


def words(base: gu.Result, data: Any, task: str, method: str = "continued_training") -> tuple[gu.Result, bool]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = gu.unlearn(base.model, data, request(task), method, task, training=base)
    return result, any(OTHER in str(warning.message) for warning in caught)


@pytest.mark.parametrize("method", ["continued_training", "replay", "auto"])
@pytest.mark.parametrize("task", [NODES, LINKS, IMAGES])
def test_another_split_is_said(task: str, method: str) -> None:
    """The control is the split of the training, made anew: nothing is said of it."""
    base = trained(task)
    assert words(base, split(task, seed=1), task, method)[1]
    result, said = words(base, split(task), task, method)
    assert not said
    assert not words(result, result.data, task, "continued_training")[1]  # the next request


def test_other_labels_are_said() -> None:
    base, data = trained(NODES), split(NODES)
    data.y = data.y.flip(0)
    assert words(base, data, NODES)[1]


def test_a_saved_training_knows_its_items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, data = trained(LINKS), split(LINKS, seed=1)
    read = gu.Result.load(base.save(tmp_path / "base"), base.model)
    assert words(read, data, LINKS)[1]
    assert not words(read, split(LINKS), LINKS)[1]
    monkeypatch.setenv("GUNLEARN_KEY_FILE", str(tmp_path / "another.key"))
    assert items_digest(TASKS[LINKS](), split(LINKS)) != base.training.items  # who lacks the key cannot try items out
    assert not words(read, data, LINKS)[1]  # and is not told that they differ


def test_a_loop_of_ones_own_says_nothing_of_its_items() -> None:
    base = trained(NODES)
    base.training = gu.TrainingState(**{**vars(base.training), "items": ""})
    assert not words(base, split(NODES, seed=1), NODES)[1]
