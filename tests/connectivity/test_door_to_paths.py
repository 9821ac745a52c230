"""`connect` on modules and results, the dial, stored paths, and what they refuse."""

import copy
from pathlib import Path

import pytest
import torch
from torch_geometric.nn.models import GCN as PyGCN

import gunlearn as gu
from gunlearn.connectivity import BezierPath, Dial, LinearPath, PartLosses, WeightPath, connect, load_path, save_path
from gunlearn.errors import CheckpointError, InvalidInputError, InvalidTypeError
from gunlearn.losses import NLL, KLToReference
from tests.connectivity.cases import gnn, graph, items, perceptron, trained

TASK = gu.ImageClassification()


@pytest.fixture(scope="module")
def results():
    """Two results of one request, one of another, and models retrained without what it names."""
    data = items(number=60)
    base = trained(perceptron(), data)
    request, other = gu.ForgetItems(label=1), gu.ForgetItems(label=2)
    options = {"epochs": 25, "lr": 0.03}
    one, two = (gu.unlearn(base, data, request, m, TASK, **options) for m in ("graddiff", "npo"))
    retrained = [trained(perceptron(seed), one.partition.retain_data, seed) for seed in (5, 6)]
    return one, two, gu.unlearn(base, data, other, "graddiff", TASK, **options), retrained


def same(a: WeightPath, b: WeightPath, t: float) -> bool:
    one, two = a.weights(t), b.weights(t)
    return all(torch.equal(one[n], two[n]) for n in one)


def test_results_know_their_problem(results) -> None:
    one, two, _, retrained = results
    found = gu.connect(one, two, points=5, references=retrained)
    asked = connect(one.model, two.model, one.partition.data, gu.ForgetItems(label=1), TASK, points=5)
    assert [r["loss_forget"] for r in found.evaluation.rows] == [r["loss_forget"] for r in asked.evaluation.rows]
    assert len(found.evaluation.references) == 2
    assert "js_forget" in found.evaluation.rows[0]
    assert "units of the second model" in found.evaluation.notes["alignment"]
    assert found.evaluation.verdict in repr(found)
    curve = gu.connect(one, two, points=5, path="bezier", start="original", steps=20, lr=0.01)
    assert len(curve.history) == 20
    bend = connect(one, two, points=3, path="bezier", start="original", steps=1, lr=1e-12).path.point(1)
    assert all(torch.allclose(bend[n], p, atol=1e-6) for n, p in one.original.named_parameters())


@pytest.mark.parametrize("by", ["weights", "activations", "messages"])
def test_models_are_aligned_by_name(by: str) -> None:
    """The copy's units stand in another order: a line to it has a barrier (the control), and none once aligned."""
    data = items(number=60)
    first = trained(perceptron(), data)
    second = copy.deepcopy(first)
    layers = [module for module in second.modules() if isinstance(module, torch.nn.Linear)]
    order = torch.arange(layers[0].out_features).flip(0)
    with torch.no_grad():
        layers[0].weight.copy_(layers[0].weight[order])
        layers[0].bias.copy_(layers[0].bias[order])
        layers[1].weight.copy_(layers[1].weight[:, order])
    bare, aligned = (connect(first, second, data, task=TASK, points=5, align=how) for how in (None, by))
    assert bare.evaluation.barrier_retain > 0.05
    assert aligned.evaluation.barrier_retain < 1e-5
    assert f"by {by}; aligned: " in aligned.evaluation.notes["alignment"]
    with pytest.raises(InvalidInputError, match="'align'"):
        connect(first, second, data, task=TASK, points=5, align="colour")


def test_a_graph_s_models_are_aligned_by_its_messages() -> None:
    """A copy in another order: the line to it is the control."""
    data, task = graph(), gu.NodeClassification()
    first = gu.train(gnn("gcn", data), data, task, epochs=100, lr=0.02).model
    second = copy.deepcopy(first)
    (one, other) = (second.convs[k].lin for k in (0, 1))
    with torch.no_grad():
        one.weight.copy_(one.weight.flip(0))
        second.convs[0].bias.copy_(second.convs[0].bias.flip(0))
        other.weight.copy_(other.weight.flip(1))
    bare, aligned = (connect(first, second, data, task=task, points=5, align=how) for how in (None, "messages"))
    assert bare.evaluation.barrier_retain > 0.02
    assert aligned.evaluation.barrier_retain < 1e-5


