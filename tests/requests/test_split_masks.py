"""A split that data hold as ids is the split: no loss reads a label of its validation and test items."""

import copy
import warnings

import numpy as np
import pytest
import torch

import gunlearn as gu
from gunlearn.errors import GunlearnError, InvalidInputError, InvalidRequestError
from gunlearn.seed import isolated_rng
from gunlearn.tasks import as_task
from tests.methods.cases import same_weights
from tests.tasks.cases import random_graph

NODES = "node_classification"
TRAIN, VAL, TEST = torch.arange(0, 24), torch.arange(24, 30), torch.arange(30, 40)


def graph(**values):
    data = random_graph(40, 120)
    data.y = torch.arange(40) % 3
    data.x += torch.nn.functional.one_hot(data.y, 5)
    for name, value in values.items():
        data[name] = value
    return data


def mask(ids):
    return torch.zeros(40, dtype=torch.bool).index_fill(0, ids, True)


def masks():
    return {"train_mask": mask(TRAIN), "val_mask": mask(VAL), "test_mask": mask(TEST)}


SPLITS = {
    "OGB": {"split_idx": {"train": TRAIN, "valid": VAL, "test": TEST}},
    "lists": {"train_idx": TRAIN, "val_idx": VAL, "test_idx": TEST},
    "idx_": {"idx_train": TRAIN, "idx_val": VAL, "idx_test": TEST},
    "arrays": {"split": {"train": TRAIN.numpy(), "val": VAL.int().numpy(), "test": TEST.tolist()}},
    "boolean": {"train_idx": mask(TRAIN), "valid_idx": mask(VAL), "test_idx": mask(TEST)},
    "both": {"train_idx": TRAIN, "val_mask": mask(VAL), "test_mask": mask(TEST)},
}


def unlearned(data, method="finetune", **options):
    with isolated_rng(0):
        model = gu.GCN(5, 8, 3)
    return gu.unlearn(model, data, gu.ForgetNodes(TRAIN[:3]), method, NODES, lr=1e-2, **options)


@pytest.mark.parametrize("name", SPLITS)
def test_ids_are_read_as_masks(name) -> None:
    """The result is that of the same graph with masks, bit for bit; the control without a split is another."""
    data = graph(**copy.deepcopy(SPLITS[name]))
    before = set(data.keys())
    found = unlearned(data, epochs=3)
    assert same_weights(found.model, unlearned(graph(**masks()), epochs=3).model)
    assert not same_weights(found.model, unlearned(graph(), epochs=3).model)
    assert set(data.keys()) == before
    task = as_task(NODES)
    checked = task.check_data(data)
    assert torch.equal(task.train_items(checked).index, TRAIN)
    assert torch.equal(task.held_out_items(checked, "val").index, VAL)
    assert torch.equal(task.held_out_items(checked, "test").index, TEST)


@pytest.mark.parametrize("name", ["OGB", "lists"])
@pytest.mark.parametrize("run", ["finetune", "continued_training", "train"])
def test_no_test_label_is_read(run, name) -> None:
    data = graph(**SPLITS[name])
    other = copy.copy(data)
    other.y = data.y.clone().index_fill_(0, torch.cat([TEST]), 0)
    made = []
    for one in (data, other):
        if run == "train":
            with isolated_rng(0):
                made.append(gu.train(gu.GCN(5, 8, 3), one, NODES, epochs=3).model)
        else:
            made.append(unlearned(one, run).model)
    assert same_weights(*made)


@pytest.mark.parametrize("name", SPLITS)
def test_draws_are_among_training_ids(name) -> None:
    drawn = gu.ForgetNodes(count=20, seed=1).resolve(graph(**SPLITS[name])).forget_nodes
    assert int(drawn.max()) <= int(TRAIN.max())
    without = gu.ForgetNodes(count=20, seed=1).resolve(graph()).forget_nodes
    assert int(without.max()) > int(TRAIN.max())


def test_a_second_request_reads_the_same_split() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = unlearned(graph(**SPLITS["lists"], split_idx=SPLITS["OGB"]["split_idx"]), epochs=1)
        second = gu.unlearn(first.model, first.data, gu.ForgetNodes([5]), "finetune", NODES, epochs=1)
    assert second.data.train_mask.nonzero().view(-1).tolist() == [3, 4, *range(6, 24)]


@pytest.mark.parametrize(
    "values",
    [
        {"train_idx": torch.tensor([0.5, 1.0])},
        {"train_idx": torch.tensor([[0, 1], [2, 3]])},
        {"train_idx": torch.tensor([0, 40])},
        {"train_idx": torch.tensor([-1, 3])},
        {"train_idx": torch.zeros(7, dtype=torch.bool)},
        {"split_idx": {"train": {"paper": TRAIN}, "test": TEST}},
        {"split_idx": {"train": [TRAIN, TRAIN], "test": TEST}},
        {"train_idx": np.array(["a", "b"])},
    ],
    ids=["numbers", "two dimensions", "outside", "negative", "short mask", "by type", "several", "texts"],
)
def test_other_lists_are_refused_with_the_line_that_sets_masks(values) -> None:
    with pytest.raises(InvalidInputError, match=r"to be a split.*data\.train_mask = torch\.zeros\(40"):
        unlearned(graph(**values))
    unlearned(graph(**values, **masks()), epochs=1)  # the control: with masks nobody reads them


def test_contradictions_are_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"one split \(got others in data\.\S+ and data\.\S+\)"):
        unlearned(graph(train_idx=TRAIN, split_idx={"train": TRAIN[1:], "test": TEST}))
    with pytest.raises(InvalidRequestError, match="items in both"):
        unlearned(graph(train_idx=TRAIN, test_idx=TRAIN[3:5]))


def test_masks_come_first_and_other_ids_are_said() -> None:
    with pytest.warns(UserWarning, match=r"data\.train_mask is the split .*; data\.train_idx differs .* 4 items"):
        found = unlearned(graph(**masks(), train_idx=TRAIN[4:]), epochs=3)
    assert same_weights(found.model, unlearned(graph(**masks()), epochs=3).model)


@pytest.mark.parametrize(
    "values",
    [{"train_nodes": 24}, {"sizes": {"train": 0.6, "test": 0.4}}, {"index": {"a": TRAIN}}, {"train_time": TRAIN}],
    ids=["a number", "shares", "other parts", "no ids"],
)
def test_what_is_no_list_of_ids_is_left_alone(values) -> None:
    try:
        checked = as_task(NODES).check_data(graph(**values))
    except GunlearnError as error:
        pytest.fail(str(error))
    assert "train_mask" not in checked
