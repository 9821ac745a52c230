"""The basic attack and LiRA against unlearning, on scores whose attack is known, and on digits by brute force."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch_geometric.data import Data

import gunlearn as gu
from gunlearn.errors import InvalidInputError, InvalidTypeError
from gunlearn.metrics import BasicAttack, UnlearningLiRA, unlearning_lira
from tests.methods.cases import seeded
from tests.methods.forgetting import IMAGES


def view(forget: Tensor, unseen: Tensor, classes: tuple[Tensor, Tensor] | None = None) -> SimpleNamespace:
    labels = classes or (torch.zeros(len(forget)), torch.zeros(len(unseen)))
    scores, label = {"forget": forget, "unseen": unseen}, dict(zip(("forget", "unseen"), labels, strict=True))
    return SimpleNamespace(score=scores.get, label=label.get, seed=0)


def test_the_basic_attack_tells_what_can_be_told() -> None:
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randn(400, generator=draw) for _ in range(2))
    attack = BasicAttack()
    assert abs(attack.compute(view(a, b)) - 0.5) < 0.06
    assert attack.compute(view(a + 10, b)) == 1.0
    shifted = attack.compute(view(a + 1, b))
    assert shifted == pytest.approx(norm.cdf(0.5), abs=0.05)  # the best accuracy at this shift
    assert attack.compute(view(a[:4], b)) is None  # too few to split


def test_the_basic_attack_does_not_measure_the_class() -> None:
    """Scores depend on the class alone: nothing is to be found, where classes are unequally many too."""
    labels = torch.arange(200) % 2, (torch.arange(400) % 4 == 0).long()
    forget, unseen = (5.0 * y for y in labels)
    assert abs(BasicAttack().compute(view(forget, unseen, labels)) - 0.5) <= 0.1
    alone = torch.zeros(200), torch.zeros(400)
    assert BasicAttack().compute(view(forget, unseen, alone)) > 0.6  # control: without matching


@pytest.mark.parametrize("variance", ["item", "shared"])
def test_scores_by_hand(variance: str) -> None:
    rng = np.random.default_rng(1)
    seen = np.tile([[True], [False]], (6, 9))
    odds = rng.normal(size=9) * 5 + seen * rng.uniform(0.5, 2, 9) + rng.normal(size=(12, 9)) * rng.uniform(0.3, 1, 9)
    found = UnlearningLiRA(torch.from_numpy(odds), torch.from_numpy(seen), variance, None)  # type: ignore[arg-type]
    expected = np.empty_like(odds)
    for k in range(12):
        sides = []
        for wanted in (True, False):
            rows = [i for i in range(12) if i != k and seen[i, 0] == wanted]
            mean, spread = odds[rows].mean(0), odds[rows].std(0, ddof=1)
            if variance == "shared":
                spread = np.sqrt(odds[rows].var(0, ddof=1).mean())
            sides.append(norm.logpdf(odds[k], mean, spread))
        expected[k] = sides[0] - sides[1]
    np.testing.assert_allclose(found.cases.numpy(), expected, rtol=1e-9)
    assert found.auc == pytest.approx(roc_auc_score(seen.ravel(), expected.ravel()))
    assert found.global_auc == pytest.approx(roc_auc_score(seen.ravel(), odds.ravel()))
    assert found.accuracy == pytest.approx(((expected > 0) == seen).mean())
    assert found.true_positive_rate(1.0) == 1.0
    assert found.auc > found.global_auc  # items differ more from each other than "in" from "out"


def blobs() -> Data:
    """40 training points with labels of their own, and as many test points."""
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(80, 6, generator=draw), torch.randint(3, (80,), generator=draw)
    row = torch.arange(80)
    return Data(x=x, y=y, train_mask=row < 40, test_mask=row >= 40)


def test_shadows_see_and_forget_what_they_should() -> None:
    data, items, calls = blobs(), torch.arange(3, 17), []

    def shadow(data: Data, request: gu.ForgetItems, seed: int) -> nn.Module:
        calls.append((data.x[data.train_mask], request.resolve(data)))
        return seeded(lambda: nn.Linear(6, 3), seed=seed)

    found = unlearning_lira(shadow, data, items, IMAGES, num_shadows=6, seed=3)
    assert found.seen.sum(0).tolist() == [3] * 14
    for (x, partition), seen in zip(calls, found.seen, strict=True):
        assert torch.equal(partition.data.x[partition.forget_mask], data.x[items[seen]])
        kept = torch.ones(40, dtype=torch.bool)
        kept[items[~seen]] = False
        assert torch.equal(x, data.x[:40][kept])
    model = seeded(lambda: nn.Linear(6, 3), seed=4)  # the first shadow
    logits = model(data.x[items]).double().detach().numpy()
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    own = p[np.arange(14), data.y[items]]
    np.testing.assert_allclose(found.odds[0].numpy(), np.log(own / (1 - own)), rtol=1e-5)
    assert found.scores(model).shape == (14,)


def test_memory_is_found_item_by_item_where_a_threshold_misses_it() -> None:
    """Models that learn random labels by heart and are not made to forget, against those that never saw them."""
    data = blobs()

    def shadow(data: Data, request: gu.ForgetItems, seed: int) -> nn.Module:
        model = seeded(lambda: nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 3)), seed=seed)
        return gu.train(model, data, IMAGES, epochs=25, lr=1e-2, seed=seed).model

    found = unlearning_lira(shadow, data, torch.arange(40)[::2], IMAGES, num_shadows=16)
    assert found.auc > found.global_auc > 0.55
    assert found.accuracy > 0.6
    assert found.true_positive_rate(0.1) > 0.1

    def deaf(data: Data, request: gu.ForgetItems, seed: int) -> nn.Module:
        return shadow(request.resolve(data).retain_data, request, seed)

    none = unlearning_lira(deaf, data, torch.arange(40)[::2], IMAGES, num_shadows=16)  # control: retraining
    assert abs(none.auc - 0.5) < 0.15


@pytest.mark.parametrize(
    ("change", "error"),
    [({"num_shadows": 7}, InvalidInputError), ({"num_shadows": 4}, InvalidInputError),
     ({"items": torch.tensor([1])}, InvalidInputError), ({"variance": "x"}, InvalidInputError),
     ({"shadow": lambda data, request, seed: None}, InvalidTypeError)],
)  # fmt: skip
def test_bad_attacks_are_refused(change: dict[str, Any], error: type[Exception]) -> None:
    given = {"shadow": lambda *_: nn.Linear(6, 3), "data": blobs(), "items": torch.arange(4), "task": IMAGES}
    with pytest.raises(error):
        unlearning_lira(**{**given, "num_shadows": 6, **change})
