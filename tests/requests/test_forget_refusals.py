"""Every request that cannot be met is refused with the reason."""

import copy
import inspect
import pickle
import re

import numpy as np
import pytest
import torch
from torch_geometric.data import Data, HeteroData
from torch_geometric.utils import to_undirected

from gunlearn.errors import EmptyForgetSetError, InvalidRequestError, InvalidTypeError
from gunlearn.requests import ForgetEdges, ForgetItems, ForgetNodes


def path(**more) -> Data:
    """0 - 1 - 2 - 3 - 4 with (0, 4) held out for validation and (5, 6) for the test."""
    data = Data(
        edge_index=to_undirected(torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]])),
        num_nodes=7,
        val_pos_edge_index=torch.tensor([[0], [4]]),
        test_pos_edge_index=torch.tensor([[5], [6]]),
    )
    return data.update(more)


CONSTRUCTION = [
    ({}, "exactly one of .* none"),
    ({"edge_index": [(0, 1)], "count": 1}, "exactly one of .*edge_index, count"),
    ({"ratio": 0.1, "count": 1}, "exactly one of .*ratio, count"),
    ({"ratio": 0.0}, "0 < ratio < 1"),
    ({"ratio": 1}, "0 < ratio < 1"),
    ({"ratio": float("nan")}, "0 < ratio < 1"),
    ({"ratio": "0.1"}, "0 < ratio < 1"),
    ({"count": -1}, "positive integer"),
    ({"count": 1.5}, "positive integer"),
    ({"count": True}, "positive integer"),
    ({"count": 1, "seed": 0.5}, "'seed'"),
    ({"count": 1, "region": "near"}, "'region' to be one of"),
    ({"count": 1, "by": "page rank"}, "'by' to be one of"),
    ({"count": 1, "protocol": "other"}, "'protocol' to be one of"),
    ({"count": 1, "protocol": "inpo", "by": "degree"}, "by='random'"),
    ({"edge_index": [(0, 1)], "region": "in"}, "region with ratio or count only"),
    ({"edge_index": torch.tensor([[0.0], [1.0]])}, "integers .*float32"),
    ({"edge_index": torch.tensor([[True], [False]])}, "integers .*bool"),
    ({"edge_index": torch.tensor([0, 1])}, r"shape \[2, F\].*\(2,\)"),
    ({"edge_index": torch.zeros(3, 2, dtype=torch.long)}, r"shape \[2, F\].*\(3, 2\)"),
    ({"edge_index": [[0, 1, 2], [1, 2, 3]]}, "list of pairs"),
    ({"edge_index": [(0, 1), (2,)]}, "integers"),
    ({"edge_index": [("a", 1)]}, "texts or row numbers"),
    ({"edge_ids": [[0, 1]]}, r"shape \[F\]"),
    ({"edge_ids": np.array([0.5])}, "integers .*float64"),
    ({"edge_ids": torch.tensor([True, False])}, r"integers .*bool.*edge_ids=mask.nonzero\(\).view\(-1\)"),
    ({"edge_index": torch.tensor([True, False])}, r"list of pairs.*pass data.edge_index\[:, mask\]"),
    ({"edge_index": [True, False]}, r"list of pairs.*pass data.edge_index\[:, mask\]"),
]


@pytest.mark.parametrize(("arguments", "match"), CONSTRUCTION)
def test_refused_without_data(arguments, match):
    with pytest.raises(InvalidRequestError, match=match) as caught:
        ForgetEdges(**arguments)
    assert not isinstance(caught.value, EmptyForgetSetError)


@pytest.mark.parametrize(
    "arguments",
    [{"edge_index": []}, {"edge_index": torch.zeros(2, 0, dtype=torch.long)}, {"edge_ids": []}, {"count": 0}],
)
def test_nothing_named(arguments):
    with pytest.raises(EmptyForgetSetError, match="at least one edge"):
        ForgetEdges(**arguments)
    with pytest.raises(EmptyForgetSetError, match=r"0\.2 of 4 training edges"):
        ForgetEdges(ratio=0.2).resolve(path())


