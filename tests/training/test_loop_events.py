"""The loop itself: events in order, early stops, the best epoch, clocks and quiet."""

import functools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import gunlearn as gu
from gunlearn.cost import PeakMemory
from gunlearn.errors import DivergenceError, InvalidInputError
from gunlearn.losses import ObjectiveValue
from gunlearn.methods import TrainArguments, TrainControl, TrainState, fit
from tests.methods.cases import fresh_model, make_data, run, same_weights, trained_model, weights
from tests.training.callbacks import On

EVENTS = ("train_begin", "epoch_begin", "step_end", "evaluate", "epoch_end", "save", "train_end")


class Point(nn.Module):
    """One number; its loss is its square."""

    def __init__(self, start: float = 1.0) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.tensor([start]))

    def step(self) -> ObjectiveValue:
        loss = (self.x**2).sum()
        return ObjectiveValue(loss, {"square": loss.detach()})


def recording(events: list[str]) -> On:
    """Note every event, and check what comes along."""

    def note(event: str, args: Any, state: Any, control: Any, model: nn.Module, **more: Any) -> None:
        kinds = ((args, TrainArguments), (state, TrainState), (control, TrainControl), (model, nn.Module))
        assert all(isinstance(given, kind) for given, kind in kinds)
        if event == "evaluate":
            assert more["metrics"]["val_loss"] == state.log_history[-1]["val_loss"]
        if event == "epoch_end":
            assert state.log_history[-1]["epoch"] == state.epoch == len(state.log_history)
        events.append(f"{event} {state.epoch}")

    return On(**{event: functools.partial(note, event) for event in EVENTS})


def expected_events(epochs: int, eval_every: int | None, save_every: int | None) -> list[str]:
    events = ["train_begin 0"]
    for epoch in range(1, epochs + 1):
        events += [f"epoch_begin {epoch - 1}", f"step_end {epoch}"]
        events += [f"evaluate {epoch}"] * (eval_every is not None and (epoch % eval_every == 0 or epoch == epochs))
        events += [f"epoch_end {epoch}"]
        events += [f"save {epoch}"] * (save_every is not None and epoch % save_every == 0)
    return [*events, f"train_end {epochs}"]


def test_events_come_in_order(tmp_path: Any) -> None:
    fitted, unlearned, trained = [], [], []
    model, args = Point(), TrainArguments(4, eval_every=2, checkpoint_dir=tmp_path, checkpoint_every=3)
    fit(model, model.step, args, [recording(fitted)], validate=lambda: 1.0)
    run("npo", trained_model(), make_data(), epochs=2, callbacks=[recording(unlearned)])
    gu.train(fresh_model("gcn"), make_data(), epochs=3, eval_every=2, callbacks=[recording(trained)])
    assert fitted == expected_events(4, 2, 3)
    assert unlearned == expected_events(2, None, None)
    assert trained == expected_events(3, 2, None)


def test_an_object_with_some_of_the_methods_will_do() -> None:
    seen: list[int] = []
    # It may return something, as transformers' callbacks do.
    half = SimpleNamespace(on_epoch_end=lambda args, state, control, **_: seen.append(state.epoch) or control)
    run("npo", trained_model(), make_data(), epochs=2, callbacks=[half])
    gu.train(fresh_model("gcn"), make_data(), epochs=2, callbacks=[half])
    assert seen == [1, 2, 1, 2]


