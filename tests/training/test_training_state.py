"""The state of a training: kept by `gunlearn.train` and by loops of one's own, saved, and tied to its model."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch_geometric.nn import GCNConv

import gunlearn as gu
from gunlearn.errors import CheckpointError, InvalidInputError, InvalidTypeError
from gunlearn.methods import Result
from gunlearn.tasks.sampling import BatchOptions
from gunlearn.training.estimated_state import TrainingGradient, estimate_second_moments, estimate_weight_decay
from gunlearn.training.state_sources import as_training_state
from gunlearn.training.training_state import TrainingState
from tests.methods.cases import ring, same_weights
from tests.methods.forgetting import club

TASK = "node_classification"


def data() -> Any:
    return gu.node_split(club(), 0.2, 0.2)


def net(width: int = 8) -> nn.Module:
    torch.manual_seed(0)
    return gu.GCN(20, width, 4)


def trained(**more: Any) -> gu.Result:
    settings = {"epochs": 60, "lr": 1e-2, "weight_decay": 1e-3, "eval_every": 20} | more
    return gu.train(net(), data(), TASK, **settings)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_checkpoints_lie_a_twentieth_a_tenth_and_a_fifth_before_the_end() -> None:
    state = trained(epochs=200, eval_every=200).training
    assert (state.steps, state.total, state.kind) == (200, 200, "Adam")
    assert [moment.step for moment in state.moments] == [160, 180, 190]
    size = sum(p.numel() for p in net().parameters())
    held = sum(v.numel() for m in state.moments for v in m.weights.values())
    assert held == 3 * size


@pytest.mark.parametrize(("steps", "kept"), [(3, [1, 2]), (39, [35, 37, 38]), (100, [84, 92, 96]), (330, [304, 320])])
def test_a_loop_that_nobody_planned_keeps_checkpoints_that_far_back_too(steps: int, kept: list[int]) -> None:
    """Not the last few steps alone; right after the distances doubled one is missing."""
    keeping, model = gu.KeepState(), net()
    looped(model, keeping, steps=steps)
    found = [moment.step for moment in keeping.state(model).moments]
    assert found == kept
    assert len(keeping.moments) <= 5
    assert 0.07 < (steps - found[0]) / steps <= 0.2 or steps == 3


def test_a_loop_of_ones_own_keeps_the_same_state() -> None:
    graph, model = data(), net()
    keeping = gu.KeepState(steps=60)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=1e-3, fused=True)
    for _ in range(60):
        model.train()
        optimizer.zero_grad(set_to_none=True)
        index = graph.train_mask.nonzero().view(-1)
        cross_entropy(model(graph.x, graph.edge_index)[index], graph.y[index]).backward()
        optimizer.step()
        keeping.step(model, optimizer)
    state, ours = keeping.state(model), trained(eval_every=60).training
    assert (state.steps, [m.step for m in state.moments]) == (60, [m.step for m in ours.moments])
    for mine, theirs in zip(state.moments, ours.moments, strict=True):
        for name in mine.weights:
            torch.testing.assert_close(mine.weights[name], theirs.weights[name], rtol=1e-3, atol=1e-4)
    state.check_model(model)


def test_the_state_is_that_of_the_weights_that_were_kept() -> None:
    result = gu.train(net(), data(), TASK, epochs=400, lr=0.05, eval_every=10)  # overfits: an early epoch is the best
    best, state = result.notes["best_epoch"], result.training
    assert best < 400
    assert (state.steps, state.total) == (best, 400)
    steps = {float(entry["step"]) for entry in state.optimizer["state"].values()}
    assert steps == {float(best)}
    assert all(moment.step < best for moment in state.moments)


def test_a_killed_training_that_is_resumed_keeps_the_same_state(tmp_path: Path) -> None:
    class Stop(gu.Callback):
        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.epoch == 52:
                raise KeyboardInterrupt

    whole = trained().training
    with pytest.raises(KeyboardInterrupt):
        trained(checkpoint_dir=tmp_path, callbacks=[Stop()])
    resumed = trained(checkpoint_dir=tmp_path).training
    assert same(resumed.optimizer, whole.optimizer)
    assert [m.step for m in resumed.moments] == [m.step for m in whole.moments]
    assert all(same(a.weights, b.weights) for a, b in zip(resumed.moments, whole.moments, strict=True))


def test_it_is_saved_and_loaded_with_the_result(tmp_path: Path) -> None:
    result = trained()
    result.save(tmp_path)
    loaded = Result.load(tmp_path, net()).training
    assert same(loaded.optimizer, result.training.optimizer)
    assert all(same(a.weights, b.weights) for a, b in zip(loaded.moments, result.training.moments, strict=True))
    assert as_training_state(tmp_path).steps == result.training.steps
    content = bytearray((tmp_path / "training.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "training.pt").write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=r"training\.pt"):
        Result.load(tmp_path, net())


def test_an_unlearned_model_takes_the_place_of_the_state(tmp_path: Path) -> None:
    base = trained()
    base.save(tmp_path)
    result = gu.unlearn(base.model, data(), gu.ForgetNodes(count=2), "utu", TASK)
    assert result.training is None
    result.save(tmp_path)
    assert not (tmp_path / "training.pt").exists()
    assert Result.load(tmp_path, net()).training is None


def test_a_training_killed_after_its_last_checkpoint_keeps_its_state(tmp_path: Path) -> None:
    class Stop(gu.Callback):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.epoch == 50:
                raise KeyboardInterrupt

    whole = trained(epochs=50).training
    with pytest.raises(KeyboardInterrupt):
        trained(epochs=50, checkpoint_dir=tmp_path, callbacks=[Stop()])
    resumed = trained(epochs=50, checkpoint_dir=tmp_path, callbacks=[]).training
    assert same(resumed.optimizer, whole.optimizer)
    assert (resumed.steps, resumed.kind, resumed.weights) == (whole.steps, "Adam", whole.weights)


class Tied(nn.Module):
    """Two layers of one weight, and a buffer that the forward pass writes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(20, 20), nn.Linear(20, 20), nn.BatchNorm1d(20)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
        return self.second(self.norm(self.first(x)))


