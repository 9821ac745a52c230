"""Stopping at the likelihood of unseen texts."""

import pytest
import torch
from transformers import TrainerState

from gunlearn.errors import EmptyForgetSetError, InvalidInputError
from gunlearn.llm import PartCollator, UntilUnseen
from gunlearn.llm.training.until import mean_nll
from gunlearn.losses import NLL, GradientAscent
from tests.llm import facts
from tests.llm.training import FORGET, make

COLLATE, UNSEEN = PartCollator(), facts.rows(facts.UNSEEN)


def test_mean_nll_is_the_models_own_loss_over_all_rows():
    model, batch = facts.full(), COLLATE(UNSEEN)  # one batch: the model's own mean is that over all tokens
    with torch.no_grad():
        own = float(model(**batch).loss)
    assert mean_nll(model, UNSEEN, COLLATE, batch_size=5) == pytest.approx(own, rel=1e-5)


def run(objective, steps=40):
    until, model = UntilUnseen(FORGET, UNSEEN, COLLATE), facts.full()
    given = {"callbacks": [until]}
    make(model=model, objective=objective, given=given, max_steps=steps, per_device_train_batch_size=24).train()
    return until, mean_nll(model, FORGET, COLLATE)


def test_ascent_stops_at_the_first_step_that_is_there():
    until, after = run(GradientAscent() + NLL(on="retain"))
    assert until.target == pytest.approx(mean_nll(facts.full(), UNSEEN, COLLATE), rel=1e-6)
    assert until.reached is not None
    assert 1 < until.reached < 40
    assert after >= until.target


def test_what_does_not_forget_runs_to_the_end():
    until, after = run(NLL(on="retain") + 0.0 * GradientAscent(), steps=6)
    assert until.reached is None
    assert after < until.target


def test_a_run_that_goes_on_needs_the_first_target():
    with pytest.raises(InvalidInputError, match="after 3 steps"):
        UntilUnseen(FORGET, UNSEEN, COLLATE).on_train_begin(None, TrainerState(global_step=3), None, model=facts.full())
    for steps in (0, 3):
        kept = UntilUnseen(FORGET, UNSEEN, COLLATE, target=2.5)
        kept.on_train_begin(None, TrainerState(global_step=steps), None, model=facts.full())
        assert kept.target == 2.5


def test_another_run_asks_again():
    until, targets = UntilUnseen(FORGET, UNSEEN, COLLATE), []
    for model in (facts.full(), facts.retrained(0)):
        until.reached = 7
        until.on_train_begin(None, TrainerState(), None, model=model)
        assert until.reached is None
        targets.append(until.target)
        assert until.target == pytest.approx(mean_nll(model, UNSEEN, COLLATE))
    assert targets[0] != targets[1]


def test_bad_input():
    with pytest.raises(EmptyForgetSetError, match="got 24 and 0"):
        UntilUnseen(FORGET, [], COLLATE)
    with pytest.raises(InvalidInputError, match="every"):
        UntilUnseen(FORGET, FORGET, COLLATE, every=0)
    with pytest.raises(EmptyForgetSetError, match="labelled"):
        mean_nll(facts.full(), [{"input_ids": [1, 2, 3], "labels": [-100] * 3}], COLLATE)
