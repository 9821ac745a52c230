"""What people bring in folders and files: read by id, or refused in words that name file and line."""

import gzip
import json
import warnings

import networkx as nx
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st

import gunlearn as gu
from gunlearn.datasets import from_files, from_networkx, from_pandas, load, validate
from gunlearn.errors import DatasetNotFoundError, GunlearnError, InvalidInputError, InvalidTypeError
from tests.conftest import REPOSITORY
from tests.tasks.cases import columns
from tests.test_readme import executed

CHAIN = {("a", "b"), ("b", "a"), ("b", "c"), ("c", "b")}


@pytest.fixture
def folder(tmp_path):
    """Write files, text or arrays by name, and give their folder."""

    def _write(**files):
        for name, value in files.items():
            path = tmp_path / name.replace("__", ".")
            if isinstance(value, str):
                path.write_text(value, encoding="utf-8")
            elif isinstance(value, bytes):
                path.write_bytes(value)
            else:
                np.savez(path, **value) if isinstance(value, dict) else np.save(path, value)
        return tmp_path

    return _write


def named(data):
    """The edges of a graph by the ids of their ends."""
    ids = data.node_id.tolist() if isinstance(data.node_id, torch.Tensor) else data.node_id
    return {(ids[u], ids[v]) for u, v in columns(data.edge_index)}


def quietly(function, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return function(*args, **kwargs)


# Edge lists ##################################################################


@pytest.mark.parametrize(
    "text",
    [
        "a,b\nb,c\n",
        "source;target\na;b\nb;c\n",
        "a\tb\r\nb\tc\r\n",
        "a b\nb   c \n\n",
        "# by hand\n a , b \nb,c\n% end\n",
        '\ufeff"a","b"\n"b","c"\nc,b\na,a\n',
        "person,friend,weight\na,b,1\nb,c,1\n",
        "weight,Target,Source\n1,b,a\n1,c,b\n",
        "a,b,\nb,c,\n",
    ],
    ids="comma semicolon-header tab-crlf blanks comments bom-quotes-loop weight-tells-header by-name trailing".split(),
)
def test_names_in_any_common_form(folder, text):
    data = quietly(load, folder(edges__csv=text))
    assert named(data) == CHAIN
    assert data.node_id == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("10,20\n20,40\n", [10, 20, 40]),
        ("1,2\n2,3\n", [1, 2, 3]),
        (f"{2**62},{2**63 - 1}\n", [2**62, 2**63 - 1]),
        (f"{2**63 + 5},1\n", ["1", str(2**63 + 5)]),
        ("007,7\n7,08\n", ["007", "08", "7"]),
        ('"Smith, A"\tBob\nBob\tCy\n', ["Bob", "Cy", "Smith, A"]),
    ],
)
def test_ids_become_rows_in_ascending_order(folder, text, ids):
    data = quietly(load, folder(edges__csv=text))
    kept = data.node_id.tolist() if isinstance(data.node_id, torch.Tensor) else data.node_id
    assert (data.num_nodes, kept) == (len(ids), ids)


def test_rows_that_are_ids_need_no_node_id(folder):
    assert "node_id" not in load(folder(edges__csv="2,1\n0,1\n"))


def test_weights_times_and_relations(folder):
    text = "head,relation,tail,weight,time\na,likes,b,0.5,2024-05-31\nb,knows,c,2,2024-05-31T12:00:00\n"
    data = quietly(load, folder(edges__csv=text))
    values = {pair: i for i, pair in enumerate(columns(data.edge_index))}
    first, second = values[0, 1], values[2, 1]
    assert data.edge_weight[[first, second]].tolist() == [0.5, 2.0]
    day = np.datetime64("2024-05-31", "s").astype(int)
    assert data.edge_time[[first, second]].tolist() == [day, day + 12 * 3600]
    assert [data.edge_type_names[int(k)] for k in data.edge_type[[first, second]]] == ["likes", "knows"]


