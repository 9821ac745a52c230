from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from transformers import TrainerControl, TrainerState

from gunlearn.errors import InvalidInputError
from gunlearn.llm import CausalLM, PartCollator, UnlearnTrainer
from gunlearn.llm.data.selectors import ProbeDelta
from gunlearn.llm.metrics.text_alignment import functional_alignment
from gunlearn.llm.recipes.direct_tokens import DTOTrainer, dto
from gunlearn.llm.training.projection import project_conflict
from gunlearn.llm.training.until import StopBelow
from gunlearn.losses import CrossEntropyUnlearning, GradientAscent
from gunlearn.metrics.alignment import Sampler
from tests.llm import facts
from tests.llm.training import FORGET, UNLABELLED, UNMARKED, Gradients, make


def trainer(objective=None, rows=FORGET, kind=DTOTrainer, model=None, options=None, **given):
    """Twelve steps on all rows; `given` goes to the trainer, `options` to its arguments."""
    options = {"per_device_train_batch_size": 24, "max_steps": 12} | (options or {})
    given = {"forget_dataset": rows, "retain_dataset": None} | given
    return make(model=model, objective=objective, given=given, kind=kind, **options)


@cache
def unlearned(name):
    """The model after one budget of steps, by what was minimised: `"ga"` or the weight of the rest."""
    plain = name == "ga"
    objective = GradientAscent() if plain else dto("npo", lambda_=float(name))
    run = trainer(objective, kind=UnlearnTrainer if plain else DTOTrainer)
    run.train()
    return run.model


@torch.no_grad()
def rest_kl(model):
    """Mean KL(before || now) over the answer tokens that are no targets."""
    batch, task = PartCollator()(FORGET), CausalLM(("logits",))
    now, before = (task.decode(m.eval(), None, batch) for m in (model, facts.full()))
    rest = before.mask & ~batch["target_mask"][:, 1:]
    p, q = (x.logits[rest].double().log_softmax(-1) for x in (before, now))
    return float((p.exp() * (p - q)).sum(-1).mean())


def by_parts(run, rows, side):
    batch = PartCollator(padding_side=side)(rows)
    model = run.model.eval()
    return batch, *run.predictions(model, {"forget": batch})


