"""Timings, run by `make bench`; ratios between neighbours in the table are what to read."""

import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.nn import GCNConv
from torch_geometric.utils import barabasi_albert_graph

import gunlearn as gu
from gunlearn.attribution import nora
from gunlearn.methods import INPO, run_method
from gunlearn.nn import EdgePattern, gather_inner_product
from gunlearn.tasks import LinkPrediction

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    edge_index = barabasi_albert_graph(5000, 5)
    x = torch.rand(5000, 64, generator=generator)
    return gu.link_split(Data(x=x, edge_index=edge_index), seed=0)


@pytest.mark.parametrize("layer", ["gather-scatter", "csr"])
def test_convolution(benchmark, data, layer: str) -> None:
    conv = GCNConv(64, 64) if layer == "gather-scatter" else gu.InfluenceAwareConv(64, 64)
    benchmark(lambda: conv(data.x, data.edge_index).sum().backward())


@pytest.mark.parametrize("kernel", ["gather", "sampled"])
def test_edge_scores(benchmark, data, kernel: str) -> None:
    z = torch.randn(5000, 64, requires_grad=True)
    pattern = EdgePattern(data.train_pos_edge_index, 5000)
    score = {"gather": lambda: gather_inner_product(z, pattern.edge_index), "sampled": lambda: pattern.inner_product(z)}
    benchmark(lambda: score[kernel]().sum().backward())


def test_removed_edges(benchmark, data) -> None:
    conv, gone = GCNConv(64, 64), data.edge_index[:, :100]

    def removed() -> torch.Tensor:
        with gu.removed_edges(conv, gone):
            return conv(data.x, data.edge_index)

    benchmark(removed)


def test_node_influence(benchmark, data) -> None:
    model = gu.GCN(64)
    benchmark(lambda: nora(model, data))


@pytest.mark.parametrize("mode", ["paper", "default"])
def test_ten_epochs_of_inpo(benchmark, data, mode: str) -> None:
    method = INPO(mode=mode, epochs=10, until="end")
    partition = gu.ForgetEdges(ratio=0.01, seed=0).resolve(data)
    model = gu.GCN(64)
    benchmark.pedantic(lambda: run_method(method, model, partition, LinkPrediction()), rounds=3)
