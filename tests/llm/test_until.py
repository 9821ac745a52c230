"""Stopping at the likelihood of unseen texts."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import TrainerState, TrainingArguments

from gunlearn.errors import EmptyForgetSetError, InvalidInputError
from gunlearn.llm import PartCollator, UnlearnTrainer, UntilUnseen
from gunlearn.llm.training.until import mean_nll
from gunlearn.losses import NLL, GradientAscent
from tests.llm import facts as F

COLLATE = PartCollator()


def test_mean_nll_is_the_models_own_loss_over_all_rows():
    model, rows = F.full(), F.rows(F.UNSEEN)
    batch = COLLATE(rows)  # one batch: the model's own mean over tokens is the mean over all of them
    with torch.no_grad():
        own = float(model(**batch).loss)
    assert mean_nll(model, rows, COLLATE, batch_size=5) == pytest.approx(own, rel=1e-5)


def run(tmp_path, objective, steps=40):
    model = copy.deepcopy(F.full())
    forget, unseen = F.rows(F.FORGET), F.rows(F.UNSEEN)
    until = UntilUnseen(forget, unseen, COLLATE)
    args = TrainingArguments(
        tmp_path, max_steps=steps, learning_rate=1e-3, per_device_train_batch_size=24, report_to=[], save_strategy="no",
        logging_strategy="no", disable_tqdm=True, lr_scheduler_type="constant", use_cpu=True,
    )  # fmt: skip
    before = mean_nll(model, unseen, COLLATE)
    UnlearnTrainer(
        model, objective, args, forget_dataset=forget, retain_dataset=F.rows(F.RETAIN), callbacks=[until]
    ).train()
    return until, before, mean_nll(model, forget, COLLATE)


def test_ascent_stops_at_the_first_step_that_is_there(tmp_path):
    until, before, after = run(tmp_path, GradientAscent() + NLL(on="retain"))
    assert until.target == pytest.approx(before, rel=1e-6)
    assert until.reached is not None
    assert 1 < until.reached < 40
    assert after >= until.target


def test_what_does_not_forget_runs_to_the_end(tmp_path):
    until, _, after = run(tmp_path, NLL(on="retain") + 0.0 * GradientAscent(), steps=6)
    assert until.reached is None
    assert after < until.target


def test_a_run_that_goes_on_needs_the_first_target():
    until = UntilUnseen(F.rows(F.FORGET), F.rows(F.UNSEEN), COLLATE)
    with pytest.raises(InvalidInputError, match="after 3 steps"):
        until.on_train_begin(None, TrainerState(global_step=3), None, model=F.full())
    kept = UntilUnseen(F.rows(F.FORGET), F.rows(F.UNSEEN), COLLATE, target=2.5)
    kept.on_train_begin(None, TrainerState(global_step=3), None, model=F.full())
    assert kept.target == 2.5


def test_another_run_asks_again():
    until = UntilUnseen(F.rows(F.FORGET), F.rows(F.UNSEEN), COLLATE)
    targets = []
    for model in (F.full(), F.retrained(0)):
        until.reached = 7
        until.on_train_begin(None, TrainerState(), None, model=model)
        assert until.reached is None
        targets.append(until.target)
    assert targets == pytest.approx([mean_nll(m, until.unseen, COLLATE) for m in (F.full(), F.retrained(0))])
    assert targets[0] != targets[1]
    kept = UntilUnseen(F.rows(F.FORGET), F.rows(F.UNSEEN), COLLATE, target=2.5)
    kept.on_train_begin(None, TrainerState(), None, model=F.full())
    assert kept.target == 2.5


def test_bad_input():
    rows = F.rows(F.FORGET)
    with pytest.raises(EmptyForgetSetError, match="got 24 and 0"):
        UntilUnseen(rows, [], COLLATE)
    with pytest.raises(InvalidInputError, match="every"):
        UntilUnseen(rows, rows, COLLATE, every=0)
    with pytest.raises(EmptyForgetSetError, match="labelled"):
        mean_nll(F.full(), [{"input_ids": [1, 2, 3], "labels": [-100] * 3}], COLLATE)
