"""A briefly trained new model shows what forgotten items look like to who never saw them."""

import copy
import warnings
from typing import Any, ClassVar

import pytest
import torch
from torch import nn
from torch_geometric.data import Data
from torch_geometric.nn import GCNConv

import gunlearn as gu
from gunlearn.errors import InvalidInputError, UnsupportedMethodError, UnsupportedModelError
from gunlearn.losses import Prediction
from gunlearn.methods.any_task.brief_teacher import _as_sure, _doubt, _entropy, _loss, _settle
from gunlearn.methods.freezing import RetainedStatistics
from gunlearn.training.from_scratch import train_from_scratch
from gunlearn.training.settled import GROWING, growth_rate
from tests.methods.cases import same_weights

TASK = "image_classification"
STEPS: dict[str, Any] = {"steps": 60}
TAUGHT = {"teacher_share": 0.6, "unseen_weight": 0.05}


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 3))


def memorised() -> tuple[Any, gu.Result, list[int]]:
    """Three clouds of points, six of them with a wrong label, and a model that has learned these by heart."""
    torch.manual_seed(0)
    y = torch.arange(3).repeat(40)
    x = torch.randn(120, 6) + 2.0 * torch.eye(6)[y]
    wrong = list(range(6))
    y[wrong] = (y[wrong] + 1) % 3
    data = Data(x=x, y=y, val_mask=torch.arange(120) >= 90)
    base = gu.train(net(), data, TASK, epochs=300, lr=1e-2, eval_every=300)
    return data, base, wrong


def known(model: nn.Module, data: Any, ids: list[int]) -> float:
    with torch.no_grad():
        return float(model.eval()(data.x[ids]).softmax(-1)[range(len(ids)), data.y[ids]].mean())


def test_what_was_learned_by_heart_goes_which_continuing_keeps() -> None:
    data, base, wrong = memorised()
    request = gu.ForgetItems(wrong)
    assert known(base.model, data, wrong) > 0.9
    taught, continued = (
        gu.unlearn(base.model, data, request, "continued_training", TASK, training=base, **STEPS, **more)
        for more in (TAUGHT, {})
    )
    assert taught.mode == "taught"
    assert taught.epochs == 24
    assert taught.notes["passes"] == 36 + 2
    assert known(continued.model, data, wrong) > 0.5  # control: the same steps without a teacher
    assert known(taught.model, data, wrong) < 0.25
    right = [i for i in range(90) if i not in wrong]
    assert known(taught.model, data, right) > 0.9


def test_neither_it_nor_its_teacher_reads_a_forgotten_label() -> None:
    data, base, wrong = memorised()
    other = data.clone()
    other.y[wrong] = (other.y[wrong] + 1) % 3
    one, two = (
        gu.unlearn(base.model, d, gu.ForgetItems(wrong), "continued_training", TASK, training=base, **STEPS, **TAUGHT)
        for d in (data, other)
    )
    assert same_weights(one.model, two.model)


@pytest.mark.parametrize("bernoulli", [False, True])
def test_the_teacher_is_made_as_sure_as_the_original(bernoulli: bool) -> None:
    torch.manual_seed(0)
    shape = (200,) if bernoulli else (200, 4)
    teacher, original = torch.randn(shape, dtype=torch.double), 3.7 * torch.randn(shape, dtype=torch.double)
    factor = _as_sure(teacher, original, bernoulli)
    assert _entropy(factor * teacher, bernoulli) == pytest.approx(_entropy(original, bernoulli), rel=1e-6)
    assert factor > 2


def test_what_cannot_be_taught_is_refused() -> None:
    data, base, wrong = memorised()
    with pytest.raises(InvalidInputError, match="teacher_share"):
        gu.unlearn(base.model, data, gu.ForgetItems(wrong), "continued_training", TASK, epochs=3, teacher_share=0.5)
    with pytest.raises(InvalidInputError, match="teacher_share"):
        gu.unlearn(base.model, data, gu.ForgetItems(wrong), "continued_training", TASK, steps=3, teacher_share=1.0)
    graph = gu.node_split(gu.load("karate"), 0.2, 0.2, seed=0)
    torch.manual_seed(0)
    model = gu.GCN(graph.num_features, 8, 4)
    with pytest.raises(UnsupportedMethodError):
        gu.unlearn(
            model, graph, gu.ForgetEdges(count=2), "continued_training", "node_classification", **STEPS, **TAUGHT
        )

    for model in (Fixed(), Raising(), nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))):
        with pytest.raises(UnsupportedModelError):
            gu.unlearn(model, data, gu.ForgetItems(wrong), "continued_training", TASK, **STEPS, **TAUGHT)
    for more in ({"message_graph": "full"}, {"unseen_weight": 0.0}, {"steps": 1, "teacher_share": 0.1}):
        with pytest.raises(InvalidInputError, match="teacher_share"):
            gu.unlearn(net(), data, gu.ForgetItems(wrong), "continued_training", TASK, **{**STEPS, **TAUGHT, **more})


class Fixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight


class Raising(nn.Linear):
    def __init__(self) -> None:
        super().__init__(6, 3)
        self.built = True

    def reset_parameters(self) -> None:
        if hasattr(self, "built"):
            raise RuntimeError("no")
        super().reset_parameters()


class Watched(nn.Sequential):
    """Notes the weights of its first layer whenever it is called in training."""

    seen: ClassVar[list[torch.Tensor]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen.append(self[0].weight.detach().clone())
        return super().forward(x)


def test_a_frozen_layer_is_the_teacher_s_too_and_one_s_own_optimiser_serves_both() -> None:
    data, base, wrong = memorised()
    model = Watched(*copy.deepcopy(base.model))
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.05, momentum=0.9)
    for parameter in model[2].parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    before = str(optimizer.state_dict())
    request, options = gu.ForgetItems(wrong), {"optimizer": optimizer, **STEPS, **TAUGHT}
    result = gu.unlearn(model, data, request, "continued_training", TASK, **options)
    assert result.notes["teacher_steps"] == 36
    assert len(Watched.seen) >= 60
    assert all(torch.equal(weight, model[0].weight) for weight in Watched.seen)
    assert str(optimizer.state_dict()) == before


def test_auto_teaches_where_a_forgotten_item_is_predicted_and_the_budget_allows() -> None:
    data = gu.node_split(gu.load("karate"), 0.2, 0.2, seed=0)
    torch.manual_seed(0)
    base = gu.train(gu.GCN(data.num_features, 8, 4), data, "node_classification", epochs=400, lr=1e-2, eval_every=400)
    train, test = (mask.nonzero().view(-1)[:1] for mask in (data.train_mask, data.test_mask))
    for node, budget, taught in ((train, 0.33, True), (test, 0.33, False), (train, 0.15, False)):
        request = gu.ForgetNodes(node)
        result = gu.unlearn(base.model, data, request, "auto", "node_classification", training=base, budget=budget)
        assert result.notes["chosen"] == ("continued_training" if taught else "replay")
        assert result.notes["price"] <= min(budget, 0.2)


@torch.no_grad()
def validation_loss(model: nn.Module, data: Any) -> float:
    logits = model.eval()(data.x, data.edge_index)[data.val_mask]
    return float(nn.functional.cross_entropy(logits, data.y[data.val_mask]))


@pytest.mark.parametrize(("epochs", "used"), [(100, False), (400, True)])
def test_a_teacher_that_learned_too_little_is_left_out_and_said_so(epochs: int, used: bool) -> None:
    """Of 400 steps the control: the same rule, whose teacher has 48 of them."""
    data, task = gu.node_split(gu.load("karate"), 0.2, 0.2, seed=0), "node_classification"
    torch.manual_seed(0)
    base = gu.train(gu.GCN(data.num_features, 8, 4), data, task, epochs=epochs, lr=1e-2, eval_every=epochs)
    assert growth_rate(base.training, base.model) > GROWING
    request = gu.ForgetNodes(data.train_mask.nonzero().view(-1)[:1])
    result = gu.unlearn(base.model, data, request, "auto", task, training=base)
    assert (result.notes["chosen"], "left out" in result.notes["why"]) == (
        ("continued_training", False) if used else ("replay", True)
    )
    assert ("teacher_share" in result.notes["options"]) is used
    taken = result.epochs + result.notes["passes"] + (0 if used else 11)  # of the teacher: .62 of 20 less 2
    assert result.notes["price"] == pytest.approx(taken / epochs, abs=1e-3)
    assert result.notes["price"] <= 0.33
    named = (
        "nats on validation items, and the model "
        + f"{validation_loss(base.model, request.resolve(data).retain_data):.2f}"
    )
    options = {"training": base, "budget": 0.2, **TAUGHT}
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        gu.unlearn(base.model, data, request, "continued_training", task, **options)
    assert any("may lead away from retraining" in str(one.message) for one in warned) is not used
    assert (named in result.notes["why"]) is not used


