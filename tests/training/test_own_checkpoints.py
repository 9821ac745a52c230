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
from gunlearn.training.checkpoint_weights import weights_for
from gunlearn.training.own_checkpoints import read_checkpoints
from gunlearn.training.state_sources import as_training_state
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
    own.load_state_dict(weights_for(state.moments[1].weights, own))
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


class Held(nn.Module):
    """A model whose layers all lie in `net`, a name that is also one of what holds a model in a file."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
        return self.net(x, edge_index)


@pytest.mark.parametrize("before", ["", "model.", "net.", "module._orig_mod."])
@pytest.mark.parametrize("hold", [Held, nn.DataParallel, lambda net: net])
def test_a_name_that_the_model_has_itself_is_none_of_what_holds_it(hold: Any, before: str, tmp_path: Path) -> None:
    """The oracle is the run of the bare model from its own folder; names of another model are refused, as a control."""
    bare, held = (tmp_path / name for name in ("bare", "held"))
    bare.mkdir()
    held.mkdir()
    net = written(bare, "short")
    model = hold(copy.deepcopy(net))
    of = {id(own): name for name, own in model.state_dict(keep_vars=True).items()}
    names = [of[id(own)] for own in model.parameters()]

    def put(prefix: str) -> None:
        for file in bare.iterdir():
            content = torch.load(file)
            weights = dict(zip(names, content["model"].values(), strict=True))
            torch.save(content | {"model": {prefix + n: v for n, v in weights.items()}}, held / file.name)

    def replayed(own: nn.Module, folder: Path) -> nn.Module:
        task, request = "node_classification", gu.ForgetNodes(count=3, seed=1)
        return gu.unlearn(own, graph(), request, "replay", task, training=folder, budget=0.25).model

    put(before)
    ours, theirs = replayed(model, held), replayed(net, bare)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    put("other.")
    with pytest.raises(InvalidInputError, match="with other"):
        replayed(model, held)


def test_the_last_one_must_hold_the_model(tmp_path: Path) -> None:
    model = written(tmp_path, "tutorial")
    (tmp_path / "ckpt_40.pt").unlink()
    with pytest.raises(InvalidInputError, match="last checkpoint, at step 30, to hold this model's weights"):
        gu.unlearn(model, graph(), gu.ForgetNodes(count=3), "replay", "node_classification", training=tmp_path)


def counting(steps: int) -> dict[str, Any]:
    return {"state": {0: {"step": torch.tensor(float(steps))}}, "param_groups": []}


SGD = {"state": {0: {"momentum_buffer": torch.ones(1)}}, "param_groups": []}

BROKEN: dict[str, tuple[Any, str]] = {
    "nothing": ({}, "Expected checkpoints in .*none"),
    "no state": ({"a_1.pt": {"model": {"w": torch.ones(1)}, "optimizer": {"lr": 1}}}, "state_dict under 'optimizer'"),
    "epochs alone": ({"epoch_9.pt": {"model": {"w": torch.ones(1)}, "optimizer": SGD}}, "count its steps.*epochs"),
    "an epoch": ({"9.pt": {"model": {"w": torch.ones(1)}, "optimizer": SGD, "epoch": 9}}, "count its steps.*epochs"),
    "an optimiser made anew": (
        {f"{e}.pt": {"model": {"w": torch.ones(e)}, "optimizer": counting(100 - e), "epoch": e} for e in (5, 9)},
        r"made anew in between",
    ),
    "a damaged last one": (
        {"epoch_5.pt": {"model": {"w": torch.ones(1)}, "optimizer": counting(5)}, "epoch_9.pt": torch.ones(1)},
        r"dictionary in .*epoch_9",
    ),
    "no optimiser": ({"a_1.pt": {"model": {"w": torch.ones(1)}}}, "the optimiser's state under one of"),
    "no weights": ({"a_1.pt": {"optimizer": {"state": {}, "param_groups": []}}}, "weights under one of"),
    "no step": ({"last.pt": {"model": {"w": torch.ones(1)}, "optimizer": {"state": {}}}}, "Expected the step"),
    "no dictionary": ({"a_1.pt": torch.ones(3)}, "dictionary"),
    "a module": (
        {"a_1.pt": nn.Linear(2, 2)},
        r"\(got: Unsupported global: GLOBAL [\w.]+Linear .+ by default\); save state dicts, not objects",
    ),
    "one step twice": (
        {f"{n}.pt": {"model": {"w": torch.ones(n)}, "optimizer": {"state": {}}, "step": 5} for n in (1, 2)},
        r"different steps.*step 5, 2\.pt",
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


@pytest.mark.parametrize("form", ["epochs", "names alone"])
def test_the_steps_are_those_that_the_optimiser_counted(form: str, tmp_path: Path) -> None:
    """Fifty epochs of four mini-batches are 200 steps."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for epoch in range(50):
        if epoch == 0:
            torch.save(
                {"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "epoch_0_start.pt"
            )
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.randn(5, 3)).square().mean().backward()
            optimizer.step()
        if epoch % 10 == 9:
            content = {"model_state_dict": model.state_dict(), "optimizer_state_dict": optimizer.state_dict()}
            torch.save(
                content | ({"epoch": epoch} if form == "epochs" else {}),
                tmp_path / f"epoch_{epoch}_loss0.{epoch % 7}.pt",
            )
    state = read_checkpoints(tmp_path)
    assert (state.steps, state.total, [m.step for m in state.moments]) == (200, 200, [0, 40, 80, 120, 160, 200])
    assert all(torch.equal(value, state.moments[-1].weights[name]) for name, value in model.state_dict().items())


