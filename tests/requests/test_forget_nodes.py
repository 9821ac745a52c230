"""Requests for nodes, features, subgraphs, graphs and relations, and what they leave."""

import copy

import networkx as nx
import numpy as np
import pytest
import torch
from torch_geometric.data import Batch, Data
from torch_geometric.utils import to_networkx

import gunlearn as gu
from gunlearn.errors import EmptyForgetSetError, InvalidRequestError
from tests.methods.cases import same_weights
from tests.tasks.cases import columns, relabelled

pytestmark = pytest.mark.filterwarnings("ignore:.*are both in:UserWarning")


def karate(sparse: bool = False) -> Data:
    data = gu.node_split(gu.load("karate"), 0.2, 0.2, seed=0)
    data.x = torch.rand(data.num_nodes, 7, generator=torch.Generator().manual_seed(0))
    data.age = torch.arange(data.num_nodes) + 1
    if sparse:
        data.x = (data.x * (data.x > 0.5)).to_sparse_csr()
    return data


def dense(x: torch.Tensor) -> torch.Tensor:
    return x if x.layout == torch.strided else x.to_dense()


@pytest.mark.parametrize("sparse", [False, True])
def test_a_forgotten_node_leaves_nothing_but_its_number(sparse):
    data = karate(sparse)
    before = {name: data[name].clone() for name in ("x", "y", "edge_index", "train_mask")}
    partition = gu.ForgetNodes([0, 5]).resolve(data)
    left, gone = partition.retain_data, torch.tensor([0, 5])
    assert partition.forget_nodes.tolist() == [0, 5]
    assert partition.forgets == ("nodes",)
    assert partition.num_forget == 2
    assert left.num_nodes == data.num_nodes
    assert not torch.isin(left.edge_index, gone).any()
    assert dense(left.x)[gone].abs().sum() == 0
    assert left.age[gone].tolist() == [0, 0]
    assert left.y[gone].tolist() == [-1, -1]
    assert not any(left[name][gone].any() for name in ("train_mask", "val_mask", "test_mask"))
    others = torch.tensor([i for i in range(data.num_nodes) if i not in (0, 5)])
    assert torch.equal(dense(left.x)[others], dense(data.x)[others])
    assert torch.equal(left.y[others], data.y[others])
    kept = ~torch.isin(data.edge_index, gone).any(dim=0)
    assert torch.equal(left.edge_index, data.edge_index[:, kept])  # control: no other edge goes
    assert all(torch.equal(dense(value), dense(data[name])) for name, value in before.items())
    if sparse:
        assert left.x.values().numel() == int((dense(left.x) != 0).sum())  # not even a stored zero tells of them


def test_neighbours_of_a_forgotten_node_hear_nothing_of_it():
    data = karate()
    conv = gu.GCN(7, 8, 3)
    partition = gu.ForgetNodes([33]).resolve(data)
    changed = copy.copy(data)
    changed.x = data.x.clone()
    changed.x[33] += 5
    one, other = (gu.ForgetNodes([33]).resolve(d).retain_data for d in (data, changed))
    with torch.no_grad():
        assert torch.equal(conv(one.x, one.edge_index), conv(other.x, other.edge_index))
        # Control: on the original graph they do hear of it.
        assert not torch.equal(conv(data.x, data.edge_index)[32], conv(changed.x, changed.edge_index)[32])
        # What they hear is what a graph without it, its nodes renumbered, tells them.
        keep = torch.arange(33)
        index = data.edge_index[:, (data.edge_index < 33).all(dim=0)]
        without = conv(data.x[keep], index)
        assert torch.allclose(conv(one.x, one.edge_index)[:33], without, atol=1e-6)
    assert partition.forget_mask.sum() == 2 * (len(to_networkx(data, to_undirected=True)[33]))


def test_the_label_of_a_forgotten_node_enters_no_loss():
    data = karate()
    request = gu.ForgetNodes(ratio=0.3, seed=1)
    model, partition = gu.GCN(7, 8, 4), request.resolve(data)

    def tuned(data):
        return gu.unlearn(model, data, request, "finetune", "node_classification", epochs=5).model

    assert same_weights(tuned(data), tuned(relabelled(data, partition.forget_nodes)))
    # Control: the label of a training node that stays does.
    assert not same_weights(tuned(data), tuned(relabelled(data, partition.retain_data.train_mask.nonzero()[0])))


