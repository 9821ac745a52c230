"""Splits of edges: the official ones to the bit, and no held-out edge in what a model trains on."""

import hashlib
import random
import warnings

import networkx as nx
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch_geometric import EdgeIndex
from torch_geometric.data import Data, HeteroData
from torch_geometric.utils import coalesce, is_undirected, negative_sampling, to_undirected

import gunlearn as gu
from gunlearn.errors import InvalidInputError, InvalidTypeError
from gunlearn.requests import ForgetEdges
from gunlearn.seed import isolated_rng
from gunlearn.tasks import link_split
from tests.tasks.cases import both, columns, random_graph

# sha256 (first 16 hex digits) of the int64 arrays that the official code (sh-qiangchen/INPO, commit 9c111a6) drew with
# seed 42: training, test and forgotten columns. Figures of that code, not of this package.
OFFICIAL = {
    "CitationFull/dblp/raw/dblp.npz": ("7a8cd82f85d38539", "e5a980a5bef7d8f6", "4de4bd17fc700b1d"),
    "Coauthor/CS/raw/ms_academic_cs.npz": ("917520f551f5e228", "20ea41f7c9cc3b83", "220972aa2d17436f"),
}


def sha(index):
    return hashlib.sha256(np.ascontiguousarray(index.numpy(), dtype="<i8").tobytes()).hexdigest()[:16]


@pytest.mark.parametrize("file", OFFICIAL)
def test_official_splits(file, data_root):
    path = data_root / file
    if not path.is_file():
        pytest.skip(f"needs {file} in the data folder")
    with np.load(path) as raw:
        shape = tuple(map(int, raw["adj_shape"]))
        adjacency = sp.csr_matrix((raw["adj_data"], raw["adj_indices"], raw["adj_indptr"]), shape).tocoo()
    index = torch.from_numpy(np.stack([adjacency.row, adjacency.col])).long()
    edge_index = to_undirected(index[:, index[0] != index[1]], num_nodes=shape[0])
    data = Data(edge_index=edge_index, num_nodes=shape[0])

    split = link_split(data, seed=42, protocol="inpo")
    assert (sha(split.train_pos_edge_index), sha(split.test_pos_edge_index)) == OFFICIAL[file][:2]
    assert torch.equal(split.edge_index, to_undirected(split.train_pos_edge_index, num_nodes=shape[0]))
    partition = ForgetEdges(ratio=0.005, protocol="inpo", seed=42).resolve(split)
    assert sha(partition.forget_edge_index) == OFFICIAL[file][2]
    # Controls: the draw of our own, and the region around the test edges, are other sets.
    for other in (ForgetEdges(ratio=0.005, seed=42), ForgetEdges(ratio=0.005, region="in", seed=42)):
        assert sha(other.resolve(split).forget_edge_index) != OFFICIAL[file][2]
    # Self-loops, repeats and another order of the columns change nothing; another seed does.
    shuffled = torch.cat([edge_index.flip(1), edge_index[:, :9], torch.tensor([[5], [5]])], dim=1)
    again = link_split(Data(edge_index=shuffled, num_nodes=shape[0]), seed=42, protocol="inpo")
    assert sha(again.train_pos_edge_index) == OFFICIAL[file][0]
    assert sha(link_split(data, seed=0, protocol="inpo").train_pos_edge_index) != OFFICIAL[file][0]


def test_inpo_protocol_line_by_line():
    data = random_graph(40, 150)
    split = link_split(data, seed=7, protocol="inpo")
    edges = data.edge_index[:, data.edge_index[0] < data.edge_index[1]]
    with isolated_rng(7):
        perm = torch.randperm(edges.size(1))
        held_out = int(0.05 * edges.size(1))
        test, val = edges[:, perm[:held_out]], edges[:, perm[held_out : 2 * held_out]]
        test_neg = negative_sampling(edge_index=test, num_nodes=40, num_neg_samples=held_out)
        val_neg = negative_sampling(edge_index=val, num_nodes=40, num_neg_samples=held_out)
    expected = {"train_pos": edges[:, perm[2 * held_out :]], "val_pos": val, "test_pos": test}
    for name, pairs in {**expected, "val_neg": val_neg, "test_neg": test_neg}.items():
        assert torch.equal(split[f"{name}_edge_index"], pairs)


