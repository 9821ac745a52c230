import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch_geometric.data import Data

import gunlearn as gu
from gunlearn.datasets import available, from_files, from_networkx, load, validate
from gunlearn.datasets.own import MAX_IDENTITY_NODES
from gunlearn.errors import DatasetNotFoundError, GunlearnError, InvalidInputError, InvalidTypeError
from tests.conftest import REPOSITORY
from tests.tasks.cases import both, columns


@pytest.fixture
def write(tmp_path):
    """Write an edge list, and features where given; give their paths."""

    def _write(text, features=None):
        (tmp_path / "edges.csv").write_text(text)
        if features is None:
            return [tmp_path / "edges.csv"]
        np.save(tmp_path / "features.npy", features)
        return [tmp_path / "edges.csv", tmp_path / "features.npy"]

    return _write


def edges_of(data):
    return columns(data.edge_index)


# networkx ####################################################################


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=20), st.booleans())
def test_from_networkx_has_the_adjacency_of_networkx(pairs, directed):
    graph = (nx.DiGraph if directed else nx.Graph)()
    graph.add_nodes_from("ihgfedcba")  # ids that are no integers, in an order that is not sorted
    graph.add_edges_from(("abcdefghi"[u], "abcdefghi"[v]) for u, v in pairs)
    expected = nx.to_numpy_array(graph)
    np.fill_diagonal(expected, 0)
    actual = np.zeros((9, 9))
    data = from_networkx(graph)
    np.add.at(actual, tuple(data.edge_index.numpy()), 1)
    assert np.array_equal(actual, expected)
    assert edges_of(data) == sorted(edges_of(data))


def test_from_networkx_takes_features_and_labels_in_node_order():
    graph = nx.Graph([("b", "a")])
    data = from_networkx(graph, features=[[1, 2], [3, 4]], labels=np.array([5, 6]))
    assert data.x.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert data.x.dtype == torch.float32
    assert data.y.tolist() == [5, 6]


@pytest.mark.parametrize(
    ("graph", "kwargs", "error", "message"),
    [
        ("karate", {}, InvalidTypeError, "networkx graph .got str"),
        (nx.Graph(), {}, InvalidInputError, "at least one node"),
        (nx.path_graph(3), {"features": np.ones((2, 1))}, InvalidInputError, "3 rows.*got 2"),
        (nx.path_graph(3), {"features": np.ones(3)}, InvalidInputError, r"shape.*got \[3\]"),
        (nx.path_graph(3), {"features": np.ones((3, 0))}, InvalidInputError, "at least one column"),
        (nx.path_graph(3), {"features": [["a"]] * 3}, InvalidInputError, "real numbers"),
        (nx.path_graph(2), {"features": [[1.0], [np.inf]]}, InvalidInputError, "inf in row 1, column 0"),
        (nx.path_graph(2), {"features": [[1.0], [1e300]]}, InvalidInputError, "inf in row 1"),
        (nx.path_graph(3), {"labels": [0, 1]}, InvalidInputError, r"shape \[3\]"),
        (nx.path_graph(3), {"labels": [0.5, 1, 2]}, InvalidInputError, "integers"),
        (nx.empty_graph(MAX_IDENTITY_NODES + 1), {}, InvalidInputError, "one-hot"),
    ],
)
def test_from_networkx_refuses(graph, kwargs, error, message):
    with pytest.raises(error, match=message):
        from_networkx(graph, **kwargs)


# files #######################################################################