def test_copies_of_an_edge_stay_where_their_values_differ(folder):
    data = load(folder(edges__csv="source,target,weight\n0,1,1\n1,0,1\n0,1,2\n1,1,5\n"))
    found = sorted(zip(columns(data.edge_index), data.edge_weight.tolist(), strict=True))
    assert found == [((0, 1), 1.0), ((0, 1), 2.0), ((1, 0), 1.0), ((1, 0), 2.0)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,1,0.5\n1,2,0.5\n", r"without a header.*line 1 .*source,target,weight"),
        ("0,1\n1,2\n2,3,4\n", r"2 columns.*line 3 .got 3"),
        ("person,friend\na,b\nb,c\n", "header or an edge"),
        ("a,b\n", "header or an edge"),
        ("u,v\nv,w\nw,x\n", "header or an edge"),
        ("source,target,weight\n0,1,1\n1,2,\n", "line 3, column 'weight'"),
        ("source,target,weight\n0,1,nan\n1,2,1\n", "line 2, column 'weight'"),
        ("source,target,weight\n0,1,inf\n1,2,1\n", "finite.*line 2, column 'weight'"),
        ("source,target,weight\n0,1,x\n1,2,1\n", "number.*line 2, column 'weight'.*'x'"),
        ("source,target,time\n0,1,soon\n1,2,1\n", "date.*line 2, column 'time'"),
        ("source,target,weight,w\n0,1,1,1\n", "another, 'w'"),
        ("a,b\nb,\n", "line 2 .got ''"),
        ("a,b\nb,None\n", "line 2 .got 'None'"),
        ("1.0,2.0\n2.0,3.0\n", r"integer.*line 1 .got '1\.0'"),
        ("0 1 0,5\n1 2 0,5\n", "one kind of separator.*line 1"),
        ("a,#b\n#b,c\n", "comment.*line 2"),
        ('a,"b\nb,c\n', "quoted"),
        ("0 1 {'weight': 3}\n1 2 {}\n", "read_edgelist"),
        ("%%MatrixMarket matrix coordinate\n3 3 1\n1 2\n", "mmread"),
        ("M\xfcller,b\n".encode("latin-1"), "UTF-8"),
    ],
)
def test_edge_lists_that_are_not_understood(folder, text, message):
    with pytest.raises(InvalidInputError, match=message) as caught:
        load(folder(edges__csv=text))
    assert "edges.csv" in str(caught.value)


def test_what_is_read_with_a_warning(folder):
    with pytest.warns(UserWarning, match=r"'note' of .*edges\.csv"):
        load(folder(edges__csv="source,target,note\n0,1,x\n"))
    with pytest.warns(UserWarning, match=r"1 of 2 weights .*negative"):
        assert load(folder(edges__csv="source,target,weight\n0,1,-1\n1,2,1\n")).edge_weight.min() == -1


# Features and labels #########################################################


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("features__csv", "id,f,g\n40,5,6\n10,1,2\n20,3,4\n"),
        ("features__csv", "f,node_id,g\n5,40,6\n1,10,2\n3,20,4\n"),
        ("features__tsv", ",f,g\n40,5,6\n10,1,2\n20,3,4\n".replace(",", "\t")),
        ("features__csv", "1,2\n3,4\n5,6\n"),
        ("features__csv", "f;g\n1;2\n3;4\n5;6\n"),
        ("features__csv", "0,1\n1,2\n3,4\n5,6\n"),  # pandas writes 0, 1, ... above columns without names
        ("features__npz", {"anything": np.array([[1, 2], [3, 4], [5, 6]])}),
        ("features__npz", {"x": np.array([[5, 6], [1, 2], [3, 4]]), "ids": np.array([40, 10, 20])}),
        ("features__npy", np.array([[1, 2], [3, 4], [5, 6]])),
        ("nodes__csv", "id,f,g\n40,5,6\n10,1,2\n20,3,4\n"),
    ],
)
def test_rows_of_features_belong_to_their_ids(folder, name, value):
    data = quietly(load, folder(edges__csv="10,20\n20,40\n", **{name: value}))
    assert data.x.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert data.node_id.tolist() == [10, 20, 40]


def test_as_many_rows_as_the_largest_id_are_the_ids(folder):
    x = np.random.default_rng(0).random((41, 2)).astype(np.float32)
    with pytest.warns(UserWarning, match="count from 1"):
        data = load(folder(edges__csv="10,20\n20,40\n", features__npy=x, labels__npy=np.arange(41)))
    assert np.array_equal(data.x.numpy(), x)
    assert columns(data.edge_index) == [(10, 20), (20, 10), (20, 40), (40, 20)]
    assert data.y.tolist() == list(range(41))
    assert "node_id" not in data


def test_ids_that_may_count_from_one(folder):
    """Rows 0 to 3 of edges among 1, 2, 3: node 0 has no edge, or the last row is of a node 4 without one."""
    at = folder(edges__csv="1,2\n2,3\n", features__npy=np.arange(4.0)[:, None])
    with pytest.warns(UserWarning, match=r"rows of .*features\.npy .*count from 1"):
        assert columns(load(at).edge_index) == [(1, 2), (2, 1), (2, 3), (3, 2)]
    (at / "features.npy").unlink()
    (at / "features.csv").write_text("id,f\n1,0\n2,1\n3,2\n4,3\n")
    data = quietly(load, at)
    assert (data.x.flatten().tolist(), data.node_id.tolist()) == ([0, 1, 2, 3], [1, 2, 3, 4])


