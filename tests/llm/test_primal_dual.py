"""PDU's multiplier in a Trainer: its sequence by hand, accumulation, resuming."""

from pathlib import Path

import pytest

from gunlearn.errors import InvalidInputError
from gunlearn.llm import UnlearnTrainer
from gunlearn.llm.training.primal_dual_callback import PrimalDualCallback
from gunlearn.losses import NLL, FlatLogits, PrimalDual
from tests.llm.training import ANYWHERE, EachStep, make


def settings() -> PrimalDual:
    return PrimalDual(epsilon=0.05, step=20.0, warmup=2, weight=3.0)


def trainer(folder: Path = ANYWHERE, accumulation: int = 1, on: str = "retain", **options: object) -> UnlearnTrainer:
    sizes = {"per_device_train_batch_size": 8 // accumulation, "gradient_accumulation_steps": accumulation}
    made = make(folder, None, FlatLogits() + 1.0 * NLL(on="retain"), max_steps=6, **sizes, **options)
    PrimalDualCallback(made, settings(), on)
    return made


def logged(run: UnlearnTrainer, key: str) -> list[float]:
    return [row[key] for row in run.state.log_history if key in row]


def test_the_weight_follows_the_retain_loss_of_whole_steps() -> None:
    runs = {n: trainer(accumulation=n) for n in (1, 2)}
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
    whole = trainer(tmp_path, save_strategy="steps", save_steps=4)
    whole.train()
    again = trainer(tmp_path)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert logged(again, "retain_weight") == pytest.approx(logged(whole, "retain_weight"), rel=1e-4)


def test_an_error_leaves_the_objective_and_another_run_begins_anew() -> None:
    run, breaks = trainer(), EachStep(lambda step, model: 1 / (3 - step))
    before = run.objective
    run.add_callback(breaks)
    with pytest.raises(ZeroDivisionError):
        run.train()
    assert run.objective is before
    run.remove_callback(breaks)
    run.train()
    by_hand = settings()
    expected = [by_hand.update(value) for value in logged(run, "nll(retain)")]
    assert logged(run, "retain_weight") == pytest.approx(expected, rel=1e-5)
    assert expected[0] == 3.0


def test_exactly_one_term_is_weighed() -> None:
    with pytest.raises(InvalidInputError, match=r"one term on 'world'.*\(got 0\)"):
        trainer(on="world")