class Normed(nn.Module):
    """Two layers on a graph with batch normalisation between."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm, self.two = GCNConv(6, 16), nn.BatchNorm1d(16), GCNConv(16, 3)

    def forward(self, x, edge_index):
        return self.two(self.norm(self.one(x, edge_index)).relu(), edge_index)


def test_batch_normalisation_takes_no_statistics_of_forgotten_nodes() -> None:
    torch.manual_seed(0)
    ring = torch.stack([torch.arange(60), (torch.arange(60) + 3) % 60])
    y, gone = torch.arange(60) % 3, [4, 5]
    data = Data(x=torch.randn(60, 6) + 2.0 * torch.eye(6)[y], edge_index=torch.cat([ring, ring.flip(0)], dim=1), y=y)
    data.y[gone] = (y[gone] + 1) % 3
    data.x[gone, 5] = 1e4  # their features would show in any statistics
    base = gu.train(Normed(), data, "node_classification", epochs=100, lr=1e-2, weight_decay=5e-4)
    options = {"training": base, "steps": 40, "teacher_share": 0.6, "unseen_weight": 0.05}
    result = gu.unlearn(base.model, data, gu.ForgetNodes(gone), "continued_training", "node_classification", **options)
    outputs: list[torch.Tensor] = []
    model = copy.deepcopy(result.model)
    model.one.register_forward_hook(lambda module, args, out: outputs.append(out.detach()))
    model(result.data.x, result.data.edge_index)
    mean, variance = outputs[0].mean(0), outputs[0].var(0)
    before = base.model.norm
    assert float(before.running_var.max()) > 1e3 * float(variance.max())  # control: they were in it
    share = 0.9**16 + 0.05  # of the old statistics, which 16 steps leave; weights move on a little
    far = (model.norm.running_mean - mean).abs()
    assert bool((far <= share * (before.running_mean - mean).abs() + 0.2 * variance.sqrt()).all())
    assert not any("forward" in vars(module) for module in result.model.modules())


@pytest.mark.parametrize("norm", [True, False])
def test_auto_takes_a_teacher_where_batch_normalisation_hides_what_weight_decay_does(norm: bool) -> None:
    """Two wrong labels were learned by heart; without normalisation the decay is seen to work, and there is none."""
    torch.manual_seed(0)
    ring = torch.stack([torch.arange(60), (torch.arange(60) + 3) % 60])
    y, gone = torch.arange(60) % 3, [4, 5]
    data = Data(x=torch.randn(60, 6) + 2.0 * torch.eye(6)[y], edge_index=torch.cat([ring, ring.flip(0)], dim=1), y=y)
    data.y[gone] = (y[gone] + 1) % 3
    model = Normed()
    if not norm:
        model.norm = nn.Identity()
    base = gu.train(model, data, "node_classification", epochs=400, lr=1e-2, weight_decay=5e-3, eval_every=400)
    assert growth_rate(base.training, base.model) < GROWING
    result = gu.unlearn(base.model, data, gu.ForgetNodes(gone), "auto", "node_classification", training=base)
    assert result.notes["chosen"] == "continued_training"
    assert ("teacher_share" in result.notes["options"]) == norm
    assert ("batch normalisation hides" in result.notes["why"]) == norm


@pytest.mark.parametrize(("norm", "steps"), [("learns", 23), ("frozen", 24), ("none", 24)])
def test_running_statistics_cost_the_teacher_a_step(norm: str, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three passes forward cost about as much as a step, so .6 of 40 steps leave 23. Controls: statistics that stay."""
    torch.manual_seed(0)
    ring = torch.stack([torch.arange(60), (torch.arange(60) + 3) % 60])
    y = torch.arange(60) % 3
    data = Data(x=torch.randn(60, 6) + 2.0 * torch.eye(6)[y], edge_index=torch.cat([ring, ring.flip(0)], dim=1), y=y)
    model = Normed()
    model.norm = nn.Identity() if norm == "none" else model.norm.requires_grad_(norm == "learns")
    base = gu.train(model, data, "node_classification", epochs=30, lr=1e-2)
    taken: list[int] = []

    def noted(new: nn.Module, *args: Any, **kwargs: Any) -> Any:
        state = train_from_scratch(new, *args, **kwargs)
        taken.append(state.step)
        return state

    monkeypatch.setattr("gunlearn.methods.any_task.brief_teacher.train_from_scratch", noted)
    options = {"training": base, "steps": 40, **TAUGHT}
    result = gu.unlearn(base.model, data, gu.ForgetNodes([4]), "continued_training", "node_classification", **options)
    assert (result.notes["teacher_steps"], taken) == (24, [steps])


