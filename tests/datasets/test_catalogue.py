import gzip
import multiprocessing
import os
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
import torch_geometric.datasets
from torch_geometric.transforms import NormalizeFeatures
from torch_geometric.utils import to_undirected

from gunlearn.datasets import DATASETS, available, load
from gunlearn.errors import DatasetNotFoundError, InvalidInputError
from gunlearn.tasks import node_split

ON_DISK = [row for row in available() if not row.embedded]
TEN_SPLITS = [row for row in ON_DISK if row.source == "HeterophilousGraphDataset"]
NPZ = [row for row in ON_DISK if row.files[0].endswith(".npz") and row not in TEN_SPLITS]
PLANETOID = [row for row in ON_DISK if row.source == "Planetoid"]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    """No test sees the user's data, cache or current folder."""
    monkeypatch.delenv("GUNLEARN_DATA", raising=False)
    monkeypatch.setenv("GUNLEARN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def need(row, root):
    if not row.offline(root):
        pytest.skip(f"needs {'/'.join(row.folder)} in the data folder")
    return root.joinpath(*row.folder)


def write_npz(path, num_nodes=6, **changes):
    """A small graph in the layout of CitationFull, Coauthor and Amazon, with a self-loop and one-way edges."""
    adjacency = sp.csr_matrix((np.ones(4), ([0, 1, 2, 3], [1, 2, 2, 0])), (num_nodes, num_nodes))
    features = sp.csr_matrix(np.arange(num_nodes * 3, dtype=np.float32).reshape(num_nodes, 3))
    arrays = {"labels": np.arange(num_nodes) % 2}
    for name, matrix in (("adj", adjacency), ("attr", features)):
        arrays |= {f"{name}_data": matrix.data, f"{name}_indices": matrix.indices, f"{name}_indptr": matrix.indptr}
        arrays[f"{name}_shape"] = np.array(matrix.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **(arrays | changes))


@pytest.fixture
def root(tmp_path):
    write_npz(tmp_path / "root/CitationFull/dblp/raw/dblp.npz")
    return tmp_path / "root"


def snapshot(folder):
    """Every path below a folder with what a write would change."""
    return {
        path: (path.stat().st_mtime_ns, path.stat().st_size, path.stat().st_mode)
        for path in [folder, *sorted(folder.rglob("*"))]
    }


# Real files ##################################################################


@pytest.mark.parametrize("row", NPZ, ids=lambda row: row.name)
def test_npz_against_numpy_and_scipy(row, data_root):
    raw = need(row, data_root)
    data = load(row.name, root=data_root)
    with np.load(raw / row.files[0]) as file:
        adjacency, attributes = (
            sp.csr_matrix(tuple(file[f"{key}_{part}"] for part in ("data", "indices", "indptr")), file[f"{key}_shape"])
            for key in ("adj", "attr")
        )
        labels = file["labels"]
    both = sp.coo_matrix(adjacency + adjacency.T)
    pairs = {(u, v) for u, v in zip(both.row.tolist(), both.col.tolist(), strict=True) if u != v}
    assert [*zip(*data.edge_index.tolist(), strict=True)] == sorted(pairs)
    assert (data.num_nodes, data.num_edges) == (row.nodes, row.edges)  # the table has PyG's published counts
    binary = (attributes > 0).astype(np.float32)
    expected = sp.diags_array(1 / np.maximum(np.asarray(binary.sum(1)).ravel(), 1)) @ binary
    actual = sp.csr_matrix(data.x.numpy())
    assert abs(actual - expected).max() < 1e-6
    assert np.array_equal(data.y.numpy(), labels)


@pytest.mark.parametrize("row", PLANETOID, ids=lambda row: row.name)
def test_planetoid_against_pyg(row, data_root, tmp_path):
    raw = need(row, data_root)
    shutil.copytree(raw, tmp_path / "pyg" / row.name / "raw")
    expected = torch_geometric.datasets.Planetoid(str(tmp_path / "pyg"), row.name, transform=NormalizeFeatures())[0]
    data = load(row.name, root=data_root)
    assert torch.equal(data.x, expected.x)
    assert torch.equal(data.y, expected.y)
    assert torch.equal(data.edge_index, to_undirected(expected.edge_index))
    assert all(torch.equal(data[mask], expected[mask]) for mask in ("train_mask", "val_mask", "test_mask"))
    assert (data.num_nodes, data.num_edges) == (row.nodes, row.edges)
    sums = data.x.sum(1)
    assert torch.allclose(sums[sums > 0], torch.ones(()), atol=1e-5)


@pytest.mark.parametrize("row", TEN_SPLITS, ids=lambda row: row.name)
def test_ten_splits_against_numpy(row, data_root):
    with np.load(need(row, data_root) / row.files[0]) as file:
        arrays = dict(file)
    data = load(row.name, root=data_root)
    pairs = {pair for u, v in arrays["edges"].tolist() for pair in ((u, v), (v, u)) if u != v}
    assert [*zip(*data.edge_index.tolist(), strict=True)] == sorted(pairs)
    assert (data.num_nodes, data.num_edges) == (row.nodes, row.edges)
    assert np.array_equal(data.x.numpy(), arrays["node_features"])  # rates and categories: rows are not normalised
    assert np.array_equal(data.y.numpy(), arrays["node_labels"])
    for part in ("train", "val", "test"):
        assert np.array_equal(data[f"{part}_mask"].numpy(), arrays[f"{part}_masks"].T)
        assert np.array_equal(node_split(data, split=3)[f"{part}_mask"].numpy(), arrays[f"{part}_masks"][3])


@pytest.mark.parametrize("row", [row for row in TEN_SPLITS if row.pyg_name], ids=lambda row: row.name)
def test_ten_splits_as_pyg_reads_them(row, data_root, tmp_path):
    shutil.copytree(need(row, data_root), tmp_path / row.name / "raw")
    expected = torch_geometric.datasets.HeterophilousGraphDataset(str(tmp_path), row.name)[0]
    data = load(row.name, root=data_root)
    assert sorted(data.keys()) == sorted(expected.keys())
    assert all(torch.equal(data[name], expected[name]) for name in data.keys())  # noqa: SIM118


@pytest.mark.parametrize("row", NPZ + PLANETOID + TEN_SPLITS, ids=lambda row: row.name)
def test_sparse_features_hold_the_same_numbers(row, data_root):
    need(row, data_root)
    dense, sparse = load(row.name, root=data_root), load(row.name, root=data_root, sparse=True)
    filled = float((dense.x != 0).double().mean())
    assert (sparse.x.layout == torch.sparse_csr) == (filled <= 0.05)  # dense where that is as small and faster
    expected = dense.x.to_sparse_csr() if filled <= 0.05 else dense.x
    torch.testing.assert_close(sparse.x, expected, rtol=1e-6, atol=1e-9)
    assert torch.equal(sparse.edge_index, dense.edge_index)
    assert sparse.num_nodes == dense.num_nodes


def test_real_root_is_left_alone(data_root, tmp_path, capfd):
    row = DATASETS["Cora"]
    need(row, data_root)
    before = snapshot(data_root / "Planetoid")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load("cora", root=data_root)
    assert snapshot(data_root / "Planetoid") == before
    assert capfd.readouterr() == ("", "")  # none of PyG's chatter
    assert not (tmp_path / "cache").exists()


# Small files of the same layout ##############################################


def test_small_npz(root):
    data = load("DBLP", root=root)
    assert data.edge_index.tolist() == [[0, 0, 1, 1, 2, 3], [1, 3, 0, 2, 1, 0]]
    assert data.x[0].tolist() == [0.0, 0.5, 0.5]  # 0, 1, 2 -> 0, 1, 1 -> sum 1
    assert data.y.tolist() == [0, 1, 0, 1, 0, 1]


def write_ten_splits(path, **changes):
    arrays = {"node_features": np.eye(4, 2, dtype=np.float32), "node_labels": np.arange(4) % 2}
    arrays |= {"edges": np.array([[0, 1], [2, 1], [3, 3]])}
    arrays |= {f"{part}_masks": np.arange(8).reshape(2, 4) % 3 == k for k, part in enumerate(("train", "val", "test"))}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **(arrays | changes))


