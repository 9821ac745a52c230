"""What an optimiser remembers is read where it says something, handed on whole, and refused where it is broken."""

import copy
import threading
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.functional import cross_entropy

import gunlearn as gu
from gunlearn.errors import InvalidInputError
from gunlearn.methods.any_task.second_look import TwoLosses, warn_of_a_rise
from gunlearn.tasks.sampling import BatchOptions
from gunlearn.training.another_loss import gradient_by_memory
from gunlearn.training.gradient_memory import gradient_memories
from gunlearn.training.mean_step import growth_by_memory, mean_steps
from gunlearn.training.settled import growth_rate
from gunlearn.training.training_state import Moment
from tests.methods.forgetting import club
from tests.training.test_unusual_loops import NODES, REQUEST, adam, loop

STEPS = 40


def unlearned(model: nn.Module, data: Any, **told: Any) -> tuple[gu.Result, str]:
    """Return the result of continued training, and all warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        told = {"method": "continued_training"} | told
        result = gu.unlearn(model, data, REQUEST, task=NODES, **told)
    return result, " ".join(str(one.message) for one in caught)


def test_a_wrapped_optimiser_goes_on_as_the_one_inside_and_does_not_change() -> None:
    """The control hands in the one inside."""
    data, model, optimizer, _ = loop()
    wrapped = Accelerator(cpu=True).prepare_optimizer(optimizer)
    before = copy.deepcopy(optimizer.state_dict())
    held = [id(p) for group in wrapped.param_groups for p in group["params"]]
    found, control = (unlearned(model, data, optimizer=given)[0] for given in (wrapped, optimizer))
    assert all(map(torch.equal, found.model.parameters(), control.model.parameters()))
    assert held == [id(p) for group in optimizer.param_groups for p in group["params"]]
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for number, entry in before["state"].items():
        assert all(torch.equal(value, after["state"][number][name]) for name, value in entry.items())


class Slow(torch.optim.Optimizer):
    """Takes a step of another optimiser, and then half of it."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        super().__init__([p for group in inner.param_groups for p in group["params"]], {"lr": 0.5})
        self.inner = inner

    def step(self, closure: Any = None) -> None:
        before = [p.detach().clone() for group in self.param_groups for p in group["params"]]
        self.inner.step()
        with torch.no_grad():
            for p, old in zip((p for group in self.param_groups for p in group["params"]), before, strict=True):
                p.lerp_(old, 0.5)


class Locked(torch.optim.SGD):
    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, lr=0.1, momentum=0.9)
        self.lock = threading.Lock()


class Closed(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        assert closure is not None or not getattr(self, "closed", False), "a closure is needed"
        return super().step()


def closed(model: nn.Module) -> torch.optim.Optimizer:
    return Closed(model.parameters(), lr=0.1, momentum=0.9)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda model: Slow(adam(model)), "got Slow, which wraps Adam"),
        (lambda model: Locked(model.parameters()), "got Locked with 'lock'"),
        (closed, "without a closure .got Closed: a closure is needed"),
    ],
)
def test_optimisers_that_nobody_can_go_on_with_are_refused_by_name(make: Any, words: str) -> None:
    """The control is a class of one's own without such a thing: `test_unusual_loops`."""
    data, model, optimizer, _ = loop(make=make)
    optimizer.closed = True
    with pytest.raises(InvalidInputError, match=words):
        unlearned(model, data, optimizer=optimizer)


def test_a_broken_memory_is_refused() -> None:
    """The control is the memory as it was."""
    data, model, optimizer, _ = loop()
    good = optimizer.state_dict()
    unlearned(model, data, optimizer=good)
    for change, words in (
        (
            lambda state: state["state"][0].pop("exp_avg_sq"),
            r"'exp_avg_sq', 'step'\] in the state of Adam \(got \['exp_avg'",
        ),
        (lambda state: state["state"][0]["exp_avg"].fill_(torch.nan), "NaN or infinity in 'exp_avg'"),
        (lambda state: state["param_groups"][0].update(amsgrad=True), "'max_exp_avg_sq', 'step'. in the state of Adam"),
        (lambda state: state["param_groups"][0].update(lr="0.1"), "Adam with lr='0.1'"),
        (lambda state: state["param_groups"][0].update(lr=float("nan")), "Adam with lr=nan"),
    ):
        broken = copy.deepcopy(good)
        change(broken)
        with pytest.raises(InvalidInputError, match=words):
            unlearned(model, data, optimizer=broken)


