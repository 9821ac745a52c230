"""Going on where a scheduler lowered the training's rate: at a low one, unless forgotten items move first of all."""

import warnings
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import CosineAnnealingLR, CyclicLR, OneCycleLR, ReduceLROnPlateau

import gunlearn as gu
from gunlearn.methods import Problem
from gunlearn.methods.any_task.lowered_rate import LOWERED, RATE_LOOKS, LoweredRate, lowered_to
from gunlearn.methods.any_task.predictions_moved import Moved
from gunlearn.methods.any_task.training_budget import fall
from tests.methods.forgetting import club

TASK, STEPS = "node_classification", 200


def trained(data: Any, falls: bool = True) -> gu.Result:
    torch.manual_seed(0)
    scheduler = (lambda optimizer: CosineAnnealingLR(optimizer, STEPS)) if falls else None
    options = {"epochs": STEPS, "lr": 1e-2, "weight_decay": 5e-4, "eval_every": STEPS}
    return gu.train(gu.GCN(20, 16, 4), data, TASK, scheduler=scheduler, **options)


def run(wrong: bool, falls: bool = True, **options: Any) -> gu.Result:
    """Forget two nodes; with `wrong` labels only memory explains what the model says of them."""
    data = gu.node_split(club(), 0.2, 0.2)
    nodes = data.train_mask.nonzero().view(-1)[:2]
    if wrong:
        data.y[nodes] = (data.y[nodes] + 1) % 4
    base = trained(data, falls)
    options = {"training": base} | options
    return gu.unlearn(base.model, data, gu.ForgetNodes(nodes), "continued_training", TASK, **options)


def test_the_rate_rises_again_for_what_was_learned_by_heart() -> None:
    """The control is the same request with right labels."""
    assert run(wrong=True).notes["rate"] == "1 of its highest"
    assert run(wrong=False).notes["rate"] == f"{LOWERED:g} of its highest"


@pytest.mark.parametrize(
    ("falls", "options"),
    [
        (False, {}),
        (True, {"lr": 3e-3}),
        (True, {"shrink": 0.9}),
        (True, {"teacher_share": 0.5, "budget": 0.4}),
        (True, {"scheduler": lambda optimizer: CosineAnnealingLR(optimizer, 10)}),
    ],
)
def test_a_rate_that_stayed_or_was_named_is_taken_as_it_is(falls: bool, options: dict[str, Any]) -> None:
    assert "rate" not in run(wrong=True, falls=falls, **options).notes


def by_hand(optimizer: torch.optim.Optimizer) -> Any:
    """Return a scheduler's step of a loop that sets the rate itself."""
    steps = iter(range(1, STEPS + 1))
    return lambda: optimizer.param_groups[0].update(lr=1e-2 * (1 - next(steps) / STEPS))


#: Schedulers that leave no word of the highest rate in the optimiser.
SILENT: dict[str, Any] = {
    "by hand": by_hand,
    "plateau": lambda o: partial(ReduceLROnPlateau(o, factor=0.1, patience=0, threshold=10.0).step, 1.0),
    "cyclic": lambda o: CyclicLR(o, 1e-5, 1e-2, step_size_up=10, cycle_momentum=False).step,
}


@pytest.mark.parametrize("kind", SILENT)
def test_the_rates_of_all_steps_tell_the_highest_one_where_the_optimiser_does_not(kind: str) -> None:
    """The state that is handed on to the next request tells it, too. The control is the optimiser alone."""
    torch.manual_seed(0)
    data, model, keeping = gu.node_split(club(), 0.2, 0.2), gu.GCN(20, 16, 4), gu.KeepState(steps=STEPS)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=5e-4)
    lower = SILENT[kind](optimizer)
    for _ in range(STEPS):
        optimizer.zero_grad()
        cross_entropy(model(data.x, data.edge_index)[data.train_mask], data.y[data.train_mask]).backward()
        optimizer.step()
        keeping.step(model, optimizer)
        lower()
    state = keeping.state(model)
    assert optimizer.param_groups[0]["lr"] < 1e-4
    assert lowered_to(optimizer) is None
    assert lowered_to(state) == LOWERED
    result = gu.unlearn(model, data, gu.ForgetNodes(count=2), "continued_training", TASK, training=state)
    assert "rate" in result.notes
    before = dict(model.named_parameters())
    assert max(float((p - before[name]).abs().max()) for name, p in result.model.named_parameters()) > 1e-2
    assert lowered_to(result.training) == LOWERED
    known = {"optimizer": optimizer, "training_steps": STEPS}
    with pytest.warns(UserWarning, match=r"goes on at its learning rate of .*, and it was made with 0\.01"):
        gu.unlearn(model, data, gu.ForgetNodes(count=2), "continued_training", TASK, **known)


