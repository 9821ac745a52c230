"""Requests by the ids of `data.node_id`: the same nodes as by their rows, never others."""

import numpy as np
import pytest
import torch
from torch_geometric.data import Data

from gunlearn import ForgetEdges, ForgetFeatures, ForgetGraphs, ForgetNodes, ForgetSubgraph
from gunlearn.errors import EmptyForgetSetError, InvalidRequestError

NAMES = ["alice", "bob", "carol", "dan", "eve"]


def path(node_id):
    """The path 0 - 1 - 2 - 3 - 4, under the given ids."""
    row = torch.arange(4)
    return Data(
        x=torch.eye(5),
        edge_index=torch.stack([torch.cat([row, row + 1]), torch.cat([row + 1, row])]),
        y=torch.arange(5),
        **({} if node_id is None else {"node_id": node_id}),
    )


@pytest.mark.parametrize(
    ("node_id", "ids"),
    [
        (NAMES, ["dan", "eve"]),
        (tuple(NAMES), np.array(["dan", "eve"])),
        (np.array(NAMES, dtype=object), ("dan", "eve")),
        (torch.tensor([10, 20, 30, 40, 50]), ["40", "50"]),
        ([str(2**64 + i) for i in range(5)], [str(2**64 + 3), str(2**64 + 4)]),
    ],
)
@pytest.mark.parametrize("kind", [ForgetNodes, ForgetFeatures, ForgetSubgraph])
def test_names_are_the_rows_that_have_them(kind, node_id, ids):
    by_name, by_row = (kind(index).resolve(path(node_id)) for index in (ids, [3, 4]))
    assert torch.equal(by_name.touched_nodes, by_row.touched_nodes)
    assert by_name.request_hash == by_row.request_hash


@pytest.mark.parametrize(
    "pairs", [[("bob", "carol"), ("dan", "carol")], np.array([["bob", "dan"], ["carol", "carol"]])]
)
def test_edges_by_name(pairs):
    found = ForgetEdges(pairs).resolve(path(NAMES))
    assert torch.equal(found.forget_edge_index, torch.tensor([[1, 2], [2, 3]]))


def test_integers_by_id_and_by_row():
    data = path(torch.tensor([2, 1, 7, 9, 2**62]))
    assert ForgetNodes([1, 2**62], by_id=True).resolve(data).forget_nodes.tolist() == [1, 4]
    assert ForgetNodes([2], by_id=True).resolve(data).forget_nodes.tolist() == [0]
    assert ForgetNodes([2], by_id=False).resolve(data).forget_nodes.tolist() == [2]
    assert ForgetNodes([1]).resolve(data).forget_nodes.tolist() == [1]  # the same node either way
    assert ForgetNodes([0, 2]).resolve(data).forget_nodes.tolist() == [0, 2]  # 0 is no id, so these are rows
    assert ForgetEdges([(2, 1)], by_id=True).resolve(data).forget_edge_index.tolist() == [[0], [1]]
    plain = path(None)  # ids and rows are the same
    assert ForgetNodes([3], by_id=True).resolve(plain).forget_nodes.tolist() == [3]


