"""Optimisers that go on: every class of torch.optim against itself, and what is refused."""

import copy
import re
from typing import Any

import pytest
import torch
from torch import nn

import gunlearn as gu
from gunlearn.errors import InvalidInputError
from gunlearn.methods import METHODS
from gunlearn.methods.published import build_method
from gunlearn.tasks import as_task
from gunlearn.training.optimizers import make_optimizer
from gunlearn.training.resumed_optimizer import resumed_optimizer
from gunlearn.training.training_state import TrainingState

CLASSES = [
    cls
    for name, cls in sorted(vars(torch.optim).items())
    if isinstance(cls, type)
    and issubclass(cls, torch.optim.Optimizer)
    and name not in ("Optimizer", "SparseAdam", "Muon")
]


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def step(net: nn.Module, optimizer: Any) -> None:
    x = torch.arange(15.0).view(5, 3) / 10

    def closure() -> Any:
        optimizer.zero_grad()
        loss = (net(x) - 1).square().mean()
        loss.backward()
        return loss

    closure()
    optimizer.step(closure) if isinstance(optimizer, torch.optim.LBFGS) else optimizer.step()


def trained(cls: type, net: nn.Module, **options: Any) -> Any:
    optimizer = cls(net.parameters(), lr=0.05, **options)
    for _ in range(5):
        step(net, optimizer)
    return optimizer


@pytest.mark.parametrize("form", ["object", "state_dict", "training state"])
@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_the_next_step_is_the_one_that_would_have_come(cls: type, form: str) -> None:
    net = model()
    optimizer = trained(cls, net)
    own = copy.deepcopy(net)
    state = copy.deepcopy(optimizer.state_dict())
    source = {"object": optimizer, "state_dict": state, "training state": TrainingState(5, 5, cls.__name__, state)}
    resumed = make_optimizer(source[form], list(own.parameters()), 1.0)
    new = copy.deepcopy(net)
    step(new, cls(new.parameters(), lr=0.05))  # control: one that starts anew
    step(own, resumed)
    step(net, optimizer)
    for p, q in zip(net.parameters(), own.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)
    if cls is not torch.optim.SGD:  # whose state is empty without momentum
        far = max(float((p - q).abs().max()) for p, q in zip(net.parameters(), new.parameters(), strict=True))
        assert far > 1e-9
    assert type(resumed) is cls


def test_groups_and_their_settings_are_found_by_value_whatever_their_order() -> None:
    net = model()
    weights, biases = [p for p in net.parameters() if p.dim() > 1], [p for p in net.parameters() if p.dim() == 1]
    optimizer = torch.optim.SGD([{"params": biases, "lr": 0.5}, {"params": weights}], lr=0.1, momentum=0.9)
    for _ in range(3):
        step(net, optimizer)
    by_value, by_shape = copy.deepcopy(net), copy.deepcopy(net)
    step(by_value, make_optimizer(optimizer, list(by_value.parameters()), 1.0))
    step(by_shape, make_optimizer(optimizer.state_dict(), list(by_shape.parameters()), 1.0))  # as groups differ in it
    step(net, optimizer)
    for own in (by_value, by_shape):
        for p, q in zip(net.parameters(), own.parameters(), strict=True):
            torch.testing.assert_close(p, q)
    square = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    alike = torch.optim.SGD([{"params": square[1].parameters()}, {"params": square[0].parameters()}], 0.1, momentum=0.9)
    square(torch.ones(1, 2)).sum().backward()
    alike.step()
    with pytest.raises(InvalidInputError, match=r"2 groups, and nothing tells.*with the same groups, load"):
        make_optimizer(alike.state_dict(), list(square.parameters()), 1.0)