@pytest.mark.parametrize(
    "text",
    [
        "0,1\n2,1\n",
        "source,target\n0,1\n2,1\n",
        "0 1\n2\t1",
        "# made by hand\n\n 0 , 1 \n2,1\n1,2\n1,1\n",
        "﻿0,1\r\n2,1\r\n",
    ],
    ids=["comma", "header", "space", "comment-duplicate-loop", "bom-crlf"],
)
def test_edge_list_forms(write, text):
    data = from_files(*write(text, np.ones((4, 2))))
    assert edges_of(data) == [(0, 1), (1, 0), (1, 2), (2, 1)]
    assert data.num_nodes == 4  # node 3 is isolated
    directed = from_files(*write("0,1\n2,1\n"), undirected=False)
    assert edges_of(directed) == [(0, 1), (2, 1)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,1\n1,x\n", "line 2 .got 'x'"),
        ("0,1\n\n# note\n1,2.5\n", r"line 4 .got '2\.5'"),
        ("0,1\n1,1_0\n", "line 2 .got '1_0'"),
        ("a,b\nc,d\n", "line 1 that occur nowhere else"),  # a header or an edge
        ("0,1\na,b\n", "line 2 .got 'a'"),  # a header is the first line
        ("0,-1\n", "line 1 .got -1"),
        ("0,1\n1,2\n2,99999999999\n", "line 3 names node 99999999999"),
        ("0,1,2\n", "2 columns.*line 1 .got 3"),
        ("0,1\n7\n", "2 columns.*line 2 .got 1"),
        ("0,,1\n", "2 columns.*line 1 .got 3"),
        ("0,\n", "line 1 .got ''"),
        ("", "at least one edge"),
        ("source,target\n", "at least one edge"),
    ],
)
def test_bad_edges_name_the_line(write, text, message):
    with pytest.raises(InvalidInputError, match=message):
        from_files(*write(text, np.ones((3, 2))))


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.ones((2, 3)), "at least 3 .got 2.*line 2 names node 2"),
        (np.array([[1.0], [2.0], [np.nan]]), "nan in row 2, column 0"),
        (np.ones(3), "shape"),
        (np.array([{}, {}, {}]), "plain .npy"),  # pickled: reading it could run code
    ],
)
def test_bad_features(write, features, message):
    with pytest.raises(InvalidInputError, match=message):
        from_files(*write("0,1\n1,2\n", features))


def test_bad_bytes_and_missing_files(tmp_path, write):
    paths = write("0,1\n", np.ones((2, 1)))
    paths[1].write_bytes(b"")
    with pytest.raises(InvalidInputError, match=r"features\.npy"):
        from_files(*paths)
    paths[0].write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInputError, match="text file"):
        from_files(*paths)
    with pytest.raises(DatasetNotFoundError, match=r"nowhere.edges\.csv"):
        load(tmp_path / "nowhere")
    with pytest.raises(DatasetNotFoundError, match=r"nowhere\.npy"):
        from_files(*write("0,1\n"), tmp_path / "nowhere.npy")


def test_folder_by_name_and_by_path(tmp_path, write):
    write("0,1\n1,2\n", np.arange(6).reshape(3, 2))
    np.save(tmp_path / "labels.npy", np.array([1, 0, 1]))
    for name in (tmp_path, str(tmp_path)):
        data = load(name)
        assert data.x.tolist() == [[0, 1], [2, 3], [4, 5]]
        assert data.y.tolist() == [1, 0, 1]
    (tmp_path / "features.npy").unlink()
    assert torch.equal(load(str(tmp_path)).x, torch.eye(3))


def test_committed_example_is_the_graph_it_says():
    data = load(REPOSITORY / "data" / "examples" / "lesmis")
    graph = nx.les_miserables_graph()
    assert torch.equal(data.edge_index, load("lesmis").edge_index)
    assert data.x[:, 0].tolist() == pytest.approx(np.log1p([d for _, d in graph.degree()]))
    assert data.x[:, 1].tolist() == pytest.approx(np.log1p([d for _, d in graph.degree(weight="weight")]))
    assert data.x[:, 2].tolist() == pytest.approx(list(nx.clustering(graph).values()), abs=1e-6)


# validate ####################################################################


def good():
    return Data(x=torch.ones(3, 2), edge_index=torch.tensor([[0, 1], [1, 0]]))


