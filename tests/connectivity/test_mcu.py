"""MCU: its mask, its penalty, and the point that it returns."""

from types import SimpleNamespace

import pytest
import torch

import gunlearn as gu
from gunlearn.connectivity import MCU, BezierPath, CurveSettings, PartLosses, find_curve, mcu
from gunlearn.connectivity.accuracy_goal import AccuracyGoal, AdaptivePenalty
from gunlearn.connectivity.tensor_mask import important_tensors, tensor_importance
from gunlearn.errors import UnsupportedMethodError
from gunlearn.losses import NLL, BoundedAscent, Prediction
from gunlearn.methods import METHODS
from gunlearn.methods.published import build_method
from tests.connectivity.cases import gnn, graph, items, perceptron, trained

TASK = gu.ImageClassification()


def test_mcu_finds_a_point_that_forgets_and_keeps() -> None:
    data = items(number=90)
    base = trained(perceptron(), data)
    request = gu.ForgetItems(label=1)
    result = gu.unlearn(base, data, request, "mcu", TASK, epochs=60, pre_options={"epochs": 30, "lr": 0.02})
    spectrum, wanted = result.notes["spectrum"], result.notes["wanted"]
    assert wanted["forget_acc"] == 0  # nothing stays of the class
    assert len(spectrum) == 6

    def gap(point: dict) -> float:
        return sum(abs(point[n] - wanted[n]) for n in wanted)

    chosen = next(point for point in spectrum if point["t"] == result.notes["t"])
    assert gap(chosen) == min(map(gap, spectrum))
    mask = data.train_mask & (data.y == 1)
    hits = float((result.model(data.x[mask]).argmax(1) == 1).float().mean())
    assert hits == pytest.approx(chosen["forget_acc"])
    assert hits <= 0.1
    assert float((base(data.x[mask]).argmax(1) == 1).float().mean()) > 0.8  # control


def test_the_curve_bends_the_tensors_of_the_mask_alone() -> None:
    data = items(number=90)
    base, request = trained(perceptron(), data), gu.ForgetItems(label=1)
    pre = gu.unlearn(base, data, request, "graddiff", TASK, epochs=5, lr=0.02).model
    partition = request.resolve(data)
    for share, some in ((0.2, True), (1.0, False)):
        path = BezierPath(base, pre)
        before = {name: bend.detach().clone() for name, bend in path.bent()}
        problem = SimpleNamespace(model=base, task=TASK)
        held = MCU(share=share, spared=0.0)._mask(problem, PartLosses(TASK, partition, base), path)
        find_curve(path, TASK, partition, settings=CurveSettings(steps=5), held=held)
        stay = [name for name, bend in path.bent() if torch.equal(bend, before[name])]
        assert bool(stay) == some
        assert len(stay) < len(before)


def test_the_second_end_is_the_other_method_s_model() -> None:
    data = items(number=90)
    base, request = trained(perceptron(), data), gu.ForgetItems(label=1)
    pre = gu.unlearn(base, data, request, "graddiff", TASK, epochs=5, lr=0.02, seed=3).model
    options = {"pre_method": "graddiff", "pre_options": {"epochs": 5, "lr": 0.02}, "points": 1, "seed": 3}
    assert same_model(gu.unlearn(base, data, request, "mcu", TASK, epochs=3, **options).model, pre)  # t = 1
    assert not same_model(pre, base)  # control


