"""A Trainer of transformers keeps its state, and a language model's training goes on from it."""

import copy
from pathlib import Path

import torch
from transformers import Trainer, TrainingArguments

import gunlearn as gu
from gunlearn.llm import CausalLM, PartCollator, as_trainer_callback
from gunlearn.training.optimizers import make_optimizer
from tests.llm.tiny import tiny


def rows(count: int, seed: int) -> list[dict]:
    ids = torch.randint(3, 60, (count, 8), generator=torch.Generator().manual_seed(seed)).tolist()
    return [{"input_ids": row, "labels": row, "attention_mask": [1] * 8} for row in ids]


def trained(folder: Path, data: list[dict]):
    model, keeping = tiny().train(), gu.KeepState()
    trainer = Trainer(
        model,
        TrainingArguments(
            str(folder), max_steps=20, learning_rate=1e-2, weight_decay=0.1, per_device_train_batch_size=4,
            use_cpu=True, save_strategy="no", report_to=[], disable_tqdm=True, seed=0,
        ),
        train_dataset=data,
        data_collator=PartCollator(),
        callbacks=[as_trainer_callback(keeping)],
    )  # fmt: skip
    trainer.train()
    return trainer, keeping.state(model, batch_size=4)


def test_a_trainers_state_goes_on(tmp_path: Path) -> None:
    data = rows(16, seed=0)
    trainer, state = trained(tmp_path, data)
    assert (state.steps, state.kind, len(state.optimizer["param_groups"])) == (20, "AdamW", 2)
    assert [moment.step for moment in state.moments] == [16, 18, 19]
    assert state.rates is not None  # a linear decay
    torch.testing.assert_close(state.rates[:, 0], 1e-2 * (1 - torch.arange(20) / 20))
    copied = copy.deepcopy(trainer.model)
    names = [name for name, _ in copied.named_parameters()]
    resumed = make_optimizer(state, list(copied.parameters()), 1.0, names=names)
    theirs = trainer.optimizer.optimizer
    own = dict(copied.named_parameters())
    for name, parameter in trainer.model.named_parameters():  # each with its own state, whatever the groups' order
        torch.testing.assert_close(resumed.state[own[name]]["exp_avg"], theirs.state[parameter]["exp_avg"])
    grouped = {id(p): group["weight_decay"] for group in resumed.param_groups for p in group["params"]}
    assert {grouped[id(own[name])] for name in names if "norm" in name} == {0.0}
    result = gu.unlearn(
        trainer.model, data, gu.ForgetItems([0, 1]), "continued_training", CausalLM(), training=state, steps=4
    )
    assert result.notes["start"] == "the state of the training"
    assert [entry["step"] for entry in result.history] == [1, 2, 3, 4]
    replayed = gu.unlearn(trainer.model, data, gu.ForgetItems([0, 1]), "replay", CausalLM(), training=state, budget=0.2)
    assert replayed.notes["from_step"] == 16


def test_without_a_state_the_rate_is_raised(tmp_path: Path) -> None:
    data = rows(8, seed=1)
    result = gu.unlearn(
        tiny(), data, gu.ForgetItems([0]), "continued_training", CausalLM(), steps=4, optimizer="adamw", lr=1e-3
    )
    assert result.notes["start"] == "a new optimiser, its rate raised from 0"
