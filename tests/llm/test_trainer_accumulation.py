"""A step is one step, however its rows are split over micro-batches and processes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gunlearn.llm import UnlearnTrainer
from gunlearn.losses import NLL, NPO, GradientAscent, Objective
from tests.llm import facts, several_processes
from tests.llm.training import FORGET, RETAIN, Gradients, make

REPOSITORY = Path(__file__).resolve().parents[2]
LAUNCH = """
accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no
--main_process_port 0
""".split()


def uneven(rows: list[dict]) -> list[dict]:
    """Rows whose number of labels differs by much: of three, one keeps all, one none and one its last."""
    kept = [len(row["labels"]) * (i % 3 == 0) + (i % 3 == 2) for i, row in enumerate(rows)]
    return [
        row | {"labels": [-100] * (len(row["labels"]) - n) + row["labels"][len(row["labels"]) - n :]}
        for row, n in zip(rows, kept, strict=True)
    ]


class Naive(UnlearnTrainer):
    """Each micro-batch has a mean of its own, and the means are averaged."""

    def get_batch_samples(self, *args: Any) -> tuple[list, None]:
        batches, _ = super().get_batch_samples(*args)
        self.loss_is_scaled_for_ga = False
        return batches, None


def gradient(objective: Objective, size: int, kind: type[UnlearnTrainer] = UnlearnTrainer) -> dict[str, Tensor]:
    """Of the first step, of eight rows."""
    keep, data = Gradients(), {"forget_dataset": uneven(FORGET), "retain_dataset": uneven(RETAIN)}
    sizes = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 8 // size}
    given = {**data, "callbacks": [keep], "reference": facts.retrained(0)}
    make(objective=objective, given=given, kind=kind, max_steps=1, max_grad_norm=0.0, **sizes).train()
    return keep.first


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Of the largest entries, relative to all."""
    return max(float((value - other[n]).abs().max()) for n, value in one.items()) / max(
        float(value.abs().max()) for value in one.values()
    )


@pytest.mark.parametrize(
    "objective",
    [
        GradientAscent() + NLL(on="retain"),
        NPO(beta=0.1) + NLL(on="retain", reduction="seq_mean"),
        NLL(on="forget:rest") - 0.5 * NLL(on="retain", reduction="seq_sum"),
    ],
    ids=["tokens", "items", "views"],
)
def test_accumulated_gradients_are_those_of_the_whole_batch(objective: Objective) -> None:
    whole, split = gradient(objective, 8), gradient(objective, 2)
    assert distance(whole, split) < 1e-4
    assert distance(whole, gradient(objective, 2, Naive)) > 0.02  # control


def test_the_last_step_of_an_epoch_may_be_shorter(tmp_path: Path) -> None:
    """Nine rows in steps of four micro-batches of two: the second step is one row, and its terms are whole."""
    trainer = make(
        tmp_path, objective=NPO(beta=0.1), given={"forget_dataset": FORGET[:9]}, max_steps=2, learning_rate=0.0,
        per_device_train_batch_size=2, gradient_accumulation_steps=4,
    )  # fmt: skip
    trainer.train()
    for entry in trainer.state.log_history[:2]:
        assert entry["npo(forget)"] == pytest.approx(20 * torch.log(torch.tensor(2.0)).item(), rel=1e-5)
        assert entry["loss"] == pytest.approx(entry["npo(forget)"], rel=1e-5)


@pytest.mark.slow
def test_two_processes_do_what_one_does(tmp_path: Path) -> None:
    one = several_processes.main(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
    command = [sys.executable, "-m", *LAUNCH, str(Path(several_processes.__file__)), str(tmp_path)]
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    for rank in (0, 1):
        two = torch.load(tmp_path / f"rank{rank}.pt")
        for name, run in one.items():
            other = two[name]
            assert distance(run["weights"], other["weights"]) < 1e-3
            assert other["retained"] == run["retained"]
            assert other["evaluated"] == pytest.approx(run["evaluated"], rel=1e-3)
            for mine, theirs in zip(run["logs"][:6], other["logs"][:6], strict=True):
                for key in ("loss", "npo(forget)", "nll(retain)"):
                    assert theirs[key] == pytest.approx(mine[key], rel=1e-3)