def same_model(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_mcu_needs_validation_items() -> None:
    data = items()
    del data.val_mask
    with pytest.raises(UnsupportedMethodError, match="Expected validation items for 'mcu'"):
        gu.unlearn(perceptron(), data, gu.ForgetItems(count=3), "mcu", TASK)


def test_adaptive_penalties() -> None:
    goal = object.__new__(AccuracyGoal)
    goal.retain, goal.forget = 0.8, 0.5
    assert goal.penalty(0.8, 0.5) == 0.0
    assert goal.penalty(0.8, 0.6) == 0.5
    assert goal.penalty(0.99, 0.6) == 0.01  # 0.2 above against 0.24
    goal.forget = 0.0
    assert goal.penalty(1.0, 0.01) == 0.5
    assert goal.gap(0.7, 0.2) == pytest.approx(0.15)


def test_importance_is_the_norm_of_the_summed_gradient() -> None:
    data = items()
    data.x = data.x.double()
    model = perceptron().double()
    partition = gu.ForgetItems(count=6).resolve(data)
    held = PartLosses(TASK, partition, model)
    for name, mask in (("retain", partition.retain_mask), ("forget", partition.forget_mask)):
        found = tensor_importance(model, TASK, *held.held[name])
        total = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
        for row in mask.nonzero().view(-1):
            loss = torch.nn.functional.cross_entropy(model(data.x[row][None]), data.y[row][None])
            for (n, p), g in zip(model.named_parameters(), torch.autograd.grad(loss, model.parameters()), strict=True):
                total[n] += g / p.numel()
        assert found == {n: pytest.approx(float(g.norm()), rel=1e-9) for n, g in total.items()}


@pytest.mark.parametrize(
    ("share", "spared", "moving"),
    [(1.0, 0.0, "abcd"), (0.5, 0.0, "ab"), (0.5, 0.25, "bc"), (1.0, 0.25, "bcd"), (1e-9, 0.0, "a")],
)
def test_masks_hold_what_matters_most(share: float, spared: float, moving: str) -> None:
    retain, forget = {"a": 9.0, "b": 3.0, "c": 2.0, "d": 1.0}, {"a": 8.0, "b": 7.0, "c": 6.0, "d": 1.0}
    sizes = dict.fromkeys("abcd", 10)
    assert important_tensors(retain, forget, sizes, share, spared) == set(moving)


def test_a_method_that_rewrites_the_model_is_no_second_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused before it runs; the same request takes another method (the control)."""
    data = graph()
    model, request = gnn("gcn", data), gu.ForgetNodes(data.train_mask.nonzero().view(-1)[:3])
    for name in ("gnndelete", "grapheraser"):
        monkeypatch.setattr(METHODS.variant(name)[0], "run", None)
        with pytest.raises(UnsupportedMethodError, match=f"keeps the model's modules.*'{name}'"):
            gu.unlearn(model, data, request, "mcu", "node_classification", pre_method=name)
    gu.unlearn(model, data, request, "mcu", "node_classification", epochs=1, pre_options={"epochs": 1})


def test_images_take_steps_unless_passes_are_named() -> None:
    """300 passes over more items than a step reads would be many more steps."""
    task = gu.ImageClassification()
    assert build_method("mcu", {}, task)._settings().num_steps == 300
    assert build_method("mcu", {"epochs": 5}, task)._settings().num_steps is None
    assert build_method("mcu", {}, gu.NodeClassification())._settings().epochs == 300
    data = items(number=90)
    result = gu.unlearn(
        perceptron(), data, gu.ForgetItems(label=1), "mcu", TASK, steps=7, batch_size=8, pre_options={"epochs": 1}
    )
    assert len(result.history) == 7


def test_the_settings_of_mcu_reach_the_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each setting is another than the default; the penalty's weight is that of the forgotten items at each step."""
    data, seen, real = items(number=90), [], mcu.find_curve

    def look(path, task, partition, objective, settings, **more):
        seen.append((objective, settings, more))
        return real(path, task, partition, objective, settings, **more)

    monkeypatch.setattr(mcu, "find_curve", look)
    options = {"lr": 3e-3, "batch_size": 16, "optimizer": "sgd", "bound": 2.0, "beta": 0.25, "seed": 4}
    callback = gu.Callback()
    gu.unlearn(
        perceptron(), data, gu.ForgetItems(label=1), "mcu", TASK, epochs=2, pre_options={"epochs": 1},
        callbacks=[callback], **options,
    )  # fmt: skip
    ((objective, settings, more),) = seen
    assert (settings.lr, settings.batch_size, settings.optimizer, settings.epochs) == (3e-3, 16, "sgd", 2)
    assert repr(objective) == repr(NLL(on="retain") + BoundedAscent(bound=2.0))
    assert more["seed"] == 4
    assert more["change"].beta == 0.25
    assert len(more["callbacks"]) == 1


def test_the_penalty_weighs_forgotten_items_alone() -> None:
    """A fixed `beta` multiplies the bounded loss of the forgotten items, whatever weight they have; `None` adapts."""
    logits = torch.tensor([[2.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    forget = Prediction(log_prob=logits.log_softmax(1)[:, 0], logits=logits, label=torch.tensor([0, 0]))
    parts = {"retain": forget, "forget": forget}
    plain = BoundedAscent(bound=8.0)(forget)
    for beta in (0.25, 0.0, 1.0):
        found = AdaptivePenalty(None, beta)(parts, lambda rows: rows)
        assert float(BoundedAscent(bound=8.0)(found["forget"])) == pytest.approx(beta * float(plain))
        assert found["retain"] is forget
    goal = object.__new__(AccuracyGoal)
    goal.retain, goal.forget = 0.8, 0.5  # all forgotten items are right, as are all retained ones: far from it
    found = AdaptivePenalty(goal, None)(parts, lambda rows: rows)
    assert float(BoundedAscent(bound=8.0)(found["forget"])) == pytest.approx(0.5 * float(plain))