def test_an_alignment_that_changes_the_model_is_refused() -> None:
    data, first = items(), trained(perceptron(), items())

    def broken(one: torch.nn.Module, other: torch.nn.Module) -> torch.nn.Module:
        made = copy.deepcopy(other)
        torch.nn.init.zeros_(next(made.parameters()))
        return made

    with pytest.raises(InvalidInputError, match="computes the same"):
        connect(first, trained(perceptron(1), data, 1), data, task=TASK, points=3, align=broken)


def test_between_two_ends_alone_lies_nothing() -> None:
    data, first = items(), trained(perceptron(), items())
    for points in (2, (0, 1)):
        with pytest.raises(InvalidInputError, match="3"):
            connect(first, first, data, task=TASK, points=points)
    assert len(connect(first, first, data, task=TASK, points=3, references=first).evaluation.references) == 1


def test_the_second_model_can_be_aligned(results) -> None:
    one, two, _, _retrained = results
    order = torch.tensor([3, 1, 0, 5, 4, 2])

    class Aligned:
        notes = "units in the order of the test"

        def __init__(self, model: torch.nn.Module) -> None:
            self.model = perceptron()
            with torch.no_grad():
                for name, p in self.model.named_parameters():
                    other = dict(model.named_parameters())[name]
                    p.copy_(other[:, order] if name == "2.weight" else other[order] if name[0] == "0" else other)

    found = gu.connect(one, two, points=3, align=lambda first, second: Aligned(second))
    plain = gu.connect(one, two, points=3)
    ends = [c.evaluation.rows[-1]["loss_retain"] for c in (found, plain)]
    assert ends[0] == pytest.approx(ends[1], abs=1e-5)  # the same function
    middles = [c.evaluation.rows[1]["loss_retain"] for c in (found, plain)]
    assert middles[0] != pytest.approx(middles[1], rel=1e-3)
    assert "units in the order of the test" in found.evaluation.notes["alignment"]


def test_what_is_missing_is_named(results) -> None:
    one, two, other, _ = results
    with pytest.raises(InvalidInputError, match="two different requests"):
        gu.connect(one, other)
    assert gu.connect(one, other, request=gu.ForgetItems(label=1), points=3).partition.num_forget > 0
    with pytest.raises(InvalidInputError, match="Expected 'task'"):
        gu.connect(one.model, two.model, one.partition.data)
    with pytest.raises(InvalidInputError, match="Expected 'data'"):
        gu.connect(one.model, two.model, task=TASK)
    with pytest.raises(InvalidTypeError, match="modules or results"):
        gu.connect(one, "two")
    with pytest.raises(InvalidTypeError, match="forget request"):
        gu.connect(one, two, request="all")
    with pytest.raises(InvalidInputError, match=r"no settings of a curve.*\(got steps\)"):
        gu.connect(one, two, steps=5)
    with pytest.raises(InvalidInputError, match="settings among"):
        gu.connect(one, two, path="bezier", stepz=5)
    with pytest.raises(InvalidInputError, match="Expected 'original'"):
        gu.connect(one.model, two.model, one.partition.data, one.partition, TASK, path="bezier", start="original")
    with pytest.raises(InvalidInputError, match="'path'"):
        gu.connect(one, two, path="straight")


def test_the_random_state_is_the_caller_s(results) -> None:
    one, two, _, _ = results
    torch.manual_seed(3)
    state = torch.get_rng_state()
    gu.connect(one, two, path="bezier", steps=3, points=3)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_dial_keeps_what_stays(results) -> None:
    one, _, _, retrained = results
    dial = gu.connect(one.original, one.model, one.partition.data, one.partition, TASK, points=3).dial
    losses = PartLosses(TASK, one.partition, dial.path.template)
    ts = [k / 20 for k in range(21)]
    table = {t: losses.losses(dial.at(t)) for t in ts}
    data = one.partition.data
    stays = data.val_mask & (data.y != 1)  # the request takes class 1 away as a whole
    with torch.no_grad():
        for t in ts:
            table[t]["val"] = float(torch.nn.functional.cross_entropy(dial.at(t)(data.x[stays]), data.y[stays]))
    for slack in (0.02, 0.2):
        expected = 0.0
        for t in ts:
            if any(table[t][n] > table[0.0][n] + slack for n in ("retain", "val")):
                break
            expected = t
        assert dial.choose(slack, points=21) == expected
    assert dial.choose(100.0, points=21) == 1.0  # control: what is forgotten has no say
    nearest = dial.choose(100.0, points=5, references=retrained)
    assert nearest in (0.0, 0.25, 0.5, 0.75, 1.0)
    gone, there = (dial.figures(model, ["relearn_steps"], retrained) for model in (one.model, one.original))
    assert gone["forget_acc"] < there["forget_acc"]
    assert gone["relearn_steps"] > there["relearn_steps"]
    assert gone["loss_retain"] == pytest.approx(table[1.0]["retain"])
    mean = dial.mean(0.5, 1.0, 3)
    weights = [dial.at(t).state_dict()["0.weight"] for t in (0.5, 0.75, 1.0)]
    assert torch.allclose(mean.state_dict()["0.weight"], torch.stack(weights).mean(0), atol=1e-6)


