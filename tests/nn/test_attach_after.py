"""`after_layer`, and what all contexts share: nesting, exceptions, nothing left behind."""

import copy
import pickle
from contextlib import ExitStack

import pytest
import torch
from torch import nn
from torch_geometric.nn import GATConv, GCNConv

from gunlearn.errors import InvalidInputError, InvalidTypeError
from gunlearn.nn.attach.contexts import after_layer, removed_edges, scaled_messages
from tests.nn.test_attach_cases import CASES, DIM, EDGE_INDEX, EDITS, KEEP, NUM_NODES, REMOVED, build, nothing_left

MAIN = "gcn gcn-no-loops gcn-cached sage gat gatv2 gin graph transformer appnp-cached user native".split()
SCALE = torch.full((EDGE_INDEX.size(1),), 0.7, dtype=torch.float64)


class Operator(nn.Module):
    """A learnable operator, as GNNDelete's, on some rows only."""

    def __init__(self, rows=(0, 3)) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(DIM, DIM, dtype=torch.float64))
        self.rows = list(rows)

    def forward(self, out):
        mask = torch.zeros(len(out), 1, dtype=torch.bool)
        mask[self.rows] = True
        return torch.where(mask, out @ self.weight, out)


@pytest.mark.parametrize("case", MAIN)
def test_operator_follows_each_layer_and_learns(case):
    model, x, extra = build(case)
    first, second = Operator(), Operator([1])
    convs = model.convs
    hidden = first(convs[0](x, EDGE_INDEX, **extra)).tanh()
    want = second(convs[1](hidden, EDGE_INDEX, **extra))
    parameters = [*first.parameters(), *second.parameters(), *model.parameters()]
    wanted = torch.autograd.grad(want.square().sum(), parameters)
    plain = model(x, EDGE_INDEX, **extra)
    with nothing_left(model):
        with after_layer(model, {"convs.0": first, "convs.1": second}) as edited:
            assert {id(p) for p in edited.parameters()}.isdisjoint({id(first.weight), id(second.weight)})
            out = model(x, EDGE_INDEX, **extra)
        assert torch.equal(out, want)
        got = torch.autograd.grad(out.square().sum(), parameters)
        for one, other in zip(got, wanted, strict=True):
            assert torch.allclose(one, other, rtol=0, atol=1e-12)
        assert got[0].abs().max() > 0
        assert not torch.allclose(out, plain), "control: no operator must fail"
        with after_layer(model, first, layers=["convs.0"]):
            one_layer = model(x, EDGE_INDEX, **extra)
    assert torch.equal(one_layer, convs[1](hidden, EDGE_INDEX, **extra))


def test_one_operator_for_all_layers_and_a_layer_used_twice():
    model, x, extra = build("twice")
    operator = Operator()
    conv, weight = model.conv, extra["edge_weight"]
    want = operator(conv(operator(conv(x, EDGE_INDEX, weight)).tanh(), EDGE_INDEX, weight))
    with nothing_left(model), after_layer(model, operator):
        assert torch.equal(model(x, EDGE_INDEX, **extra), want)
    model, x, _ = build("gcn")
    with after_layer(model, nn.ModuleDict()):  # names nothing
        assert torch.equal(model(x, EDGE_INDEX), build("gcn")[0](x, EDGE_INDEX))


def test_tuples_keep_their_tail():
    conv, x = GATConv(DIM, DIM).double(), torch.randn(NUM_NODES, DIM, dtype=torch.float64)
    out, (edges, alpha) = conv(x, EDGE_INDEX, return_attention_weights=True)
    with after_layer(conv, torch.neg):
        negative, (edges_inside, alpha_inside) = conv(x, EDGE_INDEX, return_attention_weights=True)
    assert torch.equal(negative, -out)
    assert torch.equal(edges_inside, edges)
    assert torch.equal(alpha_inside, alpha)


@pytest.mark.parametrize(
    ("operator", "layers", "error", "match"),
    [
        (torch.neg, ["conv"], InvalidInputError, r"convs\.0.*\['conv'\]"),
        ({"nowhere": torch.neg}, None, InvalidInputError, "nowhere"),
        ({"convs.0": torch.neg}, ["convs.0"], InvalidInputError, "mapping"),
        (3, None, InvalidTypeError, "int"),
        ({"convs.0": None}, None, InvalidTypeError, "NoneType"),
        (lambda out: None, None, InvalidTypeError, "NoneType"),
    ],
)
def test_bad_operators(operator, layers, error, match):
    model, x, _ = build("gcn")
    with nothing_left(model), pytest.raises(error, match=match), after_layer(model, operator, layers):
        model(x, EDGE_INDEX)


def by_score(model):
    """Scales that are no leaf: torch refuses to deep-copy such tensors."""
    score = torch.zeros(NUM_NODES, dtype=torch.float64, requires_grad=True)
    return scaled_messages(model, EDGE_INDEX, torch.exp(-score[EDGE_INDEX].sum(0) - 0.3))


@pytest.mark.parametrize(
    "edit", [EDITS["removed"], EDITS["scaled"], by_score, lambda model: after_layer(model, Operator())]
)
@pytest.mark.parametrize("case", ["gcn-cached", "gat", "user", "native"])
def test_copies_and_pickles_taken_inside_keep_the_change(case, edit):
    model, x, extra = build(case)
    plain = model(x, EDGE_INDEX, **extra)
    with edit(model):
        twins = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
        want = model(x, EDGE_INDEX, **extra)
    for twin in twins:
        twin.load_state_dict(model.state_dict())
        torch.testing.assert_close(twin(x, EDGE_INDEX, **extra), want)
    assert not torch.allclose(plain, want)
    with torch.no_grad():  # the copy is its own model
        next(twins[0].parameters()).add_(1)
    torch.testing.assert_close(twins[1](x, EDGE_INDEX, **extra), want)
    assert not torch.allclose(twins[0](x, EDGE_INDEX, **extra), want)