RESOLUTION = [
    ({"edge_index": [(0, 1), (0, 2), (1, 3)]}, "got 2 that it does not have: number 2, 3 of the request"),
    ({"edge_index": [(0, 1), (-1, 0)]}, "got 1 that it does not have: number 2 of"),
    ({"edge_index": [(0, 9)]}, "got 1 that it does not have: number 1 of"),  # 0 * 7 + 9 is the key of the edge (1, 2)
    (
        {"edge_index": [(0, 4)]},
        r"1 held-out edges of 'val_pos_edge_index': number 1 of the request\); .* come from training",
    ),
    ({"edge_index": [(0, 1), (4, 0)]}, "held-out edges of 'val_pos_edge_index': number 2 of"),
    ({"edge_index": [(6, 5), (0, 3)]}, "1 held-out edges of 'test_pos_edge_index': number 1"),
    ({"edge_index": [(0, 1), (1, 2), (0, 1)]}, r"each edge once \(got 1 repeated: number 3 of the request\)"),
    ({"edge_ids": [0, 8, 9]}, r"in \[0, 8\) \(got 2 outside: \[8, 9\]\)"),
    ({"edge_ids": [-1]}, r"got 1 outside: \[-1\]"),
    ({"edge_ids": [3, 3]}, r"each id once \(got 1 repeated: number 2 of the request\)"),
    ({"edge_index": [(0, 1), (1, 2), (2, 3), (3, 4)]}, "Expected ForgetEdges to leave something to retain .*all 4"),
    ({"count": 4}, "leave something to retain .*all 4"),
    ({"count": 5}, r"at most the 4 training edges of region any \(got a draw of 5\)"),
    ({"count": 1, "region": "in"}, r"at most the 0 training edges of region in \(got a draw of 1\)"),
    ({"count": 1, "by": "influence"}, "'scores'.*None"),
    ({"count": 1, "protocol": "inpo"}, "'train_pos_edge_index'"),
]


@pytest.mark.parametrize(("arguments", "match"), RESOLUTION)
def test_refused_by_the_data(arguments, match):
    with pytest.raises(InvalidRequestError, match=match) as caught:
        ForgetEdges(**arguments).resolve(path())
    assert not isinstance(caught.value, EmptyForgetSetError)


def test_first_few_of_many_missing_edges():
    with pytest.raises(InvalidRequestError, match=r"got 40 .*: number 1, 2, .*, \.\.\. of the request\)") as caught:
        ForgetEdges([(i, i + 50) for i in range(40)]).resolve(path())
    assert not {"9", "59"} & set(re.findall(r"\d+", str(caught.value)))


def test_direction_matters_in_a_directed_graph():
    data = Data(edge_index=torch.tensor([[0, 1], [1, 2]]), num_nodes=3, val_pos_edge_index=torch.tensor([[0], [2]]))
    assert ForgetEdges([(0, 1)]).resolve(data).num_forget == 1
    with pytest.raises(InvalidRequestError, match=r"directed training graph \(got 1 .* number 1 of"):
        ForgetEdges([(1, 0)]).resolve(data)
    with pytest.raises(InvalidRequestError, match="held-out"):
        ForgetEdges([(0, 2)]).resolve(data)
    with pytest.raises(InvalidRequestError, match="does not have"):
        ForgetEdges([(2, 0)]).resolve(data)
    data.num_nodes, data.edge_index = 2**62, torch.tensor([[0, 4], [5, 5]])
    with pytest.raises(InvalidRequestError, match="does not have"):
        ForgetEdges([(3, 5)]).resolve(data)  # 3 would stand where 4 is in the sorted list of nodes


