"""A killed run, resumed, ends in the same weights and history, bit by bit; another run's checkpoint is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch_geometric.data import Data

import gunlearn as gu
from gunlearn.errors import CheckpointError
from gunlearn.training.checkpoint import NAME
from tests.methods.cases import TRAINING, MethodCase, fresh_model, make_data, run, same_weights, trained_model

REPOSITORY = Path(__file__).resolve().parents[2]
EPOCHS = 4


class Kill(gu.Callback):
    """Checkpoints at one epoch and ends the run at a later one; notes the epochs that began."""

    def __init__(self, save_at: int = 2, kill_at: int | None = 3) -> None:
        self.save_at, self.kill_at, self.begun = save_at, kill_at, []

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.begun.append(state.epoch + 1)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_save = state.epoch == self.save_at
        if state.epoch == self.kill_at:
            raise KeyboardInterrupt

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        torch.rand(3)  # what callbacks draw is not the run's


def train(data: Data, model: nn.Module | None = None, **more: Any) -> gu.Result:
    options = {"epochs": EPOCHS, "lr": 1e-2, "eval_every": 2, "seed": 3, **more}
    return gu.train(fresh_model("pyg") if model is None else model, data, **options)


def unlearn(case: MethodCase, data: Data, **more: Any) -> gu.Result:
    options = {"epochs": EPOCHS, "seed": 3, **({"eval_every": 2} if case.from_scratch else {}), **more}
    return run(case, options.pop("model", None) or trained_model("pyg"), data, **options)


RUNS = {"train": train, **{case.spec: lambda data, case=case, **more: unlearn(case, data, **more) for case in TRAINING}}


def kill(start: Any, directory: Path, callback: gu.Callback | None = None) -> None:
    with pytest.raises(KeyboardInterrupt):
        start(make_data(), callbacks=[callback or Kill()], checkpoint_dir=directory)
    assert (directory / NAME).is_file()


@pytest.mark.parametrize("name", RUNS)
def test_resumed_equals_uninterrupted(name: str, tmp_path: Path) -> None:
    start = RUNS[name]
    whole = start(make_data())
    kill(start, tmp_path)
    torch.manual_seed(99)
    watch = Kill(kill_at=None)
    resumed = start(make_data(), callbacks=[watch], checkpoint_dir=tmp_path)
    assert watch.begun == [3, 4]  # it did go on from the checkpoint
    assert same_weights(resumed.model, whole.model)
    assert resumed.history == whole.history
    assert resumed.epochs == whole.epochs == EPOCHS
    assert list(tmp_path.iterdir()) == []  # nothing is left of it


def test_the_comparison_would_notice_a_lost_random_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Control: resumed without the random state, dropout masks and negatives differ.
    start = RUNS["npo:default"]
    whole = start(make_data())
    kill(start, tmp_path)
    monkeypatch.setattr("gunlearn.training.checkpoint.set_rng_state", lambda state: None)
    assert not same_weights(start(make_data(), checkpoint_dir=tmp_path).model, whole.model)


def test_killed_twice(tmp_path: Path) -> None:
    start = RUNS["inpo:default"]
    whole = start(make_data())
    kill(start, tmp_path)
    kill(start, tmp_path, Kill(save_at=3, kill_at=4))
    watch = Kill(kill_at=None)
    resumed = start(make_data(), callbacks=[watch], checkpoint_dir=tmp_path)
    assert watch.begun == [4]
    assert same_weights(resumed.model, whole.model)
    assert resumed.history == whole.history


SCRIPT = """
import os, sys
import gunlearn as gu
from tests.methods.cases import make_data, run, trained_model

class Kill(gu.Callback):
    def on_epoch_end(self, args, state, control, **kwargs):
        control.should_save = state.epoch == 2
        if state.epoch == 4:
            os._exit(42)