def test_features_list_nodes_without_edges(folder):
    data = load(folder(edges__csv="a,b\nb,c\n", features__csv="id,f\nd,4\nb,2\nc,3\na,1\n"))
    assert data.x.flatten().tolist() == [1, 2, 3, 4]
    assert data.node_id == ["a", "b", "c", "d"]


@pytest.mark.parametrize("sparse", [False, True])
def test_sparse_features(folder, sparse):
    matrix = sp.random_array((40, 50), density=0.02, rng=np.random.default_rng(0), format="csr", dtype=np.float32)
    at = folder(edges__csv="\n".join(f"{i},{i + 1}" for i in range(39)))
    sp.save_npz(at / "features.npz", matrix)
    x = load(at, sparse=sparse).x
    assert (x.layout == torch.sparse_csr) == sparse
    assert np.array_equal(x.to_dense().numpy() if sparse else x.numpy(), matrix.toarray())


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"features__npy": np.ones((7, 2))}, r"features\.npy .*3 as the distinct ids or 41 .*got 7"),
        ({"features__npy": np.ones((50, 2))}, r"features\.npy .*got 50"),
        ({"features__csv": "id,f\n10,1\n20,2\n"}, r"features\.csv .*none for 1 of 3; .*line 2"),
        ({"features__csv": "id,f\n10,1\n20,2\n20,3\n40,4\n"}, r"each node once.*features\.csv, line 4"),
        ({"features__csv": "10,1\n20,2\n40,3\n"}, r"header.*features\.csv"),
        ({"features__csv": "f,city\n1,x\n2,y\n3,z\n"}, r"'x' in .*features\.csv, line 2, column 2, 'city'"),
        ({"features__csv": "f,g\n1,2\n3,\n5,6\n"}, r"finite.*features\.csv, line 3, column 2"),
        ({"features__csv": "f,g\n1,2\n3,4,5\n5,6\n"}, r"features\.csv, line 3"),
        ({"features__npz": {"a": np.ones((3, 1)), "b": np.ones(3)}}, r"features\.npz.*'a', 'b'"),
        ({"features__parquet": "?"}, r"features\.parquet"),
        ({"features__npy": np.ones((3, 1)), "features__csv": "1\n2\n3\n"}, r"features\.csv, features\.npy"),
        (
            {"features__npy": np.ones((3, 1)), "nodes__csv": "id,f\n10,1\n20,2\n40,3\n"},
            r"nodes\.csv and .*features\.npy",
        ),
        (
            {"features__npy": np.ones((3, 1)), "labels__npy": np.ones(41, int)},
            r"3 in .*features\.npy, 41 in .*labels\.npy",
        ),
        ({"nodes__csv": "f,g\n1,2\n3,4\n5,6\n"}, r"column 'id' in .*nodes\.csv"),
        ({"labels__csv": "id,label\n10,\n20,\n40,\n"}, r"labels in .*labels\.csv .got none"),
        ({"labels__csv": "0.5\n1\n2\n"}, r"labels\.csv to hold integers or names"),
        ({"edges__txt": "10 20"}, r"edges\.csv, edges\.txt"),
    ],
)
def test_nodes_that_are_not_understood(folder, files, message):
    with pytest.raises(InvalidInputError, match=message):
        load(folder(edges__csv="10,20\n20,40\n", **files))


def test_names_need_a_column_of_ids(folder):
    with pytest.raises(InvalidInputError, match=r"column 'id' in .*features\.npy"):
        load(folder(edges__csv="a,b\nb,c\n", features__npy=np.ones((3, 2))))


@pytest.mark.parametrize(
    ("text", "y", "names"),
    [
        ("label\nx\ny\nx\n", [0, 1, 0], {0: "x", 1: "y"}),
        ("id,club\nc,x\na,y\n", [1, -1, 0], {0: "x", 1: "y"}),
        ("a,1\nb,\nc,0\n", [1, -1, 0], None),
        ("id,label\na,7\nb,?\nc,3\n", [7, -1, 3], None),
    ],
)
def test_labels_as_texts_and_partial(folder, text, y, names):
    ids = "0,1\n1,2\n" if text.startswith("label") else "a,b\nb,c\n"
    data = quietly(load, folder(edges__csv=ids, labels__csv=text))
    assert data.y.tolist() == y
    assert data.get("label_names") == names


