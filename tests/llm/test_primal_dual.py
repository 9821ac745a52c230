"""PDU's multiplier in a Trainer: its sequence by hand, accumulation, resuming."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback, TrainingArguments

from gunlearn.errors import InvalidInputError
from gunlearn.llm import UnlearnTrainer
from gunlearn.llm.training.primal_dual_callback import PrimalDualCallback
from gunlearn.losses import NLL, FlatLogits, PrimalDual
from tests.llm import facts


def trainer(folder: Path, dual: PrimalDual | None, accumulation: int = 1, **options: object) -> UnlearnTrainer:
    args = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=8 // accumulation,
        gradient_accumulation_steps=accumulation,
        max_steps=6,
        learning_rate=1e-3,
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        save_strategy="steps" if "save_steps" in options else "no",
        **options,
    )
    made = UnlearnTrainer(
        copy.deepcopy(facts.full()),
        FlatLogits() + 1.0 * NLL(on="retain"),
        args,
        forget_dataset=facts.rows(facts.FORGET),
        retain_dataset=facts.rows(facts.RETAIN),
    )
    if dual is not None:
        PrimalDualCallback(made, dual)
    return made


def settings() -> PrimalDual:
    return PrimalDual(epsilon=0.05, step=20.0, warmup=2, weight=3.0)


def logged(run: UnlearnTrainer, key: str) -> list[float]:
    return [row[key] for row in run.state.log_history if key in row]


def test_the_weight_follows_the_retain_loss_of_whole_steps(tmp_path: Path) -> None:
    runs = {n: trainer(tmp_path, settings(), accumulation=n) for n in (1, 2)}
    for run in runs.values():
        before = run.objective
        run.train()
        assert run.objective is before
        by_hand = settings()
        expected = [by_hand.update(value) for value in logged(run, "nll(retain)")]
        assert logged(run, "retain_weight") == pytest.approx(expected, rel=1e-5)
        assert expected[:2] == [3.0, 3.0]
        assert len(set(expected)) > 3  # control: a weight that stands still
    first, second = (logged(run, "retain_weight") for run in runs.values())
    assert first == pytest.approx(second, rel=1e-3)
    # The weight is that of the next step's loss: total = flat + weight * nll.
    run, weights = runs[1], [3.0, *first[:-1]]
    totals = [
        f + w * r
        for f, w, r in zip(logged(run, "flat_logits(forget)"), weights, logged(run, "nll(retain)"), strict=True)
    ]
    assert logged(run, "loss") == pytest.approx(totals, rel=1e-3)


def test_a_resumed_run_goes_on_with_the_multiplier(tmp_path: Path) -> None:
    whole = trainer(tmp_path, settings(), save_steps=4)
    whole.train()
    again = trainer(tmp_path, settings(), save_steps=100)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert logged(again, "retain_weight") == pytest.approx(logged(whole, "retain_weight"), rel=1e-4)


class Breaks(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            raise ZeroDivisionError


def test_an_error_leaves_the_objective_and_another_run_begins_anew(tmp_path: Path) -> None:
    run = trainer(tmp_path, settings())
    before = run.objective
    run.add_callback(Breaks)
    with pytest.raises(ZeroDivisionError):
        run.train()
    assert run.objective is before
    run.remove_callback(Breaks)
    run.train()
    by_hand = settings()
    expected = [by_hand.update(value) for value in logged(run, "nll(retain)")]
    assert logged(run, "retain_weight") == pytest.approx(expected, rel=1e-5)
    assert expected[0] == 3.0


def test_exactly_one_term_is_weighed(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"one term on 'world'.*\(got 0\)"):
        PrimalDualCallback(trainer(tmp_path, None), settings(), on="world")
