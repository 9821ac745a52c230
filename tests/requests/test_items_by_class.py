"""Forgetting items by class, by a predicate on the class, and by file."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from gunlearn.errors import EmptyForgetSetError, InvalidRequestError
from gunlearn.requests import ForgetItems
from gunlearn.tasks.items.tables import ItemTable, as_table

Y = torch.arange(20) % 4
HELD_OUT = torch.arange(20) >= 16


def data(**more: Any) -> ItemTable:
    return ItemTable(**{"x": torch.zeros(20, 2), "y": Y, "test_mask": HELD_OUT, **more})


class Pictures(Dataset):
    """As torchvision's ImageFolder: files, `samples`, `targets`; a count of the items that were loaded."""

    def __init__(self, keeps_labels: bool = True) -> None:
        self.root, self.loaded = "/pictures", 0
        self.samples = [(f"/pictures/{'abcd'[c]}/{i}.png", int(c)) for i, c in enumerate(Y.tolist())]
        if keeps_labels:
            self.targets = [c for _, c in self.samples]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        self.loaded += 1
        return torch.full((2,), float(i)), self.samples[i][1]


@pytest.mark.parametrize(
    ("request_", "classes"),
    [
        (ForgetItems(label=3), {3}),
        (ForgetItems(label=torch.tensor(3)), {3}),
        (ForgetItems(labels=[1, 3, 3]), {1, 3}),
        (ForgetItems(labels=torch.tensor([1, 3])), {1, 3}),
        (ForgetItems(where=lambda c: c % 2 == 1), {1, 3}),
        (ForgetItems(where=lambda c: c in (0, 2)), {0, 2}),
        (ForgetItems(where=lambda c: torch.tensor(c) > 2), {3}),
    ],
)
def test_all_training_items_of_the_classes(request_: ForgetItems, classes: set[int]) -> None:
    partition = request_.resolve(data())
    wanted = torch.tensor([c in classes for c in Y.tolist()]) & ~HELD_OUT
    assert torch.equal(partition.forget_mask, wanted)
    assert torch.equal(partition.retain_mask, ~wanted & ~HELD_OUT)
    assert int(partition.retain_data.test_mask.sum()) == 4  # held-out items of the class stay, for figures
    assert partition.request_hash == ForgetItems(wanted.nonzero().view(-1)).resolve(data()).request_hash


class Named(Pictures):
    classes = ("cat", "dog", "Bird", "ant")


@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: Subset(d, range(2, 20)), lambda d: ConcatDataset([d, d])])
def test_classes_by_the_names_of_a_data_set(wrap: Any) -> None:
    items = as_table(wrap(Named()))
    for one, other in ((ForgetItems(label="bird"), ForgetItems(label=2)),
                       (ForgetItems(labels=["dog", 3]), ForgetItems(labels=[1, 3]))):  # fmt: skip
        assert torch.equal(one.resolve(items).forget_mask, other.resolve(items).forget_mask)
    assert torch.equal(ForgetItems(label="ant").resolve(data(classes=Named.classes)).forget_mask, (Y == 3) & ~HELD_OUT)
    with pytest.raises(InvalidRequestError, match=r"one of cat, dog, Bird, ant \(got 'cow'\)"):
        ForgetItems(labels=["cow", "cat"]).resolve(items)
    with pytest.raises(InvalidRequestError, match="a number: the data have no 'classes'"):
        ForgetItems(label="cat").resolve(as_table(wrap(Pictures())))


