"""`auto` that retrains takes the recipe of the training. The oracle: `retrain` with that recipe, by name."""

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import gunlearn as gu
from gunlearn.errors import UnsupportedModelError
from gunlearn.methods.any_task.little_decay import lacking_decay
from gunlearn.training.from_scratch import fresh_like, reset_model
from tests.methods.cases import same_weights
from tests.methods.forgetting import club

TASK = "node_classification"
RECIPE: dict[str, Any] = {"steps": 40, "lr": 2e-2, "weight_decay": 1e-3}


def trained(
    kind: str = "Adam", decay: float = 1e-3, scheduler: str = "StepLR", **scheduled: Any
) -> tuple[nn.Module, Any, Any, gu.TrainingState]:
    """Return a model, its data, its optimiser and the state of its training."""
    data = gu.node_split(club(), 0.2, 0.2)
    torch.manual_seed(0)
    model = gu.GCN(20, 8, 4)
    optimizer = getattr(torch.optim, kind)(model.parameters(), lr=2e-2, weight_decay=decay)
    schedule = getattr(torch.optim.lr_scheduler, scheduler)(optimizer, **scheduled) if scheduled else None
    keeping = gu.KeepState(steps=40)
    for step in range(40):
        optimizer.zero_grad()
        out = model(data.x, data.edge_index)[data.train_mask]
        nn.functional.cross_entropy(out, data.y[data.train_mask]).backward()
        optimizer.step()
        keeping.step(model, optimizer)
        if schedule is not None and getattr(schedule, "total_steps", 41) > step + 1:  # one more is OneCycleLR's error
            schedule.step()
    return model, data, optimizer, keeping.state(model)


@pytest.mark.parametrize("request_", [gu.ForgetNodes(ratio=0.7), gu.ForgetNodes(count=2)])
@pytest.mark.parametrize("source", ["state", "optimizer", "state_dict", "SGD", "named"])
def test_it_retrains_as_the_model_was_trained(source: str, request_: Any) -> None:
    model, data, optimizer, state = trained("SGD" if source == "SGD" else "Adam")
    more: dict[str, Any] = {
        "state": {"training": state},
        "optimizer": {"optimizer": optimizer},
        "state_dict": {"optimizer": optimizer.state_dict()},
        "SGD": {"optimizer": optimizer, "training_steps": 40},
        "named": {"training_steps": 40, "lr": 2e-2, "weight_decay": 1e-3},
    }[source]
    budget = {"budget": 1.0} if request_.count == 2 else {}
    result = gu.unlearn(model, data, request_, "auto", TASK, **more, **budget)
    assert result.notes["chosen"] == "retrain"
    assert result.epochs == 40
    kind = {"optimizer": "sgd"} if source == "SGD" else {}
    last = {"eval_every": None}
    named, usual = (
        gu.unlearn(model, data, request_, "retrain", TASK, **how) for how in ({**RECIPE, **kind, **last}, {"steps": 40})
    )
    for ours, theirs in zip(result.model.parameters(), named.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    assert not same_weights(result.model, usual.model)  # control
    used = "SGD" if source == "SGD" else "Adam"
    assert (
        f"it takes 40 steps of {used} at a rate of 0.02, with weight decay 0.001, on all items" in result.notes["why"]
    )
    assert " at 0x" not in str(result.notes)
    assert ("its optimiser (training= or optimizer=), taken as adam" in result.notes["lacks"]) is (source == "named")


def misled(empty: bool = False) -> Any:
    """Return data whose validation labels are wrong: the loss on them rises from some step on."""
    data = gu.node_split(club(), 0.2, 0.2)
    data.y = torch.where(data.val_mask, (data.y + 1) % 4, data.y)
    if empty:
        data.val_mask = torch.zeros_like(data.val_mask)
    return data


def plainly(model: nn.Module, data: Any, steps: int, keeping: Any = None, settled: int = 0, since: int = 0) -> Any:
    """Train in a plain loop; return the optimiser."""
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2, weight_decay=1e-3)
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        out = model(data.x, data.edge_index)[data.train_mask]
        nn.functional.cross_entropy(out, data.y[data.train_mask]).backward()
        optimizer.step()
        if keeping is not None and step > since:
            keeping.step(model, optimizer)
        if step == settled:
            keeping.settle()
            weights = copy.deepcopy(model.state_dict())
    if settled:
        model.load_state_dict(weights)
    return optimizer