def test_files_that_nobody_reads_are_named(folder):
    at = folder(edges__csv="0,1\n", train_mask__npy=np.ones(2), README__md="who")
    with pytest.warns(UserWarning, match=r"train_mask\.npy") as seen:
        load(at)
    assert "README" not in str(seen[0].message)
    (at / "edges.csv").unlink()
    with pytest.raises(DatasetNotFoundError, match=r"edges\.csv.*train_mask\.npy"):
        load(at)


TABLES = st.text(alphabet='01ab,;\t \n"#.-', max_size=40)


@given(TABLES, TABLES)
def test_any_tables_give_a_graph_or_one_of_our_errors(tmp_path_factory, edges, nodes):
    at = tmp_path_factory.mktemp("fuzz")
    (at / "edges.csv").write_text(edges)
    (at / "features.csv").write_text(nodes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for features in (None, at / "features.csv"):
            try:
                data = from_files(at / "edges.csv", features, labels=features)
            except GunlearnError:
                continue
            assert validate(data) is data


# Other formats ###############################################################


@pytest.mark.parametrize("ending", ["graphml", "gml", "gexf", "json"])
def test_graph_files_against_networkx(tmp_path, ending):
    graph, path = nx.les_miserables_graph(), tmp_path / f"g.{ending}"
    if ending == "json":
        path.write_text(json.dumps(nx.node_link_data(graph)))
    else:
        {"graphml": nx.write_graphml, "gml": nx.write_gml, "gexf": nx.write_gexf}[ending](graph, path)
    data = quietly(load, str(path))
    assert data.node_id == list(graph)
    rebuilt = np.zeros((77, 77))
    rebuilt[tuple(data.edge_index.numpy())] = data.edge_weight
    assert np.array_equal(rebuilt, nx.to_numpy_array(graph))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("g.json", '{"a": 1}', "'nodes' and 'links'"),
        (
            "g.json",
            '{"nodes": [{"id": "a"}, {"id": "b"}], "links": [{"source": 0, "target": 1}]}',
            "2 ends that no node has",
        ),
        ("g.gml", "graph [", r"g\.gml in gml"),
        ("g.graphml", "<", r"g\.graphml in graphml"),
        ("g.pickle", "x", r"g\.pickle, which is not read"),
    ],
)
def test_graph_files_that_are_broken(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidInputError, match=message):
        load(tmp_path / name)
    with pytest.raises(DatasetNotFoundError, match="nowhere"):
        load(tmp_path / "nowhere.gml")


def test_one_file_of_edges(tmp_path):
    with gzip.open(tmp_path / "follows.tsv.gz", "wt") as file:
        file.write("a\tb\nb\tc\n")
    assert named(load(tmp_path / "follows.tsv.gz")) == CHAIN


def test_attributes_of_networkx():
    graph = nx.karate_club_graph()
    for v in graph:
        graph.nodes[v].update(x=[v, 1.0], y="ab"[v % 2], age=v, train_mask=v < 20)
    with pytest.warns(UserWarning, match="'age', 'club'"):
        data = load(graph)
    assert torch.equal(data.x, torch.stack([torch.arange(34.0), torch.ones(34)], 1))
    assert (data.y.tolist(), data.label_names) == ([v % 2 for v in range(34)], {0: "a", 1: "b"})
    assert int(data.train_mask.sum()) == 20
    weights = dict(zip(columns(data.edge_index), data.edge_weight.tolist(), strict=True))
    assert all(weights[u, v] == weights[v, u] == w for u, v, w in graph.edges(data="weight"))
    data = quietly(from_networkx, nx.Graph(graph.edges), features=np.ones((34, 1)))
    assert "edge_weight" not in data
    data = quietly(from_networkx, graph, features=["age"], labels="club")
    assert data.x.flatten().tolist() == list(range(34))
    assert data.label_names == {0: "Mr. Hi", 1: "Officer"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g.nodes[1].update(x=[1.0]), "attribute 'x' of every node .got none at 2"),
        (lambda g: [g.nodes[v].update(x=[1.0] * (v + 1)) for v in g], "'x' to hold as many"),
        (lambda g: [g.nodes[v].update(x="a") for v in g], "'x' to hold as many real numbers"),
        (lambda g: [g.nodes[v].update(x=1.0, features=1.0) for v in g], "one of the node attributes"),
        (lambda g: [g.nodes[v].update(y=0.5) for v in g], "'y' to hold integers or names"),
        (lambda g: g.edges[0, 1].update(weight=1.0), "attribute 'weight' of every edge .got none at 1"),
        (lambda g: [g.edges[e].update(weight=np.nan) for e in g.edges], "edge 0, column 'weight'"),
        (lambda g: g.add_edge("1", 1), "differ as texts"),
    ],
)
def test_attributes_of_networkx_that_do_not_fit(change, message):
    graph = nx.path_graph(3)
    change(graph)
    with pytest.raises(InvalidInputError, match=message):
        load(graph)


