"""Attributes that were computed from what is forgotten are named, and nothing else is."""

import warnings

import pytest
import torch
import torch_geometric.transforms as T
from torch_geometric.data import Batch, Data
from torch_geometric.nn import GCNConv, global_mean_pool
from torch_geometric.utils import degree

import gunlearn as gu
from tests.model_kinds import blocks

pytestmark = pytest.mark.filterwarnings("ignore:.*Sparse:UserWarning")


def said(data: Data, request: gu.Request, task: str = "node_classification") -> list[str]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        gu.unlearn(GCNConv(data.x.size(1), 3), data, request, "utu", task)
    return [str(one.message) for one in seen if "whole graph had been read" in str(one.message)]


def named(**attributes: torch.Tensor) -> T.BaseTransform:
    class Named(T.BaseTransform):
        def forward(self, data: Data) -> Data:
            for name, value in attributes.items():
                data[name] = value
            return data

    return Named()


DATA = blocks()
N, E = int(DATA.num_nodes), DATA.num_edges
RANDOM = torch.rand(E, generator=torch.Generator().manual_seed(0)) + 0.1
FOUND = {
    "SIGN": (T.SIGN(2), ["'data.x1'", "'data.x2'"]),
    "random walks": (T.AddRandomWalkPE(3), ["'data.random_walk_pe'"]),
    "own name": (T.AddRandomWalkPE(3, attr_name="pe"), ["'data.pe'"]),
    "eigenvectors": (T.AddLaplacianEigenvectorPE(2), ["'data.laplacian_eigenvector_pe'"]),
    "lambda_max": (T.LaplacianLambdaMax(), ["'data.lambda_max'"]),
    "GCNNorm": (T.GCNNorm(), ["'data.edge_weight'"]),
    "GCNNorm without loops": (T.GCNNorm(add_self_loops=False), ["'data.edge_weight'"]),
    "GCNNorm of weights": (T.Compose([named(edge_weight=RANDOM), T.GCNNorm()]), ["'data.edge_weight'"]),
    "random walk weights": (
        named(edge_weight=1 / degree(DATA.edge_index[0], N)[DATA.edge_index[0]]), ["'data.edge_weight'"],
    ),
    "diffusion": (T.GDC(), ["'data.edge_attr'"]),
    "degree profile": (T.LocalDegreeProfile(), ["'data.x'"]),
    "one-hot degrees": (T.OneHotDegree(40), ["'data.x'"]),
    "degrees under any name": (named(activity=degree(DATA.edge_index[1], N)), ["'data.activity'"]),
}  # fmt: skip
NORMAL = {
    "as it is": named(),
    "weights": named(edge_weight=RANDOM, edge_attr=torch.rand(E, 3)),
    "weights of one": named(edge_weight=torch.ones(E)),
    "a constant": T.Constant(),
    "features by row": T.NormalizeFeatures(),
    "self-loops": T.AddSelfLoops("edge_weight"),
    "one-hot ids": named(x=torch.eye(N)),
    "other attributes": named(pe_ratio=torch.rand(N), x1=torch.rand(N), pos=torch.rand(N, 2), angle_deg=torch.rand(N)),
}


@pytest.mark.parametrize("case", FOUND)
@pytest.mark.parametrize("split", [False, True])
def test_what_was_computed_from_the_graph_is_named_once(case: str, split: bool) -> None:
    transform, names = FOUND[case]
    data = transform(DATA.clone())
    if split:
        if case in ("diffusion", "random walk weights", "GCNNorm of weights"):
            pytest.skip("sums over the edges of a part of the graph show nothing")
        data = gu.link_split(data, 0.1, 0.1, seed=0)
    task = "link_prediction" if split else "node_classification"
    for request in (gu.ForgetNodes([3]), gu.ForgetEdges(count=2)):
        (text,) = said(data, request, task)
        assert all(name in text for name in names)


@pytest.mark.parametrize("case", NORMAL)
def test_normal_data_is_not_suspected(case: str) -> None:
    data = NORMAL[case](DATA.clone())
    for request in (gu.ForgetNodes([3]), gu.ForgetEdges(count=2)):
        assert not said(data, request)
        assert not said(gu.link_split(data, 0.1, 0.1, seed=0), request, "link_prediction")


def test_only_what_the_request_touches_counts() -> None:
    walks, sign = (transform(DATA.clone()) for transform in (T.AddRandomWalkPE(3), T.SIGN(2)))
    assert not said(walks, gu.ForgetFeatures([3]))  # edges stay
    assert said(sign, gu.ForgetFeatures([3]))
    batch = Batch.from_data_list([T.AddRandomWalkPE(3)(blocks(seed=seed)) for seed in range(4)])
    batch.y = torch.arange(4) % 2

    class Pooled(GCNConv):
        def forward(self, x, edge_index, batch=None):
            return global_mean_pool(super().forward(x, edge_index), batch)

    with warnings.catch_warnings(record=True) as seen:  # a graph that goes leaves nothing in other graphs
        warnings.simplefilter("always")
        call = lambda model, data: model(data.x, data.edge_index, data.batch)  # noqa: E731
        gu.unlearn(Pooled(8, 2), batch, gu.ForgetGraphs([1]), "utu", "graph_classification", call=call)
    assert not [one for one in seen if "whole graph" in str(one.message)]


def test_influence_names_them_too() -> None:
    data = T.AddRandomWalkPE(3)(DATA.clone())
    with pytest.warns(UserWarning, match="random_walk_pe"):
        gu.influence(GCNConv(8, 3), data, "node_classification", items=data.edge_index[:, :2])
