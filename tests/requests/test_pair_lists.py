"""Every place of a graph's data that names what is forgotten, against Python sets and dense matrices."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch_geometric.data import Data
from torch_geometric.transforms import RandomLinkSplit, ToSparseTensor

import gunlearn as gu
from gunlearn.errors import InvalidRequestError
from gunlearn.requests.training_graph import TrainingGraph, distinct_pairs
from tests.tasks.cases import columns

N = 8
RING = [(i, (i + 1) % N) for i in range(N)]


def ring(directed: bool = False, **more) -> Data:
    pairs = RING if directed else [pair for u, v in RING for pair in ((u, v), (v, u))]
    return Data(x=torch.randn(N, 2), edge_index=torch.tensor(pairs).t().contiguous(), num_nodes=N, **more)


PAIRS = [(1, 0), (2, 5), (3, 4), (4, 3), (6, 7)]
LIST = torch.tensor(PAIRS).t().contiguous()
FIVE = torch.arange(5.0)


@pytest.mark.parametrize(
    ("name", "value", "partners"),
    [
        ("pos_edge_label_index", LIST, ["pos_edge_label", "pos_edge_label_time"]),
        ("edge_label_index", LIST, ["edge_label"]),
        ("train_pos_edge_index", LIST, ["train_pos_edge_attr"]),
        ("short_edge_index", LIST.short(), ["short_edge_label"]),
        ("train_edge_index", LIST.int(), ["train_edge_label", "train_edge_weight"]),
        ("val_pos_edge_index", LIST, ["val_pos_edge_weight"]),
        ("supervision_pairs", LIST, ["supervision_pair_weight", "importance"]),  # the last by its length
        ("my_links", LIST.numpy(), ["my_links_label"]),
        ("valid_edge", LIST.t().contiguous(), ["valid_edge_weight"]),  # as rows, like OGB's splits
    ],
)
@pytest.mark.parametrize("request_", [gu.ForgetEdges([(0, 1), (3, 4)]), gu.ForgetNodes([3])], ids=["edges", "nodes"])
def test_pairs_leave_every_list_with_what_belongs_to_them(name, value, partners, request_) -> None:
    data = ring(**{name: value}, **{partner: FIVE.clone() for partner in partners})
    gone = {(0, 1), (3, 4)} if request_.kind == "edges" else {(2, 3), (3, 4)}
    kept = [i for i, (u, v) in enumerate(PAIRS) if (min(u, v), max(u, v)) not in gone]
    retain = request_.resolve(data).retain_data
    left = torch.as_tensor(retain[name])
    left = left.t() if value.shape[0] == 5 else left
    assert columns(left) == [PAIRS[i] for i in kept]
    assert type(retain[name]) is type(value)
    for partner in partners:
        assert retain[partner].tolist() == kept
    assert data[name] is value


@given(
    st.lists(st.tuples(st.integers(0, N - 1), st.integers(0, N - 1)), min_size=3, max_size=9), st.booleans(), st.data()
)
def test_lists_are_those_of_sets(pairs, directed, drawer) -> None:
    data = ring(directed, other_edge_index=torch.tensor(pairs).t())
    forget = drawer.draw(st.lists(st.sampled_from(RING), min_size=1, max_size=4, unique=True))
    names = set(forget) if directed else {pair for u, v in forget for pair in ((u, v), (v, u))}
    retain = gu.ForgetEdges(forget).resolve(data).retain_data
    assert columns(retain.other_edge_index) == [pair for pair in pairs if pair not in names]
    nodes = {u for u, _ in forget}
    retain = gu.ForgetNodes(sorted(nodes)).resolve(data).retain_data if len(nodes) < N // 2 else None
    if retain is not None:
        assert columns(retain.other_edge_index) == [pair for pair in pairs if not nodes & set(pair)]


def test_pyg_link_split_with_labels_apart() -> None:
    split, _, _ = RandomLinkSplit(0.2, 0.2, is_undirected=True, split_labels=True)(ring())
    edge = split.pos_edge_label_index[:, :1]
    result = gu.unlearn(gu.GCN(2), split, gu.ForgetEdges(edge), "utu")
    before, after = columns(split.pos_edge_label_index), columns(result.data.pos_edge_label_index)
    assert after == before[1:]
    assert result.data.pos_edge_label.numel() == len(after)
    assert torch.equal(result.data.neg_edge_label_index, split.neg_edge_label_index)  # no edges before, none now


def test_labels_of_absent_pairs_stay_with_them() -> None:
    """As many as there are edges, they are still no attribute of the edges."""
    data = ring(neg_edge_label_index=torch.randint(N, (2, 2 * N)), neg_edge_label=torch.zeros(2 * N))
    retain = gu.ForgetEdges([(0, 1)]).resolve(data).retain_data
    assert retain.neg_edge_label is data.neg_edge_label


def test_what_is_no_list_of_pairs_stays() -> None:
    data = ring(
        period=torch.tensor([[1, 90], [0, 4]]),  # no node ids
        level=torch.tensor([[0.0, 1.0], [1.0, 0.0]]),
        hyperedge_index=torch.tensor([[0, 1], [1, 0]]),
        neg_edge_label_index=torch.tensor([[0, 3], [1, 4]]),
        edge_type_names=["a", "b"],
    )
    retain = gu.ForgetEdges([(0, 1)]).resolve(data).retain_data
    for name in ("period", "level", "hyperedge_index", "neg_edge_label_index", "edge_type_names"):
        assert retain[name] is data[name]


def test_a_list_without_a_telling_name_is_told() -> None:
    data = ring(couples=torch.tensor([[0, 2], [1, 6]]))
    with pytest.warns(UserWarning, match=r"'data.couples' was read as a list of node pairs, and 1 of 2"):
        retain = gu.ForgetEdges([(0, 1)]).resolve(data).retain_data
    assert columns(retain.couples) == [(2, 6)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gu.ForgetEdges([(4, 5)]).resolve(data).retain_data.couples is data.couples


def test_attributes_that_may_belong_to_two_lists_are_told() -> None:
    data = ring(a_edge_index=LIST, b_edge_index=LIST.flip(1), scores=FIVE)
    with pytest.warns(UserWarning, match=r"'scores' of the same length stay"):
        retain = gu.ForgetEdges([(0, 1)]).resolve(data).retain_data
    assert retain.scores.numel() == 5


def test_lists_and_ids_of_nodes() -> None:
    data = ring(
        train_idx=torch.tensor([0, 3, 5]),
        test_nodes=np.array([3, 7]),
        node_id=torch.arange(N) * 100,
        names=[f"n{i}" for i in range(N)],
        n_id=torch.arange(N),
    )
    retain = gu.ForgetNodes([3]).resolve(data).retain_data
    assert retain.train_idx.tolist() == [0, 5]
    assert retain.test_nodes.tolist() == [7]
    assert retain.node_id.tolist() == [0, 100, 200, -1, 400, 500, 600, 700]  # 0 would be another node
    assert retain.names[3] is None
    assert retain.n_id is data.n_id


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc])
@pytest.mark.parametrize("name", ["adj_t", "adjacency"])
@pytest.mark.parametrize("directed", [False, True])
def test_sparse_matrices_lose_their_entries(layout, name: str, directed: bool) -> None:
    weight = torch.arange(1.0, (N if directed else 2 * N) + 1)
    data = ring(directed, edge_weight=weight)
    dense = torch.zeros(N, N).index_put(tuple(data.edge_index), weight) + torch.eye(N)
    dense = dense.t().contiguous() if name == "adj_t" else dense
    data[name] = dense.to_sparse(layout=layout)
    for request in (gu.ForgetEdges([(2, 3)]), gu.ForgetNodes([5])):
        expected = dense.clone()
        if request.kind == "nodes":
            expected[5] = 0
            expected[:, 5] = 0
        else:
            expected[(3, 2) if name == "adj_t" else (2, 3)] = 0
            if not directed:
                expected[2, 3] = expected[3, 2] = 0
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            retain = request.resolve(data).retain_data
        assert retain[name].layout == layout
        assert torch.equal(retain[name].to_dense(), expected)
        assert int((retain[name].to_sparse_coo().coalesce().values() == 0).sum()) == 0  # no stored zero
    assert torch.equal(data[name].to_dense(), dense)


def test_pygs_own_adjacency() -> None:
    data = ToSparseTensor(remove_edge_index=False)(ring())
    retain = gu.ForgetEdges([(0, 1)]).resolve(data).retain_data
    matrix = retain.adj_t if isinstance(retain.adj_t, torch.Tensor) else retain.adj_t.to_torch_sparse_coo_tensor()
    left = set(columns(matrix.to_dense().nonzero().t()))
    assert left == set(columns(retain.edge_index))


def test_matrices_that_were_computed_from_the_whole_graph() -> None:
    data = ring()
    dense = torch.zeros(N, N).index_put(tuple(data.edge_index), torch.ones(2 * N))
    data.two_hops = (dense @ dense).to_sparse()
    with pytest.raises(InvalidRequestError, match="'two_hops' to hold the edges"):
        gu.ForgetEdges([(0, 1)]).resolve(data)
    gu.ForgetFeatures([0]).resolve(data)
    del data.two_hops
    data.adj_t = (dense * torch.rand(N, N)).to_sparse()
    with pytest.warns(UserWarning, match=r"values of 'data.adj_t' stay"):
        gu.ForgetEdges([(0, 1)]).resolve(data)


@pytest.mark.parametrize("names", [None, [("a", "to", "b"), ("b", "rev_to", "a"), ("a", "likes", "a")]])
def test_a_relation_and_its_reverse_have_one_edge_per_pair(names) -> None:
    to, likes = [(0, 4), (1, 5), (2, 5)], [(0, 1), (1, 2)]
    pairs = [*to, *((v, u) for u, v in to), *likes]
    kinds = torch.tensor([0] * 3 + [1] * 3 + [2] * 2)
    data = Data(edge_index=torch.tensor(pairs).t(), edge_type=kinds, num_nodes=6)
    if names is not None:
        data._edge_type_names = names
        data.edge_index, data.edge_type = data.edge_index[:, 1:], kinds[1:]  # one edge has only its reverse left
    graph = TrainingGraph(data)
    assert (graph.num_edges, graph.is_undirected) == (5, False)
    assert columns(graph.pairs[:, graph.is_of(1)]) == sorted(to)
    assert graph.is_of(1).equal(graph.is_of(0))
    assert sorted(columns(distinct_pairs(data))) == sorted(to + likes)
    gone = gu.ForgetEdges([(5, 1)], edge_type=1).resolve(data)
    assert set(columns(data.edge_index[:, gone.forget_mask])) == {(1, 5), (5, 1)}
    assert gone.num_forget == 1
    one = gu.ForgetEdges([(0, 1)]).resolve(data)
    assert columns(data.edge_index[:, one.forget_mask]) == [(0, 1)]  # directed: nothing else goes


def test_symmetric_relations_and_named_reverses_of_them() -> None:
    pairs = [(0, 1), (1, 0), (1, 2), (2, 1)]
    data = Data(
        edge_index=torch.tensor(pairs + pairs + [(2, 3)]).t(),
        edge_type=torch.tensor([0] * 4 + [1] * 4 + [2]),
        num_nodes=4,
    )
    alike = gu.ForgetEdges([(0, 1)], edge_type=0).resolve(data)  # two relations that happen to agree
    assert set(data.edge_type[alike.forget_mask].tolist()) == {0}
    assert set(columns(data.edge_index[:, alike.forget_mask])) == {(0, 1), (1, 0)}
    data._edge_type_names = [("a", "cites", "a"), ("a", "rev_cites", "a"), ("a", "likes", "a")]
    both = gu.ForgetEdges([(0, 1)], edge_type=0).resolve(data)
    assert sorted(data.edge_type[both.forget_mask].tolist()) == [0, 0, 1, 1]


def test_a_split_holds_out_both_directions_of_a_relation_beside_directed_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    ends = [torch.randint(low, high, (60,), generator=generator) for low, high in ((0, 15), (15, 25))]
    to = torch.stack(ends)
    to = to.unique(dim=1)
    follows = torch.stack([torch.arange(14), torch.arange(1, 15)])
    kinds = torch.cat([torch.full((index.size(1),), i) for i, index in enumerate((to, to, follows))])
    data = Data(edge_index=torch.cat([to, to.flip(0), follows], dim=1), edge_type=kinds, num_nodes=25)
    split = gu.link_split(data, 0.2, 0.2)
    held = {tuple(sorted(p)) for part in ("val", "test") for p in columns(split[f"{part}_pos_edge_index"])}
    rest = {tuple(sorted(p)) for p in columns(split.edge_index)}
    assert not held & rest
    assert len(held) + len(rest) == to.size(1) + 14
    assert split.edge_type.numel() == split.num_edges


def test_ids_stay_and_categories_are_told() -> None:
    ids = torch.randperm(N)
    data = ring()
    for x in (ids, ids.int(), ids[:, None] + 5):
        data.x = x
        assert torch.equal(gu.ForgetNodes([2]).resolve(data).retain_data.x, x)
        again = gu.ForgetNodes([2]).resolve(data).retain_data
        assert torch.equal(gu.ForgetNodes([3]).resolve(again).retain_data.x, x)
    data.x = ids[:, None]
    with pytest.raises(InvalidRequestError, match="integers that number the nodes"):
        gu.ForgetFeatures([2]).resolve(data)
    ages = torch.tensor([[0, 31], [1, 45], [2, 45], [3, 0], [4, 18], [5, 5], [6, 60], [7, 77]])
    data.x = ages
    with pytest.warns(UserWarning, match="category 0"):
        retain = gu.ForgetNodes([2]).resolve(data).retain_data
    assert retain.x[2].tolist() == [2, 0]
    assert torch.equal(retain.x[3:], ages[3:])
    data.x = (torch.rand(N, 4) > 0.5).long()  # words that occur or not: 0 is right
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not gu.ForgetNodes([2]).resolve(data).retain_data.x[2].any()


def test_ids_by_type() -> None:
    data = ring(node_type=torch.tensor([0] * 5 + [1] * 3))
    data.x = torch.tensor([3, 1, 0, 2, 4, 0, 2, 1])[:, None]
    assert torch.equal(gu.ForgetNodes([1, 6]).resolve(data).retain_data.x, data.x)


@pytest.mark.parametrize("size", [N - 1, N, N + 1, 2 * N])
def test_pairs_leave_lists_of_any_length(size: int) -> None:
    """As many pairs as nodes are no attribute of nodes."""
    pairs = torch.tensor([RING[i % N] for i in range(size)]).t().contiguous()
    retain = gu.ForgetEdges([(0, 1)]).resolve(ring(train_pairs=pairs)).retain_data
    assert columns(retain.train_pairs) == [RING[i % N] for i in range(size) if i % N]
