"""What `test_llm_eval_command.py` runs in one process and, through `accelerate launch`, in two."""

import sys
from dataclasses import replace
from pathlib import Path

import torch

from gunlearn.llm.metrics import EvalSettings, evaluate_one, score_for
from gunlearn.metrics import Sampler
from tests.llm import facts
from tests.llm.metrics.small_models import PROMPTED, SETS

SETTINGS = EvalSettings(sampler=Sampler(n_samples=2), max_new_tokens=6, relearn_steps=2, relearn_share=0.4)


def main(folder: Path) -> None:
    """Two new models, each evaluated; the first one scores the second one's answers."""
    tokenizer, first, second = facts.tokenizer(), facts.fresh(1), facts.fresh(2)
    few = replace(SETTINGS, relearn_steps=0, quantise=(), generate=False, attacks=("loss",))
    evaluate_one(first, tokenizer, SETS, few, out=folder / "first.json", name="first")
    how = {"references": [folder / "first.json"], "out": folder / "second.json", "name": "second"}
    evaluate_one(second, tokenizer, SETS, SETTINGS, **how)
    score_for(first, tokenizer, PROMPTED, [folder / "second.json"])


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
