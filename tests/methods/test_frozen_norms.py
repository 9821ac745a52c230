"""Normalisation whose weights do not learn keeps its running statistics. The oracle: a fixed map in its place."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn import BatchNorm, GCNConv

import gunlearn as gu
from gunlearn.training.from_scratch import fresh_like
from tests.methods.cases import same_weights
from tests.methods.forgetting import club

TASK = "node_classification"
KEPT = "of batch normalisation: kept in all layers, whose weights do not learn"


class Fixed(nn.Module):
    """The map that a layer with running statistics is in evaluation mode."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        norm = getattr(norm, "module", norm)
        self.register_buffer("scale", (norm.weight / (norm.running_var + norm.eps).sqrt()).detach())
        self.register_buffer("shift", (norm.bias - norm.running_mean * self.scale).detach())

    def forward(self, x: Tensor) -> Tensor:
        shape = [1, -1, *[1] * (x.dim() - 2)]
        return x * self.scale.view(shape) + self.shift.view(shape)


class Normed(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.one, self.norm, self.two = GCNConv(20, 16), norm, GCNConv(16, 4)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.two(self.norm(self.one(x, edge_index)).relu(), edge_index)


def encoder(kind: Any = BatchNorm, learns: bool = False, **options: Any) -> tuple[nn.Module, Any, Any]:
    """Return a model trained behind a layer whose statistics are not those of the data, its data and its optimiser."""
    torch.manual_seed(0)
    model, data = Normed(kind(16, **options)), gu.node_split(club(), 0.2, 0.2)
    own = getattr(model.norm, "module", model.norm)
    own.running_mean += 0.5
    own.running_var *= 0.3
    for parameter in [*model.one.parameters(), *([] if learns else model.norm.parameters())]:
        parameter.requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=1e-3)
    for _ in range(30):
        model.train()
        model.norm.eval()
        optimizer.zero_grad()
        out = model(data.x, data.edge_index)[data.train_mask]
        nn.functional.cross_entropy(out, data.y[data.train_mask]).backward()
        optimizer.step()
    return model.eval(), data, optimizer


def statistics(model: nn.Module) -> Tensor:
    return torch.cat([value for name, value in model.named_buffers() if "running" in name])


def fixed(model: nn.Module) -> nn.Module:
    other = copy.deepcopy(model)
    other.norm = Fixed(other.norm)
    return other


@pytest.mark.parametrize("kind", [BatchNorm, nn.BatchNorm1d])
@pytest.mark.parametrize("method", ["finetune", "continued_training", "auto", "retrained", "estimated"])
def test_a_frozen_layer_of_a_graph_model_keeps_and_reads_its_statistics(method: str, kind: Any) -> None:
    model, data, optimizer = encoder(kind)
    options: dict[str, Any] = {"epochs": 5} if method == "finetune" else {"optimizer": optimizer}
    options |= {"budget": 1.0} if method == "retrained" else {}
    if method == "estimated":  # second moments, of gradients in training mode
        options = {"lr": 1e-2, "weight_decay": 1e-3, "training_steps": 200}
    method = {"retrained": "auto", "estimated": "continued_training"}.get(method, method)
    result = gu.unlearn(model, data, gu.ForgetNodes([3]), method, TASK, **options)
    assert torch.equal(statistics(result.model), statistics(model))
    assert not same_weights(result.model.two, model.two)  # it did take steps
    assert result.notes.get("statistics", KEPT) == KEPT
    plain = gu.unlearn(fixed(model), data, gu.ForgetNodes([3]), method, TASK, **options).model
    for name, own in plain.two.named_parameters():
        torch.testing.assert_close(result.model.two.get_parameter(name), own, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("layer", [{"learns": True}, {"kind": nn.BatchNorm1d, "affine": False}])
def test_a_layer_that_learns_or_has_no_weights_moves_them(layer: dict[str, Any]) -> None:
    """The control of the test above."""
    model, data, optimizer = encoder(**layer)
    for method, options in (("finetune", {"epochs": 5}), ("continued_training", {"optimizer": optimizer})):
        result = gu.unlearn(model, data, gu.ForgetNodes([3]), method, TASK, **options)
        assert not torch.equal(statistics(result.model), statistics(model))
        assert result.notes["statistics"] == "of batch normalisation: moved by the retained data that was read"


def test_a_training_of_ours_and_a_replay_of_it_keep_them_too() -> None:
    model, data, _ = encoder()
    base, plain = (gu.train(one, data, TASK, epochs=40, lr=1e-2, eval_every=40) for one in (model, fixed(model)))
    assert torch.equal(statistics(base.model), statistics(model))
    torch.testing.assert_close(base.model.two.lin.weight, plain.model.two.lin.weight, rtol=1e-3, atol=1e-4)
    result = gu.unlearn(base.model, data, gu.ForgetNodes([3]), "replay", TASK, training=base, budget=0.2)
    assert torch.equal(statistics(result.model), statistics(model))
    model.norm.requires_grad_(True)  # control
    assert not torch.equal(statistics(gu.train(model, data, TASK, epochs=2, lr=1e-2).model), statistics(model))


def test_a_model_drawn_anew_has_the_frozen_statistics() -> None:
    """The control: those of a layer that learns begin at 0 and 1."""
    for learns in (False, True):
        model, _, _ = encoder(learns=learns)
        fresh = fresh_like(model)
        assert torch.equal(statistics(fresh), statistics(model)) is not learns
        assert not same_weights(fresh.two, model.two)


@pytest.mark.parametrize("method", ["finetune", "graddiff"])
def test_a_frozen_layer_of_an_image_classifier(method: str) -> None:
    """A second layer learns: its statistics move where retained images alone are read."""
    torch.manual_seed(0)
    x, y = torch.randn(30, 1, 8, 8), torch.arange(30) % 3
    body = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)]
    model = nn.Sequential(*body, nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    model[:2].requires_grad_(False)
    model[1].running_mean += 0.5
    result = gu.unlearn(model, (x, y), gu.ForgetItems([4, 7]), method, "image_classification", epochs=2, batch_size=7)
    assert torch.equal(statistics(result.model[1]), statistics(model[1]))
    assert torch.equal(statistics(result.model[4]), statistics(model[4])) is (method == "graddiff")
    kept = "kept in 1 of 2 layers, whose weights do not learn; else moved by the retained data that was read"
    told = kept if method == "finetune" else "frozen"
    assert result.notes["statistics"] == f"of batch normalisation: {told}"


def test_where_all_statistics_stay_a_batch_of_one_image_is_read() -> None:
    """Batches of 9 of 28 images leave one; the control is refused: one image has no variance."""
    x, y = torch.randn(29, 1, 8, 8), torch.arange(29) % 3
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))
    with pytest.raises(gu.errors.InvalidInputError, match="a last batch of 1"):
        gu.unlearn(model, (x, y), gu.ForgetItems([4]), "finetune", "image_classification", epochs=1, batch_size=9)
    model[1].requires_grad_(False)
    gu.unlearn(model, (x, y), gu.ForgetItems([4]), "finetune", "image_classification", epochs=1, batch_size=9)