def test_data_frames():
    pd = pytest.importorskip("pandas")
    edges = pd.DataFrame({"source": ["a", "b"], "target": ["b", "c"], "weight": [1.0, 2.0]})
    nodes = pd.DataFrame({"id": ["c", "a", "b"], "age": [3, 1, 2], "label": ["x", None, "y"]})
    for given_nodes in (nodes, nodes.set_index("id")):
        data = quietly(from_pandas, edges, given_nodes)
        assert named(data) == CHAIN
        assert data.x.flatten().tolist() == [1, 2, 3]
        assert data.y.tolist() == [-1, 1, 0]
    assert load(edges.astype({"source": "category", "target": "string"})).node_id == ["a", "b", "c"]
    assert load(pd.DataFrame({"u": [5, 6], "v": [6, 9]})).node_id.tolist() == [5, 6, 9]
    with pytest.raises(InvalidInputError, match="adjacency matrix"):
        load(pd.DataFrame(1 - np.eye(3, dtype=int), list("abc"), list("abc")))
    with pytest.raises(InvalidInputError, match="two kinds"):
        load(pd.DataFrame({"user": [1, 2], "item": [2, 3]}))
    with pytest.raises(InvalidInputError, match="row 1"):
        load(pd.DataFrame({"u": [5, None], "v": [6, 9]}))
    with pytest.raises(InvalidInputError, match="none for 1 of 3"):
        from_pandas(edges, nodes.iloc[:2])
    with pytest.raises(InvalidTypeError, match="pandas"):
        from_pandas([("a", "b")])


def test_a_raw_folder_of_ogb(tmp_path):
    files = {
        "raw/edge": "0,1\n1,2\n2,3\n",
        "raw/num-node-list": "4\n",
        "raw/node-feat": "0.5,1\n2,3\n4,5\n6,7\n",
        "raw/node-label": "0\n1\nnan\n0\n",
        "split/time/train": "0\n1\n",
        "split/time/valid": "2\n",
        "split/time/test": "3\n",
        "mapping/nodeidx2paperid": "node idx,paper id\n0,90\n1,70\n2,80\n3,10\n",
    }
    for name, text in files.items():
        path = tmp_path / f"{name}.csv.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(text.encode()))
    for at in (tmp_path, tmp_path / "raw"):
        data = quietly(load, at)
        assert columns(data.edge_index) == [(0, 1), (1, 0), (1, 2), (2, 1), (2, 3), (3, 2)]
        assert data.x.tolist() == [[0.5, 1], [2, 3], [4, 5], [6, 7]]
        assert data.y.tolist() == [0, 1, -1, 0]
        assert [data[f"{part}_mask"].nonzero().flatten().tolist() for part in ("train", "val", "test")] == [
            [0, 1],
            [2],
            [3],
        ]
        assert data.node_id.tolist() == [90, 70, 80, 10]
    (tmp_path / "raw/num-node-list.csv.gz").write_bytes(gzip.compress(b"2\n2\n"))
    with pytest.raises(InvalidInputError, match="one graph"):
        load(tmp_path)


def test_people_are_forgotten_by_name(tmp_path):
    """From a file with names to a result that has none of the forgotten."""
    graph = nx.les_miserables_graph()
    (tmp_path / "edges.csv").write_text("source,target\n" + "".join(f"{u},{v}\n" for u, v in graph.edges))
    data = gu.link_split(load(tmp_path), 0.1, 0.1)
    request = gu.ForgetNodes(["Valjean"])
    result = gu.unlearn(gu.GCN(data.num_features), data, request, "utu")
    row = data.node_id.index("Valjean")
    assert result.partition.forget_nodes.tolist() == [row]
    assert not bool((result.data.edge_index == row).any())
    assert result.data.node_id[row] is None
    result.save(tmp_path / "out")
    said = [
        str(result),
        repr(request),
        str(result.record()),
        *(p.read_bytes().decode("latin-1") for p in (tmp_path / "out").rglob("*.json")),
    ]
    assert not any("Valjean" in text for text in said)


def test_the_example_of_the_docs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = executed(REPOSITORY / "docs" / "data.md", "features.csv")
    data = names["data"]
    assert data.node_id == ["alice", "bob", "carol", "dan"]
    assert (data.y.tolist(), data.label_names) == ([0, 1, 0, -1], {0: "chess", 1: "go"})
    assert data.x[:, 0].tolist() == [45, 27, 52, 31]
    assert names["partition"].forget_nodes.tolist() == [0]
    assert names["pair"].forget_edge_index.tolist() == [[2], [3]]