@pytest.mark.parametrize("loss", ["npo", "ga", "ceu"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_targets_and_rest_each_feel_their_own_loss_alone(loss, side):
    rows = [FORGET[1], FORGET[5], UNLABELLED]  # two lengths
    run = trainer(dto(loss), reference=facts.retrained(0))
    batch, current, before = by_parts(run, rows, side)
    labelled, target = batch["labels"][:, 1:] != -100, batch["target_mask"][:, 1:]
    expected = {"forget:target": labelled & target, "forget:rest": labelled & ~target}
    for _, term in run.objective.terms:
        grad = torch.autograd.grad(term(current, before), current["forget"].logits, retain_graph=True)[0]
        felt = grad.abs().sum(-1) > 0
        assert torch.equal(felt, expected[term.on])
        assert not grad[~expected[term.on]].any()
    # The control: ascent without the mask of targets is felt by the rest too.
    grad = torch.autograd.grad(GradientAscent()(current), current["forget"].logits)[0]
    assert not torch.equal(grad.abs().sum(-1) > 0, expected["forget:target"])


def test_the_objective_is_the_formula():
    run = trainer(dto("npo", lambda_=3.0, beta=0.4), reference=facts.retrained(0))
    batch, current, before = by_parts(run, FORGET, "right")
    label, target = batch["input_ids"][:, 1:], batch["target_mask"][:, 1:].numpy()
    rest = (batch["labels"][:, 1:] != -100).numpy() & ~target
    now, then = (np.asarray(x["forget"].logits.detach().double().log_softmax(-1).numpy()) for x in (current, before))
    own, own_before = (np.take_along_axis(x, label[..., None].numpy(), -1)[..., 0] for x in (now, then))
    npo = 2 / 0.4 * np.log1p((np.exp(own) / np.exp(own_before)) ** 0.4)
    kl = (np.exp(then) * (then - now)).sum(-1)
    expected = npo[target].mean() + 3.0 * kl[rest].mean()
    assert float(run.objective(current, before).total.detach()) == pytest.approx(expected, rel=1e-5)


def test_without_a_target_or_without_a_rest_nothing_is_nan():
    untargeted = {**FORGET[0], "target_mask": [False] * len(FORGET[0]["labels"])}
    targeted = {**FORGET[2], "target_mask": [True] * len(FORGET[2]["labels"])}
    for rows, project in (([UNLABELLED], False), ([untargeted], True), ([targeted], True)):
        run = trainer(rows=rows, project=project, options={"max_steps": 1})
        run.train()
        assert all(p.isfinite().all() for p in run.model.parameters())


def test_the_value_is_forgotten_and_the_rest_stays_nearer_to_a_retrained_model_than_after_ascent():
    values, prompts = {}, facts.rows(facts.FORGET)
    for name in ("ga", "5"):
        assert facts.value_prob(unlearned(name), FORGET) < facts.CHANCE  # both look alike by this figure
        values[name] = functional_alignment(
            unlearned(name), facts.retrained(0), prompts, facts.tokenizer(), Sampler(n_samples=2), max_new_tokens=12
        ).value
    assert values["5"] < 0.6 * values["ga"]
    assert facts.value_prob(facts.full(), FORGET) > 0.9  # the control: nothing done


def test_a_large_weight_keeps_the_rest_where_it_was():
    kl = [rest_kl(unlearned(weight)) for weight in ("0", "5")]
    assert kl[0] > 0.1
    assert kl[1] < 0.1 * kl[0]
    assert rest_kl(facts.full()) == 0


vectors = arrays(np.float64, (2, 6), elements=st.floats(-10, 10).map(lambda x: round(x, 3)))


@settings(max_examples=50, deadline=None)
@given(vectors)
def test_projection_takes_the_conflict_out_and_nothing_else(pair):
    u, k = pair
    out = project_conflict(*([torch.tensor(x[:2]), torch.tensor(x[2:]).reshape(2, 2)] for x in (u, k)))
    out = np.concatenate([x.reshape(-1).numpy() for x in out])
    if u @ k >= 0:
        np.testing.assert_array_equal(out, u)  # no conflict
        return
    if np.linalg.norm(k) < 1e-2 * np.linalg.norm(u):
        return
    assert out @ k >= -1e-6
    # The nearest vector without conflict: the residual of a least-squares fit.
    fit = np.linalg.lstsq(k[:, None], u, rcond=None)[0]
    np.testing.assert_allclose(out, u - k * fit, atol=1e-9)


def test_projection_of_nothing_and_of_unlike_things():
    u = [torch.ones(3)]
    assert torch.equal(project_conflict(u, [torch.zeros(3)])[0], u[0])
    assert torch.equal(project_conflict(u, [-1e-8 * torch.ones(3)])[0], u[0])  # rounding noise has no direction
    with pytest.raises(InvalidInputError, match="as many"):
        project_conflict(u, [])
    with pytest.raises(InvalidInputError, match="shape"):
        project_conflict(u, [torch.zeros(4)])


def flat(gradients):
    return torch.cat([g.reshape(-1) for g in gradients]).double()


def first_gradient(rows, project, **options):
    # The reference is not the model, so that both losses have a gradient from the first step on.
    kept, model = Gradients(), facts.retrained(0)
    given = {"reference": facts.full(), "project": project, "callbacks": [kept]}
    options = {"max_grad_norm": 0.0, "max_steps": 1, "per_device_train_batch_size": 4} | options
    trainer(dto("ga", lambda_=2.0), rows, model=model, options=options, **given).train()
    assert all(p.grad is None for p in model.parameters())
    return flat(kept.first.values())


def dense(rows):
    """Gradients of both terms by the definition, in float64."""
    model, batch = facts.retrained(0).double(), PartCollator()(rows)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    now = model(**inputs).logits[:, :-1].log_softmax(-1)
    with torch.no_grad():
        then = facts.full().double()(**inputs).logits[:, :-1].log_softmax(-1)
    target = batch["target_mask"][:, 1:]
    rest = (batch["labels"][:, 1:] != -100) & ~target
    aim = now.gather(-1, batch["input_ids"][:, 1:, None])[..., 0][target].mean()
    keep = 2.0 * (then.exp() * (then - now)).sum(-1)[rest].mean()
    return [flat(torch.autograd.grad(x, list(model.parameters()), retain_graph=True)) for x in (aim, keep)]


def test_projection_in_a_step_split_over_micro_batches():
    rows = [FORGET[i] for i in (12, 13, 17, 20)]
    u, k = dense(rows)
    assert u @ k < 0  # a conflict, or there is nothing to see
    expected = u - (u @ k) / (k @ k) * k + k
    whole = first_gradient(rows, True)
    split = first_gradient(rows, True, per_device_train_batch_size=1, gradient_accumulation_steps=4)
    checkpointed = first_gradient(rows, True, gradient_checkpointing=True)
    scale = float(expected.abs().max())
    for found in (whole, split, checkpointed):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * scale)
        assert (found - k) @ k >= -1e-4 * float(u.norm() * k.norm())
    # The control: without projection the conflict is in the step.
    plain = first_gradient(rows, False)
    torch.testing.assert_close(plain, u + k, rtol=1e-3, atol=1e-4 * scale)
    assert (plain - k) @ k < -2e-2 * float(u.norm() * k.norm())


def test_a_run_ends_where_targets_are_as_improbable_as_guesses():
    run = trainer(stop_below=facts.CHANCE, options={"max_steps": 40})
    run.train()
    assert 1 < run.state.global_step < 40
    assert facts.value_prob(run.model, FORGET) <= facts.CHANCE
    assert facts.value_prob(run.model, FORGET) > 1e-3  # and no sooner than it had to go


@pytest.mark.parametrize(("threshold", "every", "stops"), [(0.999, 2, [2, 4]), (0.999, None, ["epoch"]), (1e-9, 2, [])])
def test_when_it_is_looked_whether_to_stop(threshold, every, stops):
    model, found = facts.full().train(), []
    look = StopBelow([*FORGET, UNLABELLED], threshold, every_steps=every, batch_size=5)
    for step in (1, 2, 3, 4, "epoch"):
        control, event = TrainerControl(), look.on_epoch_end if step == "epoch" else look.on_step_end
        event(None, TrainerState(global_step=4 if step == "epoch" else step), control, model=model)
        found += [step] * control.should_training_stop
    assert found == stops
    assert look.probability(model) == pytest.approx(facts.value_prob(facts.full(), FORGET), rel=1e-5)
    assert model.training


class Counting:
    """Marks the token whose number is how often it was asked, and keeps what the model was."""

    def __init__(self):
        self.weights = []

    def scores(self, model, batch):
        self.weights.append(model.lm_head.weight.detach().clone())
        scores = torch.zeros(batch["labels"][:, 1:].shape)
        scores[:, -len(self.weights) - 1] = 1
        return scores


def test_selection_is_refreshed_with_the_model_as_it_is():
    selector, row = Counting(), [UNMARKED[0]]
    given = {"selector": selector, "selection": {"ratio": 0.01}, "refresh_steps": 2}
    run = trainer(rows=row, options={"max_steps": 5}, **given)
    first = run.train_dataset.forget[0]["target_mask"]
    run.train()
    assert len(selector.weights) == 3  # at the beginning, after steps 2 and 4
    assert torch.equal(selector.weights[0], facts.full().lm_head.weight)
    assert not torch.equal(selector.weights[1], selector.weights[2])
    last = run.train_dataset.forget[0]["target_mask"]
    assert sum(first) == sum(last) == 1
    assert last.index(True) == first.index(True) - 2
    assert "target_mask" not in row[0]


def test_forget_losses():
    own = CrossEntropyUnlearning(on="forget:target", reduction="seq_mean")
    assert dto(own, 2).terms[0] == (1.0, own)
    assert dto("ceu").terms[0][1] == CrossEntropyUnlearning(on="forget:target")
    assert dto(beta=0.3).terms[0][1].beta == 0.3
    for bad, match in (({"forget_loss": "dpo"}, "ceu"), ({"lambda_": -1}, "lambda_"), ({"beta": 0}, "beta")):
        with pytest.raises(InvalidInputError, match=match):
            dto(**bad)
    with pytest.raises(InvalidInputError, match="forget:target"):
        dto(CrossEntropyUnlearning())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"rows": UNMARKED}, "selector"),
        ({"refresh_steps": 3}, "selector"),
        ({"refresh_steps": 0, "selector": ProbeDelta()}, "refresh_steps"),
        ({"stop_below": 2.0}, "threshold"),
        ({"stop_below": 0.1, "rows": [UNLABELLED | {"target_mask": [False] * 14}]}, "target_mask"),
        ({"project": True, "objective": GradientAscent(on="forget:target")}, "others"),
    ],
    ids=str,
)
def test_bad_input(change, match):
    with pytest.raises(InvalidInputError, match=match):
        trainer(**change)