def test_held_out_negatives_know_all_edges_except_in_the_inpo_protocol():
    data = random_graph(16, 110)  # dense, so that a careless draw meets an edge
    edges = set(columns(data.edge_index))
    hits = {}
    for protocol in ("random", "inpo"):
        split = link_split(data, 0.2, 0.2, protocol=protocol)
        drawn = columns(split.test_neg_edge_index) + columns(split.val_neg_edge_index)
        hits[protocol] = sum(pair in edges for pair in drawn)
        assert all(u != v for u, v in drawn)
        for part in ("val", "test"):
            own = set(columns(split[f"{part}_pos_edge_index"]))
            assert not own & set(columns(split[f"{part}_neg_edge_index"]))
    assert hits["random"] == 0
    assert hits["inpo"] > 0  # as the official code: its test negatives may be training edges


@st.composite
def graphs(draw):
    num_nodes = draw(st.integers(4, 12))
    node = st.integers(0, num_nodes - 1)
    edges = draw(st.lists(st.tuples(node, node), min_size=3, max_size=60))  # self-loops and repeats among them
    index = torch.tensor(edges).t()
    if draw(st.booleans()):
        index = torch.cat([index, index.flip(0), index[:, :1]], dim=1)  # one direction twice: undirected all the same
    return Data(edge_index=index, num_nodes=num_nodes + draw(st.integers(0, 2)))


@given(graphs(), st.sampled_from(["random", "inpo"]), st.floats(0.05, 0.45), st.floats(0.05, 0.45), st.booleans())
def test_no_leak_on_random_graphs(data, protocol, val_ratio, test_ratio, with_attributes):
    undirected = set(columns(data.edge_index)) == set(columns(data.edge_index.flip(0)))
    edges = {(min(e), max(e)) if undirected else e for e in columns(data.edge_index) if e[0] != e[1]}
    num_val, num_test = int(val_ratio * len(edges)), int(test_ratio * len(edges))
    assume(num_val > 0)
    assume(num_test > 0)
    absent = (data.num_nodes * (data.num_nodes - 1)) // (2 if undirected else 1) - len(edges)
    if protocol == "random" and absent < num_val + num_test:
        with pytest.raises(InvalidInputError, match=rf"at least {num_val + num_test} non-edges.*got {absent}|complete"):
            link_split(data, val_ratio, test_ratio)
        return
    assume(absent > 0)
    if with_attributes:
        data.edge_weight = torch.arange(data.edge_index.size(1)).float()
    split = link_split(data, val_ratio, test_ratio, protocol=protocol)

    parts = {name: columns(split[f"{name}_pos_edge_index"]) for name in ("train", "val", "test")}
    assert [len(parts["val"]), len(parts["test"])] == [num_val, num_test]
    together = parts["train"] + parts["val"] + parts["test"]
    assert sorted(together) == sorted(edges)  # a partition: none lost, none twice
    messages = set(columns(split.edge_index))
    held_out = set(parts["val"] + parts["test"])
    assert not messages & held_out
    if undirected:
        assert not messages & both(held_out)
        assert messages == both(parts["train"])
        # As a set: with attributes a repeated column stays repeated, in one direction if that is how it came.
        assert is_undirected(coalesce(split.edge_index), num_nodes=data.num_nodes)
    else:
        assert messages == set(parts["train"])
    for name in ("val", "test"):
        negative = split[f"{name}_neg_edge_index"]
        assert negative.shape == split[f"{name}_pos_edge_index"].shape
        assert (negative[0] != negative[1]).all()
        avoid = set(columns(data.edge_index))
        assert protocol == "inpo" or not avoid & set(columns(negative))
    if protocol == "random":  # each once, in whatever direction
        drawn = columns(torch.cat([split.val_neg_edge_index, split.test_neg_edge_index], dim=1))
        assert len({tuple(sorted(p)) if undirected else p for p in drawn}) == num_val + num_test
    assert split.num_nodes == data.num_nodes


def test_directed_edges_are_their_own_items():
    # Both directions of an edge are two edges of a directed graph: one may be held out while the other trains.
    index = torch.tensor([[0, 1, 2, 3, 4, 5, 0, 7], [1, 0, 3, 2, 5, 6, 4, 0]])
    split = link_split(Data(edge_index=index, num_nodes=8), 0.25, 0.25)
    together = torch.cat([split[f"{part}_pos_edge_index"] for part in ("train", "val", "test")], dim=1)
    assert sorted(columns(together)) == sorted(columns(index))
    assert split.edge_index.size(1) == 4
    assert torch.equal(split.edge_index, split.train_pos_edge_index)