@pytest.mark.parametrize(
    ("header", "refused"),
    [("userId,movieId", True), ("user,item", True), ("authors,paper_id", True), ("business,user_id", True),
     ("person,friend", False), ("user,follower", False), ("follower_id,followee_id", False), ("item,items", False)],
)  # fmt: skip
def test_columns_of_two_kinds_whose_ids_overlap(folder, header, refused):
    """User 1 and item 1 are two nodes, one edge; read as one node, they would be a self-loop."""
    path = folder(edges__csv=f"{header}\n1,1\n1,2\n2,1\n3,4\n")
    if not refused:
        assert quietly(load, path).node_id.tolist() == [1, 2, 3, 4]
        return
    with pytest.raises(InvalidInputError, match=r"two kinds.*prefixes"):
        load(path)
    told = header if header.lower().count("id") == 2 else "source,target"
    path = folder(edges__csv=f"{told}\nm1,u1\nm2,u1\nm1,u2\n")
    assert edges_of(quietly(load, path)) == {("m1", "u1"), ("m2", "u1"), ("m1", "u2")}


def test_files_beside_an_edge_list_that_is_loaded_alone_are_named(folder):
    path = folder(edges__csv="source,target\n0,1\n1,2\n", features__csv="a\n1\n2\n3\n")
    with pytest.warns(UserWarning, match=r"features\.csv beside .* not read; load the folder"):
        load(path / "edges.csv")


def test_columns_of_a_split_are_no_features_and_a_target_is_a_label(folder):
    nodes = "id,f1,target,train_mask\n0,5,1,1\n1,6,0,0\n2,7,1,1\n"
    with pytest.warns(UserWarning, match="'train_mask' of .* are a split and are not read"):
        data = load(folder(edges__csv="0,1\n1,2\n", nodes__csv=nodes))
    assert data.x.tolist() == [[5.0], [6.0], [7.0]]
    assert data.y.tolist() == [1, 0, 1]


def test_a_first_row_that_may_be_a_header_of_numbers_is_told(folder):
    with pytest.warns(UserWarning, match=r"first row of .*features\.csv is read as a header"):
        data = load(folder(edges__csv="0,1\n1,2\n", features__csv="0,1\n1,0\n0,0\n1,1\n"))
    assert data.x.tolist() == [[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]


# Odd files ###################################################################


def edges_of(data):
    """The undirected edges by ids, and their weights if there are some."""
    ids = data.node_id if "node_id" in data else torch.arange(data.num_nodes)
    ids = ids.tolist() if isinstance(ids, torch.Tensor) else ids
    weights = [(w,) for w in data.edge_weight.tolist()] if "edge_weight" in data else [()] * data.num_edges
    pairs = zip(columns(data.edge_index), weights, strict=True)
    return {(ids[u], ids[v], *weight) for (u, v), weight in pairs if ids[u] < ids[v]}


@pytest.mark.parametrize(
    ("text", "edges"),
    [
        (",0,1\n0,5,6\n1,6,7\n", {(5, 6), (6, 7)}),
        ("Unnamed: 0,person,friend\n0,5,6\n1,6,7\n", {(5, 6), (6, 7)}),
        (",source,target\n0,5,6\n1,6,7\n", {(5, 6), (6, 7)}),
        ("id,follower,followee\n7,5,6\n9,6,7\n", {(5, 6), (6, 7)}),
        ("0,1\na,b\nb,c\n", {("a", "b"), ("b", "c")}),
        ("0,1\n0,5\n1,5\n", {(0, 1), (0, 5), (1, 5)}),
        ("# pandas writes no comments\n0,1\n1,2\n", {(0, 1), (1, 2)}),
        ("source;target;weight\n1;2;0,5\n2;3;1,25\n", {(1, 2, 0.5), (2, 3, 1.25)}),
        ("source,target\n1,2\n2,3\n,\n,\n\n", {(1, 2), (2, 3)}),
        ('\ufeff"source","target"\r\n"1","2"\r\n"2","3"\r\n', {(1, 2), (2, 3)}),
    ],
)
def test_odd_edge_lists_that_are_understood(folder, text, edges):
    assert edges_of(quietly(load, folder(edges__csv=text))) == edges


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,1\n3,4\n4,5\n5,3\n", "numbers of the columns.*source,target"),
        ("0,1,2\n0,2,0.5\n2,1,0.5\n", "in place of the first line, which counts the columns"),
        ("5,5\n0,1\n1,2\n2,3\n3,4\n4,0\n", "line 1: there are 5 nodes and 5 edges"),
        ("person,friend\na,b\nperson,friend\nb,c\n", "header or an edge"),
        ("id,person,friend\n1,5,6\n1,6,7\n", "number the edges or name their nodes"),
        (",0,1,2\n0,0,1,0\n1,1,0,1\n2,0,1,0\n", "adjacency matrix"),
        ("a,b,c\n0,1,0\n1,0,1\n0,1,0\n", "adjacency matrix"),
        (",a,b,c\na,0,1,0\nb,1,0,1\nc,0,1,0\n", "'source' and 'target'"),
        ("source;target;weight\n1;2;1,250\n2;3;3,500\n", "decimal comma, or one between thousands"),
        ("source,target\na,N/A\nb,c\n", "node id.*line 2"),
        ("source,target\n", "at least one edge"),
        ("source,target\n-1,2\n", ">= 0 in .*line 2"),
        ("source,target\n1.0,2.0\n", "integer.*line 2"),
    ],
)
def test_odd_edge_lists_that_are_refused(folder, text, message):
    with pytest.raises(InvalidInputError, match=message) as caught:
        load(folder(edges__csv=text))
    assert "edges.csv" in str(caught.value)


