"""The contexts under `torch.compile`, in either order; the eager edited model is the oracle.

Control: forward hooks registered after the first compiled call of a model without graph breaks are ignored.
"""

import copy

import pytest
import torch

from gunlearn.nn.attach.contexts import after_layer, removed_edges, scaled_messages
from tests.nn.test_attach_cases import EDGE_INDEX, REMOVED, SCALE, build, nothing_left
from tests.nn.test_attach_cases import EDITS as FIRST

EDITS = FIRST | {
    "removed-other": lambda model: removed_edges(model, EDGE_INDEX[:, 7:]),
    "scaled-other": lambda model: scaled_messages(model, EDGE_INDEX[:, 3:], SCALE[3:].flip(0)),
}


@pytest.fixture(autouse=True)
def _fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def close(left, right):
    return torch.allclose(left, right, rtol=0, atol=1e-12)


def eager(case):
    """Plain and edited outputs of a model that is never compiled."""
    model, x, extra = build(case)
    want = {"plain": model(x, EDGE_INDEX, **extra)}
    for name, edit in EDITS.items():
        with edit(model):
            want[name] = model(x, EDGE_INDEX, **extra)
        assert not close(want[name], want["plain"])
    return want


def some_slow(quick, *slow):
    """Cases of which one runs by default: tracing takes seconds."""
    return [quick, *(pytest.param(case, marks=pytest.mark.slow) for case in slow)]


@pytest.mark.parametrize("case", some_slow("sage", "gin", "gcn", "gat", "transformer"))
def test_compile_and_run_then_attach(case):
    want = eager(case)
    model, x, extra = build(case)
    compiled = torch.compile(model, backend="eager")
    assert close(compiled(x, EDGE_INDEX, **extra), want["plain"])
    for name, edit in EDITS.items():
        with nothing_left(model):
            with edit(compiled):
                assert close(compiled(x, EDGE_INDEX, **extra), want[name]), name
                assert close(model(x, EDGE_INDEX, **extra), want[name]), name
            assert close(compiled(x, EDGE_INDEX, **extra), want["plain"]), name


@pytest.mark.parametrize("edit", some_slow(*FIRST))
@pytest.mark.parametrize("case", some_slow("sage", "gcn", "user"))
def test_attach_then_compile(case, edit):
    want = eager(case)
    model, x, extra = build(case)
    with EDITS[edit](model):
        compiled = torch.compile(model, backend="eager")
        assert close(compiled(x, EDGE_INDEX, **extra), want[edit])
    assert close(compiled(x, EDGE_INDEX, **extra), want["plain"])
    with EDITS[edit](model):
        assert close(compiled(x, EDGE_INDEX, **extra), want[edit])


@pytest.mark.slow
def test_other_ways_to_compile():
    want = eager("sage")
    model, x, _ = build("sage")
    function = torch.compile(lambda features: model(features, EDGE_INDEX), backend="eager")
    in_place, parts = copy.deepcopy(model), copy.deepcopy(model)
    in_place.compile(backend="eager")
    parts.convs[0] = torch.compile(parts.convs[0], backend="eager")
    for target, call in ((model, function), *((m, lambda x, m=m: m(x, EDGE_INDEX)) for m in (in_place, parts))):
        assert close(call(x), want["plain"])
        for name in FIRST:
            with nothing_left(target), EDITS[name](target):
                assert close(call(x), want[name]), name
        assert close(call(x), want["plain"])


@pytest.mark.slow
def test_nesting_and_gradients():
    model, x, _ = build("sage")
    scale = SCALE.clone().requires_grad_()

    def outputs(call):
        with scaled_messages(model, EDGE_INDEX, scale):
            one = call(x, EDGE_INDEX)
            with removed_edges(model, EDGE_INDEX[:, REMOVED]):
                two = call(x, EDGE_INDEX)
                with after_layer(model, torch.exp):
                    three = call(x, EDGE_INDEX)
            again = call(x, EDGE_INDEX)
        out = torch.stack([one, two, three, again])
        return [out, *torch.autograd.grad(out.square().sum(), [scale, *model.parameters()])]

    want = outputs(model)
    compiled = torch.compile(model, backend="eager")
    compiled(x, EDGE_INDEX)
    for got, expected in zip(outputs(compiled), want, strict=True):
        assert torch.allclose(got, expected, rtol=0, atol=1e-9)


def test_scaling_compiles_without_a_graph_break_and_many_edits_without_recompiling():
    model, x, _ = build("gin")
    simple = EDGE_INDEX[:, 1:].clone()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for step in range(4):
        scale = SCALE[1:] * (step + 1)
        with scaled_messages(model, simple, scale):
            want = model(x, simple)
            if step < 2:
                assert close(compiled(x, simple), want)
            else:
                with torch._dynamo.config.patch(error_on_recompile=True):
                    assert close(compiled(x, simple), want)


def test_hooks_after_compilation_are_ignored_by_torch():
    """Why instance overrides: should this fail one day, hooks have become as good."""
    model, x, _ = build("sage")
    compiled = torch.compile(model, backend="eager")
    plain = compiled(x, EDGE_INDEX)
    for conv in model.convs:
        conv.register_forward_hook(lambda _module, _args, out: out.exp())
    assert not close(model(x, EDGE_INDEX), plain)
    assert close(compiled(x, EDGE_INDEX), plain)