def looped(
    model: nn.Module, keeping: gu.KeepState, best_at: int = 0, settle: bool = False, parts: int = 1, steps: int = 20
) -> Any:
    """Train by a loop of one's own; return the weights and the optimiser's state after `best_at` steps."""
    graph, best = data(), None
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    index = graph.train_mask.nonzero().view(-1)
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        for part in index.chunk(parts):  # gradients add up
            cross_entropy(model(graph.x, graph.edge_index)[part], graph.y[part]).backward()
        optimizer.step()
        keeping.step(model, optimizer)
        if step == best_at:
            best = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
            if settle:
                keeping.settle()
    return best


def restored(model: nn.Module, weights: dict[str, torch.Tensor]) -> nn.Module:
    model.load_state_dict(weights)
    return model


def another(model: nn.Module, weights: dict[str, torch.Tensor]) -> nn.Module:
    return restored(copy.deepcopy(model), weights)


@pytest.mark.parametrize("put", [restored, another])
def test_weights_of_an_earlier_epoch_need_to_be_settled(put: Any) -> None:
    model, keeping = net(), gu.KeepState(steps=20)
    best, _ = looped(model, keeping, best_at=12)
    with pytest.raises(InvalidInputError, match=r"last 'step' left .*'settle\(\)' each time the best"):
        keeping.state(put(model, best))
    model, keeping = net(), gu.KeepState(steps=20)
    best, optimizer = looped(model, keeping, best_at=12, settle=True)
    state = keeping.state(put(model, best))
    assert (state.steps, state.total) == (12, 20)
    assert same(state.optimizer, optimizer)
    model, keeping = net(), gu.KeepState(steps=20)
    looped(model, keeping, best_at=12, settle=True)
    assert keeping.state(model).steps == 20  # where one keeps the last weights after all


def test_validating_before_the_first_step_may_settle() -> None:
    """A loop that validates what it starts from takes a copy of that too; the control is the later, better epoch."""
    model, keeping = net(), gu.KeepState(steps=20)
    start = copy.deepcopy(model.state_dict())
    keeping.settle()
    with pytest.raises(InvalidInputError, match="after each step"):
        keeping.state(model)
    looped(model, keeping)
    assert keeping.state(model).steps == 20
    with pytest.raises(InvalidInputError, match="no state"):  # the copy of before is what is gone back to
        keeping.state(restored(model, start))
    model, keeping = net(), gu.KeepState(steps=20)
    keeping.settle()
    best, optimizer = looped(model, keeping, best_at=12, settle=True)
    state = keeping.state(restored(model, best))
    assert state.steps == 12
    assert same(state.optimizer, optimizer)
    resumed = gu.KeepState(steps=20)
    resumed.load_state_dict(keeping.state_dict())
    with pytest.raises(InvalidInputError, match="resumed"):
        resumed.settle()


