"""A killed run, resumed, ends in the same weights and history, bit by bit; another run's checkpoint is refused."""

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
from gunlearn.errors import CheckpointError, InvalidTypeError
from gunlearn.training.checkpoint import NAME
from tests.methods.cases import (
    TRAINING,
    Made,
    MethodCase,
    fresh_model,
    make_data,
    nudge,
    run,
    same_weights,
    trained_model,
)
from tests.training.callbacks import Kill, On

REPOSITORY = Path(__file__).resolve().parents[2]
EPOCHS = 4


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


def check_resumed(start: Any, directory: Path, first: int) -> None:
    """Go on from the checkpoint, and compare with a run that nobody killed."""
    torch.manual_seed(99)
    watch = Kill((), None)
    resumed, whole = start(make_data(), callbacks=[watch], checkpoint_dir=directory), start(make_data())
    assert watch.begun == list(range(first, whole.epochs + 1))  # it did go on from the checkpoint
    assert same_weights(resumed.model, whole.model)
    assert resumed.history == whole.history
    assert resumed.epochs == whole.epochs == watch.begun[-1]
    assert list(directory.iterdir()) == []  # nothing is left of it


@pytest.mark.parametrize("name", RUNS)
def test_resumed_equals_uninterrupted(name: str, tmp_path: Path) -> None:
    kill(RUNS[name], tmp_path)
    check_resumed(RUNS[name], tmp_path, 3)


def test_the_comparison_would_notice_a_lost_random_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Control: resumed without the random state, dropout masks and negatives differ.
    start = RUNS["npo:default"]
    whole = start(make_data())
    kill(start, tmp_path)
    monkeypatch.setattr("gunlearn.training.checkpoint.set_rng_state", lambda state: None)
    assert not same_weights(start(make_data(), checkpoint_dir=tmp_path).model, whole.model)


def test_killed_twice(tmp_path: Path) -> None:
    start = RUNS["inpo:default"]
    kill(start, tmp_path)
    kill(start, tmp_path, Kill(save_at=3, kill_at=4))
    check_resumed(start, tmp_path, 4)


SCRIPT = """
import os, sys
from tests.training.callbacks import On
from tests.training.test_loop_resume import RUNS, make_data

def die(state, control, **_):
    control.should_save = state.epoch == 2
    if state.epoch == 3:
        os._exit(42)

RUNS["npo:default"](make_data(), callbacks=[On(epoch_end=die)], checkpoint_dir=sys.argv[1])
"""


def test_a_process_that_dies(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], env=environment, cwd=REPOSITORY, check=False)
    assert done.returncode == 42
    check_resumed(RUNS["npo:default"], tmp_path, 3)


def other_data(name: str) -> Data:
    data = make_data()
    if name == "features":
        data.x = data.x * 1.5
    elif name == "edges":  # the forgotten ones stay
        free = ~gu.ForgetEdges(count=12, seed=3).resolve(data).forget_mask
        u, v = data.edge_index[:, free.nonzero()[0, 0]]
        data.edge_index = data.edge_index[:, ~((data.edge_index == u).any(0) & (data.edge_index == v).any(0))]
    else:
        data.val_pos_edge_index = data.val_pos_edge_index[:, 1:]
    return data


def frozen() -> nn.Module:
    model = trained_model("pyg")
    next(model.parameters()).requires_grad_(False)
    return model


def _changed(model: nn.Module, change: Any) -> nn.Module:
    """Another model of the same weights."""
    for module in model.modules():
        change(module)
    return model


def _other_dropout(module: nn.Module) -> None:
    if isinstance(module, nn.Dropout):
        module.p = 0.25


def _other_activation(module: nn.Module) -> None:
    for name, child in list(module.named_children()):
        if isinstance(child, nn.ReLU):
            setattr(module, name, nn.Tanh())


class _Otherwise(type(fresh_model("pyg"))):  # type: ignore[misc]  # the class of that model
    def forward(self, *args: Any) -> torch.Tensor:
        return -super().forward(*args)


def _minus(model: nn.Module, *args: Any) -> torch.Tensor:
    return -type(model).__mro__[1].forward(model, *args)  # type: ignore[attr-defined]