def test_rows_beside_the_retained_ones_are_normalised_by_these_alone() -> None:
    torch.manual_seed(0)
    model, kept = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)).double(), torch.arange(20) % 5 > 0
    x = torch.randn(20, 6, dtype=torch.double)
    alone = copy.deepcopy(model)
    with RetainedStatistics(model, kept):
        out = model(torch.where(kept[:, None], x, 100 * x))
        grown = torch.autograd.grad(out[~kept].square().sum(), model[0].weight)[0]
    expected = alone(x[kept])
    torch.testing.assert_close(out[kept], expected)
    torch.testing.assert_close(model[1].running_var, alone[1].running_var)
    hidden = alone[0](torch.where(kept[:, None], x, 100 * x))
    mean, variance = hidden[kept].mean(0), hidden[kept].var(0, unbiased=False)
    others = (hidden[~kept] - mean) / (variance + 1e-5).sqrt()
    torch.testing.assert_close(out[~kept], others)
    torch.testing.assert_close(grown, torch.autograd.grad(others.square().sum(), alone[0].weight)[0])


@pytest.mark.parametrize("retained", [0, 1])
def test_a_pass_with_less_than_two_retained_rows_reads_running_statistics(retained: int) -> None:
    """One value has no variance: torch refuses it. The control: two rows move the statistics."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.BatchNorm1d(4)).double(), torch.randn(5, 4, dtype=torch.double)
    expected = copy.deepcopy(model).eval()(x)
    with RetainedStatistics(model, torch.arange(5) < retained):
        torch.testing.assert_close(model(x), expected)
    assert float(model[0].running_mean.abs().max()) == 0
    with RetainedStatistics(model, torch.arange(5) < 2):
        model(x)
    assert float(model[0].running_mean.abs().max()) > 0


def test_statistics_of_a_new_model_are_those_of_its_weights() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4, momentum=0.01)), torch.randn(50, 6)
    _settle([model[1]], lambda: model.train()(x))
    torch.testing.assert_close(model[1].running_mean, model[0](x).mean(0))
    torch.testing.assert_close(model[1].running_var, model[0](x).var(0))
    assert model[1].momentum == 0.01


@pytest.mark.parametrize("sure", [1.0, 30.0])
def test_a_teacher_is_judged_by_predictions_as_sure_as_the_original_s(sure: float) -> None:
    """One class in five is wrong. Thirty times as sure it loses a lot, unless its logits are made less sure (1 / 30).

    Controls: the same predictions unscaled, and one that is less wrong.
    """
    label = torch.arange(20) % 4
    said = 2.0 * sure * torch.eye(4, dtype=torch.double)[torch.where(torch.arange(20) < 4, (label + 1) % 4, label)]
    known = 2.0 * torch.eye(4, dtype=torch.double)[label]
    log_prob = [logits.log_softmax(-1)[torch.arange(20), label] for logits in (said, known)]
    teacher, original = (Prediction(one, logits) for one, logits in zip(log_prob, (said, known), strict=True))
    losses = [nn.functional.cross_entropy(logits, label) for logits in (said / sure, known)]
    told = _doubt(teacher, 1 / sure, original, 7)
    assert f"a teacher of 7 steps has a loss of {losses[0]:.2f} nats on validation items, and the model" in told
    assert told.endswith(f"{losses[1]:.2f}")
    assert _doubt(original, 1.0, original, 7) == ""
    assert (_doubt(teacher, 1.0, original, 7) == told) is (sure == 1.0)


@pytest.mark.parametrize("factor", [1.0, 0.3])
def test_the_loss_of_scaled_predictions_is_torch_s(factor: float) -> None:
    """Of several labels per node, some of which nobody knows, and of pairs: cross entropy with the logits times it."""
    torch.manual_seed(0)
    logits, truth = 3 * torch.randn(40, 3, dtype=torch.double), torch.randint(2, (40, 3)).double()
    known = torch.rand(40, 3) < 0.6
    bce = nn.functional.binary_cross_entropy_with_logits
    log_prob = -bce(logits, truth, reduction="none")
    for mask, wanted in ((None, bce(factor * logits, truth)), (known, bce(factor * logits[known], truth[known]))):
        assert _loss(Prediction(log_prob, logits, mask=mask), factor) == pytest.approx(float(wanted), rel=1e-12)
