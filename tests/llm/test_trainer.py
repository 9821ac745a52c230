"""The trainer forgets what it is told to, keeps its books, and can be stopped, resumed, saved and refused."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import EarlyStoppingCallback, LlamaForCausalLM, TrainerCallback

from gunlearn.errors import DivergenceError, InvalidInputError
from gunlearn.llm import CausalLM, PartCollator, UnlearnTrainer
from gunlearn.llm.data.collate import collator_of
from gunlearn.losses import DPO, NLL, NPO, GradientAscent, JSDToRefusal
from tests.llm import facts
from tests.llm.training import (
    FORGET,
    OBJECTIVE,
    RETAIN,
    UNLABELLED,
    UNMARKED,
    EachStep,
    Gradients,
    adapted,
    arguments,
    logits,
    make,
    own_forward,
    same,
    weights,
)

FREE = 1 / 3  # a value that is as likely as this has not been forgotten


def test_npo_with_retained_rows_forgets_and_keeps(tmp_path: Path) -> None:
    def after(objective: Any, steps: int = 6) -> tuple[float, float]:
        trainer = make(tmp_path, objective=objective, max_steps=steps, per_device_train_batch_size=12)
        trainer.train()
        return facts.value_prob(trainer.model, FORGET), facts.accuracy(trainer.model, RETAIN)

    forgotten, kept = after(NPO(beta=1.0) + NLL(on="retain"), steps=12)
    assert forgotten < FREE
    assert kept > 0.85
    # Controls: no forget term, the wrong sign, no retain term.
    assert after(NLL(on="retain"))[0] > FREE
    assert after(-1.0 * NPO(beta=1.0) + NLL(on="retain"))[0] > FREE
    assert after(NPO(beta=1.0), steps=12)[1] < kept - 0.2


def test_the_caller_keeps_what_is_theirs(tmp_path: Path) -> None:
    args, rows = arguments(tmp_path, gradient_checkpointing=True, max_steps=1), FORGET[:8]
    before, rows_before = repr(args), copy.deepcopy(rows)
    reference = facts.retrained(0).train()
    UnlearnTrainer(
        facts.full(), OBJECTIVE, args, forget_dataset=rows, retain_dataset=RETAIN, reference=reference
    ).train()
    assert repr(args) == before
    assert args.remove_unused_columns
    assert rows == rows_before
    assert reference.training
    assert all(p.requires_grad and p.grad is None for p in reference.parameters())


def test_logs_hold_each_term_and_their_sum(tmp_path: Path) -> None:
    objective = NPO(beta=0.1) + 0.5 * NLL(on="retain")
    trainer = make(tmp_path, objective=objective, logging_steps=2, gradient_accumulation_steps=2, learning_rate=0.0)
    trainer.train()
    for entry in [entry for entry in trainer.state.log_history if "loss" in entry]:
        assert entry["loss"] == pytest.approx(entry["npo(forget)"] + 0.5 * entry["nll(retain)"], rel=1e-5)
        assert entry["npo(forget)"] == pytest.approx(2 / 0.1 * torch.log(torch.tensor(2.0)).item(), rel=1e-5)
    assert len([entry for entry in trainer.state.log_history if "loss" in entry]) == 2
    assert trainer.state.total_flos > 0


def test_evaluation_during_training(tmp_path: Path) -> None:
    def metrics(model: nn.Module) -> dict[str, float]:
        assert not model.training
        torch.rand(5)
        return {"value_prob": facts.value_prob(model, FORGET)}

    given = {"eval_dataset": {"forget": FORGET, "retain": RETAIN[:10]}, "unlearning_metrics": metrics}
    trainer = make(tmp_path, adapted(lora_dropout=0.3), given=given, eval_strategy="steps", eval_steps=2)
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "eval_value_prob" in entry]
    assert [entry["step"] for entry in entries] == [2, 4]
    # By hand, on what the last evaluation saw.
    batch = PartCollator()(FORGET)
    p = CausalLM().decode(trainer.model.eval(), None, batch)
    expected = {
        "nll": -p.log_prob.sum() / p.mask.sum(),
        "prob": (p.log_prob.sum(1) / p.mask.sum(1)).exp().mean(),
        "exact_memorization": (p.logits.argmax(-1) == p.label)[p.mask].double().mean(),
    }
    for name, value in expected.items():
        assert entries[-1][f"eval_forget_{name}"] == pytest.approx(value.item(), rel=1e-4)
    # Training goes on as if nobody had looked, dropout included.
    alone = make(tmp_path, adapted(lora_dropout=0.3))
    alone.train()
    assert same(weights(alone.model), weights(trainer.model))


def test_rows_without_labels_and_short_batches_in_evaluation(tmp_path: Path) -> None:
    trainer = make(tmp_path, per_device_eval_batch_size=3)
    one, other = trainer.evaluate(FORGET[:7]), trainer.evaluate([*FORGET[:4], UNLABELLED, *FORGET[4:7]])
    assert other == pytest.approx(one, rel=1e-5)
    for none, words in (([UNLABELLED], "labelled tokens"), ([], "rows to evaluate")):
        with pytest.raises(InvalidInputError, match=words):
            trainer.evaluate(none)
    with pytest.raises(InvalidInputError, match="to evaluate"):
        trainer.evaluate()


def test_early_stopping_and_the_best_checkpoint(tmp_path: Path) -> None:
    figures, seen = iter([0.5, 0.4, 0.6, 0.7, 0.8, 0.9]), {}
    callbacks = [EachStep(lambda step, model: seen.update({step: weights(model)})), EarlyStoppingCallback(2)]
    trainer = make(
        tmp_path,
        adapted(),
        given={"unlearning_metrics": lambda _: {"alignment": next(figures)}, "callbacks": callbacks},
        max_steps=6, eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1,
        load_best_model_at_end=True, metric_for_best_model="alignment", greater_is_better=False,
    )  # fmt: skip
    trainer.train()
    assert trainer.state.global_step == 4
    assert trainer.state.best_global_step == 2
    assert same(weights(trainer.model), seen[2])
    assert not same(weights(trainer.model), seen[4])


def die(step: int, model: nn.Module) -> None:
    if step == 5:
        raise KeyboardInterrupt


def test_a_resumed_run_is_the_whole_run(tmp_path: Path) -> None:
    """With dropout, and in the second epoch of three steps, which has pairs of its own."""

    def run(folder: str, **given: Any) -> UnlearnTrainer:
        given["forget_dataset"] = FORGET[:21]
        model, options = adapted(lora_dropout=0.3), {"max_steps": 8, "save_strategy": "steps", "save_steps": 4}
        return make(tmp_path / folder, model, given=given, **options)

    whole = run("whole")
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        run("killed", callbacks=[EachStep(die)]).train()
    resumed = run("killed")
    resumed.train(resume_from_checkpoint=True)
    assert same(weights(resumed.model), weights(whole.model))
    assert not same(weights(resumed.model), weights(adapted()))


def test_saved_models_load(tmp_path: Path) -> None:
    tokens = PartCollator()(FORGET[:2])["input_ids"]
    trainer = make(tmp_path, max_steps=1, given={"processing_class": facts.tokenizer()})
    trainer.train()
    trainer.save_model(tmp_path / "model")
    loaded = LlamaForCausalLM.from_pretrained(tmp_path / "model")
    assert torch.equal(logits(loaded, tokens), logits(trainer.model, tokens))
    assert (tmp_path / "model" / "tokenizer.json").exists()
    trainer = make(tmp_path, adapted(), max_steps=1)
    trainer.train()
    trainer.model.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(facts.full(), tmp_path / "adapter")
    assert torch.equal(logits(loaded, tokens), logits(trainer.model, tokens))
    assert not torch.equal(logits(loaded, tokens), logits(facts.full(), tokens))


def test_gradient_checkpointing_with_an_adapter(tmp_path: Path) -> None:
    found = []
    for checkpointing in (False, True):
        keep = Gradients()
        trainer = make(
            tmp_path, adapted(), given={"callbacks": [keep]}, max_steps=1, gradient_checkpointing=checkpointing
        )
        with torch.no_grad():  # of the products that are 0, B alone has a gradient
            for name, parameter in trainer.model.named_parameters():
                parameter.add_(0.01 if "lora_B" in name else 0.0)
        trainer.train()
        found.append(keep.first)
    plain, checkpointed = found
    assert plain.keys() == checkpointed.keys()
    assert all("lora" in name and value.any() for name, value in plain.items())
    for name, value in plain.items():
        torch.testing.assert_close(checkpointed[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [None, {"use_reentrant": True}], ids=["default", "reentrant"])
def test_gradient_checkpointing_that_the_caller_switched_on(tmp_path: Path, kind: dict[str, Any] | None) -> None:
    """The adapter has the gradients of a plain run, and the reference is the model without it, not a copy."""

    def gradients(checkpointing: bool, inputs: bool = True) -> dict[str, Tensor]:
        keep, model = Gradients(), adapted(init_lora_weights=False)
        reference = facts.full()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kind)
        if not inputs:
            model.base_model.model.disable_input_require_grads()
        make(tmp_path, model, given={"callbacks": [keep], "reference": reference}, max_steps=1).train()
        return keep.first

    plain, checkpointed = gradients(False), gradients(True)
    assert plain.keys() == checkpointed.keys()
    assert all("lora" in name and value.any() for name, value in plain.items())
    for name, value in plain.items():
        torch.testing.assert_close(checkpointed[name], value, rtol=1e-4, atol=1e-6)
    fresh = adapted()
    fresh.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kind)
    assert make(tmp_path, fresh).reference.frozen is None  # asked whether anything outside the adapter is trained
    if kind is not None:  # control: inputs that need no gradient, with which the reentrant kind trains nothing
        with pytest.raises(RuntimeError, match="does not require grad"):
            gradients(True, inputs=False)


@pytest.mark.parametrize("options", [{"target_modules": ["q_proj", "lm_head"]}, {"modules_to_save": ["lm_head"]}])
def test_adapters_that_reach_the_head(tmp_path: Path, options: dict[str, Any]) -> None:
    trainer = make(tmp_path, adapted(**options), max_steps=3)
    before = weights(trainer.model)
    trainer.train()
    assert trainer.reference.frozen is None
    assert all(
        not torch.equal(value, before[name]) for name, value in weights(trainer.model).items() if "_A" not in name
    )
    assert trainer.state.log_history[0]["npo(forget)"] == pytest.approx(20 * torch.log(torch.tensor(2.0)).item())


def test_views_of_a_part(tmp_path: Path) -> None:
    trainer = make(tmp_path, objective=GradientAscent(on="forget:target") + NLL(on="forget:rest"))
    batch = PartCollator()([{"forget": row} for row in FORGET[:4]])
    current, _ = trainer.predictions(trainer.model, batch)
    assert current["forget:target"].log_prob is current["forget:rest"].log_prob  # one pass
    trainer.train()
    with pytest.raises(InvalidInputError, match="'target_mask'"):
        make(objective=NLL(on="forget:target"), given={"forget_dataset": UNMARKED}).train()


@torch.no_grad()
def spoil(step: int, model: nn.Module) -> None:
    next(model.parameters())[0] = torch.inf


def test_nan_is_never_handed_back(tmp_path: Path) -> None:
    model = facts.full()
    with torch.no_grad():
        model.lm_head.weight[0] = torch.nan
    model.lm_head.weight.requires_grad_(False)  # a trained one is refused before the first step
    with pytest.raises(DivergenceError, match=r"\['npo\(forget\)', 'nll\(retain\)'\] after 0 steps"):
        make(tmp_path, model).train()
    assert "forward" not in model.lm_head.__dict__
    assert all(p.grad is None for p in model.parameters())
    with pytest.raises(DivergenceError, match="finite weights"):
        make(tmp_path, max_steps=1, given={"callbacks": [EachStep(spoil)]}).train()


def test_an_error_leaves_no_gradient() -> None:
    breaks = TrainerCallback()
    breaks.on_pre_optimizer_step = lambda *args, **kwargs: 1 / 0
    trainer = make(given={"callbacks": [breaks]})
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    assert all(p.grad is None for p in trainer.model.parameters())


LOOSE = {"drawn": {"alternative": RETAIN}}


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"model": facts.fresh().requires_grad_(False)}, "needs an adapter"),
        ({"given": {"retain_dataset": None}}, "data for part 'retain'"),
        ({"objective": NLL(on="forget:aim")}, "a view of 'forget'"),
        ({"objective": DPO(), "given": LOOSE}, r"'paired' rows for \['alternative'\]"),
        ({"given": {"drawn": {"retain": RETAIN}}}, "'retain' once"),
        ({"given": {"forget_dataset": []}}, "forgotten rows"),
        ({"given": {"forget_dataset": [{"input_ids": [1] * 129, "labels": [1] * 129}]}}, "at most 128 tokens"),
    ],
)
def test_refused_set_ups(how: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        make(**how).train()
    make(objective=JSDToRefusal(), given=LOOSE)  # compares no rows


def test_rows_to_forget_among_the_retained_ones(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="got 3 of 24 in both"):
        make(tmp_path, given={"retain_dataset": [*RETAIN, *FORGET[:3]]})


def test_collators_follow_the_tokenizer() -> None:
    model = facts.fresh()
    assert collator_of(model) == PartCollator(0, "right", 128)
    for pad, side in ((None, "left"), (2, "right")):
        tokenizer = SimpleNamespace(pad_token_id=pad, padding_side=side)
        assert collator_of(model, tokenizer) == PartCollator(pad or 0, side, 128)


def test_mixed_precision_leaves_the_models_own_forward() -> None:
    trainer = make(bf16=True, max_steps=1)
    for _ in range(2):  # another run puts it back on for its length
        trainer.train()
        assert own_forward(trainer.model)