def test_what_may_be_a_header_or_missing_is_told(folder):
    """Above ids from 1, `0,1` may be an edge or what pandas writes; a row of a node 0 settles it."""
    at = folder(edges__csv="0,1\n1,2\n2,3\n")
    with pytest.warns(UserWarning, match=r"first line of .*edges\.csv, 0,1, is read as an edge"):
        load(at)
    assert quietly(load, folder(labels__csv="0\n1\n1\n0\n")).num_nodes == 4
    with pytest.warns(UserWarning, match=r"'NA' in .*edges\.csv is read as the name"):
        load(folder(edges__csv="source,target\na,NA\nb,c\n", labels__csv="id,label\na,1\n"))


@pytest.mark.parametrize(
    ("files", "x", "y"),
    [
        ({"features__csv": "user,f\n40,3\n10,1\n20,2\n"}, [1, 2, 3], None),
        ({"features__csv": "f,account_id\n3,40\n1,10\n2,20\n"}, [1, 2, 3], None),
        ({"features__csv": ",user,f\n0,40,3\n1,10,1\n2,20,2\n"}, [1, 2, 3], None),
        ({"features__csv": ",id,f\n0,40,3\n1,10,1\n2,20,2\n"}, [1, 2, 3], None),
        ({"features__csv": ",f\n0,1\n1,2\n2,3\n"}, [1, 2, 3], None),
        ({"features__csv": "handle,f\n40,3\n10,1\n20,2\n"}, [1, 2, 3], None),
        ({"features__csv": "paid,f\n1,0\n0,0\n1,0\n"}, [1, 0, 1], None),
        ({"nodes__csv": "author,f,class\n40,3,b\n10,1,a\n20,2,a\n"}, [1, 2, 3], [0, 0, 1]),
        ({"labels__csv": "paper,venue\n40,b\n10,a\n"}, None, [0, -1, 1]),
        ({"labels__csv": ",label\n0,1\n1,0\n2,1\n"}, None, [1, 0, 1]),
        ({"labels__csv": "label,item\n1,40\n0,10\n0,20\n"}, None, [0, 0, 1]),
    ],
)
def test_ids_are_found_under_other_names_and_beside_an_index(folder, files, x, y):
    data = quietly(load, folder(edges__csv="10,20\n20,40\n", **files))
    assert data.node_id.tolist() == [10, 20, 40]
    assert x is None or data.x[:, 0].tolist() == x
    assert (data.y.tolist() if "y" in data else None) == y