def scheduled(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        parameter.grad = None
    return model.eval().to("cpu")


@pytest.mark.parametrize("make", [net, Tied, lambda: Tied().double().float()])
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize(
    "leave", [scheduled, copy.deepcopy, lambda m: m.to("cpu", torch.float32), lambda m: m.double()]
)
def test_usual_loops_need_not_settle(make: Any, parts: int, leave: Any) -> None:
    model, keeping = make(), gu.KeepState(steps=20)
    looped(model, keeping, parts=parts)
    model = leave(model)
    with torch.no_grad():
        model(torch.ones(3, 20, dtype=next(model.parameters()).dtype), torch.tensor([[0, 1], [1, 2]]))
    assert keeping.state(model).steps == 20


@pytest.mark.parametrize("planned", [80, 500])
@pytest.mark.parametrize("loop", ["train", "ones own"])
def test_budgets_and_prices_count_the_steps_that_were_taken(loop: str, planned: int) -> None:
    """A loop that planned 500 steps and stopped after 80; one that planned 80 is the control."""

    class Stop(gu.Callback):
        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop |= state.epoch == 80

    if loop == "train":
        base = trained(epochs=planned, eval_every=80, callbacks=[Stop()])
        model, state = base.model, base.training
    else:
        model, keeping = net(), gu.KeepState(steps=planned)
        looped(model, keeping, steps=80)
        state = keeping.state(model)
    assert state.total == 80
    request = gu.ForgetNodes(count=2)
    spent = gu.unlearn(model, data(), request, "continued_training", TASK, training=state, budget=0.2)
    assert spent.epochs + spent.notes["passes"] == 16
    assert spent.notes["price"] == 0.2
    back = gu.unlearn(model, data(), request, "replay", TASK, training=state, budget=0.2)
    assert back.notes["price"] == pytest.approx((back.epochs + back.notes["passes"]) / 80, abs=1e-4)
    assert back.epochs <= 16


def test_steps_before_a_loop_was_resumed_count() -> None:
    model, optimizer = net(), None
    for part in range(2):
        keeping, optimizer = gu.KeepState(steps=40), torch.optim.Adam(model.parameters()) if part == 0 else optimizer
        for _ in range(20):
            for parameter in model.parameters():
                parameter.grad = torch.ones_like(parameter)
            optimizer.step()
            keeping.step(model, optimizer)
    assert keeping.state(model).total == 40


def test_a_callback_that_changes_weights_at_the_end_is_named() -> None:
    class Zero(gu.Callback):
        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            nn.init.zeros_(next(kwargs["model"].parameters()))

    graph = data()
    graph.val_mask[:] = False  # so that the last weights count
    with pytest.warns(UserWarning, match="a callback changed the weights"):
        result = gu.train(net(), graph, TASK, epochs=60, callbacks=[Zero()])
    assert result.training.steps == 60


WRONG = {
    "another model": lambda base: (copy.deepcopy(base.training), net()),
    "weights that changed": lambda base: (base.training, _moved(base.model)),
}


def _moved(model: nn.Module) -> nn.Module:
    moved = copy.deepcopy(model)
    with torch.no_grad():
        next(moved.parameters()).add_(1e-3)
    return moved


@pytest.mark.parametrize("method", ["continued_training", "replay", "auto"])
@pytest.mark.parametrize("what", WRONG)
def test_the_state_of_another_training_is_refused(what: str, method: str) -> None:
    state, model = WRONG[what](trained())
    with pytest.raises(InvalidInputError, match="training that ended in this model's weights"):
        gu.unlearn(model, data(), gu.ForgetNodes(count=2), method, TASK, training=state)


def test_what_is_no_state_is_refused(tmp_path: Path) -> None:
    base = trained()
    unlearned = gu.unlearn(base.model, data(), gu.ForgetNodes(count=2), "utu", TASK)
    for source, error, match in (
        (unlearned, InvalidInputError, "result with the state of its training"),
        (trained(keep_state=False), InvalidInputError, "keep_state=False"),
        (base.model, InvalidTypeError, "gunlearn.KeepState"),
        (tmp_path / "nothing", CheckpointError, "no readable"),
    ):
        with pytest.raises(error, match=match):
            as_training_state(source)
    (tmp_path / "other.pt").write_bytes(b"no state")
    with pytest.raises(CheckpointError, match="saved training state"):
        TrainingState.load(tmp_path / "other.pt")
    with pytest.raises(InvalidInputError, match="after each step"):
        gu.KeepState(steps=5).state(net())


@pytest.mark.parametrize("decay", [1e-2, 1e-3])
def test_weight_decay_is_read_off_the_weights(decay: float) -> None:
    graph = gu.node_split(ring(40, 6), 0.2, 0.2)
    graph.x = graph.x.double()
    torch.manual_seed(0)
    model = GCNConv(6, 4).double()  # convex
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2000, tolerance_change=0, line_search_fn="strong_wolfe")
    index = graph.train_mask.nonzero().view(-1)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = cross_entropy(model(graph.x, graph.edge_index)[index], graph.y[index])
        loss = loss + 0.5 * decay * sum(p.square().sum() for p in model.parameters())
        loss.backward()
        return loss

    optimizer.step(closure)
    estimate, cosine = estimate_weight_decay(TrainingGradient(model, graph, gu.NodeClassification(), BatchOptions()))
    assert estimate == pytest.approx(decay, rel=1e-3)
    assert cosine > 0.999


