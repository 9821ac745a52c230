"""A folder with checkpoints of two trainings is refused; one of a single training never is (the control)."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import gunlearn as gu
from gunlearn.errors import CheckpointError
from gunlearn.training.one_training import check_one_training
from gunlearn.training.own_checkpoints import read_checkpoints
from gunlearn.training.training_state import Moment

ADAM = torch.optim.Adam
WITH_MEMORY: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "Adam": lambda p: ADAM(p, lr=1e-2, weight_decay=5e-4),
    "Adam, fused": lambda p: ADAM(p, lr=1e-2, fused=True),
    "Adam, short memory": lambda p: ADAM(p, lr=1e-2, betas=(0.9, 0.9)),
    "AdamW, amsgrad": lambda p: torch.optim.AdamW(p, lr=1e-2, amsgrad=True),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=1e-2),
    "RAdam": lambda p: torch.optim.RAdam(p, lr=1e-2),
    "Adamax": lambda p: torch.optim.Adamax(p, lr=1e-2),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=1e-3),
    "Adadelta": lambda p: torch.optim.Adadelta(p, lr=1.0),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
}
WITHOUT: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.2),
    "SGD, momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-3),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def trained(folder: Path, make: Callable[[Any], Any], seed: int, until: int = 100, dtype: Any = torch.float32) -> None:
    """Write a checkpoint each ten steps; the rate runs up and down in between by hand, and some weights freeze."""
    torch.manual_seed(0)
    x, y = torch.randn(60, 30, dtype=dtype), torch.randint(3, (60,))
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 3)).to(dtype)
    optimizer = make(model.parameters())
    rate = optimizer.param_groups[0]["lr"]
    for step in range(1, until + 1):
        optimizer.param_groups[0]["lr"] = rate * (10.0 if step % 10 == 5 else 1.0)
        model[0].requires_grad_(not 30 < step <= 50)
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
        if step % 10 == 0:
            content = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            torch.save(content, folder / f"{step}.pt")


def read(folder: Path) -> list[int]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return [moment.step for moment in read_checkpoints(folder).moments]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", WITH_MEMORY)
def test_two_trainings_are_refused_and_one_is_read(name: str, dtype: str, tmp_path: Path) -> None:
    if "fused" in name and dtype == "bfloat16":
        pytest.skip("one precision shows it")
    make = WITH_MEMORY[name]
    trained(tmp_path, make, seed=0, dtype=DTYPES[dtype])
    assert read(tmp_path) == list(range(10, 101, 10))
    trained(tmp_path, make, seed=1, until=70, dtype=DTYPES[dtype])
    with pytest.raises(CheckpointError, match="of two, between steps 70 and 80"):
        read(tmp_path)


@pytest.mark.parametrize("name", WITHOUT)
def test_without_such_a_memory_weights_that_have_nothing_in_common_are_warned_of(name: str, tmp_path: Path) -> None:
    trained(tmp_path, WITHOUT[name], seed=0)
    assert read(tmp_path) == list(range(10, 101, 10))
    trained(tmp_path, WITHOUT[name], seed=1, until=70)
    with pytest.warns(UserWarning, match=re.escape("little in common between steps 70 and 80")):
        assert len(read_checkpoints(tmp_path).moments) == 10


def test_two_trainings_in_a_folder_are_warned_of_once(tmp_path: Path) -> None:
    """By methods that read the folder several times; files that changed are read anew, and warned of again."""
    data = gu.node_split(gu.load("karate"), 0.2, 0.2)
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = gu.GCN(data.num_features, 16, 4)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
        for step in range(1, 61):
            optimizer.zero_grad()
            cross_entropy(model(data.x, data.edge_index)[data.train_mask], data.y[data.train_mask]).backward()
            optimizer.step()
            if (step + 3 * seed) % 10 == 0 or step == 60:
                content = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
                torch.save(content, tmp_path / f"{step}.pt")
    request = gu.ForgetNodes([3])
    for method in ("auto", "continued_training", "replay", "replay"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            gu.unlearn(model, data, request, method, "node_classification", training=tmp_path)
        said = [str(one.message) for one in caught if "little in common" in str(one.message)]
        assert len(said) == 1, method
        assert "steps 7 and 10" in said[0]
        assert "times more" in said[0]


@pytest.mark.parametrize(("fell", "refused"), [(0, False), (10, False), (11, True), (100, True)])
def test_more_than_a_hundredth_of_the_values_are_too_many(fell: int, refused: bool) -> None:
    """Of a thousand values Adam keeps .999 of each at a step: half of that is less than it can."""
    group = {"params": [0], "betas": (0.9, 0.999)}
    kept = torch.full((1000,), 0.9995, dtype=torch.double)
    kept[:fell] = 0.5
    first, second = (
        Moment(step, {}, {"state": {0: {"step": step, "exp_avg_sq": values}}, "param_groups": [group]})
        for step, values in ((1, torch.ones_like(kept)), (2, kept))
    )
    if refused:
        with pytest.raises(CheckpointError, match=f"of {fell / 1000:.0%} of its values"):
            check_one_training([first, second], Path("folder"))
    else:
        check_one_training([first, second], Path("folder"))
