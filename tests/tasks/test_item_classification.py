"""Classification of independent items: likelihoods, parts, batches."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch_geometric.data import Data

from gunlearn.errors import InvalidInputError, UnsupportedModelError
from gunlearn.tasks import ImageClassification

NUM_ITEMS = 20


def dataset():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(NUM_ITEMS, 6, generator=generator), torch.arange(NUM_ITEMS) % 3
    x[:, 0] = torch.arange(NUM_ITEMS)  # names the row
    return Data(x=x, y=y)


def partition(data):
    row = torch.arange(NUM_ITEMS)
    return SimpleNamespace(data=data, forget_mask=row < 4, retain_mask=(row >= 4) & (row < 15))  # the rest is held out


def rows(items):
    return items.x[:, 0].long().tolist()


def test_log_prob_is_minus_the_cross_entropy():
    torch.manual_seed(0)
    model, data, task = nn.Linear(6, 3), dataset(), ImageClassification()
    items = task.parts(partition(data)).sample(["retain"])["retain"]
    assert task.encode(model, data) is None
    prediction = task.predict(model, data, items)
    expected = -cross_entropy(model(items.x), items.y, reduction="none")
    torch.testing.assert_close(prediction.log_prob, expected)
    assert torch.equal(prediction.logits, model(items.x))
    # Control: softmax applied twice, or other labels.
    assert not torch.allclose(prediction.log_prob, -cross_entropy(model(items.x).softmax(1), items.y, reduction="none"))
    assert not torch.allclose(prediction.log_prob, -cross_entropy(model(items.x), (items.y + 1) % 3, reduction="none"))


def test_parts_hold_their_rows_with_their_labels():
    data = dataset()
    items = ImageClassification().parts(partition(data)).sample(["forget", "retain"])
    assert rows(items["forget"]) == [0, 1, 2, 3]
    assert rows(items["retain"]) == list(range(4, 15))
    for part in items.values():
        assert part.fixed
        assert part.y.tolist() == [row % 3 for row in rows(part)]


def test_batches_are_fresh_rows_of_the_retained_ones():
    torch.manual_seed(0)
    data = dataset()
    parts = ImageClassification(batch_size=5).parts(partition(data))
    seen = []
    for _ in range(40):
        items = parts.sample(["retain", "forget"])
        assert len(set(rows(items["retain"]))) == 5
        assert not items["retain"].fixed
        assert items["retain"].y.tolist() == [row % 3 for row in rows(items["retain"])]
        assert rows(items["forget"]) == [0, 1, 2, 3]  # never cut
        seen.append(tuple(rows(items["retain"])))
    assert set().union(*seen) == set(range(4, 15))
    assert len(set(seen)) > 30
    state = torch.get_rng_state()
    everything = ImageClassification(batch_size=11).parts(partition(data)).sample(["retain"])["retain"]
    assert everything.fixed
    assert torch.equal(torch.get_rng_state(), state)


def test_training_never_sees_held_out_rows():
    row, task = torch.arange(NUM_ITEMS), ImageClassification()
    data = dataset()
    assert rows(task.training_parts(data).sample(["retain"])["retain"]) == row.tolist()
    assert task.validation_items(data) is None
    data.val_mask, data.test_mask = (row >= 15) & (row < 18), row >= 18
    assert rows(task.training_parts(data).sample(["retain"])["retain"]) == list(range(15))
    assert task.validation_items(data).index.tolist() == [15, 16, 17]
    data.train_mask = row < 9
    parts = task.training_parts(data)
    assert rows(parts.sample(["retain"])["retain"]) == list(range(9))
    with pytest.raises(InvalidInputError, match="forget"):  # an empty part would give NaN in a mean
        parts.sample(["forget"])


def test_refusals():
    data, task = dataset(), ImageClassification()
    with pytest.raises(InvalidInputError, match="Expected parts among"):
        task.parts(partition(data)).sample(["retain", "non_edges"])
    items = task.parts(partition(data)).sample(["forget"])["forget"]
    for value in (torch.zeros(3, 2), torch.zeros(4), (torch.zeros(4, 3),), None):
        with pytest.raises(UnsupportedModelError, match=r"logits of shape \[4, num_classes\]"):
            task.predict(lambda x, value=value: value, data, items)
    with pytest.raises(UnsupportedModelError, match="labels from 0 to 1"):
        task.predict(nn.Linear(6, 2), data, items)