@pytest.mark.parametrize("case", MAIN)
def test_contexts_nest_and_unwind_in_order(case):
    model, x, extra = build(case)
    plain = model(x, EDGE_INDEX, **extra)
    twin = copy.deepcopy(build(case)[0])  # empty caches
    rest = {name: value[KEEP] for name, value in extra.items()}
    with scaled_messages(twin, EDGE_INDEX, SCALE * SCALE), after_layer(twin, lambda h: -torch.exp(h)):
        want = twin(x, EDGE_INDEX[:, KEEP], **rest)
    with nothing_left(model):
        with scaled_messages(model, EDGE_INDEX, SCALE), nothing_left(model):
            scaled = model(x, EDGE_INDEX, **extra)
            with removed_edges(model, EDGE_INDEX[:, REMOVED[:2]]), after_layer(model, torch.exp), nothing_left(model):
                middle = model(x, EDGE_INDEX, **extra)
                with (
                    removed_edges(model, EDGE_INDEX[:, REMOVED[2:]]),
                    scaled_messages(model, EDGE_INDEX, SCALE),
                    after_layer(model, torch.neg),
                ):
                    assert torch.allclose(model(x, EDGE_INDEX, **extra), want, rtol=0, atol=1e-10)
                assert torch.equal(model(x, EDGE_INDEX, **extra), middle)
            assert torch.equal(model(x, EDGE_INDEX, **extra), scaled)
        assert torch.equal(model(x, EDGE_INDEX, **extra), plain)
    assert not torch.allclose(middle, want)


def everything(model):
    """All three attached at once."""
    stack = ExitStack()
    stack.enter_context(removed_edges(model, EDGE_INDEX[:, REMOVED]))
    stack.enter_context(scaled_messages(model, EDGE_INDEX, SCALE))
    stack.enter_context(after_layer(model, torch.neg))
    return stack


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_left_after_exceptions(case):
    model, x, extra = build(case)
    plain = model(x, EDGE_INDEX, **extra)

    def run_and_raise():
        model(x, EDGE_INDEX, **extra)
        raise ZeroDivisionError

    with nothing_left(model), pytest.raises(ZeroDivisionError), everything(model):
        run_and_raise()
    errors = (RuntimeError, IndexError, ValueError)
    with nothing_left(model), pytest.raises(errors), everything(model):
        model(x[:3], EDGE_INDEX, **extra)  # fails in the midst of propagate
    with nothing_left(model), everything(model):
        with pytest.raises(errors):
            model(x[:3], EDGE_INDEX, **extra)
        inside = model(x, EDGE_INDEX, **extra)  # still attached, still working
    with everything(model):
        assert torch.equal(inside, model(x, EDGE_INDEX, **extra))
    assert torch.equal(model(x, EDGE_INDEX, **extra), plain)


def test_an_exception_in_an_operator_or_message_restores():
    model, x, extra = build("transformer")

    def fail(_):
        raise ZeroDivisionError

    with nothing_left(model), pytest.raises(ZeroDivisionError), everything(model), after_layer(model, fail):
        model(x, EDGE_INDEX, **extra)
    broken = {"edge_attr": extra["edge_attr"][:, :1]}  # raises where attention weights are computed
    with nothing_left(model), pytest.raises(RuntimeError), everything(model):
        model(x, EDGE_INDEX, **broken)
    copy.deepcopy(model)


def test_contexts_closed_out_of_order():
    model, x, _ = build("gcn")
    first, second = after_layer(model, torch.exp), after_layer(model, torch.neg)
    with nothing_left(model):
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        out = model(x, EDGE_INDEX)
        second.__exit__(None, None, None)
    with after_layer(model, torch.neg):
        assert torch.equal(model(x, EDGE_INDEX), out)


def test_isolated_nodes_give_no_nan():
    for case in MAIN:
        model, x, extra = build(case)
        with everything(model), removed_edges(model, EDGE_INDEX):  # nothing but isolated nodes
            x.requires_grad_()
            out = model(x, EDGE_INDEX, **extra)
            assert torch.isfinite(out).all(), case
            for slope in torch.autograd.grad(out.sum(), [x, *model.parameters()], allow_unused=True):
                assert slope is None or torch.isfinite(slope).all(), case


def test_functional_call_inside():
    model, x, _ = build("sage")
    weights = {name: value * 2 for name, value in model.state_dict().items()}
    twin = copy.deepcopy(model)
    twin.load_state_dict(weights)
    with everything(twin):
        want = twin(x, EDGE_INDEX)
    with nothing_left(model), everything(model):
        assert torch.equal(torch.func.functional_call(model, weights, (x, EDGE_INDEX)), want)


def test_user_hooks_still_run():
    model, x, _ = build("gcn")
    seen = []
    model.convs[0].register_forward_hook(lambda _, args, out: seen.append((args[1].size(1), out)))
    with nothing_left(model), removed_edges(model, EDGE_INDEX[:, REMOVED]), after_layer(model, torch.exp):
        model(x, EDGE_INDEX)
    assert seen[0][0] == EDGE_INDEX.size(1)  # a caller's hook stands outside: the call as made, the output as given
    assert (seen[0][1] > 0).all()
    assert isinstance(model.convs[0], GCNConv)