def test_draws_are_global_ids_of_training_nodes():
    """Local ids used as global ones would hit nodes outside the training mask."""
    data = karate()
    data.train_mask = torch.zeros(34, dtype=torch.bool)
    data.train_mask[20:] = True  # local ids 0 .. 13 are no training nodes
    data.val_mask = data.test_mask = ~data.train_mask
    for seed in range(5):
        nodes = gu.ForgetNodes(count=6, seed=seed).resolve(data).forget_nodes
        assert data.train_mask[nodes].all()
        assert nodes.numel() == 6
    assert gu.ForgetNodes(ratio=0.5).resolve(data).num_forget == 7
    first = gu.ForgetNodes(count=3, by="degree").resolve(data).forget_nodes
    degree = np.bincount(data.edge_index[0].numpy(), minlength=34)
    assert degree[first.numpy()].min() >= np.sort(degree[20:])[-3]


def test_features_become_zeros_and_all_else_stays():
    for data in (karate(), karate(sparse=True)):
        x = dense(data.x)
        partition = gu.ForgetFeatures([2, 7], columns=[1, 3]).resolve(data)
        expected = x.clone()
        expected[np.ix_([2, 7], [1, 3])] = 0
        assert torch.equal(dense(partition.retain_data.x), expected)
        assert torch.equal(partition.retain_data.edge_index, data.edge_index)
        assert partition.retain_data.y is data.y
        assert partition.feature_nodes.tolist() == [2, 7]
        assert partition.forgets == ("features",)
        mask = torch.isin(torch.arange(x.size(1)), torch.tensor([1, 3]))
        with pytest.raises(InvalidRequestError, match=r"mask of columns pass columns=mask.nonzero\(\).view\(-1\)"):
            gu.ForgetFeatures([2, 7], columns=mask)
        by_mask = gu.ForgetFeatures([2, 7], columns=mask.nonzero().view(-1)).resolve(data)
        assert torch.equal(dense(by_mask.retain_data.x), expected)
        everything = gu.ForgetFeatures([2, 7]).resolve(data).retain_data.x
        expected[[2, 7]] = 0
        assert torch.equal(dense(everything), expected)
        assert everything is not data.x


def test_subgraphs():
    data = karate()
    graph = to_networkx(data, to_undirected=True)
    for hops in (0, 1, 2):
        inside = set(nx.ego_graph(graph, 11, radius=hops).nodes)
        assert set(gu.ForgetSubgraph([11], num_hops=hops).resolve(data).forget_nodes.tolist()) == inside
    inside = nx.ego_graph(graph, 5, radius=1)
    partition = gu.ForgetSubgraph([5], keep_nodes=True).resolve(data)
    assert set(columns(partition.forget_edge_index)) == {tuple(sorted(e)) for e in inside.edges}
    assert partition.forgets == ("edges",)
    assert not partition.forget_nodes.numel()


def test_sums_forget_all_that_the_parts_name():
    data = karate()
    parts = gu.ForgetNodes([4]), gu.ForgetEdges([(0, 1)]), gu.ForgetFeatures([4, 8])
    partition = (parts[0] + parts[1] + parts[2]).resolve(data)
    assert partition.forgets == ("edges", "nodes", "features")
    mask = parts[0].resolve(data).forget_mask | parts[1].resolve(data).forget_mask
    assert torch.equal(partition.forget_mask, mask)
    assert partition.feature_nodes.tolist() == [8]  # node 4 goes as a whole
    assert partition.retain_data.x[[4, 8]].abs().sum() == 0
    assert partition.num_forget == 3
    again = (parts[2] + parts[1] + parts[0]).resolve(data)
    assert again.request_hash == partition.request_hash != (parts[0] + parts[1]).resolve(data).request_hash