def test_means_are_those_of_the_last_gradients() -> None:
    """Constant gradients, whose mean they are; the control is the raw buffer, ten times as large or a fraction."""
    for make in (
        lambda p: torch.optim.SGD(p, lr=0.0, momentum=0.9),
        lambda p: torch.optim.SGD(p, lr=0.0, momentum=0.9, dampening=0.9),
        lambda p: torch.optim.Adam(p, lr=0.0),
        lambda p: torch.optim.AdamW(p, lr=0.0, amsgrad=True),
    ):
        weight, frozen = nn.Parameter(torch.ones(3, dtype=torch.double)), nn.Parameter(torch.ones(2))
        optimizer = make([weight, frozen])
        gradient = torch.tensor([1.0, -2.0, 0.5], dtype=torch.double)
        for _ in range(300):
            weight.grad, frozen.grad = gradient.clone(), torch.ones(2)
            optimizer.step()
        frozen.requires_grad_(False)
        (only,) = gradient_memories(optimizer)
        assert only.parameter is weight
        torch.testing.assert_close(only.mean, gradient, rtol=1e-6, atol=0)
        if only.square is not None:
            torch.testing.assert_close(only.square, gradient**2, rtol=1e-6, atol=0)
    assert list(gradient_memories(torch.optim.RMSprop([weight]))) == []


def test_the_first_steps_are_corrected_for_their_start_from_zero() -> None:
    """Without the correction a step of Adam's third is .27 of the rate, and growth with it."""
    weight = nn.Parameter(torch.ones(4, dtype=torch.double))
    optimizer = torch.optim.Adam([weight], lr=1e-3)
    for _ in range(3):
        weight.grad = torch.ones(4, dtype=torch.double)
        optimizer.step()
    ((_, step),) = mean_steps(optimizer)
    torch.testing.assert_close(step, torch.full_like(step, -1e-3), rtol=1e-5, atol=0)


def test_amsgrad_divides_by_the_largest_mean_of_squares() -> None:
    """Large gradients first; the control, without amsgrad, has forgotten them."""
    found = {}
    for amsgrad in (True, False):
        weight = nn.Parameter(torch.ones(4, dtype=torch.double))
        optimizer = torch.optim.Adam([weight], lr=1e-3, betas=(0.9, 0.9), amsgrad=amsgrad)
        for size in (10.0,) * 50 + (0.1,) * 100:
            weight.grad = torch.full((4,), size, dtype=torch.double)
            optimizer.step()
        ((_, found[amsgrad]),) = mean_steps(optimizer)
    assert float(found[False].abs().max()) > 50 * float(found[True].abs().max())


def drifting(cosine: float) -> tuple[torch.optim.Optimizer, nn.Module]:
    """An optimiser whose mean step has a cosine with the weights, and the model."""
    model = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0]]))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.weight.grad = torch.zeros(1, 2, dtype=torch.double)
    optimizer.step()
    along = torch.tensor([[-cosine, (1 - cosine**2) ** 0.5]], dtype=torch.double)
    state = optimizer.state[model.weight]
    state["step"].fill_(1000.0)
    state["exp_avg"].copy_(along)
    state["exp_avg_sq"].fill_(1 - 0.999**1000)
    return optimizer, model


@pytest.mark.parametrize(("cosine", "told"), [(0.08, False), (0.12, True), (-0.12, True), (-0.08, False)])
def test_a_step_at_right_angles_to_the_weights_says_nothing(cosine: float, told: bool) -> None:
    """Growth and shrinking alike: 1000 steps of 1e-3 along a weight of 1."""
    found = growth_by_memory(*drifting(cosine), 1000)
    assert (found is not None) is told
    assert found is None or found == pytest.approx(abs(cosine), rel=1e-3)


def test_what_no_longer_learns_and_what_is_rounded_tells_no_step() -> None:
    """The control learns in 32 bits."""
    _, model, optimizer, _ = loop()
    assert len(list(mean_steps(optimizer))) == 4
    next(model.parameters()).requires_grad_(False)
    assert len(list(mean_steps(optimizer))) == 3
    rounded = nn.Linear(2, 1).bfloat16()
    brief = torch.optim.Adam(rounded.parameters())
    rounded(torch.ones(1, 2, dtype=torch.bfloat16)).sum().backward()
    brief.step()
    assert list(mean_steps(brief)) == []


def test_the_growth_of_a_part_is_that_of_the_whole_training() -> None:
    """Forty of two hundred steps were noted; by their own number growth would be a fifth of it."""
    model = nn.Linear(3, 2).double()
    before = {name: value * 0.98 for name, value in model.state_dict().items()}
    part = gu.TrainingState(40, 200, "Adam", {}, moments=(Moment(30, before, {}),))
    noted = replace(part, steps=200, moments=(replace(part.moments[0], step=190),))
    assert growth_rate(part, model) == pytest.approx(growth_rate(noted, model))
    assert growth_rate(replace(part, total=40), model) == pytest.approx(growth_rate(part, model) / 5)


