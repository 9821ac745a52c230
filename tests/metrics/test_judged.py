"""What a judge sees, and which classes lie near: by hand, and on classifiers whose nearest classes are known."""

import pytest
import torch
from torch import nn
from torch_geometric.data import Data

import gunlearn as gu
from gunlearn.errors import InvalidInputError
from gunlearn.metrics import evaluator, feature_closeness, judged_scores, mean_confusion, near_classes, nearest_classes

ASKED = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 3, 3])
SEEN = torch.tensor([1, 0, 3, 2, 1, 1, 2, 0, 0, 0])


def test_scores_by_hand():
    found = judged_scores(SEEN, ASKED, [0], nearest=[2])
    assert (found.ua, found.ira, found.cra) == (3 / 4, 3 / 6, None)
    assert (found.nearest, found.rest) == (1 / 2, 2 / 4)
    assert found.by_class == {0: 1 / 4, 1: 1.0, 2: 1 / 2, 3: 0.0}
    both = judged_scores(SEEN, ASKED, [0, 3], other_domain=(SEEN[:4], ASKED[:4]))
    assert both.ua == pytest.approx(2 / 6)  # one forgotten class in place of another is none the less forgotten
    assert both.cra == 1 / 4
    nothing = judged_scores(SEEN[:0], ASKED[:0], [0])
    assert (nothing.ua, nothing.ira, nothing.nearest) == (None, None, None)


def test_near_is_what_is_confused_either_way():
    label = torch.tensor([0, 0, 1, 1, 2, 2, 3])
    probability = torch.eye(4)[label]
    probability[0] = torch.tensor([0.6, 0.0, 0.4, 0.0])
    probability[6] = torch.tensor([0.3, 0.0, 0.0, 0.7])
    probability[2] = torch.tensor([0.0, 0.5, 0.5, 0.0])
    confusion = mean_confusion(probability, label)
    assert confusion[0].tolist() == pytest.approx([0.8, 0, 0.2, 0])
    assert nearest_classes(confusion, [0], 3) == [3, 2, 1]  # (0.3 + 0) / 2, (0.2 + 0) / 2, 0
    assert nearest_classes(confusion, [0, 3], 1) == [2]
    assert nearest_classes(confusion, [1]) == [2, 0]  # of equals the first


def test_near_by_features():
    at = torch.tensor([0.0, 10.0, 1.0, 4.0])
    label = torch.arange(4).repeat(5)
    features = torch.stack([at[label], torch.zeros(20)], 1) + torch.tensor([[0.1], [-0.1]]).repeat(10, 1)
    closeness = feature_closeness(features, label, 5)
    assert nearest_classes(closeness, [0], 9) == [2, 3, 1]  # class 4 has no items
    assert -closeness[0, 3] == pytest.approx(4, abs=0.3)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: judged_scores(SEEN, ASKED[:3], [0]), "each picture"),
        (lambda: judged_scores(SEEN, ASKED, [0], nearest=[0, 1]), "retained classes"),
        (lambda: nearest_classes(torch.zeros(3, 4), [0]), "num_classes, num_classes"),
        (lambda: nearest_classes(torch.zeros(3, 3), [3]), "among 0 to 2"),
        (lambda: nearest_classes(torch.zeros(3, 3), []), "forgotten classes"),
    ],
)
def test_bad_judges(call, words):
    with pytest.raises(InvalidInputError, match=words):
        call()


class Nearby(nn.Module):
    """Classes at places on a line: what lies near is confused."""

    def __init__(self, places):
        super().__init__()
        self.places = nn.Parameter(torch.tensor(places))

    def forward(self, x):
        return -(x - self.places).square()


def test_accuracy_on_the_nearest_classes_is_apart_from_the_rest():
    x = torch.tensor([0.0, 1.0, 2.0, 6.0, 7.0]).repeat(6)[:, None]
    y, test = torch.arange(5).repeat(6), torch.arange(30) >= 20
    data = Data(x=x, y=y, test_mask=test)
    original = Nearby([0.0, 1.0, 2.0, 6.0, 7.0])
    request = gu.ForgetItems(mask=(y == 0) & ~test)
    result = gu.unlearn(original, data, request, "finetune", "image_classification", epochs=1)
    problem = evaluator(result.task, result.partition, metrics=["nearest_acc", "rest_acc"])
    broken = problem.view(Nearby([0.0, 100.0, 2.0, 6.0, 7.0]))  # class 1 is lost
    assert broken["nearest_acc"] is None  # the model before is not known
    problem.original = original
    assert near_classes(broken) == ([0], [1, 2])
    assert (broken["nearest_acc"], broken["rest_acc"]) == (0.5, 1.0)
    assert (problem.untouched["nearest_acc"], problem.untouched["rest_acc"]) == (1.0, 1.0)
    far = problem.view(Nearby([0.0, 1.0, 2.0, 6.0, 100.0]))  # the control: a far class is lost
    assert (far["nearest_acc"], far["rest_acc"]) == (1.0, 0.5)
    some = gu.unlearn(
        original, data, gu.ForgetItems(torch.tensor([0, 1])), "finetune", "image_classification", epochs=1
    )
    problem = evaluator(some.task, some.partition, metrics=["nearest_acc"])
    problem.original = original
    assert problem.view(original)["nearest_acc"] is None  # no whole class