def test_hashes_tell_requests_apart():
    data = karate()
    requests = [
        gu.ForgetNodes([4]), gu.ForgetNodes([5]), gu.ForgetFeatures([4]), gu.ForgetFeatures([4], columns=[0]),
        gu.ForgetFeatures([4], columns=[1]), gu.ForgetEdges([(0, 1)]), gu.ForgetSubgraph([4], num_hops=1),
    ]  # fmt: skip
    assert len({r.resolve(data).request_hash for r in requests}) == len(requests)
    assert gu.ForgetNodes([5, 4]).resolve(data).request_hash == gu.ForgetNodes([4, 5]).resolve(data).request_hash
    assert gu.ForgetNodes([4, 5]) == gu.ForgetNodes([5, 4])
    masks = [torch.arange(34) == i for i in (0, 2)]
    assert gu.ForgetNodes(mask=masks[0]) != gu.ForgetNodes(mask=masks[1])
    assert gu.ForgetNodes(mask=masks[0]) == gu.ForgetNodes(mask=masks[0].clone())
    assert gu.ForgetNodes([4]) != gu.ForgetFeatures([4])


def test_degenerate_requests():
    data = karate()
    data.edge_index = torch.cat([data.edge_index, torch.tensor([[34, 35], [35, 34]])], dim=1)
    for name in ("x", "y", "train_mask", "val_mask", "test_mask", "age"):
        data[name] = torch.cat([data[name], data[name][:3]])
    data.num_nodes = 37  # node 36 is isolated, 34-35 an island
    label = int(data.y[5])
    whole_class = gu.ForgetNodes(mask=data.y == label).resolve(data)
    assert not (whole_class.retain_data.y == label).any()
    assert (whole_class.retain_data.y >= 0).any()
    isolated = gu.ForgetNodes([36]).resolve(data)
    assert isolated.num_forget == 1
    assert isolated.forget_edge_index.size(1) == 0
    assert isolated.retain_data.edge_index.size(1) == data.edge_index.size(1)
    neighbours = gu.ForgetNodes(sorted(to_networkx(data, to_undirected=True)[11])).resolve(data)
    assert not (neighbours.retain_data.edge_index == 11).any()
    bridge = gu.ForgetEdges([(34, 35)]).resolve(data)
    assert not torch.isin(bridge.retain_data.edge_index, torch.tensor([34, 35])).any()
    half = gu.ForgetNodes(ratio=0.5).resolve(data)
    assert half.num_forget == int(0.5 * int(data.train_mask.sum()))


def test_link_prediction_loses_held_out_pairs_of_the_node():
    data = gu.link_split(gu.load("karate"), 0.1, 0.1)
    node = int(data.test_pos_edge_index[0, 0])
    left = gu.ForgetNodes([node]).resolve(data).retain_data
    for name in ("train", "val", "test"):
        pairs = left[f"{name}_pos_edge_index"]
        assert not (pairs == node).any()
        assert pairs.size(1) == int((data[f"{name}_pos_edge_index"] != node).all(dim=0).sum())
    assert not (left.test_neg_edge_index == node).any()


def triples() -> Data:
    """Two relations, with node pairs that have both."""
    index = torch.tensor([[0, 1, 0, 2, 3, 1], [1, 2, 1, 0, 1, 3]])
    return Data(edge_index=index, edge_type=torch.tensor([0, 0, 1, 1, 0, 1]), x=torch.eye(4), num_nodes=4)


def test_a_triple_is_an_edge_of_one_relation():
    data = triples()
    data.train_pos_edge_index = data.edge_index
    one = gu.ForgetEdges([(0, 1)], edge_type=1).resolve(data)
    assert one.forget_mask.tolist() == [False, False, True, False, False, False]
    assert one.retain_data.edge_type.tolist() == [0, 0, 1, 0, 1]
    both = gu.ForgetEdges([(0, 1)]).resolve(data)
    assert both.forget_mask.tolist() == [True, False, True, False, False, False]
    # A pair stays in a list of pairs as long as one relation stays.
    assert torch.equal(one.retain_data.train_pos_edge_index, data.edge_index)
    assert columns(both.retain_data.train_pos_edge_index) == [(1, 2), (2, 0), (3, 1), (1, 3)]
    other = gu.ForgetEdges([(0, 1)], edge_type=0).resolve(data)
    assert len({one.request_hash, both.request_hash, other.request_hash}) == 3
    drawn = gu.ForgetEdges(count=2, edge_type=0, seed=3).resolve(data)
    assert set(data.edge_type[drawn.forget_mask].tolist()) == {0}
    with pytest.raises(InvalidRequestError, match="does not have"):
        gu.ForgetEdges([(1, 2)], edge_type=1).resolve(data)
    with pytest.raises(InvalidRequestError, match="'edge_type'"):
        gu.ForgetEdges([(0, 1)], edge_type=0).resolve(Data(edge_index=data.edge_index, num_nodes=4))


