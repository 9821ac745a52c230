"""Where `exact` has no rule, or a rule fails, it notices: brute force with a warning, never a wrong number."""

import dataclasses

import pytest
import torch
import torch_geometric.nn as pyg
from torch import nn
from torch_geometric.utils import add_self_loops, to_undirected

import gunlearn as gu
from gunlearn.attribution import Exact, SlowEstimatorWarning
from gunlearn.attribution.removal import layer_rules
from gunlearn.attribution.removal.balls import Balls
from gunlearn.attribution.removal.recording import Recording, record
from gunlearn.errors import UnsupportedModelError
from tests.attribution.removal import (
    HIDDEN,
    NODES,
    OUT,
    SIZE,
    Residual,
    Stack,
    both,
    built,
    directed,
    off,
    randomised,
    tangled,
)
from tests.attribution.second_order import problem


class Doubled(pyg.GCNConv):
    def message(self, x_j, edge_weight):
        return 2 * super().message(x_j, edge_weight).tanh()


class Between(nn.Module):
    """Two convolutions with something of the user's between them."""

    def __init__(self, between, graph=lambda edge_index: edge_index):
        super().__init__()
        self.first, self.second = pyg.GCNConv(SIZE, HIDDEN), pyg.GCNConv(HIDDEN, OUT)
        self.between, self.graph = between, graph

    def forward(self, x, edge_index):
        edge_index = self.graph(edge_index)
        return self.second(self.between(self.first(x, edge_index)), edge_index)


class Position(nn.Module):
    """A learned row for each node: an output depends on which node it is."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(NODES, HIDDEN))

    def forward(self, h):
        return h + self.table[: h.size(0)]


class Weighs(nn.Module):
    """Weights or attributes of edges that the model computes from the graph."""

    def __init__(self, conv, weigh):
        super().__init__()
        self.conv, self.weigh = conv, weigh

    def forward(self, x, edge_index):
        return self.conv(x, edge_index, self.weigh(edge_index).to(x.dtype))


def hooked():
    conv = pyg.GCNConv(SIZE, OUT)
    conv.register_message_forward_hook(double)
    return Stack(conv)


def double(module, inputs, output):
    return 2 * output


NO_RULE = {
    "cheb": lambda: Stack(pyg.ChebConv(SIZE, HIDDEN, 3), pyg.GCNConv(HIDDEN, OUT)),
    "max": lambda: Stack(pyg.SAGEConv(SIZE, OUT, aggr="max")),
    "project": lambda: Stack(pyg.SAGEConv(SIZE, OUT, project=True)),
    "subclass": lambda: Stack(Doubled(SIZE, OUT)),
    "message hook": hooked,
    "flow": lambda: Stack(pyg.SAGEConv(SIZE, OUT, flow="target_to_source")),
    "attributes": lambda: Weighs(pyg.GATConv(SIZE, OUT, edge_dim=1), lambda i: (i[0] - i[1]).abs().view(-1, 1)),
    "other weights": lambda: Weighs(pyg.GCNConv(SIZE, OUT), lambda i: 1 + i[0] % 3),
    "graph norm": lambda: Between(pyg.GraphNorm(HIDDEN)),
    "pair norm": lambda: Between(pyg.PairNorm()),
    "virtual node": lambda: Between(lambda h: (h + h.mean(dim=0)).relu()),
    "largest": lambda: Between(lambda h: h / h.abs().max()),
    "position": lambda: Between(Position()),
    "half the graph": lambda: Between(torch.tanh, lambda index: index[:, ::2]),
    "both ways": lambda: Between(torch.tanh, lambda index: to_undirected(torch.cat([index, index.flip(0)], dim=1))),
    "more loops": lambda: Between(torch.tanh, lambda index: add_self_loops(index, num_nodes=NODES)[0]),
}


@pytest.mark.parametrize(
    ("name", "of"), [(name, "edges") for name in NO_RULE] + [("max", "nodes"), ("virtual node", "features")]
)
def test_brute_force_where_there_is_no_rule(name, of):
    model, data = randomised(NO_RULE[name]()), directed()
    with pytest.warns(SlowEstimatorWarning, match="one forward pass per item"):
        result = gu.attribution.estimate(model, data, of=of, target="embeddings")
    assert result.notes["path"].startswith("brute force (")
    truth = gu.influence(model, data, of=of, target="embeddings", estimator="brute")
    assert result.scores.equal(truth)


def forward_hooked():
    model = Stack(pyg.GCNConv(SIZE, OUT))
    model.convs[0].register_forward_hook(double)
    return model


def filled():
    model = Stack(pyg.GCNConv(SIZE, HIDDEN, cached=True), pyg.GCNConv(HIDDEN, OUT, cached=True)).double()
    model(directed().x, directed().edge_index)
    return model


@pytest.mark.filterwarnings("ignore::gunlearn.attribution.SlowEstimatorWarning")
@pytest.mark.parametrize("make", [forward_hooked, filled])
def test_right_numbers_whatever_the_path(make):
    model, data = randomised(make()), directed()
    for of in ("edges", "nodes"):
        assert both(model, data, of=of, target="embeddings")[0] < 1e-9


def test_caches_do_not_hide_the_edit():
    """The control of the test above: brute force itself must see past caches."""
    data = directed()
    model, plain = randomised(filled()), randomised(Stack(pyg.GCNConv(SIZE, HIDDEN), pyg.GCNConv(HIDDEN, OUT)))
    assert gu.influence(model, data, estimator="brute").equal(gu.influence(plain, data, estimator="brute"))


def no_degree(patch):
    patch.setattr(layer_rules.GCNRule, "degree_in_sender", False)


def no_added_loop(patch):
    patch.setattr(layer_rules.GCNRule, "loop_weights", layer_rules.LinearRule.loop_weights)


def removed_stays(patch, rule=layer_rules.LinearRule):
    rows = rule.rows

    def broken(self, balls, h, num_given, num_rows):
        none = balls.removed[0][:0]
        return rows(self, dataclasses.replace(balls, removed=(none, none, none)), h, num_given, num_rows)

    patch.setattr(rule, "rows", broken)


def no_spread(patch):
    patch.setattr(Balls, "spread", lambda self, delta, weight, num_rows: delta.new_zeros(num_rows, delta.size(1)))


def loop_of_before(patch):
    """A changed node's own message is the old one."""
    record = layer_rules.LinearRule.record

    def broken(self, x):
        out = record(self, x)
        self.loop = torch.zeros_like(self.loop)
        return out

    patch.setattr(layer_rules.LinearRule, "record", broken)