def test_second_moments_are_the_formula() -> None:
    graph = gu.node_split(ring(40, 6), 0.2, 0.2)
    torch.manual_seed(0)
    start, end = gu.GCN(6, 4, 4), gu.GCN(6, 4, 4)
    first, last = ([p.detach().clone() for p in m.parameters()] for m in (start, end))
    found = estimate_second_moments(
        TrainingGradient(copy.deepcopy(start), graph, gu.NodeClassification(), BatchOptions()), first, last, 0.1
    )
    index = graph.train_mask.nonzero().view(-1)
    total = [torch.zeros_like(p) for p in first]
    for k in range(5):
        probe = copy.deepcopy(start)
        with torch.no_grad():
            for p, a, b in zip(probe.parameters(), first, last, strict=True):
                p.copy_((1 - k / 5) * a + k / 5 * b)
        loss = cross_entropy(probe(graph.x, graph.edge_index)[index], graph.y[index])
        (loss + 0.05 * sum(p.square().sum() for p in probe.parameters())).backward()
        for t, p in zip(total, probe.parameters(), strict=True):
            t += p.grad.square() / 5
    for got, square in zip(found, total, strict=True):
        torch.testing.assert_close(got, 0.1 * square + 0.01 * square.mean(), rtol=1e-3, atol=1e-9)


def test_the_callers_weights_stay() -> None:
    base = trained()
    before = copy.deepcopy(base.model)
    gu.unlearn(base.model, data(), gu.ForgetNodes(count=2), "continued_training", TASK, training=base)
    gu.unlearn(base.model, data(), gu.ForgetNodes(count=2), "replay", TASK, training=base, budget=0.3)
    assert same_weights(base.model, before)


@pytest.mark.parametrize("way", [nn.DataParallel, lambda model: torch.compile(model, backend="eager")])
@pytest.mark.parametrize("left", ["model", "what runs it"])
def test_what_runs_a_model_gives_its_parameters_no_other_names(way: Any, left: str) -> None:
    """The control is a loop without it; the optimiser holds the parameters in another order than the model."""
    states = []
    for runs in (lambda model: model, way):
        model, keeping = net(), gu.KeepState(steps=20)
        run = runs(model)
        optimizer = torch.optim.Adam(list(model.parameters())[::-1], lr=1e-2)
        graph, index = data(), data().train_mask.nonzero().view(-1)
        for _ in range(20):
            optimizer.zero_grad()
            cross_entropy(model(graph.x, graph.edge_index)[index], graph.y[index]).backward()  # bits are the same
            optimizer.step()
            keeping.step(run, optimizer)
        states.append(keeping.state(model if left == "model" else run))
    plain, other = states
    assert (other.names, other.weights) == (plain.names, plain.weights)
    for method in ("continued_training", "replay"):
        one, two = (
            gu.unlearn(model, data(), gu.ForgetNodes(count=2), method, TASK, training=state, budget=0.3)
            for state in states
        )
        assert same_weights(one.model, two.model)
        assert two.training.names == plain.names


def test_a_compiled_model_goes_on_with_its_training() -> None:
    model = torch.compile(net(), backend="eager")
    base = gu.train(model, data(), TASK, epochs=60, eval_every=60)
    plain = trained(lr=1e-3, weight_decay=0.0, eval_every=60)
    for method in ("continued_training", "replay", "auto"):
        one, two = (
            gu.unlearn(own.model, data(), gu.ForgetNodes(count=2), method, TASK, training=own, seed=0)
            for own in (base, plain)
        )
        for ours, theirs in zip(one.model.parameters(), two.model.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
        assert two.epochs == one.epochs > 0


def test_how_items_were_read_has_known_names() -> None:
    model, keeping = net(), gu.KeepState(steps=20)
    looped(model, keeping)
    assert keeping.state(model, batch_size=4).reading == {"batch_size": 4}
    with pytest.raises(InvalidInputError, match=r"'batch_size', .* \(got \['batch'\]\)"):
        keeping.state(model, batch=4)


def test_a_saved_result_without_a_state_is_named(tmp_path: Path) -> None:
    gu.unlearn(trained().model, data(), gu.ForgetNodes(count=2), "utu", TASK).save(tmp_path)
    with pytest.raises(InvalidInputError, match=r"got one without: .* or saved"):
        as_training_state(tmp_path)


def test_weights_that_were_written_past_the_last_step_are_refused() -> None:
    model, keeping = net(), gu.KeepState(steps=20)
    looped(model, keeping)
    assert keeping.state(model).steps == 20  # control
    next(model.parameters()).data.mul_(0.9)  # which no version counts
    with pytest.raises(InvalidInputError, match="last 'step' left"):
        keeping.state(model)
