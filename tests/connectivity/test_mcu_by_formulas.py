"""Every step of MCU (arXiv 2505.10859) against the formulas written again, in float64 by plain autograd."""

from collections.abc import Mapping
from itertools import chain, repeat

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch_geometric.data import Data

import gunlearn as gu
from gunlearn.connectivity import curve_finding
from tests.connectivity.cases import perceptron, trained

Weights = Mapping[str, Tensor]
TASK, STEPS, RATE, BOUND = gu.ImageClassification(), 60, 2.0, 1.0
POINTS = (0.75, 0.8, 0.85, 0.9, 0.95, 1.0)


def overlapping() -> Data:
    """Three classes that overlap, so that accuracies of training and of validation items differ."""
    generator = torch.Generator().manual_seed(3)
    y, row = torch.arange(120) % 3, torch.arange(120)
    x = torch.randn(120, 4, generator=generator, dtype=torch.float64) + 1.2 * torch.eye(4, dtype=torch.float64)[y]
    held = {"val_mask": (row >= 60) & (row < 110), "test_mask": row >= 110}
    return Data(x=x, y=y, train_mask=row < 60, **held)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(1) == labels).double().mean())


def masked(sizes: Mapping[str, int], importance: Mapping[str, Weights], share: float, spared: float) -> set[str]:
    """Names of the tensors that learn: not the first `spared` by the retained items, then `share` by the forgotten."""
    total, first, chosen = sum(sizes.values()), set(), set()
    for name in sorted(sizes, key=lambda n: -float(importance["retain"][n])):
        if sum(sizes[n] for n in first) < int(spared * total):
            first.add(name)
    for name in sorted(sizes.keys() - first, key=lambda n: -float(importance["forget"][n])):
        if sum(sizes[n] for n in chosen) < int(share * total):
            chosen.add(name)
    return chosen


class Formulas:
    """The algorithm without the library: the mask, the curve, its penalty, and the points that are tried."""

    def __init__(self, base: torch.nn.Module, pre: torch.nn.Module, data: Data, forget: Tensor) -> None:
        self.model, self.data, retain = base, data, data.train_mask & ~forget
        self.rows = {"retain": retain, "forget": forget, "val": data.val_mask}
        self.ends = [{n: p.detach().clone() for n, p in model.named_parameters()} for model in (base, pre)]
        self.goal = self.accuracies(self.ends[0])["retain"], self.unseen()
        self.penalties: list[float] = []

    def logits(self, weights: Weights, part: str) -> tuple[Tensor, Tensor]:
        rows = self.rows[part]
        return functional_call(self.model, dict(weights), (self.data.x[rows],)), self.data.y[rows]

    def accuracies(self, weights: Weights) -> dict[str, float]:
        return {part: accuracy(*self.logits(weights, part)) for part in ("retain", "forget")}

    def unseen(self) -> float:
        logits, labels = self.logits(self.ends[0], "val")
        alike = torch.isin(labels, self.data.y[self.rows["forget"]])
        return accuracy(logits[alike], labels[alike])

    def mask(self, share: float, spared: float) -> set[str]:
        weights = {n: p.clone().requires_grad_() for n, p in self.ends[0].items()}
        importance = {}
        for part in ("retain", "forget"):
            loss = cross_entropy(*self.logits(weights, part), reduction="sum")
            found = torch.autograd.grad(loss, list(weights.values()))
            importance[part] = {n: g.norm() / g.numel() for n, g in zip(weights, found, strict=True)}
        return masked({n: p.numel() for n, p in weights.items()}, importance, share, spared)

    def penalty(self, retain: float, forget: float) -> float:
        (r, f), signed = self.goal, (forget - self.goal[1]) / self.goal[1]
        return 0.0 if forget <= f else 0.01 if signed < (retain - r) / r else 0.5

    def curve(self, ts: list[float], moving: set[str], beta: float | None = None) -> Weights:
        """The bend after a step of gradient descent at each of `ts`."""
        one, two = self.ends
        bend = {n: (one[n] + two[n]) / 2 for n in one}
        for t in ts:
            middle = {n: p.clone().requires_grad_(n in moving) for n, p in bend.items()}
            at = {n: (1 - t) ** 2 * one[n] + 2 * t * (1 - t) * middle[n] + t**2 * two[n] for n in one}
            logits = {part: self.logits(at, part) for part in ("retain", "forget")}
            weight = self.penalty(*(accuracy(*logits[part]) for part in logits)) if beta is None else beta
            self.penalties.append(weight)
            ascent = cross_entropy(*logits["forget"], reduction="none").clamp(max=BOUND).mean()
            loss = cross_entropy(*logits["retain"]) - weight * ascent
            for n, g in zip(moving, torch.autograd.grad(loss, [middle[n] for n in moving]), strict=True):
                bend[n] = bend[n] - RATE * g
        return bend

    def chosen(self, bend: Weights) -> tuple[list[dict[str, float]], Weights]:
        """Accuracies at the points, and the weights at that of the smallest mean gap; of equals the last."""
        one, two = self.ends
        at = [{n: (1 - t) ** 2 * one[n] + 2 * t * (1 - t) * bend[n] + t**2 * two[n] for n in one} for t in POINTS]
        found = [self.accuracies(weights) for weights in at]
        gaps = [(abs(a["retain"] - self.goal[0]) + abs(a["forget"] - self.goal[1])) / 2 for a in found]
        return found, at[max(k for k, gap in enumerate(gaps) if gap <= min(gaps) + 1e-12)]