def attention_keeps_removed(patch):
    removed_stays(patch, layer_rules.GATRule)


BROKEN = [
    (no_degree, "gcn"),
    (no_added_loop, "gcn"),
    (removed_stays, "gcn"),
    (removed_stays, "sage sum"),
    (no_spread, "gcn"),
    (no_spread, "gin"),
    (loop_of_before, "gcn"),
    (attention_keeps_removed, "gat heads"),
]


@pytest.mark.parametrize(("break_it", "name"), BROKEN)
def test_the_guard_notices_a_broken_rule(break_it, name, monkeypatch):
    break_it(monkeypatch)
    data = tangled()
    with pytest.warns(SlowEstimatorWarning):
        found = gu.influence(built(name), data, target="embeddings")
    assert found.equal(gu.influence(built(name), data, target="embeddings", estimator="brute"))


@pytest.mark.parametrize(("break_it", "name"), [b for b in BROKEN if b[0] not in (no_degree, no_added_loop)])
def test_without_the_guard_the_comparison_sees_it(break_it, name, monkeypatch):
    """So the agreement with brute force in `test_exact` can fail."""
    break_it(monkeypatch)
    monkeypatch.setattr(Recording, "agrees", lambda *args: True)
    error, path = both(built(name), tangled(), target="embeddings")
    assert path == "changed rows"
    assert error > 1e-3


def test_items_that_touch_little_do_not_stand_for_those_that_touch_much():
    """First, middle and last item touch a node without edges: what is right for them need not be for the others."""
    data = tangled()
    data.edge_index = data.edge_index.clamp(min=1, max=NODES - 2)  # merged into others
    data.edge_index = data.edge_index[:, (data.edge_index != 9).all(dim=0)]
    items, model = torch.tensor([0, 3, 9, 11, NODES - 1]), randomised(Residual(pyg.SAGEConv))
    result = gu.attribution.estimate(model, data, of="nodes", items=items, target="embeddings")
    assert result.notes["path"] == "changed rows"
    truth = gu.influence(model, data, of="nodes", items=items, target="embeddings", estimator="brute")
    assert truth[[0, 2, 4]].tolist() == [0, 0, 0]
    assert off(result.scores, truth) < 1e-9


def removals(model):
    return problem(model, tangled(), "link_prediction", target="embeddings")


def attributes(model):
    return {name: {k: id(v) for k, v in vars(module).items()} for name, module in model.named_modules()}


@pytest.mark.parametrize("name", ["gcn", "gat heads", "gin", "skips"])
def test_no_override_is_left_on_the_copy(name):
    given = removals(built(name))
    before = attributes(given.model)
    Exact().scores(given)
    assert attributes(given.model) == before


class Brittle(Stack):
    calls, at = 0, 0

    def forward(self, x, edge_index):
        h = self.convs[0](x, edge_index).relu()
        Brittle.calls += 1
        if Brittle.calls == Brittle.at:
            raise KeyboardInterrupt  # nothing catches it
        return self.convs[1](h, edge_index)


@pytest.mark.parametrize("name", ["gcn", "gin"])
def test_no_override_is_left_after_an_exception(name, monkeypatch):
    """At any pass: the plain one, the recording, the probes, the changed rows."""
    model = Brittle(*built(name).convs)
    reached = []
    for at in range(1, 9):
        monkeypatch.setattr(Brittle, "at", 0)
        given = removals(model)  # which tries the model
        monkeypatch.setattr(Brittle, "calls", 0)
        monkeypatch.setattr(Brittle, "at", at)
        before = attributes(given.model)
        try:
            Exact(rows=1 << 8).scores(given)
        except KeyboardInterrupt:
            reached.append(at)
        assert attributes(given.model) == before
    assert reached[:6] == [1, 2, 3, 4, 5, 6]


def test_an_exception_within_the_network_of_gin():
    class Breaks(nn.Module):
        armed = False

        def forward(self, x):
            if Breaks.armed:
                raise KeyboardInterrupt
            return x

    model = randomised(Stack(pyg.GINConv(nn.Sequential(nn.Linear(SIZE, OUT), Breaks()))))
    given = removals(model)
    made, _ = record(given)
    before = attributes(given.model)
    Breaks.armed = True
    with pytest.raises(KeyboardInterrupt):
        list(made.changes(given.items))
    assert attributes(given.model) == before


@pytest.mark.parametrize("estimator", ["exact", "brute"])
@pytest.mark.filterwarnings("ignore::gunlearn.attribution.SlowEstimatorWarning")
def test_a_random_model_is_refused(estimator):
    """Dropout that evaluation mode does not switch off."""
    model = randomised(Between(lambda h: nn.functional.dropout(h, 0.5)))
    with pytest.raises(UnsupportedModelError, match="the same twice"):
        gu.influence(model, tangled(), estimator=estimator)
