"""One row per registered task, and the graphs and sets of edges that tests of tasks and requests share."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.utils import to_undirected

import gunlearn as gu
from gunlearn.testing import TaskCase


def _table() -> Data:
    x, y = torch.arange(160.0).view(40, 4).sin(), torch.arange(40) % 2
    return Data(x=x, y=y, test_mask=torch.arange(40) >= 28)


def _ego_graphs() -> Data:
    from tests.tasks.test_graph_classification import ego_graphs

    return ego_graphs()


def _pooled(width: int = 4) -> nn.Module:
    from tests.tasks.test_graph_classification import Pooled

    model = Pooled()
    model.head = nn.Linear(16, width)
    return model


def _numbers() -> Data:
    data = gu.load("karate")
    data.y = data.x @ torch.linspace(-1, 1, 34)
    return gu.node_split(data, 0.2, 0.3, seed=0)


def _several_labels() -> Data:
    data = gu.load("karate")
    data.y = torch.stack([torch.arange(34) % 2, torch.arange(34) // 17, torch.arange(34) % 3 // 2], dim=1).float()
    data.y[3, 1] = float("nan")  # unknown
    return gu.node_split(data, 0.2, 0.3, seed=0)


def _of_graphs(labels: Callable[[Tensor], Tensor]) -> Data:
    data = _ego_graphs()
    data.y = labels(data.y)
    return data


def _texts() -> Data:
    ids = torch.randint(7, (10, 6), generator=torch.Generator().manual_seed(0))
    return Data(x=ids, y=ids.clone(), attention_mask=torch.ones_like(ids))


def _images() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(12, 1, 4, 4, generator=draw), torch.arange(12) % 3


class Denoiser(nn.Module):
    """A convolution, shifted by the class and the step."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.shift = nn.Conv2d(1, 1, 3, padding=1), nn.Embedding(4, 1)

    def forward(self, sample: Tensor, timestep: Tensor, class_labels: Tensor) -> Tensor:
        return self.conv(sample) + (self.shift(class_labels) + timestep.view(-1, 1) / 100).view(-1, 1, 1, 1)


def _denoising() -> gu.Task:
    from gunlearn.diffusion import Denoising, NoiseSchedule

    return Denoising(NoiseSchedule(torch.linspace(0.99, 0.01, 20)), null=3)


def _language_model() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=7, max_position_embeddings=8, pad_token_id=None, **sizes))


CASES = [
    TaskCase(
        "link_prediction", lambda: gu.link_split(gu.load("karate"), 0.1, 0.1), gu.ForgetEdges(count=5),
        lambda: gu.GCN(34, 8, 4),
    ),
    TaskCase(
        "node_classification", lambda: gu.node_split(gu.load("karate"), 0.2, 0.3, seed=0),
        gu.ForgetNodes(count=5, seed=2), lambda: gu.GCN(34, 8, 4),
    ),
    TaskCase("graph_classification", _ego_graphs, gu.ForgetGraphs(count=4, seed=1), _pooled),
    TaskCase(
        "node_regression", _numbers, gu.ForgetNodes(count=5, seed=2), lambda: gu.GCN(34, 8, 1),
    ),
    TaskCase(
        "graph_regression", lambda: _of_graphs(lambda y: torch.stack([y.float(), -y.float()], 1)),
        gu.ForgetGraphs(count=4, seed=1), lambda: _pooled(2),
    ),
    TaskCase(
        "node_multilabel", _several_labels, gu.ForgetNodes(count=5, seed=2), lambda: gu.GCN(34, 8, 3),
    ),
    TaskCase(
        "graph_multilabel", lambda: _of_graphs(lambda y: torch.stack([y, 1 - y], 1)), gu.ForgetGraphs(count=4, seed=1),
        lambda: _pooled(2),
    ),
    TaskCase("image_classification", _table, gu.ForgetItems(count=8), lambda: nn.Linear(4, 2)),
    TaskCase("causal_lm", _texts, gu.ForgetItems(count=3), _language_model),
    TaskCase("denoising", _images, gu.ForgetItems(count=4), Denoiser, _denoising),
]  # fmt: skip


def columns(edge_index: Tensor) -> list[tuple[int, ...]]:
    """The pairs of `edge_index`, in order."""
    return [*map(tuple, edge_index.t().tolist())]


def both(pairs):
    """Pairs in both directions."""
    return {*pairs} | {(v, u) for u, v in pairs}


def random_graph(num_nodes: int, count: int, undirected: bool = True, seed: int = 0) -> Data:
    """At most `count` distinct random edges without self-loops, and five features."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(num_nodes, (2, count), generator=generator)
    index = index[:, index[0] != index[1]].unique(dim=1)
    index = to_undirected(index, num_nodes=num_nodes) if undirected else index
    return Data(x=torch.randn(num_nodes, 5, generator=generator), edge_index=index)


def relabelled(data: Data, index: Tensor) -> Data:
    """A copy of the data with other labels at `index`, ids or a mask."""
    out = copy.copy(data)
    out.y = data.y.clone()
    out.y[index] = (data.y[index] + 1) % (int(data.y.max()) + 1)
    return out
