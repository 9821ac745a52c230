"""A permuted and rescaled copy is recovered; what is aligned computes what it did; the caller's models stay."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric import nn as pyg

from gunlearn.connectivity import AlignedModel, align_models
from gunlearn.connectivity.alignment import MATCHINGS
from gunlearn.errors import UnsupportedModelError
from gunlearn.nn import SmallResNet, backbone
from gunlearn.nn.zoo import MeanPooled
from tests.connectivity.alignment.pairs import answer, between, graph, kinds, permuted_copy

KINDS = ("mlp", "cnn", "gcn", "sage", "gin", "gat")


def barrier(first: nn.Module, second: nn.Module, given: dict[str, Any]) -> float:
    """Mean square error against the first model's answers, over their variance, above the line between the ends."""
    want = answer(first, given)
    times = (0, 0.25, 0.5, 0.75, 1)
    losses = [
        float((answer(between(first, second, t), given) - want).square().mean() / want.var(0).mean()) for t in times
    ]
    chord = [(1 - t) * losses[0] + t * losses[-1] for t in times]
    return max(loss - line for loss, line in zip(losses, chord, strict=True))


@pytest.mark.parametrize("by", MATCHINGS)
@pytest.mark.parametrize("name", KINDS)
def test_a_permuted_and_rescaled_copy_is_recovered(name: str, by: str) -> None:
    kind = kinds()[name]
    other = permuted_copy(kind, rescale=True)
    here = answer(kind.model, kind.given)
    torch.testing.assert_close(answer(other, kind.given), here, rtol=0, atol=2e-5 * float(here.abs().max()))
    found = align_models(kind.model, other, by, **kind.given)
    for key, value in kind.model.state_dict().items():
        torch.testing.assert_close(found.model.state_dict()[key], value, rtol=1e-4, atol=1e-5)
    for t in (0.25, 0.5, 0.75):
        got = answer(between(kind.model, found.model, t), kind.given)
        torch.testing.assert_close(got, here, rtol=0, atol=1e-4 * float(here.abs().max()))
    assert barrier(kind.model, found.model, kind.given) < 1e-6
    assert barrier(kind.model, other, kind.given) > 0.2  # control: the same function, far away on the straight line


def test_scaling_alone_keeps_a_barrier_unless_it_is_removed() -> None:
    kind = kinds()["gcn"]
    other = permuted_copy(kind, rescale=True)
    kept = align_models(kind.model, other, data=kind.given["data"], rescale=False)
    middle = answer(between(kind.model, kept.model, 0.5), kind.given)
    here = answer(kind.model, kind.given)
    assert float((middle - here).abs().max()) > 0.02 * float(here.abs().max())
    assert kept.factors == {}
    assert kept.notes["not_rescaled"]["convs.0"] == "rescale=False"


@pytest.mark.parametrize("by", MATCHINGS)
@pytest.mark.parametrize("name", KINDS)
def test_independent_models_are_aligned_without_a_change_of_function(name: str, by: str) -> None:
    kind, torch_state = kinds()[name], torch.get_rng_state()
    other = copy.deepcopy(kind.model).train()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.5)
    torch.set_rng_state(torch_state)
    before = [{k: v.clone() for k, v in m.state_dict().items()} for m in (kind.model, other)]
    found = align_models(kind.model, other, by, **kind.given)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert found.model.training
    assert other.training
    for model, kept in zip((kind.model, other), before, strict=True):
        assert all(torch.equal(value, kept[key]) for key, value in model.state_dict().items())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    want = answer(other.eval(), kind.given)
    got = answer(found.model.eval(), kind.given)
    torch.testing.assert_close(got, want, rtol=0, atol=2e-5 * float(want.abs().max()))
    closer = distance(kind.model, found.model) < distance(kind.model, other)
    assert closer or by != "weights"
    assert found.notes["aligned"]
    assert found.notes["difference"] <= 1e-5


def distance(first: nn.Module, second: nn.Module) -> float:
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return sum(float((a - b).square().sum()) for a, b in pairs)


def test_heads_of_attention_move_as_wholes() -> None:
    kind = kinds()["gat"]
    found = align_models(kind.model, permuted_copy(kind, rescale=False), data=kind.given["data"])
    blocks = found.permutations["convs.0"].reshape(4, 2) // 2
    assert torch.equal(blocks[:, 0], blocks[:, 1])
    assert sorted(blocks[:, 0].tolist()) == [0, 1, 2, 3]


def mixed(by_hand: nn.Module, call: Any, seed: int = 0) -> tuple[AlignedModel, nn.Module]:
    """Align a model with another of its kind, whose weights have nothing to do with the first one's."""
    torch.manual_seed(seed)
    other = copy.deepcopy(by_hand)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.copy_(0.7 * torch.randn_like(parameter))
    return align_models(by_hand, other, "messages", **call), other