def test_links_and_batches_do_not_go_back() -> None:
    """The control, nodes that are read all at once, does; mean steps of links and batches are mostly noise."""
    data, model, optimizer, _ = loop(120)
    assert "of its mean steps back" in unlearned(model, data, optimizer=optimizer)[0].notes["start"]
    told = unlearned(model, data, optimizer=optimizer, batch_size=8)[0].notes
    assert "back" not in told["start"]
    graph = gu.link_split(club())
    torch.manual_seed(0)
    net = gu.GCN(20, 8, 8)
    known = gu.train(net, graph, "link_prediction", epochs=60, lr=1e-2)
    assert growth_by_memory(known.training.optimizer, known.model, 60) > 0.1
    result = gu.unlearn(
        known.model,
        graph,
        gu.ForgetEdges(count=2),
        "continued_training",
        "link_prediction",
        optimizer=known.training.optimizer,
        training_steps=60,
    )
    assert "back" not in result.notes["start"]


@pytest.mark.parametrize(
    "told", [{"teacher_share": 0.5, "budget": 0.3}, {"saliency": 0.5}, {"shrink": 0.9}, {"steps": 5}]
)
def test_runs_that_are_no_repetition_of_the_last_steps_do_not_go_back(told: dict[str, Any]) -> None:
    """The control is above: the same optimiser, and none of these."""
    data, model, optimizer, _ = loop(120)
    assert "back" not in unlearned(model, data, optimizer=optimizer, **told)[0].notes["start"]


def test_a_rate_that_fell_is_not_gone_back_with() -> None:
    """A little: growth is still above the line; the control keeps its rate."""

    def fallen(step: int, _: nn.Module, optimizer: Any) -> None:
        if step == 50:
            optimizer.param_groups[0]["initial_lr"] = optimizer.param_groups[0]["lr"]
            optimizer.param_groups[0]["lr"] *= 0.4

    for each, back in ((fallen, False), (lambda *_: None, True)):
        data, model, optimizer, _ = loop(60, lambda model: torch.optim.Adam(model.parameters(), lr=1e-2), each=each)
        assert (growth_by_memory(optimizer, model, 60) or 0) > 0.1
        start = unlearned(model, data, optimizer=optimizer, training_steps=60)[0].notes["start"]
        assert ("back" in start) is back


def test_it_goes_back_at_the_rate_of_the_training() -> None:
    """Steps forward hardly move at the rate asked for; by that rate, the ones back would not either."""
    data, model, optimizer, keeping = loop(120)
    steps, state = dict(mean_steps(optimizer)), keeping.state(model)
    state = replace(state, moments=(), growth=growth_rate(state, model))
    result = unlearned(model, data, training=state, lr=1e-12, budget=0.06)[0]
    assert result.notes["start"].endswith("of its mean steps back")
    number = int(result.notes["start"].split()[-6])
    for own, new in zip(model.parameters(), result.model.parameters(), strict=True):
        torch.testing.assert_close(new.detach(), own.detach() - number * steps[own], rtol=1e-4, atol=1e-6)


def test_a_checkpoint_beyond_the_budget_is_none() -> None:
    """The control lies within it, and a run goes on; with that one alone it goes back by mean steps, as without."""
    data, model, _, keeping = loop(120)
    state = keeping.state(model)
    far, near = (m for m in state.moments if m.step in (114, 96))
    for moments, back in (((near,), False), ((far,), True), ((), True)):
        told = replace(state, moments=moments)
        if moments == ():
            told = replace(told, growth=growth_rate(state, model))
        start = unlearned(model, data, training=told, budget=0.1)[0].notes["start"]
        assert ("of its mean steps back" in start) is back


@pytest.mark.parametrize("kind", ["sum", "smoothed"])
@pytest.mark.parametrize("name", ["Adam", "SGD"])
def test_sums_and_smoothing_are_told_by_what_is_remembered(kind: str, name: str) -> None:
    """The control is the task's own mean."""
    for loss, warned in ((kind, True), ("mean", False)):
        data = gu.node_split(club(), 0.2, 0.2)
        torch.manual_seed(0)
        model = gu.GCN(20, 8, 4)
        rate = 1e-2 if name == "Adam" else 0.3 / (20 if loss == "sum" else 1)
        decay = 0.0 if kind == "sum" else 1e-3  # beside which a sum's gradient is nearly at rest
        more = {} if name == "Adam" else {"momentum": 0.9}
        optimizer = getattr(torch.optim, name)(model.parameters(), lr=rate, weight_decay=decay, **more)
        options = {"sum": {"reduction": "sum"}, "smoothed": {"label_smoothing": 0.3}, "mean": {}}[loss]
        for _ in range(300):
            optimizer.zero_grad()
            out = model(data.x, data.edge_index)[data.train_mask]
            cross_entropy(out, data.y[data.train_mask], **options).backward()
            optimizer.step()
        words = unlearned(model, data, optimizer=optimizer, training_steps=300)[1]
        assert ("trained by another loss" in words) is warned