@pytest.mark.parametrize("undirected", [True, False])
def test_attributes_follow_their_edges(undirected):
    data = random_graph(30, 60, undirected)
    index = torch.cat([data.edge_index, data.edge_index[:, 4:8], torch.tensor([[3], [3]])], dim=1)
    perm = torch.randperm(index.size(1), generator=torch.Generator().manual_seed(1))
    data.edge_index = index = index[:, perm]
    number = index.size(1)
    data.edge_weight = torch.rand(number)
    data.edge_attr = torch.rand(number, 3)
    data.year = np.arange(number)
    data.kind = [f"{u}-{v}" for u, v in columns(index)]
    data.other_edge_index = index.clone()  # PyG counts its columns, not its rows
    data.y, data.name, data.level = torch.arange(30), "graph", torch.tensor(0.5)
    split = link_split(data, 0.1, 0.1)

    kept = [data.year.tolist().index(year) for year in split.year.tolist()]
    assert kept == sorted(kept)  # columns keep their order
    assert columns(split.edge_index) == [columns(index)[i] for i in kept]
    train = set(columns(split.train_pos_edge_index))
    train |= both(train) if undirected else set()
    assert kept == [i for i, pair in enumerate(columns(index)) if pair in train]  # repeats stay, self-loops go
    assert torch.equal(split.edge_weight, data.edge_weight[kept])
    assert torch.equal(split.edge_attr, data.edge_attr[kept])
    assert split.kind == [f"{u}-{v}" for u, v in columns(split.edge_index)]
    assert torch.equal(split.other_edge_index, split.edge_index)
    assert torch.equal(split.y, data.y)
    assert torch.equal(split.x, data.x)
    assert (split.name, float(split.level)) == ("graph", 0.5)


def test_as_many_edges_as_nodes():
    data = random_graph(30, 80)
    data = Data(x=torch.rand(data.edge_index.size(1), 2), edge_index=data.edge_index)
    data.edge_weight = torch.arange(data.edge_index.size(1)).float()
    assert data.num_nodes == data.num_edges
    split = link_split(data, 0.1, 0.1)
    assert split.x.size(0) == split.num_nodes == data.num_nodes
    assert split.edge_weight.numel() == split.edge_index.size(1) < data.num_edges
    assert torch.equal(data.edge_index[:, split.edge_weight.long()], split.edge_index)


def test_input_and_random_state_are_left_alone():
    data = random_graph(30, 60)
    data.edge_weight = torch.rand(data.edge_index.size(1))
    before = data.clone()
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    link_split(data, protocol="inpo")
    first, same, other = (link_split(data, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]
    assert data.keys() == before.keys()
    assert all(torch.equal(data[key], value) for key, value in before)
    assert all(torch.equal(value, same[key]) for key, value in first if torch.is_tensor(value))
    assert not torch.equal(first.test_pos_edge_index, other.test_pos_edge_index)
    assert not torch.equal(first.test_neg_edge_index, other.test_neg_edge_index)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (random_graph(30, 60), {"protocol": "INPO"}, "protocol"),
        (random_graph(30, 60), {"val_ratio": -0.1}, "ratios"),
        (random_graph(30, 60), {"val_ratio": 0.5, "test_ratio": 0.5}, "ratios"),
        (random_graph(30, 60), {"test_ratio": float("nan")}, "ratios"),
        (random_graph(30, 60), {"val_ratio": 0.001}, "enough edges"),
        (random_graph(30, 60), {"test_ratio": 0.0}, "enough edges"),
        (Data(edge_index=torch.empty(2, 0, dtype=torch.long), num_nodes=5), {}, "training edges"),
        (link_split(random_graph(30, 60)), {}, "already holds"),
        (random_graph(6, 2000), {"val_ratio": 0.1, "test_ratio": 0.1}, "complete"),
    ],
)
def test_refusals(data, options, message):
    with pytest.raises(InvalidInputError, match=message):
        link_split(data, **options)


# What is not held out by accident #############################################


@pytest.mark.parametrize("typed", [True, False])
def test_types_say_nothing_of_held_out_pairs_of_a_random_bipartite_graph(typed):
    """Whether two nodes are of different types is all that a trained model could learn: AUC .5 is true."""
    torch.manual_seed(0)
    edges = torch.stack([torch.randint(0, 200, (1200,)), torch.randint(200, 220, (1200,))]).unique(dim=1)
    side = (torch.arange(220) >= 200).long()
    data = Data(edge_index=to_undirected(edges), num_nodes=220)
    if typed:
        data.node_type = side
    split = link_split(data, 0.1, 0.1)
    for part in ("val", "test"):
        pairs = [split[f"{part}_{sign}_edge_index"] for sign in ("pos", "neg")]
        differ = torch.cat([side[u] != side[v] for u, v in pairs])
        label = np.repeat([1, 0], [p.size(1) for p in pairs])
        assert roc_auc_score(label, differ.double().numpy()) == 0.5


