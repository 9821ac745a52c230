"""What `test_trainer_accumulation.py` runs in one process and, through `accelerate launch`, in two."""

import os
import sys
from pathlib import Path
from typing import Any

import torch

from gunlearn.losses import NLL, NPO
from tests.llm.training import OBJECTIVE, RETAIN, adapted, make, weights

WORLD = int(os.environ.get("WORLD_SIZE", 1))


def run(folder: Path, **given: Any) -> dict[str, Any]:
    """Two epochs of three steps of eight rows each, however many processes share them."""
    options = {"per_device_train_batch_size": 8 // WORLD, "max_steps": 6, "learning_rate": 1e-2}
    given = {"eval_dataset": RETAIN[:7], "unlearning_metrics": lambda model: {"size": 1.0}, **given}
    objective, model = given.pop("objective", OBJECTIVE), given.pop("model")
    trainer = make(folder, model, objective, given, **options)
    trainer.train()
    return {
        "weights": weights(trainer.model),
        "logs": trainer.state.log_history,
        "evaluated": trainer.evaluate(),
        "retained": [int(i) for i in trainer.train_dataset.choice["retain"]],
    }


def main(folder: Path) -> dict[str, Any]:
    return {
        "adapter": run(folder, model=adapted()),
        "copy": run(folder, model=None, objective=NPO(beta=0.1, reduction="sum") + NLL(on="retain")),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    torch.save(main(out), out / f"rank{os.environ['RANK']}.pt")