def test_small_file_of_several_splits(tmp_path):
    path = tmp_path / "HeterophilousGraphDataset/minesweeper/raw/minesweeper.npz"
    write_ten_splits(path)
    data = load("Minesweeper", root=tmp_path)
    assert data.edge_index.tolist() == [[0, 1, 1, 2], [1, 0, 2, 1]]
    assert data.train_mask.tolist() == [[True, False], [False, False], [False, True], [True, False]]
    bad = {"node_labels": np.arange(3)}, {"train_masks": np.ones((4, 2), bool)}, {"val_masks": np.ones((2, 4))}
    for changes in (*bad, {"edges": np.array([[0, 9]])}, {"node_features": np.full((4, 2), np.nan, np.float32)}):
        write_ten_splits(path, **changes)
        with pytest.raises(InvalidInputError, match=r"minesweeper\.npz"):
            load("minesweeper", root=tmp_path)


def test_read_only_root(root):
    paths = [*root.rglob("*"), root]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = snapshot(root)
    try:
        assert load("dblp", root=root).num_nodes == 6
        assert snapshot(root) == before
    finally:
        for path in reversed(paths):
            path.chmod(0o755 if path.is_dir() else 0o644)


def test_changed_raw_file_is_read_anew(root):
    assert load("dblp", root=root).num_nodes == 6
    path = root / "CitationFull/dblp/raw/dblp.npz"
    stamp = path.stat().st_mtime_ns
    write_npz(path, num_nodes=7)
    os.utime(path, ns=(stamp, stamp))
    assert load("dblp", root=root).num_nodes == 7


