"""What `test_deepspeed.py` runs in one process and, through DeepSpeed, in two that share the optimizer's state."""

import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from torch import nn

from tests.llm import facts
from tests.llm.sharded_processes import WORLD, precise, refused, run, trainer
from tests.llm.training import adapted

AUTO = ("gradient_clipping", "gradient_accumulation_steps", "train_micro_batch_size_per_gpu", "train_batch_size")


def config(stage: int) -> dict[str, Any]:
    """The configuration of docs/llm.md."""
    return {"zero_optimization": {"stage": stage}} | dict.fromkeys(AUTO, "auto")


def shared(stage: int) -> dict[str, Any]:
    """Options of a trainer whose processes share what a stage of ZeRO shares; of one process, none."""
    return {"deepspeed": config(stage), "use_cpu": False} if WORLD > 1 else {}


def whole_at_stage_3(folder: Path) -> str:
    """What is said to stage 3, whose models are in pieces from the start; the model is made before."""
    model: nn.Module = facts.full()
    return refused(lambda: trainer(folder, model, {}, **shared(3)))


def main(folder: Path) -> dict[str, Any]:
    if WORLD > 1:  # accelerate finds no backend for DeepSpeed without a GPU; gloo is one
        PartialState._prepare_backend = lambda self, *given, **more: ("gloo", DistributedType.NO)
    out: dict[str, Any] = {
        f"stage {stage}": run(folder / f"{stage}", precise, options=shared(stage)) for stage in (1, 2)
    }
    out["adapter"] = run(folder / "adapter", adapted, options={"learning_rate": 3e-2} | shared(2))
    if WORLD > 1:
        out["refused"] = whole_at_stage_3(folder)
    return out


if __name__ == "__main__":
    torch.set_num_threads(1)
    into = Path(sys.argv[1])
    torch.save(main(into), into / f"rank{torch.distributed.get_rank()}.pt")
