"""One training in a process of its own: seconds of CPU per step, and the peak of memory above the start."""

import argparse
import json
import resource
import tempfile
import time
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from gunlearn.llm import UnlearnTrainer
from gunlearn.losses import NLL, NPO

WHAT = ("plain", "npo", "npo_retain")
VOCABULARY, BATCH, TOKENS = 32_000, 8, 512


def build() -> PeftModel:
    """A Llama of 10.8 M parameters, three quarters of them its vocabulary, with an adapter on all its layers."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4,
        max_position_embeddings=TOKENS, tie_word_embeddings=True,
    )  # fmt: skip
    return get_peft_model(LlamaForCausalLM(config), LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))


def rows(number: int, answers: str, seed: int) -> list[dict[str, list[int]]]:
    """Random tokens; labels on all of them or on the second half."""
    tokens = torch.randint(3, VOCABULARY, (number, TOKENS), generator=torch.Generator().manual_seed(seed)).tolist()
    prompt = TOKENS // 2 if answers == "half" else 0
    return [{"input_ids": row, "labels": [-100] * prompt + row[prompt:]} for row in tokens]


class Clock(TrainerCallback):
    """CPU seconds of this process for each step."""

    def __init__(self) -> None:
        self.begun, self.seconds = 0.0, []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.begun = time.process_time()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds.append(time.process_time() - self.begun)


def collate(batch: list[dict[str, list[int]]]) -> dict[str, Tensor]:
    return {name: torch.tensor([row[name] for row in batch]) for name in batch[0]}


def peak() -> float:
    """MiB that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=WHAT)
    parser.add_argument("answers", choices=("half", "all"))
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, clock = build(), Clock()
    before = peak()
    data = rows(BATCH * options.steps, options.answers, 0)
    args = TrainingArguments(
        tempfile.mkdtemp(), per_device_train_batch_size=BATCH, max_steps=options.steps, learning_rate=1e-4,
        save_strategy="no", logging_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    if options.what == "plain":
        trainer = Trainer(model, args, train_dataset=data, data_collator=collate, callbacks=[clock])
    else:
        retain = rows(BATCH * options.steps, options.answers, 1) if options.what == "npo_retain" else None
        objective = NPO(beta=0.1) if retain is None else NPO(beta=0.1) + NLL(on="retain")
        trainer = UnlearnTrainer(
            model, objective, args, forget_dataset=data, retain_dataset=retain, callbacks=[clock], reference="adapter"
        )
    trainer.train()
    print(json.dumps({"seconds": clock.seconds, "mebibytes": peak() - before, "before": before}))


if __name__ == "__main__":
    main()