@pytest.mark.parametrize("momentum", [0.9, 0.99])
def test_dropout_under_sgd_is_no_other_loss(momentum: float) -> None:
    """The task's own loss, by twelve draws; what one pair of draws says would accuse some of them."""
    dropped = gu.GCN(20, 8, 4, dropout=0.5)
    make = lambda model: torch.optim.SGD(model.parameters(), lr=0.3, momentum=momentum, weight_decay=5e-3)  # noqa: E731
    data, model, optimizer, _ = loop(200, make, dropped)
    task = gu.tasks.as_task(NODES)
    for seed in range(12):
        found = gradient_by_memory(optimizer, model, data, task, BatchOptions(), seed)
        assert found is None or not found.is_another


def test_a_sum_whose_penalty_hides_what_it_costs_is_taken_back() -> None:
    """A penalty of a sum is as many times too heavy for the mean: it falls by more than the likelihood."""
    losses = TwoLosses(14.0, 2.3, 0.0, 13.9, (0.1, 0.8))
    assert losses.rose_far
    assert not losses.rose(0.0)
    assert not TwoLosses(14.0, 2.3, 0.0, 13.9, (0.1, 0.14)).rose_far  # control: by less than half
    assert not TwoLosses(1.0, 1.2, 0.0, 0.0, (1.0, 1.2), decoupled=True).rose(0.0)  # AdamW rests elsewhere
    assert TwoLosses(1.0, 1.2, 0.0, 0.0, (1.0, 1.2)).rose(0.0)


class Best(torch.optim.SGD):
    """Keeps the best loss so far, none yet."""

    def step(self, closure: Any = None) -> Any:
        found = super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["best"] = torch.tensor(float("inf"))
        return found


def test_an_infinity_of_one_s_own_is_no_broken_memory() -> None:
    """The control is a moment: `test_a_broken_memory_is_refused`."""
    data, model, optimizer, _ = loop(make=lambda model: Best(model.parameters(), lr=0.1, momentum=0.9))
    unlearned(model, data, optimizer=optimizer)


def test_a_training_of_few_steps_gets_no_teacher() -> None:
    """Six steps, of which a fifth is one; the control has enough for one."""
    for steps, taught in ((6, False), (60, True)):
        data, model, optimizer, _ = loop(steps, lambda model: torch.optim.Adam(model.parameters(), lr=5e-2))
        notes = unlearned(model, data, method="auto", optimizer=optimizer)[0].notes
        assert ("a teacher" in notes["why"]) is taught


def test_passes_are_counted_where_they_are_taken() -> None:
    """RMSprop remembers no mean gradient, so that nothing is held against one; Adam does."""
    for make, passes in ((adam, 4), (lambda model: torch.optim.RMSprop(model.parameters(), lr=1e-2), 2)):
        data, model, _, keeping = loop(100, make)
        notes = unlearned(model, data, method="replay", training=keeping.state(model), budget=0.2)[0].notes
        assert notes["passes"] == passes
        assert notes["price"] == pytest.approx(0.2 + passes / 100)


def test_replay_is_taken_back_where_it_raised_the_loss_by_half() -> None:
    """The training climbed down another loss; the control is a training by the task's own."""
    for other in (True, False):
        data = gu.node_split(club(), 0.2, 0.2)
        torch.manual_seed(0)
        model = gu.GCN(20, 8, 4)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
        keeping = gu.KeepState(steps=100)
        for _ in range(100):
            optimizer.zero_grad()
            out = model(data.x, data.edge_index)[data.train_mask]
            (cross_entropy(out, data.y[data.train_mask]) / (50 if other else 1)).backward()
            optimizer.step()
            keeping.step(model, optimizer)
            if other:  # what an own loop may do, and no optimiser tells: a rate that is too high for the task's loss
                optimizer.param_groups[0]["lr"] = 20.0
        state = keeping.state(model)
        result, words = unlearned(model, data, method="replay", training=state, budget=0.2)
        kept = all(map(torch.equal, model.parameters(), result.model.parameters()))
        assert kept is other
        assert ("were taken back" in words) is other
        assert result.notes["passes"] == 4
        if other:
            assert result.notes["training_loss"] > 1.5 * result.notes["training_loss_before"]


def test_a_rise_after_shrinking_counts_from_half_and_a_twentieth_nat_on() -> None:
    """Controls on either side of both lines."""
    for before, after, told in ((0.1, 0.14, False), (0.1, 0.16, True), (0.01, 0.05, False), (1.0, 1.4, False)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warn_of_a_rise(TwoLosses(before, after, 0.0, 0.0, (before, after)), 5)
        assert bool(caught) is told
