"""A Trainer of transformers keeps its state, and a language model's training goes on from it."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainingArguments

import gunlearn as gu
from gunlearn.errors import InvalidInputError
from gunlearn.llm import CausalLM, PartCollator, as_trainer_callback
from gunlearn.training.optimizers import make_optimizer
from gunlearn.training.resumed_optimizer import resumed_optimizer
from tests.llm.tiny import tiny


def rows(count: int, seed: int) -> list[dict]:
    ids = torch.randint(3, 60, (count, 8), generator=torch.Generator().manual_seed(seed)).tolist()
    return [{"input_ids": row, "labels": row, "attention_mask": [1] * 8} for row in ids]


def trained(folder: Path, data: list[dict], name: str = "llama", held_out: list[dict] | None = None, **more: Any):
    model, keeping = tiny(name).train(), gu.KeepState()
    trainer = Trainer(
        model,
        TrainingArguments(
            str(folder), max_steps=20, learning_rate=1e-2, weight_decay=0.1, per_device_train_batch_size=4,
            use_cpu=True, report_to=[], disable_tqdm=True, seed=0, **{"save_strategy": "no", **more},
        ),
        train_dataset=data,
        eval_dataset=held_out,
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


def test_the_state_is_that_of_the_best_weights_that_a_trainer_loads(tmp_path: Path) -> None:
    every = {name: "steps" for name in ("save_strategy", "eval_strategy")} | {"save_steps": 5, "eval_steps": 5}
    more = {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "greater_is_better": True, **every}
    trainer, state = trained(tmp_path, rows(16, seed=0), held_out=rows(16, seed=0), **more)
    best = trainer.state.best_global_step
    assert best < 20  # the worst one, which is an early one
    assert (state.steps, state.total) == (best, 20)
    assert {int(entry["step"]) for entry in state.optimizer["state"].values()} == {best}
    state.check_model(trainer.model)


def test_without_a_state_the_rate_is_raised(tmp_path: Path) -> None:
    data = rows(8, seed=1)
    result = gu.unlearn(
        tiny(), data, gu.ForgetItems([0]), "continued_training", CausalLM(), steps=4, optimizer="adamw", lr=1e-3
    )
    assert result.notes["start"] == "a new optimiser, its rate raised from 0"


@pytest.mark.parametrize("name", ["llama", "llama_tied"])
def test_a_trainers_checkpoints_go_on(tmp_path: Path, name: str) -> None:
    """Its two groups have no names, and its files leave tied weights out."""
    data = rows(16, seed=0)
    trainer, _ = trained(tmp_path, data, name, save_strategy="steps", save_steps=5)
    model, request = trainer.model, gu.ForgetItems([0, 1])
    kept = torch.load(tmp_path / "checkpoint-20" / "optimizer.pt", weights_only=True)
    own = dict(model.named_parameters())
    resumed = resumed_optimizer(kept, list(own.values()), list(own))
    for parameter, state in trainer.optimizer.optimizer.state.items():
        torch.testing.assert_close(resumed.state[parameter]["exp_avg"], state["exp_avg"])
    result = gu.unlearn(model, data, request, "continued_training", "causal_lm", training=tmp_path, steps=2)
    assert result.notes["start"] == "the state of the training"
    replayed = gu.unlearn(model, data, request, "replay", "causal_lm", training=tmp_path, budget=0.5)
    assert replayed.notes["from_step"] == 10


def test_groups_of_like_shapes_without_names_are_refused() -> None:
    layers = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 2, bias=False))
    optimizer = torch.optim.AdamW([{"params": [layer.weight]} for layer in layers])
    layers(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    with pytest.raises(InvalidInputError, match="groups of different shapes"):
        resumed_optimizer(optimizer.state_dict(), list(layers.parameters()))


def test_an_optimiser_of_ones_own_goes_on_from_shrunk_weights() -> None:
    data, model = rows(8, seed=1), tiny()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-30)
    model(torch.tensor([data[0]["input_ids"]])).logits.sum().backward()
    optimizer.step()
    result = gu.unlearn(
        model, data, gu.ForgetItems([0]), "continued_training", "causal_lm", optimizer=optimizer, steps=1,
        shrink=0.5,
    )  # fmt: skip
    wanted = {name: value * (0.5 if value.dim() > 1 else 1) for name, value in model.state_dict().items()}
    torch.testing.assert_close(dict(result.model.state_dict()), wanted)


def test_options_of_a_new_optimiser_are_honoured() -> None:
    data = rows(8, seed=1)
    options = {"optimizer": "adamw", "optimizer_options": {"betas": (0.0, 0.0)}, "steps": 1, "lr": 1e-3, "shrink": 0.5}
    model = tiny()
    result = gu.unlearn(model, data, gu.ForgetItems([0]), "continued_training", "causal_lm", **options)
    moved = [
        (value - own * (0.5 if own.dim() > 1 else 1)).abs()
        for value, own in zip(result.model.parameters(), model.parameters(), strict=True)
    ]
    assert max(float(step.max()) for step in moved) == pytest.approx(1e-3, rel=1e-3)  # the gradient over itself
    with pytest.raises(InvalidInputError, match="no 'optimizer_options' beside 'training'"):
        gu.unlearn(model, data, gu.ForgetItems([0]), "continued_training", "causal_lm", **options, training="state.pt")


def test_no_pass_reads_more_rows_than_the_training_did(tmp_path: Path) -> None:
    data, sizes = rows(16, seed=0), []
    trainer, state = trained(tmp_path, data)
    forward = type(trainer.model).forward

    def counted(self: Any, input_ids: torch.Tensor, **more: Any) -> Any:
        sizes.append(len(input_ids))
        return forward(self, input_ids=input_ids, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(trainer.model), "forward", counted)
        request = gu.ForgetItems([0])
        gu.unlearn(trainer.model, data, request, "continued_training", CausalLM(), training=state, steps=3)
    assert max(sizes[:-2]) <= 4  # the last two compare what both models know, of at most 256 rows