@pytest.mark.parametrize(("whole", "chosen"), [(True, 1.0), (False, 0.0)])
def test_a_dial_asks_no_validation_items_of_a_class_that_goes(whole: bool, chosen: float) -> None:
    """The far end says class 0 of everything; control: one node of class 1 stays, so that its items have a say."""
    data = graph()
    training = (data.train_mask & (data.y == 1)).nonzero().view(-1)
    original = gnn("gcn", data)
    far = copy.deepcopy(original)
    with torch.no_grad():
        next(p for p in far.parameters() if p.shape == (2,)).copy_(torch.tensor([9.0, -9.0]))  # the last bias
    request = gu.ForgetNodes(training if whole else training[1:])
    dial = gu.connect(original, far, data, request, "node_classification", points=3).dial
    assert dial.choose(0.05, points=5) == chosen


def test_a_dial_takes_the_point_nearest_to_references(results) -> None:
    one, _, _, _ = results
    path = LinearPath(one.original, one.model)
    dial = Dial(path, TASK, one.partition)
    ts = [0.0, 0.25, 0.5, 0.75, 1.0]
    for t in (0.25, 0.75):  # a reference that lies on the path itself
        assert dial.choose(100.0, points=len(ts), references=[path.model_at(t + 1e-3)]) == t
        assert dial.choose(100.0, points=2, references=[path.model_at(t)]) == round(t)  # the ends alone


@pytest.mark.parametrize("kind", ["linear", "bezier"])
def test_paths_are_stored(results, tmp_path: Path, kind: str) -> None:
    one, two, _, _ = results
    path = LinearPath(one, two) if kind == "linear" else BezierPath(one, two, 2)
    with torch.no_grad():
        for bend in path.bends:
            bend.add_(0.1)
    again = load_path(save_path(path, tmp_path / "path"), perceptron(9).requires_grad_(False))
    assert all(same(path, again, t) for t in (0.0, 0.3, 1.0))
    with pytest.raises(CheckpointError, match="fits"):
        load_path(tmp_path / "path", perceptron(9, norm=True))
    with pytest.raises(CheckpointError, match="saved path"):
        load_path(tmp_path / "nothing", perceptron())
    weights = tmp_path / "path" / "path.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    with pytest.raises(CheckpointError, match="not the file that"):
        load_path(tmp_path / "path", perceptron())


def test_statistics_are_stored_and_computed_anew(tmp_path: Path) -> None:
    data = items(number=60)
    models = [trained(perceptron(seed, norm=True), data, seed) for seed in (0, 1)]
    partition = gu.ForgetItems(count=6).resolve(data)
    connection = connect(*models, data, partition, TASK, points=3, path="bezier", steps=30, lr=0.02)
    assert "computed anew" in connection.evaluation.notes["statistics"]
    again = load_path(save_path(connection.path, tmp_path), perceptron(3, norm=True))
    dial = Dial(again, TASK, partition)
    for t in (0.0, 0.5, 1.0):
        a, b = connection.dial.at(t), dial.at(t)
        assert all(torch.equal(v, b.state_dict()[n]) for n, v in a.state_dict().items())


def test_caches_of_layers_do_not_follow_the_path() -> None:
    data = graph()
    models = [PyGCN(data.num_features, 8, 2, 2, cached=True) for _ in range(2)]
    for model in models:
        model.eval()(data.x, data.edge_index)
    caches = [layer._cached_edge_index for layer in models[0].modules() if hasattr(layer, "_cached_edge_index")]
    assert any(cache is not None for cache in caches)  # control
    request = gu.ForgetNodes(data.train_mask.nonzero().view(-1)[:3])
    found = gu.connect(*models, data, request, "node_classification", points=3)
    kept = found.path.model_at(0.0)
    assert not any(getattr(layer, "_cached_edge_index", None) is not None for layer in kept.modules())
    assert not any(getattr(layer, "_cached_adj_t", None) is not None for layer in kept.modules())
    assert any(getattr(layer, "cached", False) for layer in models[0].modules())  # the caller's own stays