def test_environment_and_default_name_the_root(root, monkeypatch, tmp_path):
    monkeypatch.setenv("GUNLEARN_DATA", str(root))
    assert load("dblp").num_nodes == 6
    write_npz(tmp_path / "other/CitationFull/dblp/raw/dblp.npz", num_nodes=8)
    assert load("dblp", root=tmp_path / "other").num_nodes == 8  # the argument wins
    monkeypatch.delenv("GUNLEARN_DATA")
    with pytest.raises(DatasetNotFoundError, match="from the default"):
        load("dblp")
    root.rename(tmp_path / "data")
    assert load("dblp").num_nodes == 6


def test_error_says_what_was_expected_where(root, tmp_path):
    with pytest.raises(DatasetNotFoundError) as caught:
        load("CS", root=root)
    message = str(caught.value)
    assert str(root / "Coauthor/CS/raw/ms_academic_cs.npz") in message
    for word in ("root=", "--root", "GUNLEARN_DATA", "download=True"):
        assert word in message
    with pytest.raises(DatasetNotFoundError, match="is no folder"):
        load("dblp", root=tmp_path / "nowhere")
    assert [DATASETS[name].offline(root) for name in ("CS", "DBLP", "digits")] == [False, True, True]
    assert not DATASETS["DBLP"].offline(tmp_path)


def test_a_wrong_root_is_corrected(root, tmp_path):
    for depth in ("CitationFull", "CitationFull/dblp", "CitationFull/dblp/raw"):
        with pytest.raises(DatasetNotFoundError) as caught:
            load("dblp", root=root / depth)
        assert f"set the root to {root}." in str(caught.value)
    write_npz(tmp_path / "mine/dblp.npz")
    with pytest.raises(DatasetNotFoundError, match="move them"):
        load("dblp", root=tmp_path / "mine")


@pytest.mark.parametrize(
    ("name", "guess"), [("coar", "'Cora'"), ("digit", "'digits'"), ("ogbl_collab", "'ogbl-collab'"), ("zzzzzz", None)]
)
def test_unknown_name_lists_names_and_the_closest(name, guess):
    with pytest.raises(DatasetNotFoundError) as caught:
        load(name)
    assert ("Did you mean" in str(caught.value)) == (guess is not None)
    assert guess is None or f"Did you mean {guess}?" in str(caught.value)
    assert all(known in str(caught.value) for known in DATASETS)