def test_even_cycles_are_warned_of_where_sides_are_not_known():
    index = torch.tensor([*nx.convert_node_labels_to_integers(nx.grid_2d_graph(8, 8)).edges]).t()
    data = Data(edge_index=to_undirected(index), num_nodes=64)
    with pytest.warns(UserWarning, match=r"even.*data\.node_type"):
        link_split(data, 0.1, 0.1)
    data.node_type = torch.zeros(64, dtype=torch.long)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        link_split(data, 0.1, 0.1)


@pytest.mark.parametrize("seed", range(5))
def test_no_negative_stands_twice(seed):
    for name, share in (("lesmis", 0.34), ("karate", 0.3)):
        split = link_split(gu.load(name), share, share, seed=seed)
        drawn = columns(torch.cat([split.val_neg_edge_index, split.test_neg_edge_index], dim=1))
        assert len({tuple(sorted(pair)) for pair in drawn}) == len(drawn)


def test_too_few_non_edges_are_counted():
    edges = torch.triu_indices(80, 80, 1)[:, 3:]
    held_out = 2 * (edges.size(1) // 10)
    with pytest.raises(InvalidInputError, match=rf"at least {held_out} non-edges .* \(got 3\)"):
        link_split(Data(edge_index=to_undirected(edges), num_nodes=80), 0.1, 0.1)
    split = link_split(Data(edge_index=to_undirected(edges), num_nodes=80), 1 / 3000, 2 / 3000)
    drawn = torch.cat([split.val_neg_edge_index, split.test_neg_edge_index], dim=1)
    assert {tuple(sorted(pair)) for pair in columns(drawn)} == {(0, 1), (0, 2), (0, 3)}


def test_lists_as_long_as_the_edges_belong_to_nodes_unless_their_name_says_otherwise():
    ring = torch.stack([torch.arange(6), (torch.arange(6) + 1) % 6])
    names = [f"p{i}" for i in range(12)]
    data = Data(x=torch.randn(12, 3), edge_index=to_undirected(ring), name=names, edge_name=list(names))
    assert data.num_nodes == data.num_edges == 12
    split = link_split(data, 0.2, 0.2)
    kept = [columns(data.edge_index).index(pair) for pair in columns(split.edge_index)]
    assert split.name == names
    assert split.edge_name == [names[i] for i in kept]


def test_held_out_edges_leave_every_list_and_matrix():
    data = random_graph(30, 120)
    pairs = data.edge_index[:, ::3]
    data.edge_label_index, data.edge_label = pairs.clone(), torch.ones(pairs.size(1))
    value = torch.ones(data.edge_index.size(1))
    data.adj_t = torch.sparse_coo_tensor(data.edge_index.flip(0), value, (30, 30)).to_sparse_csr()
    split = link_split(data, 0.2, 0.2)
    held_out = both(columns(split.val_pos_edge_index) + columns(split.test_pos_edge_index))
    assert set(columns(split.edge_label_index)) == set(columns(pairs)) - held_out
    assert split.edge_label.numel() == split.edge_label_index.size(1)
    assert set(columns(split.adj_t.to_sparse_coo().coalesce().indices())) == set(columns(split.edge_index))


def test_graphs_in_other_forms():
    data = random_graph(30, 120)
    plain = link_split(data, 0.1, 0.1)
    special = Data(x=data.x, edge_index=EdgeIndex(data.edge_index, sparse_size=(30, 30), is_undirected=True))
    split = link_split(special, 0.1, 0.1)
    assert type(split.edge_index) is torch.Tensor
    assert all(torch.equal(value, split[name]) for name, value in plain if torch.is_tensor(value))
    assert isinstance(special.edge_index, EdgeIndex)  # the caller's own
    with pytest.raises(InvalidTypeError, match=r"HeteroData.*gunlearn\.nn\.homogeneous"):
        link_split(HeteroData())
    data.edge_weight = torch.ones(data.num_edges // 2)
    with pytest.raises(InvalidInputError, match=r"edge_weight.*each undirected edge once"):
        link_split(data, 0.1, 0.1)