@pytest.mark.parametrize(
    ("request_", "node_id", "message"),
    [
        (lambda: ForgetNodes([2]), torch.arange(1, 6), "by_id=True .*row numbers of others"),
        (lambda: ForgetNodes(np.array([2, 3])), [str(i) for i in range(1, 6)], "by_id=True .*row numbers of others"),
        (lambda: ForgetNodes([1020]), torch.arange(1000, 1050, 10), "by_id=True .*not all of them are row numbers"),
        (lambda: ForgetEdges([(1, 2)]), torch.arange(1, 6), "by_id=True .*row numbers of others"),
        (lambda: ForgetEdges(torch.tensor([[1], [2]])), torch.arange(1, 6), "by_id=True .*row numbers of others"),
        (lambda: ForgetNodes(["zoe", "bob"]), NAMES, "1 of 2 that no node has: number 1"),
        (lambda: ForgetNodes(["bob"]), ["bob", "bob", "c", "d", "e"], "1 of 1 that more than one node has"),
        (lambda: ForgetNodes(["bob"]), None, "'node_id'"),
        (lambda: ForgetNodes(["bob"]), NAMES[:4], "one text or integer per node, 5 .got 4"),
        (lambda: ForgetNodes(["bob", "bob"]), NAMES, "each node once"),
        (lambda: ForgetEdges([("alice", "eve")]), NAMES, "does not have"),
    ],
)
def test_never_the_wrong_one(request_, node_id, message):
    with pytest.raises(InvalidRequestError, match=message) as caught:
        request_().resolve(path(node_id))
    assert not any(name in str(caught.value) for name in ("zoe", "bob", "alice"))


def test_rows_are_rows_where_ids_give_no_edge():
    """Edges cut out of the data itself are row numbers, as their ids would be no edges."""
    data = path(torch.tensor([0, 2, 4, 1, 3]))
    assert ForgetEdges(data.edge_index[:, 1:2]).resolve(data).forget_edge_index.tolist() == [[1], [2]]


@pytest.mark.parametrize(
    "build",
    [
        lambda: ForgetNodes(["a", 1]),
        lambda: ForgetNodes("alice"),
        lambda: ForgetNodes([["a"]]),
        lambda: ForgetNodes(["a"], by_id=False),
        lambda: ForgetNodes([0.5], by_id=True),
        lambda: ForgetNodes(count=1, by_id=True),
        lambda: ForgetNodes([1], by_id="yes"),
        lambda: ForgetEdges(("alice", "bob")),
        lambda: ForgetEdges([("alice", "bob", "carol")]),
        lambda: ForgetEdges(edge_ids=[1], by_id=True),
        lambda: ForgetGraphs(["a"]),
    ],
)
def test_names_that_make_no_request(build):
    with pytest.raises(InvalidRequestError):
        build()


def test_nobody_is_named_and_nothing_is_found_twice():
    first = ForgetNodes(["alice", "bob"])
    assert "alice" not in repr(first)
    assert first == ForgetNodes(["bob", "alice"])
    assert first != ForgetNodes(["alice"])
    assert len({first, ForgetNodes(["bob", "alice"])}) == 1
    for node_id in (NAMES, torch.arange(10, 60, 10)):
        name = str(node_id[1].item() if isinstance(node_id, torch.Tensor) else node_id[1])
        retain = ForgetNodes([name]).resolve(path(node_id)).retain_data
        assert name not in [str(v) for v in (retain.node_id if isinstance(node_id, list) else retain.node_id.tolist())]
        with pytest.raises(InvalidRequestError, match="no node has"):
            ForgetNodes([name]).resolve(retain)
    with pytest.raises(EmptyForgetSetError):
        ForgetNodes([])


def test_names_of_forgotten_nodes_are_skipped_on_request():
    left = ForgetNodes(["alice"]).resolve(path(NAMES)).retain_data
    with pytest.raises(InvalidRequestError, match="no node has"):
        ForgetNodes(["alice", "dan"]).resolve(left)
    found = ForgetNodes(["alice", "dan", "dan"], missing="ignore").resolve(left)
    assert found.forget_nodes.tolist() == [3]
    assert "1 no longer there" in found.skipped
    assert "1 named twice" in found.skipped
    pairs = ForgetEdges([("alice", "bob"), ("dan", "eve")], missing="ignore").resolve(left)
    assert pairs.num_forget == 1
    assert "skipped of 2 named edges: 1 no longer there" in pairs.skipped
    for request in (ForgetNodes(["alice"], missing="ignore"), ForgetEdges([("alice", "bob")], missing="ignore")):
        with pytest.raises(EmptyForgetSetError, match="none of 1 named"):
            request.resolve(left)