@pytest.mark.parametrize("form", ["parameters", "groups"])
def test_a_state_in_another_order_is_refused_by_that_word(form: str) -> None:
    """Controls: the optimiser itself goes on in that order; a state of other shapes names none."""
    net, other = model(), nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4))
    groups = [{"params": list(net[2].parameters())}, {"params": list(net[0].parameters())}]
    turned = torch.optim.Adam(list(net.parameters())[::-1] if form == "parameters" else groups, lr=0.05)
    step(net, turned)
    state = turned.state_dict()
    source = TrainingState(1, 1, "Adam", state) if form == "groups" else state  # a bare one's groups differ in shapes
    own = copy.deepcopy(net)
    with pytest.raises(InvalidInputError, match="the order of the groups, or of the parameters in them, is another"):
        resumed_optimizer(source, list(own.parameters()))
    resumed = resumed_optimizer(turned, list(own.parameters()))
    for optimizer, of in ((turned, net), (resumed, own)):
        step(of, optimizer)
    for p, q in zip(net.parameters(), own.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    with pytest.raises(InvalidInputError, match="of this model's parameters") as refused:
        resumed_optimizer(trained(torch.optim.Adam, other).state_dict(), list(own.parameters()))
    assert "order" not in str(refused.value)


def test_names_in_the_state_tell_parameters_apart() -> None:
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    named = dict(net.named_parameters())
    order = list(reversed(named))
    optimizer = torch.optim.SGD([(name, named[name]) for name in order], lr=0.1, momentum=0.9)
    loss = lambda n: (n[1](n[0](torch.ones(1, 2))) - 3).square().sum()  # noqa: E731
    for _ in range(3):
        optimizer.zero_grad()
        loss(net).backward()
        optimizer.step()
    own = copy.deepcopy(net)
    resumed = make_optimizer(optimizer.state_dict(), list(own.parameters()), 1.0, names=list(named))
    for one, other in ((net, optimizer), (own, resumed)):
        other.zero_grad()
        loss(one).backward()
        other.step()
    for p, q in zip(net.parameters(), own.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_the_callers_optimiser_does_not_change() -> None:
    net = model()
    optimizer = trained(torch.optim.Adam, net)
    before, weights = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(net.state_dict())
    own = copy.deepcopy(net)
    resumed = make_optimizer(optimizer, list(own.parameters()), 1.0)
    resumed.param_groups[0]["lr"] = 3.0
    step(own, resumed)
    assert all(torch.equal(weights[name], value) for name, value in net.state_dict().items())
    after = optimizer.state_dict()
    assert before["param_groups"] == after["param_groups"]
    for index, entries in before["state"].items():
        assert all(torch.equal(value, after["state"][index][name]) for name, value in entries.items())


class Signs(torch.optim.Optimizer):
    """An optimiser of a user's own, with or without state."""

    def __init__(self, parameters: Any, counts: bool) -> None:
        super().__init__(parameters, {"lr": 0.1, "counts": counts})

    def step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.data.add_(p.grad.sign(), alpha=-group["lr"])
                if group["counts"]:
                    self.state[p]["taken"] = self.state[p].get("taken", 0) + 1


def new(cls: type, **options: Any) -> Any:
    return cls(model().parameters(), lr=0.1, **options)


NEW: dict[str, Any] = {cls.__name__: lambda cls=cls: new(cls) for cls in CLASSES if cls is not torch.optim.SGD}
NEW |= {
    "a state_dict": lambda: new(torch.optim.AdamW).state_dict(),
    "SGD with momentum": lambda: new(torch.optim.SGD, momentum=0.9).state_dict(),
    "a training state": lambda: TrainingState(5, 5, "Adam", new(torch.optim.Adam).state_dict()),
}


@pytest.mark.parametrize("what", NEW)
def test_an_optimiser_that_never_stepped_is_no_state_of_a_training(what: str) -> None:
    with pytest.raises(InvalidInputError, match=r"taken no step.*method 'continued_training'.*optimizer=\"adam\", lr="):
        resumed_optimizer(NEW[what](), list(model().parameters()))
    assert make_optimizer(NEW[what](), list(model().parameters()), 1.0)  # with which one may train


def of_two_parts() -> tuple[nn.Module, list[Any]]:
    """A model of which each layer had an optimiser of its own, and those."""
    net = model()
    each = [torch.optim.Adam(net[0].parameters(), lr=0.05), torch.optim.Adam(net[2].parameters(), lr=0.01)]
    for _ in range(5):
        each[0].zero_grad()
        step(net, each[1])
        each[0].step()
    return net, each


class Wrapped:
    """As Lightning hands optimisers out."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer


@pytest.mark.parametrize("form", [tuple, list, lambda each: dict(enumerate(each)), lambda each: [*map(Wrapped, each)]])
def test_several_optimisers_are_refused_with_code_that_joins_them(form: Any) -> None:
    net, each = of_two_parts()
    for take in (
        lambda source: make_optimizer(source, list(net.parameters()), 1.0),
        lambda source: METHODS.build("auto", {"optimizer": source}),
        lambda source: build_method("continued_training", {"optimizer": source}, as_task("node_classification")),
        lambda source: gu.KeepState(steps=5).step(net, source),
    ):
        with pytest.raises(InvalidInputError, match=r"got 2: Adam, Adam\); join them") as refused:
            take(form(each))
        assert len(str(refused.value)) < 400  # no state, no settings
    code = re.search(r"joint = (.*), and (joint.state.update\(.*?\)); or", str(refused.value))
    assert code is not None
    names: dict[str, Any] = {"torch": torch, "a": each[0], "b": each[1]}
    joint = names["joint"] = eval(code[1], names)
    eval(code[2], names)
    own = copy.deepcopy(net)
    resumed = make_optimizer(joint, list(own.parameters()), 1.0)
    each[0].zero_grad()
    step(net, each[1])
    each[0].step()
    step(own, resumed)
    assert all(map(torch.equal, net.state_dict().values(), own.state_dict().values()))


def test_the_code_joins_as_many_as_there_are() -> None:
    each = [torch.optim.Adam([nn.Parameter(torch.ones(1))]) for _ in range(3)]
    with pytest.raises(InvalidInputError, match="got 3: Adam, Adam, Adam") as refused:
        make_optimizer(each, [], 1.0)
    code = re.search(r"joint = (.*), and joint", str(refused.value))
    assert code is not None
    joint = eval(code[1], {"torch": torch, **dict(zip("abc", each, strict=True))})
    assert [group["params"] for group in joint.param_groups] == [one.param_groups[0]["params"] for one in each]


def test_several_optimisers_that_cannot_be_joined_are_not_said_to_be() -> None:
    net, each = of_two_parts()
    others = [each[0], torch.optim.SGD(net[2].parameters(), lr=0.1)]
    for source in (others, [one.state_dict() for one in each]):
        with pytest.raises(InvalidInputError, match=r"one optimiser of all.*estimate its state") as refused:
            make_optimizer(source, list(net.parameters()), 1.0)
        assert "join them" not in str(refused.value)


def test_an_optimiser_of_a_predictor_too_is_told_where_that_belongs() -> None:
    net, beside = model(), nn.Linear(2, 5)
    both = torch.optim.Adam([*net.parameters(), *beside.parameters()], lr=0.01)
    beside(net(torch.ones(4, 3))).sum().backward()
    both.step()
    for source in (both, both.state_dict()):
        with pytest.raises(InvalidInputError, match=r"a predictor, belongs into the model \(torch.nn.ModuleDict\)"):
            resumed_optimizer(source, list(net.parameters()))
    whole = nn.ModuleDict({"encoder": net, "predictor": beside})  # the control, and what is advised
    assert resumed_optimizer(both, list(whole.parameters())).state


def test_an_optimiser_without_state_may_go_on() -> None:
    initial = TrainingState(0, 5, "Adam", new(torch.optim.Adam).state_dict())  # the first checkpoint of a training
    for source in (
        new(torch.optim.SGD),
        new(torch.optim.SGD).state_dict(),
        Signs(model().parameters(), False),
        initial,
    ):
        assert not resumed_optimizer(source, list(model().parameters())).state


def _other_values() -> Any:
    other = model()
    nn.init.ones_(other[0].weight)
    return trained(torch.optim.Adam, other)


REFUSED = {
    "of other values": (_other_values, "parameters as they are now"),
    "of a part": (lambda: torch.optim.Adam(list(model().parameters())[:2], lr=0.1), "all 4 trained parameters"),
    "of another size": (
        lambda: trained(torch.optim.Adam, nn.Sequential(nn.Linear(3, 7), nn.Linear(7, 2))).state_dict(),
        r"'exp_avg' of shape \(7, 3\)",
    ),
    "of another number": (lambda: torch.optim.Adam(nn.Linear(3, 2).parameters(), lr=0.1).state_dict(), "4 trained.*2"),
    "of no class": (
        lambda: {"state": {}, "param_groups": [{"params": [0, 1, 2, 3], "lr": 0.1, "speed": 3}]},
        "one class of torch.optim",
    ),
    "of another library": (lambda: TrainingState(1, 1, "Lion", model_state()), "torch.optim.*Lion"),
    "no state at all": (lambda: {"weights": 1}, "state_dict"),
}


def model_state() -> dict[str, Any]:
    return torch.optim.Adam(model().parameters(), lr=0.1).state_dict()


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_go_on_is_refused(what: str) -> None:
    make, match = REFUSED[what]
    with pytest.raises(InvalidInputError, match=match):
        make_optimizer(make(), list(model().parameters()), 0.1)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("form", ["object", "state_dict", "training state"])
def test_an_optimiser_of_all_parameters_goes_on_with_those_that_learn(form: str, after: bool) -> None:
    """Frozen before the training or after it; a bare state_dict does not tell the latter, and is refused."""
    net = model()
    net[2].weight.requires_grad_(after)
    optimizer = torch.optim.Adam([{"params": net[2].parameters(), "lr": 0.01}, {"params": net[0].parameters()}], 0.05)
    for _ in range(5):
        step(net, optimizer)
    net[2].weight.requires_grad_(False)
    net[2].weight.grad = None
    own = copy.deepcopy(net)
    names, learning = ["0.weight", "0.bias", "2.bias"], [p for p in own.parameters() if p.requires_grad]
    order = ("2.weight", "2.bias", "0.weight", "0.bias")
    state = TrainingState(5, 5, "Adam", copy.deepcopy(optimizer.state_dict()), names=order)
    source = {"object": optimizer, "state_dict": optimizer.state_dict(), "training state": state}[form]
    if after and form == "state_dict":
        with pytest.raises(InvalidInputError, match=r"3 trained parameters \(got one of 4"):
            resumed_optimizer(source, learning, names)
        return
    resumed = resumed_optimizer(source, learning, names)
    for one, other in ((net, optimizer), (own, resumed)):
        step(one, other)
    for p, q in zip(net.parameters(), own.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)
