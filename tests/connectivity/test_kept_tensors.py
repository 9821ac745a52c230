"""Models that keep what a pass computed, and models whose attributes decide what they compute."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch_geometric.nn import GCNConv

import gunlearn as gu
from gunlearn.connectivity import BezierPath, align_models, connect, load_path, save_path
from gunlearn.errors import CheckpointError, UnsupportedModelError
from gunlearn.seed import isolated_rng

TASK = "node_classification"


class Keeping(nn.Module):
    """Keeps the embeddings of its last pass, as many published models do."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.one, self.two, self.emb = GCNConv(size, 8), GCNConv(8, 10), None

    def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
        self.emb = self.one(x, edge_index).relu()
        return self.two(self.emb, edge_index)


class Blocking(Keeping):
    """Never says class 3 of nodes with these features, which stand in a plain attribute."""

    def __init__(self, size: int, blocked: torch.Tensor) -> None:
        super().__init__(size)
        self.blocked = blocked

    def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
        hit = (x[:, None] == self.blocked).all(-1).any(1)
        return super().forward(x, edge_index) - 50 * hit[:, None] * torch.eye(10)[3]


@pytest.fixture(scope="module")
def problem():
    data = gu.node_split(gu.load("digits"), seed=0)
    request = gu.ForgetNodes((data.train_mask & (data.y == 3)).nonzero().view(-1))
    models = []
    for seed in range(3):
        with isolated_rng(seed):
            model = Keeping(data.num_features)
        models.append(gu.train(model, data, TASK, epochs=15, lr=1e-2, seed=seed).model)
    with torch.no_grad():
        for model in models:
            model(data.x, data.edge_index)
    assert not torch.equal(models[0].emb, models[1].emb)
    return data, request, models


def test_mcu_unlearns_them(problem) -> None:
    data, request, (model, *_) = problem
    found = gu.unlearn(model, data, request, "mcu", TASK, epochs=3, pre_options={"epochs": 3})
    assert 0.75 <= found.notes["t"] <= 1


def test_curves_begin_at_an_original_model_that_has_seen_other_data(problem) -> None:
    data, request, (one, two, original) = problem
    options = {"path": "bezier", "start": "original", "steps": 2, "points": 3}
    found = connect(one, two, data, request, TASK, original=original, **options)
    assert found.evaluation.rows
    ends = [copy.deepcopy(model) for model in (one, two)]
    for model in ends:
        model.emb = None
    bend = BezierPath(*ends, start=original).point(1)["one.lin.weight"]
    assert torch.equal(bend, original.one.lin.weight)
    assert not torch.equal(bend, (one.one.lin.weight + two.one.lin.weight) / 2)  # control: the middle


def test_a_pass_with_a_gradient_leaves_what_can_be_copied(problem, tmp_path: Path) -> None:
    """What a pass outside `torch.no_grad` leaves has a history, which copy.deepcopy refuses."""
    data, request, (one, two, _) = problem
    path = connect(one, two, data, request, TASK, points=3).path
    save_path(path, tmp_path)
    ran = copy.deepcopy(one)
    ran(data.x, data.edge_index)
    assert ran.emb.grad_fn is not None
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(ran)  # control
    assert load_path(tmp_path, ran, strict=False).name == "linear"
    assert gu.unlearn(ran, data, request, "mcu", TASK, epochs=1, pre_options={"epochs": 1}).model is not ran


def test_they_are_aligned_directly(problem) -> None:
    data, _, (one, two, _) = problem
    found = align_models(one, two, data=data)
    with torch.no_grad():
        expected = two(data.x, data.edge_index)
        assert torch.allclose(found.model(data.x, data.edge_index), expected, atol=1e-4 * float(expected.abs().max()))


def test_a_stored_path_is_read_with_a_model_that_ran_since(problem, tmp_path: Path) -> None:
    data, request, (one, two, _) = problem
    path = connect(one, two, data, request, TASK, points=3).path
    save_path(path, tmp_path)
    with torch.no_grad():
        one(data.x + 1, data.edge_index)
    with pytest.raises(CheckpointError, match=r"the data in 'emb' differ; load it nevertheless with strict=False"):
        load_path(tmp_path, one)
    with pytest.warns(UserWarning, match="another than the path's: the data in 'emb' differ"):
        again = load_path(tmp_path, one, strict=False)
    assert all(torch.equal(again.weights(0.4)[n], value) for n, value in path.weights(0.4).items())


def test_attributes_that_matter_to_forgotten_items_alone_are_refused(problem) -> None:
    """On retained items both models compute the same, and the first one's attribute would hide the second one's."""
    data, request, (trained, *_) = problem
    gone = data.x[request.resolve(data).forget_nodes]
    models = [Blocking(data.num_features, which) for which in (gone[:0], gone)]
    for model in models:
        model.load_state_dict(trained.state_dict())
    with pytest.raises(UnsupportedModelError, match="the data in 'blocked' differ"):
        connect(*models, data, request, TASK, points=3)
    models[1].blocked = models[0].blocked  # control
    assert connect(*models, data, request, TASK, points=3).connected