def test_a_callback_can_stop_the_run() -> None:
    def stop(state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = state.epoch == 3

    result = run("npo", trained_model(), make_data(), epochs=9, callbacks=[On(step_end=stop)])
    assert (result.epochs, len(result.history)) == (3, 3)
    assert same_weights(result.model, run("npo", trained_model(), make_data(), epochs=3).model)


def test_the_stop_condition_is_asked_before_each_step() -> None:
    model, asked = Point(), []

    def stop() -> bool:
        asked.append(model.x.item())
        return len(asked) == 3

    assert fit(model, model.step, TrainArguments(10), stop=stop).epoch == 2
    assert asked[0] == 1.0
    assert asked == sorted(asked, reverse=True)


@pytest.mark.parametrize("name", ["sage", "gat"])
def test_callbacks_that_draw_and_meddle_do_not_change_the_run(name: str) -> None:
    def meddle(model: nn.Module, **_: Any) -> None:
        torch.manual_seed(7)
        model.eval()

    data, events = make_data(), ("train_begin", "epoch_begin", "step_end", "epoch_end")
    meddler = On(**dict.fromkeys(events, meddle))
    plain, watched = (run("npo", trained_model(name), data, epochs=4, callbacks=c) for c in ((), [meddler]))
    assert same_weights(plain.model, watched.model)


LOSSES = [5.0, 4.0, 3.95, 4.2, 4.1, 3.0, 3.1, 3.2, 2.9, 2.9, 2.9, 2.9]


@pytest.mark.parametrize(
    ("patience", "min_delta", "stops_at"),
    [(1, 0.0, 4), (2, 0.0, 5), (3, 0.0, 12), (2, 0.1, 4), (4, 0.5, 10), (9, 0.0, 12)],
)
def test_early_stopping(patience: int, min_delta: float, stops_at: int) -> None:
    """It stops when `patience` evaluations in a row have not beaten the best by `min_delta`."""
    model, losses = Point(), iter(LOSSES)
    args = TrainArguments(len(LOSSES), eval_every=1)
    state = fit(model, model.step, args, [gu.EarlyStopping(patience, min_delta)], validate=lambda: next(losses))
    assert state.epoch == stops_at


def test_early_stopping_needs_patience() -> None:
    with pytest.raises(InvalidInputError, match="'patience'"):
        gu.EarlyStopping(0)


@pytest.mark.parametrize("keep", ["best", "last"])
def test_which_epoch_is_kept(keep: str) -> None:
    model, losses, seen = Point(), iter(LOSSES), {}
    watch = On(epoch_end=lambda state, **_: seen.update({state.epoch: model.x.item()}))
    state = fit(model, model.step, TrainArguments(8, eval_every=1, keep=keep), [watch], lambda: next(losses))
    assert (state.best_epoch, state.best_metric) == (6, 3.0)
    assert len(set(seen.values())) == 8
    assert model.x.item() == seen[6 if keep == "best" else 8]
    assert not model.training


def test_the_trained_model_is_the_best_on_validation() -> None:
    seen: dict[int, dict] = {}
    watch = On(evaluate=lambda state, model, **_: seen.update({state.epoch: weights(model)}))
    result = gu.train(fresh_model("pyg"), make_data(), epochs=60, lr=0.05, eval_every=5, callbacks=[watch])
    losses = {r["epoch"]: r["val_loss"] for r in result.history if "val_loss" in r}
    best = min(losses, key=losses.get)
    assert sorted(losses) == list(range(5, 61, 5))
    assert best != 60  # else the test says nothing
    assert (result.notes["best_epoch"], result.notes["best_val_loss"]) == (best, losses[best])
    assert all(torch.equal(value, seen[best][name]) for name, value in result.model.state_dict().items())


def test_best_needs_validation() -> None:
    model = Point()
    for args, validate in (
        (TrainArguments(1, keep="best"), lambda: 1.0),
        (TrainArguments(1, eval_every=1, keep="best"), None),
    ):
        with pytest.raises(InvalidInputError, match="keep='best'"):
            fit(model, model.step, args, validate=validate)


def test_quiet_unless_asked(capfd: pytest.CaptureFixture[str]) -> None:
    for method in ("npo", "retrain", "utu", "inpo"):
        run(method, trained_model(), make_data(), **({} if method == "utu" else {"epochs": 2}))
    gu.train(fresh_model("gcn"), make_data(), epochs=2)
    assert capfd.readouterr() == ("", "")
    run("npo", trained_model(), make_data(), epochs=2, progress=True)
    assert "2/2" in capfd.readouterr().err or "epoch" in capfd.readouterr().err


def test_seconds_leave_callbacks_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now, model, steps = [0.0], Point(), []
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def step() -> ObjectiveValue:
        now[0] += 1.0
        steps.append(1)
        return model.step()

    seen: list[float] = []

    def slow(state: Any, **_: Any) -> None:
        now[0] += 100.0
        seen.append(state.seconds)

    def validate() -> float:
        now[0] += 10.0  # choosing an epoch is part of the method
        return 1.0

    state = fit(model, step, TrainArguments(3, eval_every=2), [On(**dict.fromkeys(EVENTS, slow))], validate)
    assert state.seconds == len(steps) + 20.0  # validated after epoch 2 and after the last
    assert seen == sorted(seen)
    assert seen[-1] == state.seconds  # and the callbacks are told so


def test_peak_memory_is_a_number_or_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    memory = PeakMemory()
    if memory.mb is not None:
        before = memory.mb
        with memory.paused():
            block = torch.ones(50_000_000)  # 190 MiB that do not count
            del block
        assert memory.mb < before + 100
        block = torch.ones(50_000_000)
        assert memory.mb > before + 150
        del block
    with monkeypatch.context() as patch:
        patch.setattr("gunlearn.cost._CLEAR", tmp_path / "no" / "such" / "file")
        assert PeakMemory().mb is None
        assert run("utu", trained_model(), make_data()).peak_memory_mb is None
    status = tmp_path / "status"
    status.write_text("Name:\tx\n")
    monkeypatch.setattr("gunlearn.cost._CLEAR", tmp_path / "clear_refs")
    monkeypatch.setattr("gunlearn.cost._STATUS", status)
    assert PeakMemory().mb is None  # the system does not say
    status.write_text("VmPeak:\t  9 kB\nVmHWM:\t  2048 kB\n")
    assert PeakMemory().mb == 2.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_ends_the_run(bad: float) -> None:
    model, count = Point(), []

    def step() -> ObjectiveValue:
        count.append(1)
        value = model.step()
        return value if len(count) < 3 else ObjectiveValue(value.total * bad, {"square": value.total.detach()})

    with pytest.raises(DivergenceError, match="'loss'"):
        fit(model, step, TrainArguments(9))
    assert len(count) == 3


def test_a_validation_loss_of_nan_ends_the_run() -> None:
    model = Point()
    with pytest.raises(DivergenceError, match="validation"):
        fit(model, model.step, TrainArguments(2, eval_every=1), validate=lambda: float("nan"))


def test_adam_is_torchs() -> None:
    """The oracle is torch's own optimiser with clipping, step by step."""
    model, twin = Point(3.0), Point(3.0)
    args = TrainArguments(5, lr=0.1, weight_decay=0.2, max_grad_norm=0.5)
    fit(model, model.step, args)
    optimizer = torch.optim.Adam(twin.parameters(), lr=0.1, weight_decay=0.2)
    for _ in range(5):
        optimizer.zero_grad()
        twin.step().total.backward()
        twin.x.grad /= max(1.0, (twin.x.grad.norm().item() + 1e-6) / 0.5)
        optimizer.step()
    torch.testing.assert_close(model.x, twin.x)
    assert model.x.item() != 3.0