def test_a_rate_that_stayed_needs_no_word() -> None:
    """The control has a twentieth of the rate that it was made with."""
    torch.manual_seed(0)
    data, model = gu.node_split(club(), 0.2, 0.2), gu.GCN(20, 16, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(5):
        optimizer.zero_grad()
        cross_entropy(model(data.x, data.edge_index)[data.train_mask], data.y[data.train_mask]).backward()
        optimizer.step()

    def said() -> list[str]:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            more = {"optimizer": optimizer, "steps": 1}
            gu.unlearn(model, data, gu.ForgetNodes(count=2), "continued_training", TASK, **more)
        return [str(warning.message) for warning in found if "was made with" in str(warning.message)]

    assert not said()
    optimizer.param_groups[0]["lr"] = 5e-4
    assert len(said()) == 1


@pytest.mark.parametrize(("options", "passes"), [({"epochs": 20}, 3), ({"budget": 0.1}, 3), ({"budget": 0.04}, 0)])
def test_a_run_by_epochs_and_one_too_short_for_looks_start_low_too(options: dict[str, Any], passes: int) -> None:
    """The control trained at a rate that stayed: no looks at rates. Eight steps of a budget, three passes: none."""
    low, high = (run(wrong=False, falls=falls, **options) for falls in (True, False))
    assert low.notes["rate"] == f"{LOWERED:g} of its highest"
    assert "rate" not in high.notes
    assert low.notes["passes"] == high.notes["passes"] + passes


def test_no_look_is_taken_where_no_item_is_forgotten() -> None:
    """A forgotten edge is no item of nodes; the control is the run by epochs above."""
    data = gu.node_split(club(), 0.2, 0.2)
    base = trained(data)
    ways = {"training": base, "epochs": 20}
    result = gu.unlearn(base.model, data, gu.ForgetEdges(count=2), "continued_training", TASK, **ways)
    assert result.notes["rate"] == f"{LOWERED:g} of its highest"
    nodes = gu.unlearn(base.model, data, gu.ForgetNodes(count=2), "continued_training", TASK, **ways)
    assert result.notes["passes"] == nodes.notes["passes"] - RATE_LOOKS


def test_it_rises_once_forgotten_items_have_moved_twice_as_far() -> None:
    """Looks are after 4, 8, 16, ... steps; at 12 it would have risen already."""
    rate, looks = LoweredRate(LOWERED, None), list[int]()
    far = {4: (1.9, 1.0), 8: (3.0, 2.0), 16: (4.1, 2.0), 32: (0.0, 1.0)}

    def moved(place: int) -> float:
        looks.append(rate.taken)
        return far[rate.taken][place]

    rate.forgotten, rate.retained = (SimpleNamespace(far=partial(moved, place)) for place in (0, 1))
    factors = []
    for _ in range(40):
        rate.on_step_end(None, None, None)
        factors.append(rate.factor)
    assert factors == [LOWERED] * 15 + [1.0] * 25
    assert looks == [4, 4, 8, 8, 16, 16]


@pytest.mark.parametrize(
    ("group", "low"),
    [
        ({"lr": 0.0, "initial_lr": 1e-2}, LOWERED),
        ({"lr": 5e-3, "initial_lr": 1e-2}, 0.5),
        ({"lr": 1e-2, "initial_lr": 1e-2}, None),
        ({"lr": 1e-2, "initial_lr": 1e-4}, None),  # it rose
        ({"lr": 1e-2}, None),
        ({"lr": 0.0}, None),  # nobody knows how high it was
    ],
)
def test_how_far_a_rate_was_lowered(group: dict[str, float], low: float | None) -> None:
    assert lowered_to({"param_groups": [group]}) == low


def test_the_group_whose_rate_fell_farthest_counts() -> None:
    """A rate that rose to its end is no lower than its highest, which a state holds in single precision."""
    groups = [{"lr": 2e-3, "initial_lr": 1e-2}, {"lr": 5e-3, "initial_lr": 1e-2}]
    assert lowered_to({"param_groups": groups}) == pytest.approx(0.2)
    rates = torch.tensor([[0.05], [0.1]])
    assert float(rates[-1]) > 0.1
    rose = {"state": {}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    assert lowered_to(gu.TrainingState(2, 2, "SGD", rose, rates=rates)) is None
    assert lowered_to(gu.TrainingState(2, 2, "SGD", rose, rates=2 * rates)) == pytest.approx(0.5)  # control


def test_a_low_rate_falls_to_nothing_over_the_last_quarter_too() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    scheduler, found = fall(8, times=lambda: 0.1)(optimizer), []
    for _ in range(9):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert found == pytest.approx([0.1] * 7 + [0.05, 0.0])


def test_the_highest_rate_of_one_cycle_is_known() -> None:
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(1))], lr=1e-3)
    scheduler = OneCycleLR(optimizer, 1e-2, total_steps=10)
    for _ in range(9):
        optimizer.step()
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] < 1e-6
    assert lowered_to(optimizer) == LOWERED


def test_a_resumed_run_goes_on_at_its_rate() -> None:
    """The control is a new one: at the low rate, before its first look."""
    rate, resumed = LoweredRate(LOWERED, None), LoweredRate(LOWERED, None)
    rate.taken, rate.factor = 17, 1.0
    resumed.load_state_dict(rate.state_dict())
    assert (resumed.taken, resumed.factor) == (17, 1.0)


def test_a_few_retained_items_stand_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five of them, from the first to the last; the control reads all."""
    data = gu.node_split(club(), 0.2, 0.2)
    task, partition, model = gu.NodeClassification(), gu.ForgetNodes(count=2).resolve(data), gu.GCN(20, 16, 4)
    problem = Problem(model, model, partition, task)
    parts = task.parts(partition, "retain", model, ("forget", "retain"))
    every = Moved.retained(problem, parts).pieces[0]
    assert every.num_items > 5
    monkeypatch.setattr(f"{Moved.__module__}._MOST", 5)
    some = Moved.retained(problem, parts).pieces[0]
    assert some.num_items == 5
    assert [int(some.index[k]) for k in (0, -1)] == [int(every.index[k]) for k in (0, -1)]
