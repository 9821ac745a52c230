"""DeepSpeed's stages 1 and 2: two processes do what one does, where DeepSpeed is installed (it needs no GPU)."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.llm import deepspeed_processes, facts, sharded_processes
from tests.llm.test_sharding import REPOSITORY, far

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed (pip install deepspeed)"),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What one process does, and what each of two does."""
    alone, shared = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    one = deepspeed_processes.main(alone)
    environment = {
        **os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu",
        "GUNLEARN_TEST_CACHE": str(facts.FOLDER), "ACCELERATE_USE_DEEPSPEED": "true",
    }  # fmt: skip
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(Path(deepspeed_processes.__file__)), str(shared)]
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return one, [torch.load(shared / f"rank{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize(("kind", "within"), [("stage 1", 1e-6), ("stage 2", 1e-6), ("adapter", 1e-4)])
def test_two_processes_do_what_one_does(runs: Any, kind: str, within: float) -> None:
    """NPO beside retained rows, in float64 but for the adapter."""
    one, two = runs
    alone = one[kind]
    for shared in (run[kind] for run in two):
        assert len(shared["logs"]) == sharded_processes.STEPS
        for mine, theirs in zip(alone["logs"], shared["logs"], strict=True):
            for key in ("loss", "npo(forget)", "nll(retain)"):
                assert theirs[key] == pytest.approx(mine[key], rel=within, abs=within)
        assert shared["evaluated"] == pytest.approx(alone["evaluated"], rel=1e-3, abs=1e-4)
        assert far(shared["weights"], two[0][kind]["weights"]) == 0
        assert far(shared["resumed"], shared["weights"]) == 0  # a run from the checkpoint at half way
    losses = [entry["loss"] for entry in alone["logs"]]
    assert losses[0] - losses[-1] > 3  # control: a reference or batch of another kind would show


def test_stage_3_is_refused_in_words(runs: Any) -> None:
    _, two = runs
    for run in two:
        assert "ZeRO stage 3" in run["refused"]