run("npo", trained_model("gcn"), make_data(), epochs=6, seed=3, callbacks=[Kill()], checkpoint_dir=sys.argv[1])
"""


def test_a_process_that_dies(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], env=environment, cwd=REPOSITORY, check=False)
    assert done.returncode == 42
    watch = Kill(kill_at=None)
    more = {"epochs": 6, "seed": 3}
    resumed = run("npo", trained_model("gcn"), make_data(), callbacks=[watch], checkpoint_dir=tmp_path, **more)
    assert watch.begun == [3, 4, 5, 6]
    whole = run("npo", trained_model("gcn"), make_data(), **more)
    assert same_weights(resumed.model, whole.model)
    assert resumed.history == whole.history


def other_data(name: str) -> Data:
    data = make_data()
    if name == "features":
        data.x = data.x * 1.5
    elif name == "edges":  # the forgotten ones stay
        keep = torch.ones(data.num_edges, dtype=torch.bool)
        free = ~gu.ForgetEdges(count=12, seed=3).resolve(data).forget_mask
        u, v = data.edge_index[:, free.nonzero()[0, 0]]
        for a, b in ((u, v), (v, u)):
            keep &= ~((data.edge_index[0] == a) & (data.edge_index[1] == b))
        data.edge_index = data.edge_index[:, keep]
    else:
        data.val_pos_edge_index = data.val_pos_edge_index[:, 1:]
    return data


def frozen() -> nn.Module:
    model = trained_model("pyg")
    next(model.parameters()).requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("what", "name"),
    [
        *(("npo:default", name) for name in ("features", "edges", "validation")),
        ("train", "validation"),
        ("retrain:default", "edges"),
    ],
)
def test_other_data_is_refused(what: str, name: str, tmp_path: Path) -> None:
    kill(RUNS[what], tmp_path)
    request = {} if what == "train" else {"request": _same_request(other_data(name))}
    with pytest.raises(CheckpointError, match="this very run"):
        RUNS[what](other_data(name), checkpoint_dir=tmp_path, **request)
    assert (tmp_path / NAME).is_file()  # and it is not spoiled by the attempt


def _same_request(data: Data) -> gu.Request:
    """The edges of the usual draw, by name: the draw itself depends on the graph."""
    return gu.ForgetEdges(gu.ForgetEdges(count=12, seed=3).resolve(make_data()).forget_edge_index)


UNLEARN_CHANGES = {
    "seed": lambda: {"seed": 4},
    "lr": lambda: {"lr": 2e-3},
    "epochs": lambda: {"epochs": EPOCHS + 1},
    "request": lambda: {"request": gu.ForgetEdges(count=12, seed=4)},
    "model": lambda: {"model": trained_model("pyg").apply(_nudge)},
    "frozen": lambda: {"model": frozen()},
    "task": lambda: {"task": gu.LinkPrediction(negatives="uniform")},
}
TRAIN_CHANGES = {
    "weight_decay": lambda: {"weight_decay": 1e-3},
    "eval_every": lambda: {"eval_every": 3},
    "model": lambda: {"model": fresh_model("pyg", seed=1)},
}


def _nudge(module: nn.Module) -> None:
    for parameter in module.parameters(recurse=False):
        parameter.data.view(-1)[-1] += 1e-3


@pytest.mark.parametrize(
    ("what", "change"), [*(("npo:default", change) for change in UNLEARN_CHANGES), ("retrain:default", "seed")]
)
def test_another_unlearning_run_is_refused(what: str, change: str, tmp_path: Path) -> None:
    kill(RUNS[what], tmp_path)
    with pytest.raises(CheckpointError, match="this very run"):
        RUNS[what](make_data(), checkpoint_dir=tmp_path, **UNLEARN_CHANGES[change]())


def test_another_method_is_refused(tmp_path: Path) -> None:
    kill(RUNS["npo:default"], tmp_path)
    for what in ("graddiff:default", "inpo:default", "retrain:default", "train"):
        with pytest.raises(CheckpointError, match="this very run"):
            RUNS[what](make_data(), checkpoint_dir=tmp_path)


@pytest.mark.parametrize("change", TRAIN_CHANGES)
def test_another_training_run_is_refused(change: str, tmp_path: Path) -> None:
    kill(train, tmp_path)
    with pytest.raises(CheckpointError, match="this very run"):
        train(make_data(), checkpoint_dir=tmp_path, **TRAIN_CHANGES[change]())


def test_what_does_not_matter_does_not_matter(tmp_path: Path) -> None:
    kill(train, tmp_path)
    watch = Kill(kill_at=None)
    train(make_data(), checkpoint_dir=str(tmp_path), callbacks=[watch], progress=True)
    assert watch.begun[0] == 3


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = {
    "truncated": _truncate,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not a checkpoint"),
    "another object": lambda path: torch.save([1, 2], path),
    "another dictionary": lambda path: torch.save({"model": {}}, path),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_refused(damage: str, tmp_path: Path) -> None:
    kill(train, tmp_path)
    DAMAGE[damage](tmp_path / NAME)
    with pytest.raises(CheckpointError):
        train(make_data(), checkpoint_dir=tmp_path)


def test_a_checkpoint_is_written_in_one_stroke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kill(train, tmp_path)
    before = (tmp_path / NAME).read_bytes()

    def half(payload: Any, path: str) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("gunlearn.training.checkpoint.torch.save", half)
        with pytest.raises(OSError, match="disk full"):
            train(make_data(), checkpoint_dir=tmp_path, callbacks=[Kill(save_at=3, kill_at=None)])
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    assert (tmp_path / NAME).read_bytes() == before
    assert same_weights(train(make_data(), checkpoint_dir=tmp_path).model, train(make_data()).model)


def test_a_checkpoint_holds_no_code(tmp_path: Path) -> None:
    kill(train, tmp_path)
    torch.load(tmp_path / NAME, weights_only=True)


def test_early_stopping_survives_a_resume(tmp_path: Path) -> None:
    """Killed between the epoch at which it would stop and the end, a run must not go on for longer."""

    class StopAt(Kill):
        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            super().on_epoch_end(args, state, control, **kwargs)
            control.should_save = True

        def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = state.epoch == 2

        def on_train_end(self, *args: Any, **kwargs: Any) -> None:
            if self.kill_at == "end":
                raise KeyboardInterrupt

    whole = train(make_data(), callbacks=[StopAt(kill_at=None)])
    assert whole.epochs == 2
    kill(train, tmp_path, StopAt(kill_at="end"))
    resumed = train(make_data(), callbacks=[StopAt(kill_at=None)], checkpoint_dir=tmp_path)
    assert resumed.epochs == 2
    assert same_weights(resumed.model, whole.model)


def test_killed_after_the_last_epoch(tmp_path: Path) -> None:
    class AtEnd(gu.Callback):
        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_save = True

        def on_train_end(self, *args: Any, **kwargs: Any) -> None:
            raise KeyboardInterrupt

    for what in ("inpo:unseen", "npo:default", "train"):
        kill(RUNS[what], tmp_path, AtEnd())
        resumed = RUNS[what](make_data(), checkpoint_dir=tmp_path)
        assert same_weights(resumed.model, RUNS[what](make_data()).model)


def test_the_time_of_a_resumed_run_adds_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    class Tick(Kill):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            now[0] += 1000.0  # of a callback: not counted

    class Slow(nn.Module):
        """Each forward pass takes a second."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = fresh_model("gcn")

        def reset_parameters(self) -> None:
            self.inner.reset_parameters()

        def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
            now[0] += 1.0
            return self.inner(x, edge_index)

    def start(**more: Any) -> gu.Result:
        return run("finetune", Slow(), make_data(), epochs=EPOCHS, **more)

    torch.manual_seed(0)
    whole = start(callbacks=[Tick(kill_at=None)])
    assert EPOCHS <= whole.seconds <= EPOCHS + 3
    assert whole.seconds_per_epoch == whole.seconds / EPOCHS
    with pytest.raises(KeyboardInterrupt):
        start(callbacks=[Tick()], checkpoint_dir=tmp_path)
    now[0] += 5000.0  # nobody worked
    assert start(callbacks=[Tick(kill_at=None)], checkpoint_dir=tmp_path).seconds == whole.seconds