@pytest.mark.parametrize(
    ("model", "images"),
    [
        (SmallResNet(num_classes=3, widths=(4, 4, 6)), True),
        (backbone("gcnii", 7, 8, 3, num_layers=3), False),
        (backbone("appnp", 7, 8, 3), False),
        (pyg.GAT(7, 8, 3, 3, heads=4, norm="batch", jk="cat"), False),
        (pyg.GAT(7, 8, 2, 3, heads=2, concat=False, v2=True, norm="layer", jk="max"), False),
        (pyg.GIN(7, 8, 2, 3, norm="batch", act="elu"), False),
        (pyg.GCN(7, 8, 3, 3, norm="batch"), False),
    ],
    ids=["resnet", "gcnii", "appnp", "gat-cat", "gatv2-mean", "gin-elu", "gcn-batch"],
)
def test_shortcuts_normalisation_and_joined_layers_are_carried_along(model: nn.Module, images: bool) -> None:
    model.eval()
    call = {"inputs": torch.randn(6, 1, 8, 8)} if images else {"data": graph()}
    answer(model.train(), call)  # running statistics of their own
    found, other = mixed(model.eval(), call)
    want = answer(other.eval(), call)
    torch.testing.assert_close(answer(found.model.eval(), call), want, rtol=0, atol=2e-5 * float(want.abs().max()))
    assert found.notes["aligned"]
    assert any(not torch.equal(p, torch.arange(len(p))) for p in found.permutations.values())


def test_a_shortcut_shares_one_permutation() -> None:
    found, _ = mixed(SmallResNet(num_classes=3, widths=(6, 6)).eval(), {"inputs": torch.randn(6, 1, 8, 8)})
    assert torch.equal(found.permutations["1"], found.permutations["3.body.4"])
    assert not torch.equal(found.permutations["1"], found.permutations["3.body.1"])


class Pooled(nn.Module):
    """Classifies graphs of embedded nodes, with a function of the whole data as its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds, self.body, self.head = nn.Embedding(9, 6), MeanPooled(backbone("gin", 6, 8, 5)), nn.Linear(5, 3)

    def forward(self, data: Any) -> Tensor:
        kinds = torch.arange(data.num_nodes) % 9
        return self.head(self.body(self.kinds(kinds), data.edge_index, torch.arange(data.num_nodes) // 10, 4))


def test_embeddings_and_pooled_graphs_are_followed() -> None:
    found, other = mixed(Pooled(), {"data": graph(), "call": lambda model, data: model(data)})
    assert found.notes["left"] == {"head": "they are the model's output"}
    assert {"kinds", "body.model.convs.1.nn.lins.1"} <= set(found.notes["rescaled"])
    torch.testing.assert_close(found.model(graph()), other(graph()), rtol=1e-4, atol=1e-4)


class Odd(nn.Module):
    """Two hidden layers, the second of which is sorted, so that its channels have no names."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(7, 9), nn.Linear(9, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.sort(self.b(self.a(x).relu())).values)


def test_channels_that_pass_through_the_unknown_stay_and_this_is_said() -> None:
    torch.manual_seed(1)
    found, other = mixed(Odd(), {"inputs": graph().x})
    assert "b" not in found.permutations
    assert "'sort'" in found.notes["left"]["b"]
    assert "a" in found.permutations
    assert torch.equal(found.model.c.weight, other.c.weight)


class Hidden(nn.Module):
    """Reads a channel by its number, behind torch's back."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(7, 9), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).sigmoid()
        return self.b(h) * float(h.detach().numpy()[0, 0])


def test_what_cannot_be_seen_is_found_out_by_running_the_copy() -> None:
    torch.manual_seed(0)
    with pytest.raises(UnsupportedModelError, match="was not seen"):
        mixed(Hidden(), {"inputs": 3 * graph().x})


def test_nothing_that_can_be_aligned_is_refused_in_words() -> None:
    class Sorted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(7, 9), nn.Linear(9, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.sort(self.a(x)).values)

    with pytest.raises(UnsupportedModelError, match=r"got none: they pass through 'sort'"):
        mixed(Sorted(), {"inputs": graph().x})


def test_a_model_without_hidden_channels_comes_back_as_it_is() -> None:
    found, other = mixed(nn.Linear(7, 3), {"inputs": graph().x})
    assert found.notes["why"] == "the model has no hidden channels"
    assert torch.equal(found.model.weight, other.weight)


def test_tied_weights_move_together() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(7, 6), nn.Linear(6, 6), nn.Linear(6, 6)
            self.c.weight = self.b.weight
            self.d = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.d(self.c(self.b(self.a(x).relu()).relu()).relu())

    found, _ = mixed(Tied(), {"inputs": graph().x})
    assert found.model.b.weight is found.model.c.weight
    assert torch.equal(found.permutations["a"], found.permutations["b"])
    assert torch.equal(found.permutations["b"], found.permutations["c"])