def batch() -> Batch:
    graphs = [Data(x=torch.rand(n, 3), edge_index=torch.tensor([[0, 1], [1, 0]]), y=torch.tensor([n % 2]), num_nodes=n)
              for n in (2, 3, 4, 2)]  # fmt: skip
    out = Batch.from_data_list(graphs)
    out.train_mask = torch.tensor([True, True, True, False])
    return out


def test_whole_graphs():
    data = batch()
    partition = gu.ForgetGraphs([1]).resolve(data)
    assert partition.forget_nodes.tolist() == [2, 3, 4]
    assert partition.forgets == ("graphs",)
    assert partition.retain_data.y.tolist() == [0, -1, 0, 0]
    assert partition.retain_data.train_mask.tolist() == [True, False, True, False]
    assert partition.retain_data.batch is data.batch
    assert partition.num_forget == 1
    assert gu.ForgetGraphs(count=3).resolve(batch()).forget_graphs.tolist() == [0, 1, 2]  # training graphs alone
    with pytest.raises(InvalidRequestError, match="batch"):
        gu.ForgetGraphs([0]).resolve(karate())


@pytest.mark.parametrize(
    ("request_of", "error", "match"),
    [
        (lambda: gu.ForgetNodes([]), EmptyForgetSetError, "at least one"),
        (lambda: gu.ForgetNodes(), InvalidRequestError, "exactly one"),
        (lambda: gu.ForgetNodes([99]), InvalidRequestError, r"\[0, 34\)"),
        (lambda: gu.ForgetNodes([1, 1]), InvalidRequestError, "once"),
        (lambda: gu.ForgetNodes(mask=torch.zeros(34, dtype=torch.bool)), EmptyForgetSetError, "at least one"),
        (lambda: gu.ForgetNodes(mask=torch.ones(3, dtype=torch.bool)), InvalidRequestError, r"'mask' of shape \[34\]"),
        (lambda: gu.ForgetNodes(count=99), InvalidRequestError, "at most"),
        (lambda: gu.ForgetNodes(ratio=0.001), EmptyForgetSetError, "at least one"),
        (lambda: gu.ForgetNodes(count=2, by="influence"), InvalidRequestError, "'by'"),
        (lambda: gu.ForgetNodes(range(34)), InvalidRequestError, "leave something"),
        (lambda: gu.ForgetFeatures([1], columns=[7]), InvalidRequestError, r"\[0, 7\)"),
        (lambda: gu.ForgetSubgraph([1], num_hops=-1), InvalidRequestError, "num_hops"),
    ],
)
def test_refusals(request_of, error, match):
    with pytest.raises(error, match=match):
        request_of().resolve(karate())


@pytest.mark.parametrize(
    "form", [set, frozenset, iter, tuple, lambda ids: (i for i in ids), lambda ids: dict.fromkeys(ids).keys(), np.array]
)
def test_ids_come_in_any_collection(form) -> None:
    data = gu.load("karate")
    request = gu.ForgetNodes(form([7, 4]))
    for _ in range(2):  # a generator is read once, when the request is made
        assert request.resolve(data).forget_nodes.tolist() == [4, 7]
    assert request == gu.ForgetNodes([4, 7])
    assert gu.ForgetFeatures(form([7, 4]), columns=form([1])).resolve(data).feature_nodes.tolist() == [4, 7]
    edges = form([0]) if form is np.array else form([(0, 1), (2, 3)])
    if form is not np.array:
        assert gu.ForgetEdges(edges).resolve(data).forget_edge_index.t().tolist() == [[0, 1], [2, 3]]
