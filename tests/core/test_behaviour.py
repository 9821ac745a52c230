"""What two models of one shape may differ in; and hashes of content."""

import copy
import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch import Tensor, nn
from torch_geometric.nn import GAT, GCN, GCNConv, SAGEConv

from gunlearn.core.behaviour import code_of, differences, settings_of
from gunlearn.core.digest import content_hash, state_hash


def tanh_model(act: Callable[[Tensor], Tensor] = torch.tanh, p: float = 0.5, scale: Any = 1) -> nn.Module:
    class Net(nn.Module):
        """Words."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act, self.drop = GCNConv(3, 2), act, nn.Dropout(p)
            self.args = SimpleNamespace(scale=scale)

        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return self.drop(self.act(self.conv(x, edge_index))) * self.args.scale

    return Net()


def other_forward() -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act, self.drop = GCNConv(3, 2), torch.tanh, nn.Dropout(0.5)
            self.args = SimpleNamespace(scale=1)

        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return self.drop(self.act(self.conv(x, edge_index))) / self.args.scale

    return Net()


def reworded() -> nn.Module:
    class Net(nn.Module):
        """Other words, and an addition that no pass reads."""

        def __init__(self) -> None:
            super().__init__()
            self.extra = "unused"
            self.conv, self.act, self.drop = GCNConv(3, 2), torch.tanh, nn.Dropout(0.5)
            self.args = SimpleNamespace(scale=1)

        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            """Also in words."""
            # and in comments
            return self.drop(self.act(self.conv(x, edge_index))) * self.args.scale

    return Net()


def described(model: nn.Module) -> tuple[Any, Any]:
    return settings_of(model), code_of(model)


OTHERS = {
    "activation": (lambda: tanh_model(torch.relu), "act of ''"),
    "dropout": (lambda: tanh_model(p=0.1), "p of 'drop'"),
    "namespace": (lambda: tanh_model(scale=2), "args of ''"),
    "partial": (lambda: tanh_model(functools.partial(torch.clamp, min=0)), "act of ''"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_difference_is_named(name: str) -> None:
    make, words = OTHERS[name]
    found = differences(settings_of(tanh_model()), settings_of(make()))
    assert len(found) == 1
    assert words in found[0]


def test_code_counts_and_comments_do_not() -> None:
    usual = described(tanh_model())
    assert differences(usual[0], settings_of(reworded())) == differences(usual[0], settings_of(other_forward())) == []
    assert code_of(reworded()) == usual[1]
    assert code_of(other_forward()) != usual[1]
    halves = [tanh_model(lambda x: x / 2), tanh_model(lambda x: x / 2), tanh_model(lambda x: x / 3)]
    assert code_of(halves[0]) == code_of(halves[1]) != code_of(halves[2])


def test_classes_of_one_name_are_told_apart_inside_a_model() -> None:
    """The code of each counts, whichever comes last."""
    alike = [nn.ModuleList([make() for make in makes]) for makes in ([tanh_model] * 2, [tanh_model, tanh_model])]
    first, last = nn.ModuleList([other_forward(), tanh_model()]), nn.ModuleList([tanh_model(), other_forward()])
    assert code_of(alike[0]) == code_of(alike[1])
    hashes = [str(code_of(model)) for model in (alike[0], first, last)]
    assert len(set(hashes)) == 3

    def grown(halves: float) -> nn.Module:
        class Net(type(tanh_model(scale=1))):  # type: ignore[misc]
            def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
                return super().forward(x, edge_index) / halves

        return Net()

    assert code_of(grown(2)) != code_of(grown(3))


def make_act(slope: float) -> Callable[[Tensor], Tensor]:
    return lambda x: x * slope


def test_enclosed_settings_count() -> None:
    assert code_of(tanh_model(make_act(0.1))) != code_of(tanh_model(make_act(0.2)))
    assert code_of(tanh_model(make_act(0.1))) == code_of(tanh_model(make_act(0.1)))


PAIRS = [
    (lambda: GCN(3, 4, 2, act="relu"), lambda: GCN(3, 4, 2, act="tanh")),
    (lambda: GCN(3, 4, 2, dropout=0.1), lambda: GCN(3, 4, 2, dropout=0.2)),
    (lambda: SAGEConv(3, 4, aggr="mean"), lambda: SAGEConv(3, 4, aggr="max")),
    (lambda: GCNConv(3, 4), lambda: GCNConv(3, 4, add_self_loops=False)),
    (lambda: GAT(3, 4, 2, heads=2), lambda: GAT(3, 4, 2, heads=2, negative_slope=0.5)),
    (lambda: nn.Sequential(nn.Linear(2, 2), nn.ReLU()), lambda: nn.Sequential(nn.Linear(2, 2), nn.GELU())),
    (lambda: nn.LayerNorm(2), lambda: nn.LayerNorm(2, eps=1e-3)),
]


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_models_of_libraries(one: Callable[[], nn.Module], other: Callable[[], nn.Module]) -> None:
    first, second = one(), other()
    assert differences(settings_of(first), settings_of(copy.deepcopy(first).eval())) == []
    assert differences(settings_of(first), settings_of(one())) == []
    assert differences(settings_of(first), settings_of(second))


def test_a_pass_changes_nothing() -> None:
    model, edges = GCN(3, 4, 2), torch.tensor([[0, 1], [1, 0]])
    before = described(model)
    model(torch.randn(2, 3), edges).sum().backward()
    assert described(model) == before


CONTENTS = [
    torch.arange(3.0), torch.arange(3), torch.arange(3.0).view(3, 1), torch.tensor([[0.0, 1], [0, 0]]).to_sparse_csr(),
    torch.tensor([[0.0, 1], [0, 0]]).to_sparse(), torch.tensor(1.0), torch.tensor([], dtype=torch.half),
    np.arange(3.0), np.arange(3), np.array(["a", "b"], dtype=object),
    sp.csr_matrix([[0, 1.0]]), sp.csr_matrix([[1.0, 0]]),
    1, 1.0, True, None, "1", b"1", [1, [2]], [1, 2], (1, 2), {"a": 1, "b": 2}, {"b": 2, "a": 1}, {1, 2}, {1, 3},
    torch.relu, torch.tanh, functools.partial(torch.clamp, min=0), functools.partial(torch.clamp, min=1),
    SimpleNamespace(a=1), SimpleNamespace(a=2), int, float,
]  # fmt: skip


def test_contents_are_told_apart_and_known_again() -> None:
    hashes = [content_hash(value) for value in CONTENTS]
    assert len(set(hashes)) == len(hashes)
    assert hashes == [content_hash(value) for value in CONTENTS]
    large = np.zeros(2000)  # whose repr leaves out the middle
    other = large.copy()
    other[1000] = 1
    assert content_hash(large) != content_hash(other)
    assert content_hash([torch.from_numpy(large)]) != content_hash([torch.from_numpy(other)])
    assert content_hash(object()) == content_hash(object())  # no address


def test_a_state_is_known_by_its_bits() -> None:
    model = nn.BatchNorm1d(3)
    other = copy.deepcopy(model)
    assert state_hash(model) == state_hash(other)
    other.running_mean[1] = 1e-30
    assert state_hash(model) != state_hash(other)


def test_settings_of_ones_own_that_begin_with_an_underscore_count() -> None:
    class Own(torch.nn.Linear):
        def __init__(self, act: str) -> None:
            super().__init__(2, 2)
            self._act = act

    one, other = settings_of(Own("relu")), settings_of(Own("tanh"))
    assert differences(one, other) == ["_act of '' was 'relu', and is 'tanh'"]
    assert not any(name.startswith("_") for name in settings_of(torch.nn.Linear(2, 2))[""])  # control: the library's