def distance(a: Weights, b: Weights) -> float:
    return max(float((a[n] - b[n]).abs().max()) for n in a)


def test_mcu_is_the_algorithm_of_the_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    """Controls: without the mask, or with a penalty that does not adapt, the curve is another."""
    data = overlapping()
    base = trained(perceptron().double(), data, steps=20)
    forget = (torch.arange(120) % 4 == 0) & data.train_mask
    request = gu.ForgetItems(mask=forget)
    pre_options = {"epochs": 8, "lr": 0.05}
    pre = gu.unlearn(base, data, request, "graddiff", TASK, seed=2, **pre_options).model
    ts = torch.rand(STEPS, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tolist()
    drawn = chain(ts, repeat(0.5))  # the loop evaluates once more at its end
    monkeypatch.setitem(curve_finding.DRAWS, "uniform", lambda: next(drawn))
    bends: list[Weights] = []
    real = curve_finding.find_curve

    def look(path, *args, **more):
        state = real(path, *args, **more)
        bends.append({name: bend.detach().clone() for name, bend in path.bent()})
        return state

    monkeypatch.setattr("gunlearn.connectivity.mcu.find_curve", look)
    result = gu.unlearn(
        base, data, request, "mcu", TASK, seed=2, epochs=STEPS, lr=RATE, optimizer="sgd", bound=BOUND,
        pre_options=pre_options,
    )  # fmt: skip

    own = Formulas(base, pre, data, forget)
    moving = own.mask(0.5, 0.1)
    bend = own.curve(ts, moving)
    assert distance(bend, bends[0]) < 1e-9
    assert set(own.penalties) == {0.0, 0.01, 0.5}  # every rule has been met
    assert result.notes["wanted"] == pytest.approx(dict(zip(("retain_acc", "forget_acc"), own.goal, strict=True)))
    found, best = own.chosen(bend)
    told = [(point["retain_acc"], point["forget_acc"]) for point in result.notes["spectrum"]]
    assert told == [pytest.approx((point["retain"], point["forget"])) for point in found]
    assert distance(best, dict(result.model.named_parameters())) < 1e-9

    assert 0 < len(moving) < len(bend)
    assert distance(own.curve(ts, set(bend)), bend) > 1e-3
    for beta in (0.0, 0.01, 0.5):
        assert distance(own.curve(ts, moving, beta), bend) > 1e-3