@pytest.mark.parametrize(
    ("edges", "files", "message"),
    [
        ("0,1\n0,2\n", {"features__csv": "rank,f\n2,3\n1,2\n0,5\n"}, "'rank', whose values could be"),
        ("10,20\n20,40\n", {"features__csv": "user,f\n7,3\n8,2\n9,5\n"}, "column 'user' of .*no edge names"),
        ("10,20\n20,40\n", {"features__csv": "user,f\n10,3\n20,2\n"}, "none for 1 of 3"),
        ("0,1\n0,2\n", {"features__csv": "user,f\n0.0,3\n1.0,2\n2.0,5\n"}, "column 'user' .*0.0, no integer"),
        ("0,1\n0,2\n", {"features__csv": "user_id,f\n0,3\n0,2\n2,5\n"}, "column 'user_id' .*repeated"),
        ("0,1\n0,2\n", {"features__csv": ",5\n1,2\n3,4\n"}, r"line 1, column 1 .got ''"),
        ("007,7\n7,08\n", {"labels__csv": "id,label\n70,0\n80,1\n"}, r"none, such as 70 where an edge has 007"),
        ("0,1\n0,2\n", {"labels__csv": "a,b\n1,0\n0,1\n1,1\n"}, "node_multilabel"),
        ("0,1\n0,2\n", {"labels__npy": np.eye(3)[:, :2]}, "node_multilabel"),
        ("0,1\n0,2\n", {"nodes__csv": "id,f,y1,y2\n0,1,1,0\n1,2,0,1\n2,2,1,0\n"}, "'y1', 'y2'.*node_multilabel"),
        ("0,1\n0,2\n", {"labels__csv": "label\na|b\na\nb\n"}, r"'a\|b', whose parts are labels"),
        ("0,1\n0,2\n", {"labels__csv": "label\n-1\n1\n-1\n"}, "-1 and 1 alone"),
        ("0,1\n0,2\n", {"labels__npy": np.array([-2, 0, 1])}, ">= 0 in .*got -2"),
        ("0,1\n0,2\n", {"labels__csv": "label\n0\nspam\n1\n"}, "alone, or names .got 'spam'"),
        ("0,1\n0,2\n", {"labels__csv": "label\n0.5\n1\n2\n"}, "node_regression"),
    ],
)
def test_odd_tables_of_nodes_that_are_refused(folder, edges, files, message):
    with pytest.raises(InvalidInputError, match=message):
        load(folder(edges__csv=edges, **files))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("x\nNone\ny\n", "'None' .*read as missing"),
        ("x\nNA\ny\n", "'NA' .*a class"),
        ("2001\n2002\n2001\n", "2003 outputs"),
    ],
)
def test_labels_that_may_mean_something_else_are_told(folder, labels, message):
    with pytest.warns(UserWarning, match=message):
        load(folder(edges__csv="0,1\n0,2\n", labels__csv=f"label\n{labels}"))


@pytest.mark.parametrize("files", ["features labels", "features", "labels"])
@pytest.mark.parametrize("ids", [True, False])
def test_first_and_last_nodes_without_edges(folder, files, ids):
    tables = {"features": [i / 2 for i in range(7)], "labels": [i % 3 for i in range(7)]}
    written = {
        f"{name}__csv": ("id,v\n" if ids else "")
        + "".join(f"{i},{v}\n" if ids else f"{v}\n" for i, v in enumerate(tables[name]))
        for name in files.split()
    }
    at = folder(edges__csv="1,2\n2,3\n3,4\n", **written)  # nodes 0, 5 and 6 have no edges
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        data = load(at)
    assert any("count from 1" in str(w.message) for w in seen) == (not ids)
    assert edges_of(data) == {(1, 2), (2, 3), (3, 4)}
    assert (data.num_nodes, "node_id" in data) == (7, False)
    assert "features" not in files or data.x.flatten().tolist() == tables["features"]
    assert "labels" not in files or data.y.tolist() == tables["labels"]


@pytest.mark.parametrize("word", ["links", "edges"])
def test_repeated_links_of_a_json_graph_stay_beside_each_other(tmp_path, word):
    links = [{"source": "a", "target": "b", "weight": 1}, {"source": "b", "target": "a", "weight": 5}]
    graph = {"nodes": [{"id": "a"}, {"id": "b"}], word: links}
    (tmp_path / "g.json").write_text(json.dumps(graph))
    assert edges_of(quietly(load, tmp_path / "g.json")) == {("a", "b", 1.0), ("a", "b", 5.0)}
    (tmp_path / "g.json").write_text(json.dumps(graph | {"directed": "false"}))
    with pytest.raises(InvalidInputError, match=r"'directed' .*'false'"):
        load(tmp_path / "g.json")


@pytest.mark.parametrize("ending", ["graphml", "gml"])
def test_files_of_two_graphs_are_refused(tmp_path, ending):
    path, write = tmp_path / f"g.{ending}", {"graphml": nx.write_graphml, "gml": nx.write_gml}[ending]
    write(nx.path_graph(3), path)
    assert load(path).num_nodes == 3
    text = path.read_text()
    again = text[text.index("<graph ") : text.index("</graphml>")] if ending == "graphml" else text
    path.write_text(text.replace("</graphml>", again + "</graphml>") if ending == "graphml" else text + again)
    with pytest.raises(InvalidInputError, match=rf"one graph in .*g\.{ending} .got 2"):
        load(path)


def test_files_that_others_read_say_who(tmp_path):
    (tmp_path / "edges.pkl").write_bytes(b"")
    with pytest.raises(InvalidInputError, match=r"pandas\.read_pickle, if you trust it"):
        load(tmp_path / "edges.pkl")