def test_a_draw_within_classes() -> None:
    partition = ForgetItems(labels=[1, 2], count=3, seed=5).resolve(data())
    assert partition.num_forget == 3
    assert set(Y[partition.forget_mask].tolist()) <= {1, 2}
    assert torch.equal(partition.forget_mask, ForgetItems(labels=[2, 1], ratio=0.4, seed=5).resolve(data()).forget_mask)
    with pytest.raises(InvalidRequestError, match=r"at most the 4 training items \(got a draw of 5"):
        ForgetItems(label=1, count=5).resolve(data())


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"label": 4}, r"'label' to name classes of training items, which are 0, 1, 2, 3 \(got label=4"),
        ({"labels": [0, 7, 9]}, "no training item has 7, 9"),
        ({"label": -1}, "no training item has -1"),
        ({"where": lambda c: c > 3}, "got no class"),
        ({"where": lambda c: None}, "True or False from 'where' .got NoneType"),
        ({"labels": []}, "at least one integer"),
        ({"labels": "cat"}, "at least one integer"),
        ({"labels": [1.5]}, "at least one integer"),
        ({"labels": 3}, "at least one integer"),
        ({"label": 3.0}, "'label' to be an integer"),
        ({"label": True}, "'label' to be an integer"),
        ({"where": [1]}, "'where' to be a function"),
        ({"label": 1, "labels": [2]}, "one of label, labels, where.*got label, labels"),
        ({"label": 1, "index": [0]}, "got label, index"),
        ({"label": 1, "count": 1, "ratio": 0.5}, "got label, ratio, count"),
        ({"label": 1, "count": 0}, "at least one item"),
        ({"where": lambda c: True}, "leave something to retain"),
    ],
)
def test_refusals(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(InvalidRequestError, match=match):
        ForgetItems(**arguments).resolve(data())


@pytest.mark.parametrize("y", [Y.float(), torch.stack([Y, Y], 1), Y == 1])
def test_labels_that_are_no_classes(y: Tensor) -> None:
    with pytest.raises(InvalidRequestError, match="one class per item"):
        ForgetItems(label=1).resolve(data(y=y))


def test_a_class_that_only_test_items_have_is_absent() -> None:
    y = Y.clone()
    y[-1] = 9
    with pytest.raises(InvalidRequestError, match="no training item has 9"):
        ForgetItems(label=9).resolve(data(y=y))


@pytest.mark.parametrize("keeps_labels", [True, False])
@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: Subset(d, range(2, 20)), lambda d: ConcatDataset([d, d])])
def test_labels_of_a_data_set(wrap: Any, keeps_labels: bool) -> None:
    pictures = Pictures(keeps_labels)
    given = wrap(pictures)
    partition = ForgetItems(label=2).resolve(as_table(given))
    assert partition.forget_mask.tolist() == [given[i][1] == 2 for i in range(len(given))]
    pictures.loaded = 0
    as_table(given).y.labels()
    assert (pictures.loaded < len(given) / 2) == keeps_labels  # those that a data set keeps need no image


def test_labels_that_a_transform_changes_are_read_from_the_items() -> None:
    pictures = Pictures()
    pictures.targets = [3 - c for c in pictures.targets]  # not what the items say
    assert as_table(pictures).y.labels().tolist() == Y.tolist()
    pictures.targets = Y.tolist()
    pictures.samples = [(path, 0 if c == 1 else c) for path, c in pictures.samples]  # of one class alone
    assert 1 not in as_table(pictures).y.labels()


def test_items_by_file() -> None:
    items = as_table(ConcatDataset([Pictures(), TensorDataset(torch.zeros(1, 2), torch.zeros(1).long())]))
    with pytest.raises(InvalidRequestError, match="'item_id'"):  # of one part nothing is known
        ForgetItems(["a/0.png"]).resolve(items)
    items = as_table(Pictures())
    partition = ForgetItems(["b/5.png", "a/0.png"]).resolve(items)
    assert partition.forget_mask.nonzero().view(-1).tolist() == [0, 5]
    assert partition.retain_data.item_id[0] == "b/1.png"
    with pytest.raises(InvalidRequestError, match="1 of 2 that no item has: number 2") as caught:
        ForgetItems(["a/0.png", "secret.png"]).resolve(items)
    assert "secret" not in str(caught.value)
    skipping = ForgetItems(["a/0.png", "secret.png", "a/0.png"], missing="ignore").resolve(items)
    assert skipping.num_forget == 1
    assert skipping.skipped == "skipped of 3 named items: 1 no longer there, 1 named twice"
    with pytest.raises(InvalidRequestError, match="each item once"):
        ForgetItems(["a/0.png", "a/0.png"]).resolve(items)
    with pytest.raises(EmptyForgetSetError):
        ForgetItems(["secret.png"], missing="ignore").resolve(items)
    twice = data(item_id=["same"] * 20)
    with pytest.raises(InvalidRequestError, match="several items have"):
        ForgetItems(["same"]).resolve(twice)
    assert "secret" not in repr(ForgetItems(["secret.png"]))


def test_equal_requests() -> None:
    assert ForgetItems(labels=[1, 2]) == ForgetItems(labels=(1, 2)) != ForgetItems(labels=[1])
    assert hash(ForgetItems(label=1)) == hash(ForgetItems(label=1))
    assert repr(ForgetItems(label=1)) == "ForgetItems(label=1)"