def test_broken_npz(root):
    path = root / "CitationFull/dblp/raw/dblp.npz"
    whole = path.read_bytes()
    broken = [lambda text=text: path.write_bytes(text) for text in (b"", b"<html>404</html>", whole[: len(whole) // 2])]
    inconsistent = {"labels": np.zeros(2)}, {"adj_indices": np.array([1, 2, 2, 99])}
    for write in (*broken, *(lambda changes=changes: write_npz(path, **changes) for changes in inconsistent)):
        write()
        with pytest.raises(InvalidInputError, match=r"dblp\.npz"):
            load("dblp", root=root)
    write_npz(path, attr_data=np.full(17, np.inf))  # PyG makes every positive attribute 1, infinity too
    assert load("dblp", root=root).x.isfinite().all()


def test_missing_and_corrupt_planetoid_files(tmp_path):
    raw = tmp_path / "Planetoid/Cora/raw"
    raw.mkdir(parents=True)
    *some, last = DATASETS["Cora"].files
    for name in some:
        (raw / name).write_bytes(b"no pickle")
    with pytest.raises(DatasetNotFoundError, match=r"Cora.raw.ind\.cora\.test\.index") as caught:
        load("Cora", root=tmp_path)
    assert "ind.cora.allx" not in str(caught.value)  # only what is missing
    (raw / last).write_bytes(b"no pickle")
    with pytest.raises(InvalidInputError, match=r"ind\.cora\.x"):
        load("Cora", root=tmp_path)


def test_ogb_layout(tmp_path):
    raw = tmp_path / "ogbl_collab/raw"
    raw.mkdir(parents=True)
    with gzip.open(raw / "edge.csv.gz", "wt") as file:
        file.write("0,1\n2,1\n0,1\n")
    with gzip.open(raw / "node-feat.csv.gz", "wt") as file:
        file.write("-1.5,2\n0,0\n1,1\n")
    data = load("ogbl-collab", root=tmp_path)
    assert data.edge_index.tolist() == [[0, 1, 1, 2], [1, 0, 2, 1]]
    assert data.x.tolist() == [[-1.5, 2], [0, 0], [1, 1]]
    with pytest.raises(DatasetNotFoundError, match=r"ogb\.stanford\.edu"):
        load("ogbl-collab", root=tmp_path / "nowhere", download=True)


# Downloads ###################################################################


@pytest.fixture
def fake_download(monkeypatch):
    """PyG's classes write their raw files without a network; their names and folders are PyG's own."""
    calls = []

    def download(self):
        calls.append(type(self).__name__)
        print("Downloading ...", file=sys.stderr)
        for path in map(Path, self.raw_paths):
            path.write_bytes(b"")
        if path.suffix == ".npz":
            write_npz(path)

    for family in {row.source for row in ON_DISK if row.pyg_name}:
        monkeypatch.setattr(getattr(torch_geometric.datasets, family), "download", download)
    return calls


@pytest.mark.parametrize("row", [row for row in ON_DISK if row.pyg_name], ids=lambda row: row.name)
def test_table_names_pygs_files_and_folders(row, fake_download, tmp_path):
    try:
        load(row.name, root=tmp_path / "root", download=True)
    except InvalidInputError:
        assert row in PLANETOID + TEN_SPLITS  # their fake files are empty, or hold another layout
    raw = (tmp_path / "cache").joinpath(*row.folder)
    assert sorted(path.name for path in raw.iterdir()) == sorted(row.files)
    assert not (tmp_path / "root").exists()


def test_download_once_and_in_silence(fake_download, tmp_path, capfd):
    assert load("dblp", download=True).num_nodes == 6
    assert load("dblp").num_nodes == 6
    assert load("dblp", root=tmp_path / "other", download=True).num_nodes == 6
    assert len(fake_download) == 1
    assert capfd.readouterr() == ("", "")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["CitationFull"]  # no scratch folder is left


def test_no_download_unless_asked_and_needed(fake_download, root):
    with pytest.raises(DatasetNotFoundError):
        load("dblp")
    load("dblp", root=root, download=True)
    assert not fake_download


def test_unwritable_cache(fake_download, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("GUNLEARN_CACHE", str(tmp_path / "file" / "cache"))  # below a file: refused to root as well
    with pytest.warns(UserWarning, match="GUNLEARN_CACHE"):
        assert load("dblp", download=True).num_nodes == 6


def test_failed_download(monkeypatch, tmp_path):
    def download(self):
        raise OSError("no route to host")

    monkeypatch.setattr(torch_geometric.datasets.CitationFull, "download", download)
    with pytest.raises(DatasetNotFoundError, match="no route to host"):
        load("dblp", download=True)
    assert list((tmp_path / "cache").iterdir()) == []


def test_two_processes_download_and_load_at_the_same_time(monkeypatch, tmp_path):
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("needs fork")
    processes = multiprocessing.get_context("fork")
    barrier, results = processes.Barrier(2), processes.SimpleQueue()
    write_npz(tmp_path / "source.npz")

    def download(self):
        Path(self.raw_paths[0]).write_bytes(b"half")
        barrier.wait(timeout=30)  # both are in the middle of the same download
        shutil.copy(tmp_path / "source.npz", self.raw_paths[0])

    def work():
        results.put([load("dblp", download=True).num_nodes, load("dblp").num_nodes])

    monkeypatch.setattr(torch_geometric.datasets.CitationFull, "download", download)
    running = [processes.Process(target=work) for _ in range(2)]
    for process in running:
        process.start()
    for process in running:
        process.join(timeout=60)
        assert process.exitcode == 0
    assert [results.get(), results.get()] == [[6, 6], [6, 6]]
    raw = tmp_path / "cache/CitationFull/dblp/raw"
    assert [path.name for path in raw.iterdir()] == ["dblp.npz"]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["CitationFull"]