NONE = torch.zeros(2, 0, dtype=torch.long)
DATA = [
    ({}, Data(x=torch.zeros(2, 1)), None, "data with 'edge_index'"),
    ({}, Data(edge_index=NONE, num_nodes=2), None, "training edges .*none"),
    ({}, Data(edge_index=torch.zeros(3, 2, dtype=torch.long), num_nodes=2), None, r"shape \[2, n\]"),
    ({}, Data(edge_index=torch.zeros(2, 2), num_nodes=2), None, "int64"),
    ({}, Data(edge_index=torch.tensor([[0], [5]]), num_nodes=2), None, r"in \[0, 2\) \(got 0 to 5\)"),
    ({}, Data(edge_index=torch.tensor([[0], [-1]]), num_nodes=2), None, r"in \[0, 2\)"),
    ({}, path(adj_t=torch.ones(7, 3)), None, "'adj_t' as a matrix of shape"),
    ({}, path(adj=torch.ones(7, 7)), None, "the dense attribute 'adj' to hold the edges"),
    ({}, path(walks=torch.ones(7, 7).to_sparse()), None, "'walks' to hold the edges"),
    ({"region": "in"}, path(test_pos_edge_index=None), None, "data with 'test_pos_edge_index'"),
    ({"region": "out"}, path(test_pos_edge_index=None), None, "data with 'test_pos_edge_index'"),
    ({"region": "in"}, path(test_pos_edge_index=NONE), None, "hold edges"),
    ({"region": "out"}, path(test_pos_edge_index=torch.tensor([[0], [7]])), None, r"in \[0, 7\)"),
    ({"by": "influence"}, path(), torch.zeros(4), r"shape \[8\] \(got \(4,\)\)"),
    ({"by": "influence"}, path(), torch.zeros(8, 1), "shape"),
    ({"by": "influence"}, path(), [float("nan")] * 8, "NaN .*8"),
]


@pytest.mark.parametrize(("arguments", "data", "scores", "match"), DATA)
def test_unfit_data(arguments, data, scores, match):
    with pytest.raises(InvalidRequestError, match=match):
        ForgetEdges(count=1, **arguments).resolve(data, scores=scores)


@pytest.mark.parametrize("data", [HeteroData(), None, torch.zeros(2, 3)])
def test_not_data_at_all(data):
    with pytest.raises(InvalidTypeError, match=type(data).__name__):
        ForgetEdges(count=1).resolve(data)


@pytest.mark.parametrize("num_hops", [-1, 1.5, True])
def test_unfit_number_of_hops(num_hops):
    with pytest.raises(InvalidRequestError, match="num_hops"):
        ForgetEdges(count=1).resolve(path()).affected_nodes(num_hops)


SAID = [
    (
        lambda: ForgetNodes(label=3),
        InvalidTypeError,
        r"ForgetNodes among .*'mask'.* \(got 'label'\); pass mask=data\.y ==",
    ),
    (lambda: ForgetNodes(nodes=[3]), InvalidTypeError, r"\(got 'nodes'\); pass index="),
    (lambda: ForgetEdges(mask=[True]), InvalidTypeError, r"\(got 'mask'\); pass edge_ids=mask\.nonzero\(\)"),
    (lambda: ForgetEdges(label=3), InvalidTypeError, r"ForgetEdges among .* \(got 'label'\)$"),
    (lambda: ForgetItems(lable=3), InvalidTypeError, r"ForgetItems among .*'label'.* \(got 'lable'\)$"),
    (lambda: ForgetNodes(mask=torch.zeros(100, dtype=torch.bool)), EmptyForgetSetError, "none of 100: it is False"),
    (
        lambda: ForgetNodes((torch.arange(7) < 3).to(torch.uint8)).resolve(path()),
        InvalidRequestError,
        r"these 7 zeros and ones are a mask, of 3 nodes, pass mask=",
    ),
    (
        lambda: ForgetNodes([2, 3, 3]).resolve(path()),
        InvalidRequestError,
        r"once \(got 1 repeated: number \d of the request\); missing",
    ),
    (lambda: ForgetNodes(range(7)).resolve(path()), InvalidRequestError, r"\(got 7 nodes with all 4 training edges\)"),
    (lambda: ForgetEdges(edge_ids=range(8)).resolve(path()), InvalidRequestError, r"\(got all 4 training edges\)"),
]


@pytest.mark.parametrize(("make", "error", "match"), SAID)
def test_what_was_expected_and_what_came_are_named(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_known_arguments_are_taken_as_before():
    request = ForgetNodes([1, 2], missing="ignore")
    assert copy.deepcopy(request) == pickle.loads(pickle.dumps(request)) == request
    assert list(inspect.signature(ForgetNodes).parameters)[:2] == ["index", "by"]