@pytest.mark.parametrize("source", ["state", "resumed", "optimizer", "named"])
def test_the_last_step_counts_and_no_validation_item_is_read(source: str) -> None:
    """The oracle: a plain loop from the same new weights. The control, `retrain` itself, keeps the best of two."""
    data, request = misled(), gu.ForgetNodes(count=2)
    torch.manual_seed(0)
    model = gu.GCN(20, 8, 4, dropout=0.0)
    keeping = gu.KeepState(steps=70)
    optimizer = plainly(model, data, 70, keeping, since=40 if source == "resumed" else 0)
    named = {"training_steps": 70, "lr": 2e-2, "weight_decay": 1e-3}
    more: dict[str, Any] = {"optimizer": {"optimizer": optimizer}, "named": named}.get(source, {})
    more = more or {"training": keeping.state(model)}
    result = gu.unlearn(model, data, request, "auto", TASK, budget=1.0, **more)
    assert "validation" not in result.notes["why"]
    torch.manual_seed(0)
    plain = fresh_like(model)
    plainly(plain, result.data, 70)
    for ours, theirs in zip(result.model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    unread = gu.unlearn(model, misled(empty=True), request, "auto", TASK, budget=1.0, **more)
    assert same_weights(result.model, unread.model)
    best = gu.unlearn(model, data, request, "retrain", TASK, **{**RECIPE, "steps": 70}).model.parameters()
    moved = [float((ours - other).abs().max()) for ours, other in zip(result.model.parameters(), best, strict=True)]
    assert max(moved) > 0.1


def test_a_training_that_kept_its_best_weights_is_repeated_to_its_best() -> None:
    data, request = misled(), gu.ForgetNodes(count=2)
    torch.manual_seed(0)
    base = gu.train(gu.GCN(20, 8, 4), data, TASK, steps=70, lr=2e-2, weight_decay=1e-3)
    assert (base.training.steps, base.training.total) == (50, 70)
    result = gu.unlearn(base.model, data, request, "auto", TASK, budget=1.0, training=base)
    named = gu.unlearn(base.model, data, request, "retrain", TASK, **{**RECIPE, "steps": 70})
    for ours, theirs in zip(result.model.parameters(), named.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    assert result.notes["why"].endswith(
        "on all items each; the training kept the weights of step 50 of 70, and the best on validation items, looked "
        "at after each 50 passes, counts."
    )


def test_it_ends_where_weights_were_kept_if_nothing_is_there_to_choose_others_by() -> None:
    data, request = misled(empty=True), gu.ForgetNodes(count=2)
    torch.manual_seed(0)
    model, keeping = gu.GCN(20, 8, 4), gu.KeepState(steps=70)
    plainly(model, data, 70, keeping, settled=30)
    result = gu.unlearn(model, data, request, "auto", TASK, budget=1.0, training=keeping.state(model))
    assert result.epochs == 30
    assert "it takes 30 steps of Adam" in result.notes["why"]
    assert result.notes["why"].endswith(
        "the training kept the weights of step 30 of 70, and there are no validation items to choose others by."
    )


def test_rates_change_as_they_did() -> None:
    model, data, _, state = trained(step_size=20, gamma=0.01)
    result = gu.unlearn(model, data, gu.ForgetNodes(count=2), "auto", TASK, training=state, budget=1.0)
    named = gu.unlearn(
        model, data, gu.ForgetNodes(count=2), "retrain", TASK, **RECIPE, eval_every=None,
        scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, step_size=20, gamma=0.01),
    )  # fmt: skip
    for ours, theirs in zip(result.model.parameters(), named.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    assert "rate of 0.02, changed as then" in result.notes["why"]


@pytest.mark.parametrize("source", ["optimizer", "state_dict", "training"])
def test_the_highest_rate_of_one_cycle_counts(source: str) -> None:
    """It starts at a twenty-fifth of it, and ends at far less; decoupled decay is summed at no lower rate."""
    model, data, optimizer, state = trained("AdamW", 0.5, "OneCycleLR", max_lr=2e-2, total_steps=40)
    given: dict[str, Any] = {"optimizer": optimizer, "state_dict": optimizer.state_dict()}
    known = {"training": state} if source == "training" else {"optimizer": given[source], "training_steps": 40}
    why = gu.unlearn(model, data, gu.ForgetNodes(count=2), "auto", TASK, budget=1.0, **known).notes["why"]
    assert f"at a rate of 0.02{', changed as then' if source == 'training' else ''}, with" in why
    kept = math.exp(-0.5 * float(state.rates.sum()))  # .82; at the highest rate all the time .67
    told = f"next to no weight decay (over it a weight keeps {kept:.1%})" if source == "training" else ""
    assert lacking_decay(known.get("training"), known.get("optimizer"), 40) == told


def test_what_nobody_said_is_said() -> None:
    model, data, _, _ = trained()
    notes = gu.unlearn(model, data, gu.ForgetNodes(count=2), "auto", TASK, budget=1.0).notes
    assert "it takes 2000 (by default) steps of Adam at a rate of 0.001, with weight decay 0" in notes["why"]
    assert notes["why"].endswith("the best on validation items, looked at after each 50 passes, counts.")
    for words in ("training_steps=), taken as 2000", "(lr=), taken as 0.001", "(weight_decay=), taken as 0"):
        assert words in notes["lacks"]


@pytest.mark.parametrize("source", ["training", "optimizer", "weight_decay"])
@pytest.mark.parametrize("decay", [0.0, 1e-3])
def test_a_training_without_weight_decay_is_named(decay: float, source: str) -> None:
    """The control: the same training with decay."""
    model, data, optimizer, state = trained(decay=decay)
    more = {"training": state, "optimizer": optimizer, "weight_decay": decay}[source]
    why = gu.unlearn(model, data, gu.ForgetNodes(count=2), "auto", TASK, **{source: more}).notes["why"]
    assert ("had no weight decay: what was learned by heart" in why) is (decay == 0)


@pytest.mark.parametrize("source", ["training", "optimizer", "state_dict"])
@pytest.mark.parametrize(("kind", "decay"), [("AdamW", 0.01), ("AdamW", 0.1), ("AdamW", 1.0), ("Adam", 0.01)])
def test_decoupled_decay_that_takes_less_than_a_fifth_of_a_weight_is_named(
    kind: str, decay: float, source: str
) -> None:
    """40 steps at .02 leave exp(-.8 decay): 99.2, 92.3 and 44.9 %. Controls: the last, and an L2 penalty of .01."""
    model, data, optimizer, state = trained(kind, decay)
    more: dict[str, Any] = {"training": state, "optimizer": optimizer, "state_dict": optimizer.state_dict()}
    options = {"training" if source == "training" else "optimizer": more[source]}
    notes = gu.unlearn(model, data, gu.ForgetNodes(count=2), "auto", TASK, **options).notes
    assert notes["chosen"] in ("continued_training", "replay")
    told = "had next to no weight decay (over it a weight keeps " in notes["why"]
    assert told is (kind == "AdamW" and decay < 1)
    if told:
        assert f"keeps {math.exp(-0.8 * decay):.1%}): what was learned by heart" in notes["why"]


def test_decay_is_summed_over_changing_rates_and_unknown_steps_say_nothing() -> None:
    """The rate falls to a hundredth in the middle. Control: an optimiser alone shows the first rate, for all steps."""
    _, _, optimizer, state = trained("AdamW", 0.5, step_size=20, gamma=0.01)
    kept = math.exp(-0.5 * (20 * 2e-2 + 20 * 2e-4))
    assert lacking_decay(state, None, None) == f"next to no weight decay (over it a weight keeps {kept:.1%})"
    half = math.exp(-0.5 * 20 * 2e-2)  # of a training that ended in the middle
    assert f"keeps {half:.1%})" in lacking_decay(replace(state, total=20), None, None)
    assert lacking_decay(None, optimizer, 40) == ""  # exp(-.4) = .67, at least
    assert lacking_decay(None, optimizer, 20) == (
        f"next to no weight decay (over it a weight keeps {math.exp(-0.5 * 20 * 2e-2):.1%})"
    )
    assert lacking_decay(None, optimizer, None) == ""
    without = [{"params": [0], "lr": 1.0, "weight_decay": 0.0}, {"params": [1], "lr": 1.0, "weight_decay": 0.1}]
    assert lacking_decay(None, {"param_groups": without[:1]}, None) == "no weight decay"
    assert lacking_decay(None, {"param_groups": without}, 10) == ""  # a penalty in one of the groups
    flagged = [without[0], without[1] | {"decoupled_weight_decay": True}]
    assert "keeps 90.5%" in lacking_decay(None, {"param_groups": flagged}, 1)


def test_what_the_training_did_not_change_is_not_drawn_anew() -> None:
    """Control: `retrain` itself, which knows nothing of the training, draws and trains all."""
    data = gu.node_split(club(), 0.2, 0.2)
    torch.manual_seed(7)
    model = gu.GCN(20, 8, 4)
    frozen = [name for name, _ in model.named_parameters() if name.startswith("convs.0.")]
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    base = gu.train(model, data, TASK, epochs=3, lr=1e-2)
    request = gu.ForgetNodes(count=3)
    for method, options, stays in (("auto", {"budget": 1, "training": base}, True), ("retrain", {"epochs": 3}, False)):
        new = gu.unlearn(base.model, data, request, method, TASK, **options).model
        for name, own in base.model.named_parameters():
            same = torch.equal(new.get_parameter(name), own)
            assert same == (stays and name in frozen) or own.dim() < 2, (method, name)


class SameDraw(nn.Linear):
    """A layer that draws the same values each time."""

    def reset_parameters(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(7)
            super().reset_parameters()


@pytest.mark.parametrize("layer", [nn.Linear, SameDraw])
def test_a_layer_that_nothing_reads_may_be_drawn_under_the_same_seed(layer: Any) -> None:
    """The control draws the same values under any seed: they may have been learned."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), layer(2, 2))
    nn.init.ones_(model[0].weight)
    torch.manual_seed(0)
    if layer is SameDraw:
        with pytest.raises(UnsupportedModelError, match=r"got '1\.weight' unchanged"):
            reset_model(model)
    else:
        assert torch.equal(reset_model(model)[1].weight, model[1].weight)
