"""What curves and evaluations read: the retained graph, weights that move, a reference at rest, and no old cache."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch_geometric.nn.models import GCN as PyGCN

import gunlearn as gu
from gunlearn.connectivity import BezierPath, CurveSettings, LinearPath, PartLosses, evaluate_path, find_curve
from gunlearn.connectivity.curve_fingerprint import curve_fingerprint
from gunlearn.losses import NLL, BoundedAscent, KLToReference
from gunlearn.nn import backbone
from gunlearn.training import with_curriculum
from tests.connectivity.cases import gnn, graph, items, perceptron, trained

TASK, NODES = gu.ImageClassification(), gu.NodeClassification()


def flat(path: BezierPath) -> torch.Tensor:
    return torch.cat([bend.detach().flatten() for bend in path.bends])


def curve(ends: list[nn.Module], task: gu.tasks.Task, partition: object, objective: object = None, **more: object):
    """The bends of a curve of a few steps, and the state of the loop."""
    path, asked = BezierPath(*ends), {"steps": 6, "lr": 0.02}
    find = {name: more.pop(name) for name in ("original", "data") if name in more}
    state = find_curve(path, task, partition, objective, CurveSettings(**(asked | more)), **find)
    return flat(path), state


@pytest.fixture(scope="module")
def nodes():
    """A graph, a request for a third of its edges, and two models."""
    data = graph()
    partition = gu.ForgetEdges(data.edge_index[:, ::3]).resolve(data)
    return data, partition, [gnn("gcn", data, seed) for seed in (0, 1)]


def test_curves_of_nodes_read_the_retained_graph(nodes) -> None:
    """Forgotten edges stay out of the messages; the control is the curve on the whole graph."""
    data, partition, ends = nodes
    found, alone, whole = (
        curve(ends, NODES, part, data=read)[0]
        for part, read in ((partition, None), (None, partition.retain_data), (None, data))
    )
    torch.testing.assert_close(found, alone)
    assert not torch.allclose(found, whole, atol=1e-4)


@pytest.mark.parametrize(("name", "mask"), [("loss_retain", "train_mask"), ("loss_val", "val_mask"),
                                            ("loss_test", "test_mask")])  # fmt: skip
def test_losses_of_nodes_are_those_on_the_retained_graph(nodes, name: str, mask: str) -> None:
    data, partition, ends = nodes
    found = evaluate_path(LinearPath(*ends), NODES, partition, points=3).rows[0][name]
    model = ends[0].eval()
    kept, whole = (
        float(cross_entropy(model(data.x, edges)[data[mask]], data.y[data[mask]]))
        for edges in (partition.retain_data.edge_index, data.edge_index)
    )
    assert found == pytest.approx(kept, abs=1e-5)
    assert found != pytest.approx(whole, abs=1e-3)  # control


def test_bound_and_forgetting_are_those_of_the_settings() -> None:
    objective = CurveSettings(forgetting=0.3, bound=2.5).objective(None)
    assert repr(objective) == repr(NLL(on="retain") + 0.3 * BoundedAscent(bound=2.5))
    assert repr(CurveSettings(bound=2.5).objective(None)) == repr(CurveSettings().objective(NLL(on="retain")))


@pytest.fixture(scope="module")
def small():
    data = items()
    return gu.ForgetItems(count=6).resolve(data), [trained(perceptron(seed), data, seed) for seed in range(3)]


def test_a_curriculum_begins_anew_with_each_curve(small) -> None:
    """An objective that was used before gives the curve of a fresh one."""
    partition, models = small
    used, fresh = (with_curriculum(NLL(on="retain"), strength=1.0) for _ in range(2))
    first, again, other = (curve(models[:2], TASK, partition, objective)[0] for objective in (used, used, fresh))
    assert torch.equal(first, other)
    assert torch.equal(again, other)
    assert not torch.equal(other, curve(models[:2], TASK, partition)[0])  # control: a curriculum changes the curve


def test_an_epoch_is_a_pass_over_all_items(small) -> None:
    partition, models = small
    retained = int(partition.retain_mask.sum())
    state = curve(models[:2], TASK, partition, epochs=3, steps=None, batch_size=8)[1]
    assert state.step == 3 * -(-retained // 8)


def test_the_penalty_counts_weights_that_move_alone(small) -> None:
    _, models = small
    ends = [copy.deepcopy(models[0]) for _ in range(2)]
    for end in ends:
        end[0].requires_grad_(False)
    with torch.no_grad():
        ends[1][2].weight.add_(1e-4)  # the penalty is nearly the same at every point
    state = curve(ends, TASK, small[0], steps=1, l2=0.1)[1]
    moving, frozen = (sum(float(p.square().sum()) for p in ends[0][k].parameters()) / 2 for k in (2, 0))
    assert state.log_history[0]["l2"] == pytest.approx(moving, rel=1e-2)
    assert frozen > 0.1 * moving  # control: with the frozen layer it would be another number


def test_the_reference_is_read_at_rest(nodes) -> None:
    """Dropout of the original must not change what a curve is compared with, whatever mode it came in."""
    data, partition, _ = nodes
    ends = [gnn("gcn", data, seed) for seed in (0, 1)]
    original = backbone("gcn", data.num_features, 8, 2, dropout=0.5)
    objective = NLL(on="retain") + KLToReference(on="retain")
    found = [curve(ends, NODES, partition, objective, original=original.train(mode))[0] for mode in (True, False)]
    assert torch.equal(*found)


def test_caches_of_another_graph_are_emptied(nodes) -> None:
    """Layers that keep the edges of their first call would go on with those of the graph before."""
    data, partition, _ = nodes
    torch.manual_seed(0)
    plain = [PyGCN(data.num_features, 8, 2, 2) for _ in range(2)]
    cached = [PyGCN(data.num_features, 8, 2, 2, cached=True) for _ in range(2)]
    for one, other in zip(cached, plain, strict=True):
        one.load_state_dict(other.state_dict())
        one.eval()(data.x, data.edge_index)
    torch.testing.assert_close(curve(cached, NODES, partition)[0], curve(plain, NODES, partition)[0])


def test_all_that_decides_a_curve_is_in_its_name(small) -> None:
    """The ends of the path themselves (its bends may begin elsewhere), what is held, what changes predictions."""
    partition, (one, two, three) = small
    objective = NLL(on="retain") + KLToReference(on="retain")
    usual = {"path": BezierPath(one, two, start=three), "original": three, "held": None, "change": None}

    def name(**more: object) -> str:
        asked = usual | more
        path = asked.pop("path")
        return curve_fingerprint(path, TASK, partition, partition.data, objective, CurveSettings(), **asked)

    assert name() == name(path=BezierPath(one, two, start=three))  # control
    others = [
        name(path=BezierPath(one, three, start=three)), name(path=BezierPath(three, two, start=three)),
        name(original=two), name(held="some"), name(change="some"), name(seed=1),
    ]  # fmt: skip
    assert len({name(), *others}) == 1 + len(others)


def test_losses_of_pieces_count_by_their_items(tmp_path: Path) -> None:
    """A thousand items are read at a time; the last two of 1026 would otherwise weigh as much as all others."""
    data = items(number=1036)
    data.x[1024:1026] += 20
    model = trained(perceptron(), data, steps=20)
    found = PartLosses(TASK, None, model, data).losses(model)["retain"]
    mask = data.train_mask
    assert found == pytest.approx(float(cross_entropy(model(data.x[mask]), data.y[mask])), rel=1e-5)
    pieces = [float(cross_entropy(model(data.x[rows]), data.y[rows])) for rows in (slice(0, 1024), slice(1024, 1026))]
    assert found != pytest.approx(sum(pieces) / 2, rel=0.1)  # control