def test_a_graph_needs_nothing_else() -> None:
    data = graph()
    base = gu.train(gnn("sage", data), data, "node_classification", epochs=40).model
    nodes = data.train_mask.nonzero().view(-1)[:3]
    runs = [
        gu.unlearn(base, data, gu.ForgetNodes(nodes), "npo", "node_classification", epochs=5, lr=r)
        for r in (1e-3, 1e-2)
    ]
    found = gu.connect(*runs, points=5)
    assert found.connected is not None
    assert found.evaluation.rows[0]["forget_acc"] is not None


def test_results_and_their_data_know_the_request(results) -> None:
    """With the data beside two results the request must not get lost; other data need one."""
    one, two, other, _ = results
    data = one.partition.data
    for given in (data, copy.copy(data)):
        assert connect(one, two, given, points=3).partition.request_hash == one.request_hash
    assert connect(one.model, two.model, data, task=TASK, points=3).partition is None  # control: modules know nothing
    with pytest.raises(InvalidInputError, match="'request' beside data other than"):
        connect(one, two, items(1, 60), points=3)
    assert connect(one, two, items(1, 60), gu.ForgetItems(label=1), points=3).partition.data is not data
    with pytest.raises(InvalidInputError, match="two different requests"):
        connect(one, other, data)
    with pytest.raises(InvalidInputError, match="partition's own data"):
        connect(one, two, items(1, 60), one.partition)


def test_results_with_different_originals_need_one(results) -> None:
    one, _, _, _ = results
    data, request = one.partition.data, gu.ForgetItems(label=1)
    far = gu.unlearn(trained(perceptron(3), data, 3), data, request, "graddiff", TASK, epochs=2)
    curve = {"path": "bezier", "steps": 2, "points": 3}
    with pytest.raises(InvalidInputError, match=r"'original'.*start='original' \(got two results"):
        connect(one, far, start="original", **curve)
    with pytest.raises(InvalidInputError, match=r"'original'.*compares with it \(got two results"):
        connect(one, far, objective=NLL(on="retain") + KLToReference(on="retain"), **curve)
    found = connect(one, far, points=3)
    assert found.original is None
    assert "different" in found.evaluation.notes["original"]
    assert connect(one, far, start="original", original=one.original, **curve).original is one.original


def test_the_dial_draws_under_the_seed_of_the_call() -> None:
    """Pairs of links are drawn: under one seed the dial's losses are those of the rows, under another they are not."""
    data = gu.link_split(gu.load("karate"), seed=0)
    models = [gu.train(gu.GCN(data.num_features, 8, 4), data, epochs=3, seed=seed).model for seed in (0, 1)]
    request = gu.ForgetEdges(count=4, seed=0)
    row = {}
    for seed in (0, 7):
        found = connect(*models, data, request, "link_prediction", points=3, seed=seed)
        row[seed] = found.evaluation.rows[0]["loss_retain"]
        assert found.dial.losses.losses(found.dial.at(0.0))["retain"] == pytest.approx(row[seed], rel=1e-6)
    assert row[0] != pytest.approx(row[7], rel=1e-6)  # control


def test_choosing_reads_no_forgotten_item(results) -> None:
    one, _, _, _ = results
    dial = Dial(LinearPath(one.original, one.model), TASK, one.partition)
    expected = dial.choose(0.1, points=5)
    del dial.losses.held["forget"]
    dial.losses._loss = refuse_forgotten(dial.losses._loss)
    assert dial.choose(0.1, points=5) == expected
    with pytest.raises(AssertionError, match="forgotten"):  # control
        dial.figures(one.model)


def refuse_forgotten(loss):
    """The function, that fails for the forgotten part."""

    def read(model, name):
        assert name != "forget", "forgotten items were read"
        return loss(model, name)

    return read


def test_a_table_ends_with_the_last_point(results) -> None:
    one, two, _, _ = results
    lines = connect(one, two, points=6).evaluation.table(["loss_retain"], every=2).splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == ["0", "0.4", "0.8", "1"]


def test_a_stored_path_keeps_frozen_weights(tmp_path: Path) -> None:
    """A frozen layer stays out of the bends; a compiled model is read by its own names."""
    ends = [perceptron() for _ in range(2)]
    with torch.no_grad():
        ends[1][2].weight.add_(1)
    for end in ends:
        end[0].requires_grad_(False)
    path = BezierPath(*ends)
    assert path.moving == ("2.weight", "2.bias")
    save_path(path, tmp_path)
    for model in (perceptron(9), torch.compile(perceptron(9), backend="eager")):
        again = load_path(tmp_path, model)
        assert again.moving == path.moving
        assert [p.requires_grad for p in again.model_at(0.5).parameters()] == [False, False, True, True]
        assert same(path, again, 0.5)
