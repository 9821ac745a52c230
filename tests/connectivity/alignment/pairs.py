"""Models and copies of them that compute the same: channels permuted and rescaled by hand, tensor by tensor."""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from gunlearn.nn import SmallCNN, backbone

#: A hidden space: heads, channels per head, tensors whose rows it makes, tensors that it divides (with their axis).
Space = tuple[int, int, Sequence[str], Sequence[tuple[str, int]]]


class Kind(NamedTuple):
    """A model, what it is called with, and its hidden spaces, written down by hand."""

    model: nn.Module
    given: dict[str, Any]
    spaces: list[Space]


def graph() -> Data:
    generator = torch.Generator().manual_seed(3)
    edges = torch.randint(0, 40, (2, 160), generator=generator)
    edges = edges[:, edges[0] != edges[1]]
    return Data(x=torch.randn(40, 7, generator=generator), edge_index=torch.cat([edges, edges.flip(0)], dim=1))


def _gin(layer: int, size: int) -> Space:
    of = f"convs.{layer}.nn.lins"
    return (1, size, [f"{of}.0.weight", f"{of}.0.bias"], [(f"{of}.1.weight", 1)])


def kinds() -> dict[str, Kind]:
    """Return the six kinds of the issue, with biases that are not zero."""
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(7, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3))
    data = graph()
    found = {
        "mlp": Kind(
            mlp,
            {"inputs": data.x},
            [
                (1, 10, ["0.weight", "0.bias"], [("2.weight", 1)]),
                (1, 8, ["2.weight", "2.bias"], [("4.weight", 1)]),
            ],
        ),
        "cnn": Kind(
            SmallCNN(num_classes=3, widths=(6, 8)),
            {"inputs": torch.randn(12, 1, 8, 8)},
            [
                (1, 6, ["0.weight", "0.bias"], [("3.weight", 1)]),
                (1, 8, ["3.weight", "3.bias"], [("7.weight", 1)]),
            ],
        ),
        "gcn": Kind(
            backbone("gcn", 7, 8, 3, num_layers=3),
            {"data": data},
            [
                (1, 8, [f"convs.{k}.lin.weight", f"convs.{k}.bias"], [(f"convs.{k + 1}.lin.weight", 1)])
                for k in range(2)
            ],
        ),
        "sage": Kind(
            backbone("sage", 7, 8, 3),
            {"data": data},
            [
                (
                    *(1, 8, [f"convs.0.{name}" for name in ("lin_l.weight", "lin_l.bias", "lin_r.weight")]),
                    [("convs.1.lin_l.weight", 1), ("convs.1.lin_r.weight", 1)],
                )
            ],
        ),
        "gin": Kind(
            backbone("gin", 7, 8, 3),
            {"data": data},
            [
                _gin(0, 8),
                (1, 8, ["convs.0.nn.lins.1.weight", "convs.0.nn.lins.1.bias"], [("convs.1.nn.lins.0.weight", 1)]),
                _gin(1, 3),
            ],
        ),
        "gat": Kind(
            backbone("gat", 7, 8, 3, heads=4),
            {"data": data},
            [
                (
                    *(4, 2, ["convs.0.lin.weight", "convs.0.bias"]),
                    [("convs.1.lin.weight", 1), ("convs.0.att_src", 0), ("convs.0.att_dst", 0)],
                )
            ],
        ),
    }
    for kind in found.values():
        for parameter in kind.model.parameters():
            if parameter.dim() == 1:
                nn.init.normal_(parameter, std=0.3)
        kind.model.eval()
    return found


def permuted_copy(kind: Kind, rescale: bool, seed: int = 5) -> nn.Module:
    """Return a copy with its hidden channels in another order and, with `rescale`, multiplied by .3 to 3."""
    generator = torch.Generator().manual_seed(seed)
    other = copy.deepcopy(kind.model)
    state = {name: value.clone() for name, value in other.state_dict().items()}
    for heads, size, made, read in kind.spaces:
        blocks = torch.randperm(heads, generator=generator)
        order = torch.cat([b * size + torch.randperm(size, generator=generator) for b in blocks])
        factor = torch.rand(len(order), generator=generator) * 2.7 + 0.3 if rescale else torch.ones(len(order))
        for name in made:
            state[name] = _moved(state[name], order, factor, 0)
        for name, axis in read:
            value = state[name].reshape(-1) if "att" in name else state[name]
            state[name] = _moved(value, order, 1 / factor, axis).reshape(state[name].shape)
    other.load_state_dict(state)
    return other


def _moved(value: Tensor, order: Tensor, factor: Tensor, axis: int) -> Tensor:
    shape = [1] * value.dim()
    shape[axis] = -1
    return value.index_select(axis, order) * factor.reshape(shape)


def answer(model: nn.Module, given: dict[str, Any]) -> Tensor:
    with torch.no_grad():
        data = given.get("data")
        return model(given["inputs"]) if data is None else model(data.x, data.edge_index)


def between(first: nn.Module, second: nn.Module, t: float) -> nn.Module:
    child, other = copy.deepcopy(first), second.state_dict()
    child.load_state_dict(
        {k: torch.lerp(v, other[k], t) if v.is_floating_point() else v for k, v in first.state_dict().items()}
    )
    return child