def _otherwise(made: Any = trained_model) -> nn.Module:
    model = made("pyg")
    model.__class__ = _Otherwise
    return model


def _namesake() -> nn.Module:
    """Another class of the same name, with the same parameters and settings."""
    model = trained_model("pyg")
    model.__class__ = type(type(model).__name__, (type(model),), {"forward": _minus})
    return model


def _same_request() -> gu.Request:
    """The edges of the usual draw, by name: the draw itself depends on the graph."""
    return gu.ForgetEdges(gu.ForgetEdges(count=12, seed=3).resolve(make_data()).forget_edge_index)


#: What differs from the run that was killed: its name, the data, what is passed beside them.
OTHERS: dict[str, tuple[str, str | None, Any]] = {
    **{f"npo {name}": ("npo:default", name, lambda: {"request": _same_request()}) for name in ("features", "edges")},
    "npo validation": ("npo:default", "validation", lambda: {"request": _same_request()}),
    "npo seed": ("npo:default", None, lambda: {"seed": 4}),
    "npo lr": ("npo:default", None, lambda: {"lr": 2e-3}),
    "npo epochs": ("npo:default", None, lambda: {"epochs": EPOCHS + 1}),
    "npo request": ("npo:default", None, lambda: {"request": gu.ForgetEdges(count=12, seed=4)}),
    "npo model": ("npo:default", None, lambda: {"model": trained_model("pyg").apply(nudge)}),
    "npo dropout": ("npo:default", None, lambda: {"model": _changed(trained_model("pyg"), _other_dropout)}),
    "npo activation": ("npo:default", None, lambda: {"model": _changed(trained_model("pyg"), _other_activation)}),
    "npo forward": ("npo:default", None, lambda: {"model": _otherwise()}),
    "npo forward of a namesake": ("npo:default", None, lambda: {"model": _namesake()}),
    "npo frozen": ("npo:default", None, lambda: {"model": frozen()}),
    "npo task": ("npo:default", None, lambda: {"task": gu.LinkPrediction(negatives="uniform")}),
    "retrain edges": ("retrain:default", "edges", lambda: {"request": _same_request()}),
    "retrain seed": ("retrain:default", None, lambda: {"seed": 4}),
    "train validation": ("train", "validation", dict),
    "train weight_decay": ("train", None, lambda: {"weight_decay": 1e-3}),
    "train eval_every": ("train", None, lambda: {"eval_every": 3}),
    "train optimizer": ("train", None, lambda: {"optimizer": "adamw"}),
    "train scheduler": ("train", None, lambda: {"scheduler": lambda o: torch.optim.lr_scheduler.ConstantLR(o, 0.5)}),
    "train model": ("train", None, lambda: {"model": fresh_model("pyg", seed=1)}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_run_is_refused(name: str, tmp_path: Path) -> None:
    what, data, more = OTHERS[name]
    kill(RUNS[what], tmp_path)
    with pytest.raises(CheckpointError, match="checkpoint of this run"):
        RUNS[what](make_data() if data is None else other_data(data), checkpoint_dir=tmp_path, **more())
    assert (tmp_path / NAME).is_file()  # and it is not spoiled by the attempt


def test_another_method_is_refused(tmp_path: Path) -> None:
    kill(RUNS["npo:default"], tmp_path)
    for what in ("graddiff:default", "inpo:default", "retrain:default", "train"):
        with pytest.raises(CheckpointError, match="checkpoint of this run"):
            RUNS[what](make_data(), checkpoint_dir=tmp_path)


def test_what_does_not_matter_does_not_matter(tmp_path: Path) -> None:
    kill(train, tmp_path)
    watch = Kill((), None)
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

    save = torch.save

    def half(payload: Any, path: Any) -> None:
        if not isinstance(path, str):  # into memory, to see whether it can be read
            return save(payload, path)
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("gunlearn.training.checkpoint.torch.save", half)
        with pytest.raises(OSError, match="disk full"):
            train(make_data(), checkpoint_dir=tmp_path, callbacks=[Kill(3, None)])
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    assert (tmp_path / NAME).read_bytes() == before
    assert same_weights(train(make_data(), checkpoint_dir=tmp_path).model, train(make_data()).model)


def test_a_checkpoint_holds_no_code(tmp_path: Path) -> None:
    kill(train, tmp_path)
    torch.load(tmp_path / NAME, weights_only=True)


def save(control: Any, **_: Any) -> None:
    control.should_save = True


def die(**_: Any) -> None:
    raise KeyboardInterrupt


class Counting(gu.training.StatefulCallback):
    """Counts epochs, and forgets them unless they are saved."""

    def __init__(self) -> None:
        self.epochs: list[int] = []

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.epochs.append(state.epoch)

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": self.epochs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epochs = state["epochs"]


@pytest.mark.parametrize("name", ["train", "npo:default", "gnndelete:default", "scrub_r:default", "retrain:default"])
def test_the_state_of_callbacks_is_kept(name: str, tmp_path: Path) -> None:
    count = Counting()
    with pytest.raises(KeyboardInterrupt):
        RUNS[name](make_data(), callbacks=[Counting(), Kill()], checkpoint_dir=tmp_path)
    with pytest.raises(CheckpointError, match="callbacks of the run"):
        RUNS[name](make_data(), checkpoint_dir=tmp_path)
    RUNS[name](make_data(), callbacks=[Kill((), None), count], checkpoint_dir=tmp_path)
    assert count.epochs == [1, 2, 3, 4]


def test_a_callbacks_state_that_could_not_be_read_again_is_refused(tmp_path: Path) -> None:
    class Odd(Counting):
        def state_dict(self) -> dict[str, Any]:
            return {"epochs": Path("x")}

    with pytest.raises(InvalidTypeError, match="plain values"):
        RUNS["npo:default"](make_data(), callbacks=[Odd(), Kill()], checkpoint_dir=tmp_path)


def test_the_message_says_what_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kill(train, tmp_path)
    for words, more in (("other settings in", {"seed": 4}), ("other model in", {"model": _otherwise(fresh_model)})):
        with pytest.raises(CheckpointError, match=words):
            train(make_data(), checkpoint_dir=tmp_path, **{"model": fresh_model("pyg"), **more})
    monkeypatch.setenv("GUNLEARN_KEY_FILE", str(tmp_path.parent / "another.key"))
    with pytest.raises(CheckpointError, match="owner's key, see GUNLEARN_KEY_FILE"):
        train(make_data(), checkpoint_dir=tmp_path)


def test_early_stopping_survives_a_resume(tmp_path: Path) -> None:
    """Killed between the epoch at which it would stop and the end, a run must not go on for longer."""

    def stop(state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = state.epoch == 2

    stops = {"epoch_end": save, "evaluate": stop}
    whole = train(make_data(), callbacks=[On(**stops)])
    assert whole.epochs == 2
    kill(train, tmp_path, On(**stops, train_end=die))
    resumed = train(make_data(), callbacks=[On(**stops)], checkpoint_dir=tmp_path)
    assert resumed.epochs == 2
    assert same_weights(resumed.model, whole.model)


def test_killed_after_the_last_epoch(tmp_path: Path) -> None:
    for what in ("inpo:unseen", "npo:default", "train"):
        kill(RUNS[what], tmp_path, On(epoch_end=save, train_end=die))
        resumed = RUNS[what](make_data(), checkpoint_dir=tmp_path)
        assert same_weights(resumed.model, RUNS[what](make_data()).model)


def test_the_time_of_a_resumed_run_adds_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def tick(**_: Any) -> None:
        now[0] += 1000.0  # of a callback: not counted

    def slow(model: nn.Module, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
        now[0] += 1.0
        return model.inner(x, edge_index)

    def start(**more: Any) -> gu.Result:
        return run("finetune", Made(slow, inner=fresh_model("gcn")), make_data(), epochs=EPOCHS, **more)

    torch.manual_seed(0)
    whole = start(callbacks=[On(step_end=tick)])
    assert EPOCHS <= whole.seconds <= EPOCHS + 3
    assert whole.seconds_per_epoch == whole.seconds / EPOCHS
    with pytest.raises(KeyboardInterrupt):
        start(callbacks=[On(step_end=tick), Kill()], checkpoint_dir=tmp_path)
    now[0] += 5000.0  # nobody worked
    assert start(callbacks=[On(step_end=tick)], checkpoint_dir=tmp_path).seconds == whole.seconds
