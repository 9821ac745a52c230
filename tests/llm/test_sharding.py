"""FSDP: two processes that share all weights do what one does; ways to shard that are not understood are refused."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from gunlearn.errors import InvalidInputError
from gunlearn.llm.training import sharding
from tests.llm import facts, sharded_processes
from tests.llm.training import FORGET, logits, make, unlearned

REPOSITORY = Path(__file__).resolve().parents[2]
LAUNCH = """
accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no
--main_process_port 0
""".split()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[dict[str, Any]], Path]:
    """What one process does, what each of two does, and the two's folder."""
    alone, shared = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    one = sharded_processes.main(alone)  # trains the models of facts, which the two then read
    environment = {
        **os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1",
        "GUNLEARN_TEST_CACHE": str(facts.FOLDER),
    }  # fmt: skip
    command = [sys.executable, "-m", *LAUNCH, str(Path(sharded_processes.__file__)), str(shared)]
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return one, [torch.load(shared / f"rank{rank}.pt") for rank in (0, 1)], shared


def far(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference of two sets of weights."""
    assert one.keys() == other.keys()
    return max(float((value - other[name]).abs().max()) for name, value in one.items())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["copy", "adapter", "other"])
def test_two_processes_that_share_the_weights_do_what_one_does(runs: Any, kind: str) -> None:
    """NPO beside retained rows; the reference is a copy, the model without its adapter, or the caller's model."""
    one, two, _ = runs
    alone, within = one[kind], 1e-4 if kind == "adapter" else 1e-6  # the others are in float64
    for shared in (run[kind] for run in two):
        assert shared["sharded"] == [True, False] if kind == "other" else all(shared["sharded"])
        assert not any(alone["sharded"])  # control: one process has whole weights
        assert len(shared["logs"]) == sharded_processes.STEPS
        for mine, theirs in zip(alone["logs"], shared["logs"], strict=True):
            for key in ("loss", "npo(forget)", "nll(retain)"):
                assert theirs[key] == pytest.approx(mine[key], rel=within, abs=within)
        assert shared["evaluated"] == pytest.approx(alone["evaluated"], rel=1e-3, abs=1e-4)
        assert ("eval_known" in shared["evaluated"]) == (kind == "copy")  # a figure that calls the sharded model
        assert far(shared["weights"], two[0][kind]["weights"]) == 0
        assert far(shared["resumed"], shared["weights"]) == 0  # a run from the checkpoint at half way
    # Control: training has gone so far that a reference or batch of another kind would show.
    losses = [entry["loss"] for entry in alone["logs"]]
    assert losses[0] - losses[-1] > 3


@pytest.mark.slow
def test_checkpoints_of_shared_weights_load_as_any_other(runs: Any) -> None:
    _, two, folder = runs
    tokens = torch.tensor([FORGET[0]["input_ids"]])

    def holding(model: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
        model.load_state_dict(weights, strict=False)
        return model

    last = f"checkpoint-{sharded_processes.STEPS}"
    loaded = LlamaForCausalLM.from_pretrained(folder / "copy" / last)
    expected = logits(holding(sharded_processes.precise(), two[0]["copy"]["weights"]), tokens)
    torch.testing.assert_close(logits(loaded, tokens), expected)
    assert (expected - logits(facts.full(), tokens)).abs().max() > 0.5
    adapted = PeftModel.from_pretrained(facts.full(), folder / "adapter" / last, is_trainable=True)
    read = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    assert far({n: p.detach() for n, p in read.items()}, two[0]["adapter"]["weights"]) < 1e-6


@pytest.mark.slow
def test_what_two_processes_cannot_share_is_refused(runs: Any) -> None:
    """On both processes, before work starts; a weight that one of them holds and that breaks is an error on both."""
    _, two, _ = runs
    for run in two:
        assert "FSDP (got 2 processes on 'cpu'" in run["refused"]["processors"]
        assert "version 2 of FSDP (got 1)" in run["refused"]["first version"]
        assert "'cpu_ram_efficient_loading'" in run["refused"]["one reader"]
        assert "finite weights" in run["broken"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"FSDP_VERSION": "1"}, "version 2 of FSDP"),
        ({}, "version 2 of FSDP"),  # accelerate's own default is 1
        ({"FSDP_VERSION": "2", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true", "WORLD_SIZE": "2"}, "on every process"),
    ],
)
def test_a_launch_that_is_not_understood(monkeypatch: pytest.MonkeyPatch, flags: dict[str, str], words: str) -> None:
    arguments = sharded_processes.arguments()
    for name, value in {"ACCELERATE_USE_FSDP": "true", **flags}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidInputError, match=words):
        sharding.check_sharding(arguments)


def test_zero_stage_three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharding, "is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(InvalidInputError, match="ZeRO stage 3"):
        make()


def test_one_call_wants_whole_models(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInputError, match="UnlearnTrainer"):
        unlearned(fsdp=True)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(InvalidInputError, match="UnlearnTrainer"):
        unlearned()
