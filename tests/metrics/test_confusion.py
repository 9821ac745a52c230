"""IC-ERR and FGT-ERR against scikit-learn's confusion matrix, and how classes are named."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix

from gunlearn.errors import InvalidInputError
from gunlearn.metrics import ConfusedItems, ConfusionError, RetainConfusedItems, RetainConfusionError


def view(label: np.ndarray, taken: np.ndarray, forgotten: list[int]) -> SimpleNamespace:
    """Of test items; the same items the other way round are the retained ones."""
    labels = {"test": torch.from_numpy(label), "retain": torch.from_numpy(taken), "forget": torch.tensor(forgotten)}
    eye = torch.eye(6, dtype=torch.float64)
    likely = {"test": eye[torch.from_numpy(taken)], "retain": eye[torch.from_numpy(label)]}
    return SimpleNamespace(label=labels.get, probability=likely.get)


def test_by_the_confusion_matrix() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 6, 400)
    taken = np.where(rng.random(400) < 0.6, label, rng.integers(0, 6, 400))
    sides = {"test": (ConfusionError, ConfusedItems), "retain": (RetainConfusionError, RetainConfusedItems)}
    for a, b in ((1, 4), (0, 5)):
        for part, names in sides.items():
            given = (label, taken) if part == "test" else (taken, label)
            c = confusion_matrix(*given, labels=range(6))
            wrong = (c[a].sum() - c[a, a] + c[b].sum() - c[b, b]) / (c[a].sum() + c[b].sum())
            for classes, forgotten in (((a, b), [3]), (None, [b, a, b])):  # named, or the forgotten items' labels
                error, count = (cls(classes).compute(view(label, taken, forgotten)) for cls in names)
                assert error == pytest.approx(wrong), part
                assert count == c[a, b] + c[b, a]
        assert ConfusionError((a, 2)).compute(view(label, taken, [a])) != pytest.approx(wrong)  # control


def test_without_such_items_there_is_no_figure() -> None:
    seen = view(np.zeros(5, dtype=int), np.zeros(5, dtype=int), [0])
    assert ConfusionError((1, 2)).compute(seen) is None
    assert ConfusedItems((1, 2)).compute(seen) is None
    assert ConfusionError().compute(seen) == 0.0


@pytest.mark.parametrize("classes", [(3,), (3, 3), (), (-1, 2), (0.5, 1), (2, 6)])
def test_bad_classes_are_refused(classes: tuple) -> None:
    with pytest.raises(InvalidInputError, match="'classes'"):
        ConfusionError(classes).compute(view(np.arange(6), np.arange(6), [0, 1]))
