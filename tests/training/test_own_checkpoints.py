"""Folders of a user's own checkpoints: read alike whoever wrote them, and refused in words."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import gunlearn as gu
from gunlearn.errors import CheckpointError, InvalidInputError
from gunlearn.training.own_checkpoints import read_checkpoints
from tests.methods.cases import same_weights
from tests.methods.forgetting import club

FORMS = {
    "tutorial": lambda step, model, optimizer: (
        f"ckpt_{step}.pt",
        {"model_state_dict": model.state_dict(), "optimizer_state_dict": optimizer.state_dict(), "epoch": step},
    ),
    "lightning": lambda step, model, optimizer: (
        f"epoch={step}-v1.ckpt",
        {
            "state_dict": {f"model.{name}": value for name, value in model.state_dict().items()},
            "optimizer_states": [optimizer.state_dict()],
            "global_step": step,
        },
    ),
    "short": lambda step, model, optimizer: (
        f"{'abcde'[step // 10]}.pth",
        {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step},
    ),
}


def graph() -> Any:
    return gu.node_split(club(), 0.2, 0.2)


def written(folder: Path, form: str) -> nn.Module:
    """A model trained for 40 steps, with checkpoints at 20, 30 and 40."""
    data = graph()
    torch.manual_seed(0)
    model = gu.GCN(20, 8, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    index = data.train_mask.nonzero().view(-1)
    for step in range(1, 41):
        optimizer.zero_grad()
        cross_entropy(model(data.x, data.edge_index)[index], data.y[index]).backward()
        optimizer.step()
        if step in (20, 30, 40):
            name, content = FORMS[form](step, model, optimizer)
            torch.save(content, folder / name)
    return model.eval()


@pytest.mark.parametrize("form", FORMS)
def test_they_are_read_and_replayed(form: str, tmp_path: Path) -> None:
    model = written(tmp_path, form)
    state = read_checkpoints(tmp_path)
    assert (state.steps, [moment.step for moment in state.moments]) == (40, [20, 30, 40])
    data, request = graph(), gu.ForgetNodes(count=3, seed=1)
    result = gu.unlearn(model, data, request, "replay", "node_classification", training=tmp_path, budget=0.25)
    assert (result.notes["from_step"], result.epochs) == (30, 10)
    kept, own = request.resolve(data).retain_data, copy.deepcopy(model)
    own.load_state_dict(state.moments[1].weights)
    optimizer = torch.optim.Adam(own.parameters(), lr=1e-2)
    optimizer.load_state_dict(state.moments[1].optimizer)
    index = kept.train_mask.nonzero().view(-1)
    for _ in range(10):
        optimizer.zero_grad()
        cross_entropy(own(kept.x, kept.edge_index)[index], kept.y[index]).backward()
        optimizer.step()
    for name, value in own.state_dict().items():
        torch.testing.assert_close(result.model.state_dict()[name], value, rtol=1e-3, atol=1e-4)
    further = gu.unlearn(
        model, data, request, "continued_training", "node_classification", training=str(tmp_path), steps=3
    )
    assert further.notes["start"] == "the state of the training"
    assert not same_weights(further.model, model)


def test_the_last_one_must_hold_the_model(tmp_path: Path) -> None:
    model = written(tmp_path, "tutorial")
    (tmp_path / "ckpt_40.pt").unlink()
    with pytest.raises(InvalidInputError, match="last checkpoint, at step 30, to hold this model's weights"):
        gu.unlearn(model, graph(), gu.ForgetNodes(count=3), "replay", "node_classification", training=tmp_path)


BROKEN: dict[str, tuple[Any, str]] = {
    "nothing": ({}, "different steps"),
    "no optimiser": ({"a_1.pt": {"model": {"w": torch.ones(1)}}}, "the optimiser's state under one of"),
    "no weights": ({"a_1.pt": {"optimizer": {"state": {}, "param_groups": []}}}, "weights under one of"),
    "no step": ({"last.pt": {"model": {"w": torch.ones(1)}, "optimizer": {"state": {}}}}, "Expected the step"),
    "no dictionary": ({"a_1.pt": torch.ones(3)}, "dictionary"),
    "a module": ({"a_1.pt": nn.Linear(2, 2)}, "save state dicts, not objects"),
    "one step twice": (
        {f"{n}.pt": {"model": {"w": torch.ones(1)}, "optimizer": {"state": {}}, "step": 5} for n in "ab"},
        r"different steps.*\[5, 5\]",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_cannot_be_read_is_refused(what: str, tmp_path: Path) -> None:
    files, match = BROKEN[what]
    for name, content in files.items():
        torch.save(content, tmp_path / name)
    with pytest.raises(CheckpointError, match=match):
        read_checkpoints(tmp_path)


def test_damaged_files_and_missing_folders(tmp_path: Path) -> None:
    (tmp_path / "a_1.pt").write_bytes(b"PK\x03\x04 nothing more")
    with pytest.raises(CheckpointError, match=r"a_1\.pt"):
        read_checkpoints(tmp_path)
    with pytest.raises(CheckpointError, match="no folder"):
        read_checkpoints(tmp_path / "none")