def test_stray_damaged_and_copied_files_are_left_out_with_a_warning(tmp_path: Path) -> None:
    model = written(tmp_path, "tutorial")
    whole = read_checkpoints(tmp_path)
    torch.save(model.state_dict(), tmp_path / "best.pt")
    (tmp_path / "ckpt_30.pt").write_bytes((tmp_path / "ckpt_30.pt").read_bytes()[:500])
    found = torch.load(tmp_path / "ckpt_40.pt")  # a copy by the names of what held the model
    held = {f"module.{name}": value for name, value in found["model_state_dict"].items()}
    torch.save(found | {"model_state_dict": held}, tmp_path / "last.pt")
    with pytest.warns(UserWarning, match=r"best\.pt: .*ckpt_30\.pt: ") as warned:
        state = read_checkpoints(tmp_path)
    assert len(warned) == 1
    assert [moment.step for moment in state.moments] == [20, 40]
    assert state.weights == whole.weights
    (tmp_path / "ckpt_40.pt").write_bytes(b"PK\x03\x04")
    with pytest.raises(CheckpointError, match=r"ckpt_40\.pt"):  # the end may have been there
        read_checkpoints(tmp_path)


def test_one_checkpoint_is_the_end_of_a_training(tmp_path: Path) -> None:
    model, data, request = written(tmp_path, "tutorial"), graph(), gu.ForgetNodes(count=3, seed=1)
    results = [
        gu.unlearn(model, data, request, "continued_training", "node_classification", training=source, steps=3)
        for source in (tmp_path, tmp_path / "ckpt_40.pt")
    ]
    assert same_weights(results[0].model, results[1].model)
    with pytest.raises(InvalidInputError, match="Expected a checkpoint at most"):
        gu.unlearn(model, data, request, "replay", "node_classification", training=tmp_path / "ckpt_40.pt")
    torch.save(model.state_dict(), tmp_path / "best.pt")
    with pytest.raises(CheckpointError, match=r"saved training state.*a checkpoint of your own.*weights under"):
        gu.unlearn(model, data, request, "replay", "node_classification", training=tmp_path / "best.pt")
    folder = tmp_path / "checkpoint-40"  # as transformers' Trainer writes it
    folder.mkdir()
    found = torch.load(tmp_path / "ckpt_40.pt")
    torch.save(found["model_state_dict"], folder / "pytorch_model.bin")
    torch.save(found["optimizer_state_dict"], folder / "optimizer.pt")
    (folder / "trainer_state.json").write_text('{"global_step": 40}')
    assert [moment.step for moment in as_training_state(folder).moments] == [40]