def test_validate_gives_the_same_object():
    data = good()
    assert validate(data) is data
    assert load(data) is data
    assert validate(Data(x=torch.ones(1, 1), edge_index=torch.empty(2, 0, dtype=torch.long)))


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_validate_takes_the_sparse_features_that_unlearn_takes():
    data = good()
    data.x = data.x.to_sparse_csr()
    assert validate(data) is data
    data.x = torch.tensor([[0.0, 1.0], [float("nan"), 0.0], [0.0, 0.0]]).to_sparse_csr()
    with pytest.raises(InvalidInputError, match="finite"):
        validate(data)
    data.x = torch.ones(3, 2).to_sparse_coo()
    for door in (validate, lambda d: gu.unlearn(gu.GCN(2), d, gu.ForgetEdges(count=1), "utu")):
        with pytest.raises(InvalidInputError, match=r"dense or CSR .* x\.to_sparse_csr"):
            door(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": None}, r"data\.x to be a tensor"),
        ({"x": torch.ones(3)}, r"shape .* \(got \[3\]\)"),
        ({"x": torch.ones(3, 2, dtype=torch.long)}, "floating"),
        ({"x": torch.tensor([[1.0, 1.0], [1.0, float("nan")], [1.0, 1.0]])}, r"nan at \[1, 1\]"),
        ({"x": torch.full((3, 2), float("inf"))}, r"inf at \[0, 0\]"),
        ({"edge_index": None}, r"data\.edge_index to be a tensor"),
        ({"edge_index": torch.zeros(2, 2)}, "int64"),
        ({"edge_index": torch.zeros(2, 2, dtype=torch.int32)}, "int64"),
        ({"edge_index": torch.zeros(3, 2, dtype=torch.long)}, r"shape \[2, num_edges\] .got \[3, 2\]"),
        ({"edge_index": torch.tensor([[0], [3]])}, r"in \[0, 2\] .got 3"),
        ({"edge_index": torch.tensor([[-1], [0]])}, r"in \[0, 2\] .got -1"),
        ({"num_nodes": 4}, r"data\.num_nodes .* 3 .got 4"),
    ],
)
def test_validate_refuses(change, message):
    data = good()
    for key, value in change.items():
        setattr(data, key, value)
    with pytest.raises(InvalidInputError, match=message):
        validate(data)


@pytest.mark.parametrize("check", [validate, load])
def test_wrong_types(check):
    for wrong in (None, 3, {"x": 1}):
        with pytest.raises(InvalidTypeError):
            check(wrong)


@given(st.text(alphabet="0123,- \n#ax.", max_size=30))
def test_any_text_gives_a_graph_or_one_of_our_errors(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("fuzz") / "edges.csv"
    path.write_text(text)
    try:
        data = from_files(path)
    except GunlearnError:
        return
    assert validate(data) is data


# Embedded ####################################################################


@pytest.mark.parametrize("row", [row for row in available() if row.embedded], ids=lambda row: row.name)
def test_canonical_form_and_counts(row):
    data = load(row.name, root="does/not/exist")  # no file is read
    assert data.num_nodes == row.nodes
    pairs = edges_of(data)
    assert pairs == sorted(set(pairs))
    assert both(pairs) == set(pairs)
    assert all(u != v for u, v in pairs)
    if row.edges is not None:
        assert len(pairs) == row.edges


def test_digits_edges_are_the_nearest_neighbours():
    data = load("digits")
    pixels = load_digits().data.astype(np.int64)
    assert np.array_equal(data.x.numpy() * 16, pixels)
    assert np.array_equal(data.y.numpy(), load_digits().target)
    # Independent: exact integer distances by brute force. Ties at the fifth place may go either way.
    squares = (pixels**2).sum(1)
    distance = squares[:, None] + squares[None] - 2 * pixels @ pixels.T
    np.fill_diagonal(distance, np.iinfo(np.int64).max)
    fifth = np.partition(distance, 4, axis=1)[:, 4]
    chosen = np.zeros_like(distance, dtype=bool)
    chosen[data.edge_index[0].numpy(), data.edge_index[1].numpy()] = True
    surely = distance < fifth[:, None]
    possibly = distance <= fifth[:, None]
    assert not (~chosen & (surely | surely.T)).any()
    assert not (chosen & ~(possibly | possibly.T)).any()


@pytest.mark.parametrize(("name", "graph"), [("karate", nx.karate_club_graph()), ("lesmis", nx.les_miserables_graph())])
def test_networkx_graphs(name, graph):
    data = load(name)
    adjacency = nx.to_numpy_array(graph, weight=None)
    rebuilt = np.zeros_like(adjacency)
    rebuilt[data.edge_index[0], data.edge_index[1]] = 1
    assert np.array_equal(rebuilt, adjacency)
    assert torch.equal(data.x, torch.eye(len(graph)))
    assert "edge_weight" not in data


def test_karate_labels_name_the_club():
    first = load("karate")
    clubs = [club for _, club in nx.karate_club_graph().nodes(data="club")]
    assert [["Mr. Hi", "Officer"][label] for label in first.y.tolist()] == clubs
    first.x.zero_()
    assert load("karate").x.sum() == 34  # every load is a new object
