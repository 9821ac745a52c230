"""Forgetting rows of an array of independent items."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch_geometric.data import Data, HeteroData

import gunlearn as gu
from gunlearn.errors import EmptyForgetSetError, InvalidRequestError, InvalidTypeError
from gunlearn.requests import ForgetEdges, ForgetFeatures, ForgetItems, ForgetNodes


def array_data(num_items: int = 12, **more: object) -> Data:
    """Rows 0 .. 7 to learn from, two to validate on, two to test."""
    row = torch.arange(num_items)
    data = Data(
        x=torch.arange(num_items * 3.0).view(num_items, 3), y=row % 3, names=[f"item {i}" for i in range(num_items)]
    )
    data.train_mask, data.val_mask, data.test_mask = row < 8, (row >= 8) & (row < 10), row >= 10
    data.weight, data.prior = np.arange(num_items) / 2, torch.tensor([0.2, 0.3, 0.5])
    for name, value in more.items():
        data[name] = value
    return data


def mask_of(rows: list[int], num_items: int = 12) -> torch.Tensor:
    return torch.isin(torch.arange(num_items), torch.tensor(rows))


@pytest.mark.parametrize(
    "request_",
    [
        ForgetItems([4, 1]),
        ForgetItems(np.array([1, 4])),
        ForgetItems(torch.tensor([1, 4], dtype=torch.int32)),
        ForgetItems(mask=mask_of([1, 4])),
        ForgetItems(mask=mask_of([1, 4]).tolist()),
    ],
)
def test_named_rows(request_: ForgetItems) -> None:
    data, before = array_data(), array_data()
    partition = request_.resolve(data)
    assert torch.equal(partition.forget_mask, mask_of([1, 4]))
    assert torch.equal(partition.retain_mask, mask_of([0, 2, 3, 5, 6, 7]))
    assert (partition.kind, partition.num_forget, partition.num_retain) == ("items", 2, 6)
    assert partition.data is data
    assert partition.describe() == "2 items of 8 training items"
    assert partition.request_hash == ForgetItems([1, 4]).resolve(array_data()).request_hash
    assert repr(partition) == f"ItemPartition(2 items of 8 training items, request_hash={partition.request_hash!r})"

    kept = [0, 2, 3, 5, 6, 7, 8, 9, 10, 11]
    retain = partition.retain_data
    for name in ("x", "y", "train_mask", "val_mask", "test_mask"):
        assert torch.equal(retain[name], before[name][kept])
    assert retain.names == [f"item {i}" for i in kept]
    assert np.array_equal(retain.weight, np.array(kept) / 2)
    assert torch.equal(retain.prior, data.prior)  # runs along classes
    assert retain.num_nodes == 10
    for name, value in before.to_dict().items():
        assert np.array_equal(value, data[name])


def test_which_rows_are_for_training() -> None:
    partition = ForgetItems([0]).resolve(Data(x=torch.randn(5, 1, 4, 4), y=torch.zeros(5, 2)))
    assert partition.num_retain == 4  # without masks all
    assert partition.retain_data.x.shape == (4, 1, 4, 4)
    assert partition.retain_data.y.shape == (4, 2)
    data = array_data()
    del data.train_mask
    assert ForgetItems([0]).resolve(data).num_retain == 7
    with pytest.raises(InvalidRequestError, match="held-out"):
        ForgetItems([9]).resolve(data)


@given(st.integers(2, 40), st.integers(0, 10), st.integers(0, 2**40), st.floats(0.01, 0.99))
def test_drawn_rows(num_train: int, num_held_out: int, seed: int, ratio: float) -> None:
    total = num_train + num_held_out
    train = torch.randperm(total, generator=torch.Generator().manual_seed(seed)) < num_train
    data = Data(x=torch.randn(total, 2), y=torch.zeros(total), train_mask=train)
    number = int(ratio * num_train)
    state = torch.get_rng_state()
    if number == 0:
        with pytest.raises(EmptyForgetSetError, match="ratio of at least one item"):
            ForgetItems(ratio=ratio, seed=seed).resolve(data)
        return
    by_ratio, by_count = (
        ForgetItems(**{key: value}, seed=seed).resolve(data) for key, value in (("ratio", ratio), ("count", number))
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert by_ratio.num_forget == number
    assert torch.equal(by_ratio.forget_mask, by_count.forget_mask)
    assert by_ratio.request_hash == by_count.request_hash
    assert torch.equal(by_ratio.retain_mask, train & ~by_ratio.forget_mask)
    assert not (by_ratio.forget_mask & ~train).any()


def test_the_hash_is_of_the_content() -> None:
    one = ForgetItems([1]).resolve(array_data()).request_hash
    assert len(one) == 16
    assert one != ForgetItems([2]).resolve(array_data()).request_hash
    assert one != ForgetItems([1]).resolve(Data(x=torch.zeros(11, 3), y=torch.zeros(11))).request_hash
    assert one == ForgetItems([1]).resolve(array_data(x=torch.zeros(12, 3))).request_hash


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"index": [0], "count": 1}, "exactly one of .*index, count"),
        ({"ratio": 1.0}, "0 < ratio < 1"),
        ({"index": [True, False]}, "integers"),
        ({"index": [[0, 1]]}, r"shape \[F\]"),
        ({"mask": [0, 1]}, "boolean"),
        ({"mask": torch.ones(2, 2, dtype=torch.bool)}, "boolean"),
        ({"index": []}, "at least one"),
        ({"count": 0}, "at least one"),
        ({"mask": [False, False]}, "at least one"),
    ],
)
def test_refused_items_without_data(arguments: dict, match: str) -> None:
    with pytest.raises(InvalidRequestError, match=match) as caught:
        ForgetItems(**arguments)
    assert isinstance(caught.value, EmptyForgetSetError) == (match == "at least one")


LABELLED = {"x": torch.zeros(3, 2), "y": torch.zeros(3)}


@pytest.mark.parametrize(
    ("arguments", "data", "match"),
    [
        ({"index": [12]}, array_data(), r"in \[0, 12\) \(got 1 outside: \[12\]"),
        ({"index": [-1]}, array_data(), r"got 1 outside: \[-1\]"),
        ({"index": [1, 1, 2]}, array_data(), r"each item once \(got 1 repeated: number 2 of the request\)"),
        ({"index": [1, 8]}, array_data(), r"training items \(got 1 held-out rows: \[8\]"),
        ({"mask": mask_of([0, 10])}, array_data(), "held-out"),
        ({"mask": torch.ones(3, dtype=torch.bool)}, array_data(), r"'mask' of shape \[12\] \(got \[3\]"),
        ({"index": [*range(8)]}, array_data(), "ForgetItems to leave something to retain .*all 8 training items"),
        ({"count": 8}, array_data(), "leave something"),
        ({"count": 9}, array_data(), r"at most the 8 training items \(got a draw of 9"),
        ({"index": [0]}, Data(x=torch.zeros(3, 2)), "'x' and 'y'"),
        ({"index": [0]}, Data(y=torch.zeros(3), num_nodes=3), "'x' and 'y'"),
        ({"index": [0]}, Data(x=torch.zeros(3, 2), y=torch.zeros(2)), "one label for each of 3"),
        ({"index": [0]}, Data(**LABELLED, edge_index=torch.tensor([[0], [1]])), "independent items"),
        ({"index": [0]}, Data(**LABELLED, train_mask=torch.ones(3)), "'data.train_mask' to be boolean"),
        ({"index": [0]}, Data(**LABELLED, val_mask=torch.ones(2, dtype=torch.bool)), "'data.val_mask'"),
    ],
)
def test_refused_by_the_items(arguments: dict, data: Data, match: str) -> None:
    with pytest.raises(InvalidRequestError, match=match):
        ForgetItems(**arguments).resolve(data)


@pytest.mark.parametrize("data", [{"x": torch.zeros(3, 2)}, torch.zeros(3, 2), HeteroData(), None])
def test_items_of_something_else(data: object) -> None:
    with pytest.raises(InvalidTypeError, match=f"Data.*{type(data).__name__}"):
        ForgetItems([0]).resolve(data)


def test_any_object_with_rows_and_labels_will_do() -> None:
    plain, data = SimpleNamespace(**array_data().to_dict()), array_data()
    ours, theirs = (ForgetItems([1, 4]).resolve(given) for given in (plain, data))
    assert torch.equal(ours.forget_mask, theirs.forget_mask)
    assert torch.equal(ours.retain_data.x, theirs.retain_data.x)
    assert ours.retain_data.names == theirs.retain_data.names
    assert plain.x.size(0) == 12
    with pytest.raises(InvalidRequestError, match=r"'x' and 'y' \(got a Data with \['x', 'y'\]"):
        ForgetItems([0]).resolve(SimpleNamespace(x=torch.zeros(3, 2), y=None))


def test_requests_are_had_without_graphs() -> None:
    script = "import sys; from gunlearn.requests import ForgetItems; assert 'torch_geometric' not in sys.modules"
    environment = {**os.environ, "PYTHONPATH": str(Path(gu.__file__).parent.parent)}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)


def test_items_do_not_add_up() -> None:
    with pytest.raises(InvalidRequestError, match="one request"):
        ForgetItems([0]) + ForgetItems([1])
    graph = Data(edge_index=torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), num_nodes=3)
    with pytest.raises(InvalidRequestError, match="on a graph"):
        (ForgetEdges([(0, 1)]) + ForgetItems([1])).resolve(graph)


def test_the_request_is_its_own() -> None:
    rows = torch.tensor([3, 1])
    request = ForgetItems(rows)
    rows.zero_()
    assert torch.equal(request.resolve(array_data()).forget_mask, mask_of([1, 3]))
    assert request == ForgetItems([1, 3]) != ForgetItems([1, 2])
    assert hash(request) == hash(ForgetItems([1, 3]))
    assert ForgetItems(count=2) != ForgetItems(count=2, seed=1)
    assert repr(ForgetItems([5, 6, 7, 8])) == "ForgetItems([5, 6, 7, ...])"
    assert repr(ForgetItems(mask=mask_of([1, 2]))) == "ForgetItems(mask=<2 of 12 items>)"
    assert repr(ForgetItems(ratio=0.25, seed=3)) == "ForgetItems(ratio=0.25, seed=3)"


@pytest.mark.parametrize("request_", [ForgetEdges(count=1), ForgetNodes([1]), ForgetFeatures([1])])
def test_a_request_on_a_graph_of_independent_items_names_the_one_that_fits(request_) -> None:
    x, y = torch.randn(6, 4), torch.arange(6) % 2
    with pytest.raises(InvalidTypeError, match="independent items, which ForgetItems names"):
        gu.unlearn(torch.nn.Linear(4, 2), (x, y), request_, "utu", "image_classification")
