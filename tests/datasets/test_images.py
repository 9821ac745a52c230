"""Images: idx files without pickle, Fashion-MNIST from its folders, splits."""

import gzip
import struct
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gunlearn as gu
from gunlearn.datasets.idx import read_idx
from gunlearn.datasets.images import IMAGE_SETS
from gunlearn.errors import DatasetNotFoundError, InvalidInputError, InvalidTypeError

KINDS = {np.uint8: 0x08, np.int8: 0x09, np.int16: 0x0B, np.int32: 0x0C, np.float32: 0x0D, np.float64: 0x0E}


def idx(array: np.ndarray) -> bytes:
    """The format's own words (yann.lecun.com/exdb/mnist): zeros, type, dimensions, sizes, entries, all big-endian."""
    head = bytes([0, 0, KINDS[array.dtype.type], array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


def part(folder: Path, name: str, number: int, seed: int, packed: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Write images and labels of a part."""
    rng = np.random.default_rng(seed)
    arrays = rng.integers(0, 256, (number, 5, 4)).astype(np.uint8), rng.integers(0, 10, number).astype(np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    for array, kind in zip(arrays, ("images-idx3-ubyte", "labels-idx1-ubyte"), strict=True):
        content = idx(array)
        path = folder / f"{name}-{kind}{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(content) if packed else content)
    return arrays


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("GUNLEARN_DATA", raising=False)
    monkeypatch.setenv("GUNLEARN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    row = replace(IMAGE_SETS["fashionmnist"], installed=str(tmp_path / "installed"))
    monkeypatch.setitem(IMAGE_SETS, "fashionmnist", row)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("packed", [True, False])
def test_arrays_come_back(kind: type, packed: bool, tmp_path: Path) -> None:
    array = (np.arange(24) * 5).astype(kind).reshape(2, 3, 4)
    path = tmp_path / "any"  # packed or not is told by the bytes
    path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))
    read = read_idx(path)
    assert read.numpy().dtype == kind
    assert np.array_equal(read.numpy(), array)


WHOLE = idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
BROKEN = {
    "cut": (WHOLE[:-1], r"24 bytes of entries, 2 x 3 x 4 in .*file \(got 23; is it cut short"),
    "longer": (WHOLE + b"x", "got 25"),
    "cut in the sizes": (WHOLE[:9], "its sizes"),
    "cut gzip": (gzip.compress(WHOLE * 50)[:-9], "whole gzip file .*cut short"),
    "gzip of noise": (b"\x1f\x8b" + bytes(40), "gzip"),
    "empty": (b"", "an idx file .*got nothing"),
    "html": (b"<html>404</html>", "an idx file .*got 3c 68"),
    "pickle": (b"\x80\x04\x95" + bytes(20), "a pickle"),
    "unknown type": (b"\0\0\x0a\x01" + WHOLE[4:], "a known type"),
    "no dimension": (b"\0\0\x08\x00", "number of dimensions"),
}


@pytest.mark.parametrize(("content", "match"), BROKEN.values(), ids=BROKEN)
def test_broken_files_are_named(content: bytes, match: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InvalidInputError, match=match) as caught:
        read_idx(tmp_path / "file")
    assert str(tmp_path / "file") in str(caught.value)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    "where", ["root/FashionMNIST/raw", "root/FashionMNIST", "root", "cache/FashionMNIST/raw", "installed"]
)
def test_both_parts_in_any_place(where: str, packed: bool, tmp_path: Path) -> None:
    trained, tested = part(tmp_path / where, "train", 30, 0, packed), part(tmp_path / where, "t10k", 10, 1, packed)
    data = gu.load("fashionmnist", root=tmp_path / "root")
    assert data.x.shape == (40, 1, 5, 4)
    assert torch.equal(data.x, torch.from_numpy(np.concatenate([trained[0], tested[0]]))[:, None].float() / 255)
    assert data.y.tolist() == [*trained[1], *tested[1]]
    assert data.test_mask.tolist() == [False] * 30 + [True] * 10  # official test images are test items
    split = gu.item_split(data, val_ratio=0.2, seed=3)
    assert torch.equal(split.test_mask, data.test_mask)
    assert (int(split.val_mask.sum()), int(split.train_mask.sum())) == (6, 24)
    assert not bool((split.val_mask & split.test_mask).any())
    assert "val_mask" not in data


def test_a_folder_with_test_images_alone_says_so(tmp_path: Path) -> None:
    part(tmp_path / "here", "t10k", 10, 1)
    for given in ({"name": tmp_path / "here"}, {"name": "FashionMNIST", "root": tmp_path / "here"}):
        with pytest.warns(UserWarning, match="here holds the 10 test images alone") as caught:
            data = gu.load(**given)
        assert caught[0].filename == __file__
        assert len(data.x) == 10
        assert "test_mask" not in data


def test_missing_and_half_files(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match=r"FashionMNIST/raw .*root=, --root .*dataset-fashion-mnist"):
        gu.load("FashionMNIST", root=tmp_path)
    part(tmp_path, "train", 5, 0)
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DatasetNotFoundError, match=r"has train-images-idx3-ubyte\.gz, but not both images and labels"):
        gu.load("FashionMNIST", root=tmp_path)
    part(tmp_path, "t10k", 3, 1)  # which alone would load, with a warning, as all there is
    for given in ({"name": tmp_path}, {"name": "FashionMNIST", "root": tmp_path}):
        with pytest.raises(DatasetNotFoundError, match=r"Expected train-labels-idx1-ubyte .*beside train-images"):
            gu.load(**given)
    (tmp_path / "t10k-images-idx3-ubyte.gz").unlink()
    with pytest.raises(DatasetNotFoundError, match=r"Expected train-labels-idx1-ubyte .*beside train-images"):
        gu.load(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    part(tmp_path, "train", 5, 0)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(idx(np.zeros(4, np.uint8)))
    with pytest.raises(InvalidInputError, match=r"5 labels, bytes, in .*train-labels-idx1-ubyte.gz \(got uint8 \[4\]"):
        gu.load("FashionMNIST", root=tmp_path)
    for name, more in (("Cora", {"images": True}), ("fashionmnst", {})):
        with pytest.raises(DatasetNotFoundError, match="FashionMNIST"):
            gu.load(name, **more)


def test_the_shared_test_images(data_root: Path) -> None:
    folder = data_root / "FashionMNIST" / "raw"
    if not folder.is_dir():
        pytest.skip(f"needs the 10,000 test images of Fashion-MNIST in {folder}")
    with pytest.warns(UserWarning, match="the 10000 test images alone"):
        data = gu.load("FashionMNIST", root=data_root)
    assert data.x.shape == (10000, 1, 28, 28)
    assert torch.bincount(data.y).tolist() == [1000] * 10  # the published balance
    shirts = gu.ForgetItems(label="shirt", count=5).resolve(data).forget_mask
    assert set(data.y[shirts].tolist()) == {6}  # as the authors number them
    assert 0 <= float(data.x.min()) < float(data.x.max()) <= 1


def test_digits_are_images_or_a_graph() -> None:
    images, graph = gu.load("digits", images=True), gu.load("digits")
    assert images.x.shape == (1797, 1, 8, 8)
    assert torch.equal(images.x.flatten(1), graph.x)
    assert torch.equal(images.y, graph.y)
    with pytest.raises(InvalidInputError, match="leave training items"):
        gu.item_split(images, 0.5, 0.5)


@pytest.mark.parametrize("form", [lambda x, y: (x, y), TensorDataset, lambda x, y: DataLoader(TensorDataset(x, y), 8)])
def test_held_out_items_stay_held_out_for_a_training_function(form: Callable[..., Any]) -> None:
    data = gu.item_split(form(torch.rand(40, 1, 4, 4), torch.arange(40) % 4), val_ratio=0, test_ratio=0.25)
    given = []

    def train(data: Any, seed: int) -> nn.Module:
        given.append(data)
        return model()

    def model() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 4))

    result = gu.unlearn(model(), data, gu.ForgetItems(label=1), "utu", "image_classification")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of models that nobody trained
        gu.evaluate(result, train=train)
    for found in (*given, result.data):
        assert int(found.test_mask.sum()) == 10
        assert int(found.train_mask.sum()) == 30 - result.num_forget


NO_PAIRS = [(np.zeros((3, 2)), np.zeros(3)), (torch.zeros(3, 2), [0, 1, 0]), (torch.zeros(3, 2),) * 3]


@pytest.mark.parametrize("pair", NO_PAIRS)
def test_tuples_that_are_no_two_tensors_are_refused(pair: Any) -> None:
    with pytest.raises(InvalidTypeError, match=r"a pair of tensors.*got a tuple of"):
        gu.item_split(pair)
