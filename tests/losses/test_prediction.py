"""The currency between tasks and losses."""

import pytest
import torch

from gunlearn.errors import InvalidInputError, InvalidTypeError
from gunlearn.losses import Prediction
from tests.losses.cases import make_prediction


@pytest.mark.parametrize(
    ("fields", "error", "name"),
    [
        ({"log_prob": torch.tensor(0.0)}, InvalidInputError, "log_prob"),
        ({"logits": torch.zeros(4, 2)}, InvalidInputError, "logits"),
        ({"embeddings": torch.zeros(6, 2)}, InvalidInputError, "embeddings"),
        ({"mask": torch.ones(5, 1, dtype=torch.bool)}, InvalidInputError, "mask"),
        ({"mask": torch.ones(5)}, InvalidTypeError, "mask"),
    ],
)
def test_fields_must_describe_the_same_items(fields: dict[str, torch.Tensor], error: type, name: str) -> None:
    with pytest.raises(error, match=f"Expected '{name}'"):
        Prediction(**{"log_prob": torch.zeros(5), **fields})


def test_item_dims() -> None:
    items, tokens = make_prediction(0, 5), make_prediction(0, 5, 3)
    assert [items.item_dims(name) for name in ("log_prob", "logits", "embeddings")] == [1, 1, 1]
    assert [tokens.item_dims(name) for name in ("log_prob", "logits", "embeddings")] == [2, 2, 2]
    assert tokens.replace(embeddings=torch.zeros(5, 2, 7)).item_dims("embeddings") == 1
    assert tokens.replace(embeddings=torch.zeros(5, 3)).item_dims("embeddings") == 1  # 3 features, not 3 tokens


def test_fill_masked_touches_masked_entries_of_named_fields_alone() -> None:
    prediction = make_prediction(0, 5, 3)
    mask = prediction.log_prob < -0.5
    filled = prediction.fill_masked(mask, ("logits",))
    assert (filled.logits[~mask] == 0).all()
    assert (filled.log_prob[~mask] == 0).all()
    assert torch.equal(filled.logits[mask], prediction.logits[mask])
    assert filled.embeddings is prediction.embeddings
    assert filled.mask is mask
    assert prediction.fill_masked() is prediction


def test_map_detach_replace() -> None:
    prediction = make_prediction(0).replace(log_prob=torch.zeros(5, requires_grad=True))
    assert prediction.num_items == 5
    assert not prediction.detach().log_prob.requires_grad
    assert prediction.detach().weight is None
    assert torch.equal(prediction.map(lambda t: t[:2]).logits, prediction.logits[:2])
    assert prediction == prediction
    assert prediction != prediction.replace()
