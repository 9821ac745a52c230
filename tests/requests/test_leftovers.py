"""What may still hold the forgotten is told by name; what is certain is taken out; the rest is quiet."""

import random
import warnings

import networkx as nx
import numpy as np
import pytest
import torch
from torch_geometric.data import Batch, Data
from torch_geometric.datasets import FakeDataset, FakeHeteroDataset
from torch_geometric.transforms import RandomLinkSplit

import gunlearn as gu
from tests.tasks.cases import columns

G = nx.connected_watts_strogatz_graph(30, 4, 0.3, seed=0)
N, EDGES = G.number_of_nodes(), sorted(G.edges)
PAIR = EDGES[4]
BY_EDGES, BY_NODES = gu.ForgetEdges([PAIR]), gu.ForgetNodes([PAIR[0]])
NEAR = {u: sorted(G[u]) for u in G}


def graph(**more) -> Data:
    index = torch.tensor([pair for u, v in EDGES for pair in ((u, v), (v, u))]).t().contiguous()
    return Data(x=torch.ones(N, 3), edge_index=index, num_nodes=N, **more)


def padded(pad: int) -> torch.Tensor:
    wide = max(map(len, NEAR.values()))
    return torch.tensor([near + [pad] * (wide - len(near)) for near in NEAR.values()])


RANDOM = random.Random(0)
WALKS = [[u := RANDOM.randrange(N), v := RANDOM.choice(NEAR[u]), RANDOM.choice(NEAR[v])] for _ in range(20)]
PLACES = torch.tensor(EDGES)
MAY_HOLD = {
    "batched": PLACES[:20].view(4, 5, 2),
    "padded": torch.cat([PLACES, -torch.ones(3, 2).long()]),
    "codes": PLACES[:, 0] * N + PLACES[:, 1],
    "floats": PLACES.t().float(),
    "weighted": torch.tensor([(u, v, 0.5) for u, v in EDGES]),
    "records": np.array(EDGES, dtype=[("u", "i4"), ("v", "i4")]),
    "sets": {frozenset(pair) for pair in EDGES},
    "texts": [f"{u}-{v}" for u, v in EDGES],
    "costs": {f"{u}_{v}": 0.1 for u, v in EDGES},
    "fixed_neighbors": torch.tensor([near[:2] for near in NEAR.values()]),
    "small": Data(edge_index=torch.tensor([[0], [1]]), num_nodes=5),
}
OF_NODES = {
    "ego": {PAIR[0]: [1, 2]},
    "by_name": {f"p{u}": "text" for u in G},
    "by_number": {u: "text" for u in G},
    "idx_list": [PAIR[0], 7, 20],
    "forbidden_nodes": [PAIR[0]],
    "parent": torch.tensor([near[0] for near in NEAR.values()]),
    "turned": torch.ones(4, N),
    "over_time": torch.ones(5, N, 2),
    "flat": torch.ones(N * 3),
    "groups": [[PAIR[0], 1, 2, 12], [15, 28]],
}


@pytest.mark.parametrize("name", [*MAY_HOLD, *OF_NODES])
def test_what_may_hold_the_forgotten_is_told(name: str) -> None:
    value = (MAY_HOLD | OF_NODES)[name]
    for request in [BY_NODES] if name in OF_NODES else [BY_NODES, BY_EDGES]:
        data = graph(**{name: value})
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            request.resolve(data)
        told = [str(warning.message) for warning in caught]
        assert len(told) == 1, told
        assert f"'data.{name}' may list" in told[0]


def test_frames_and_names_of_nodes_are_told() -> None:
    pd = pytest.importorskip("pandas")
    names = [f"n{u}" for u in G]
    edges = pd.DataFrame([(names[u], names[v]) for u, v in EDGES], columns=["a", "b"])
    frames = {"one": pd.DataFrame(EDGES), "two": edges, "three": [f"{names[u]}, {names[v]}" for u, v in EDGES]}
    for name, frame in frames.items():
        with pytest.warns(UserWarning, match=f"'data.{name}' may list"):
            BY_EDGES.resolve(graph(node_id=names, **{name: frame}))
    with pytest.warns(UserWarning, match="'data.people' may list"):
        BY_NODES.resolve(graph(people=pd.DataFrame({"age": range(N)})))


@pytest.mark.parametrize("pad", [-1, N])
@pytest.mark.parametrize("request_", [BY_EDGES, BY_NODES], ids=["edges", "nodes"])
def test_neighbours_of_each_node_lose_the_forgotten(pad: int, request_) -> None:
    gone = G.copy()
    gone.remove_edges_from([PAIR] if request_ is BY_EDGES else list(G.edges(PAIR[0])))
    data = graph(nbr=padded(pad), table=padded(pad).numpy(), lists=list(NEAR.values()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        retain = request_.resolve(data).retain_data
    for table in (retain.nbr, retain.table):
        assert table.shape == data.nbr.shape
        assert [[v for v in row if v != pad] for row in table.tolist()] == [sorted(gone[u]) for u in G]
    assert retain.lists == [sorted(gone[u]) for u in G]


@pytest.mark.parametrize("request_", [BY_EDGES, BY_NODES, gu.ForgetFeatures([PAIR[0]])], ids=lambda r: r.kind)
def test_the_same_graph_inside_loses_the_same(request_) -> None:
    inner = graph(value=torch.arange(2.0 * len(EDGES)))
    half = Data(edge_index=inner.edge_index[:, ::2], num_nodes=N)
    data = graph(sub=inner, subs=[half], named={"a": half})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        retain = request_.resolve(data).retain_data
    assert torch.equal(retain.sub.edge_index, retain.edge_index)
    assert torch.equal(retain.sub.x, retain.x)
    left = set(columns(retain.edge_index)) & set(columns(half.edge_index))
    assert set(columns(retain.subs[0].edge_index)) == set(columns(retain.named["a"].edge_index)) == left
    assert torch.equal(data.sub.edge_index, data.edge_index)


def ogb_like() -> Data:
    split = {"train": torch.arange(15), "valid": torch.arange(15, 20), "test": torch.arange(20, N)}
    index = graph().edge_index
    return graph(
        node_year=torch.randint(1990, 2020, (N, 1)),
        y=torch.randint(0, 7, (N, 1)),
        node_species=torch.randint(0, 4, (N, 1)),
        edge_year=torch.randint(2000, 2010, (index.size(1), 1)),
        degree_class=torch.randint(0, 5, (N,)),
        split_idx=split,
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: gu.load("karate"),
        lambda: gu.link_split(gu.load("karate"), seed=0),
        lambda: FakeDataset(1, avg_num_nodes=60, edge_dim=2, task="node")[0],
        lambda: Batch.from_data_list(list(FakeDataset(4, avg_num_nodes=20, edge_dim=1, task="graph"))),
        lambda: FakeHeteroDataset(1, avg_num_nodes=30)[0].to_homogeneous(),
        lambda: RandomLinkSplit(is_undirected=True)(graph())[0],
        ogb_like,
    ],
)
def test_graphs_as_others_make_them_are_quiet(make) -> None:
    data = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gu.ForgetEdges(data.edge_index[:, 2:4]).resolve(data)
        gu.ForgetNodes([3, 9]).resolve(data)
        gu.ForgetFeatures([5]).resolve(data)
