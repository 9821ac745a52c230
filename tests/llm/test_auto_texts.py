"""What `auto` chooses for a language model: shrinking what fine-tuning changed, where that can be, else NPO."""

import copy
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, LoraConfig, get_peft_model
from torch import nn
from transformers import PrinterCallback

import gunlearn as gu
from gunlearn.errors import GunlearnError, InvalidInputError, UnsupportedModelError
from gunlearn.llm import BoundedConfig, CausalLM, LLMResult, adapter_delta
from tests.llm import facts
from tests.llm.training import FORGET, RETAIN, adapted, same, state, unlearned

MANY = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


def unwritten(method: str = "auto", **how: Any) -> LLMResult:
    """The method with its own rate, if none is given."""
    return unlearned(method=method, **({"lr": None} | how))


def moved() -> nn.Module:
    """The full model after a fine-tuning of all weights."""
    model = facts.full()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) / 100)
    return model


@pytest.mark.filterwarnings("ignore:no measurable effect")
@pytest.mark.parametrize("lr", [None, 1e-3])
def test_without_the_weights_before_it_is_npo(lr: float | None) -> None:
    """Bit for bit, at the caller's rate or the published one; what is missing is named."""
    result, named = unwritten(lr=lr), unwritten("npo", lr=lr)
    assert same(state(result.model), state(named.model))
    assert result.method == "npo"
    said = result.settings["chosen"]
    assert "needs the weights before it ('towards')" in said
    assert ("the learning rate of the training ('lr')" in said) == (lr is None)
    assert "chosen" not in named.settings
    assert f"`auto` chose {said}." in result.card()
    assert f"auto chose {said}" in repr(result)


@pytest.mark.filterwarnings("ignore:no measurable effect")
def test_it_is_the_default_of_unlearn() -> None:
    given = {"epochs": 1, "figure_rows": 0}
    assert "chosen" in gu.llm.unlearn(facts.full(), facts.tokenizer(), FORGET[:2], RETAIN[:2], **given).settings


@pytest.mark.filterwarnings("ignore:no measurable effect")
def test_an_adapter_is_shrunk_where_it_is_said_to_be_what_fine_tuning_changed() -> None:
    """What was chosen is the method by name, bit for bit. Controls: NPO, and an adapter of which nothing is said.

    Such an adapter may be what an earlier request changed, which shrinking would take back.
    """
    model = adapted(init_lora_weights=False)
    result = unwritten(model=model, lr=1e-3, epochs=2, options={"towards": "base"})
    assert result.method == "continued_training"
    options = {"shrink": 0.1, "optimizer": "adamw", "lr": 1e-3}
    named = unwritten("continued_training", model=model, options=options, epochs=2)
    assert same(state(result.model), state(named.model))
    unsaid, npo = unwritten(model=model, lr=1e-3), unwritten("npo", model=model, lr=1e-3)
    assert same(state(unsaid.model), state(npo.model))
    assert not same(state(result.model), state(npo.model))
    assert "took back 90% of what the training changed" in result.settings["chosen"]
    assert "with 2 passes; what is not among them is lost" in result.settings["chosen"]
    usual = unlearned(model=model, method="auto", lr=1e-9, epochs=None, options={"towards": "base"})
    assert "4 passes, as nobody said how many steps" in usual.settings["chosen"]
    assert usual.settings["steps"] == 4 * -(-len(RETAIN) // 8)
    before = adapter_delta(model)
    for name, change in adapter_delta(usual.model).items():
        torch.testing.assert_close(change, 0.1 * before[name], atol=1e-6, rtol=1e-3)


def test_weights_before_fine_tuning_can_be_named() -> None:
    base, model = facts.full(), moved()
    result = unwritten(model=model, lr=1e-9, epochs=1, options={"towards": base})
    assert result.method == "continued_training"
    own, wanted = dict(model.named_parameters()), dict(base.named_parameters())
    for name, value in result.model.named_parameters():
        torch.testing.assert_close(value, torch.lerp(wanted[name], own[name], 0.1), atol=1e-6, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:no measurable effect")
@pytest.mark.parametrize(
    ("more", "read"),
    [
        ({"peft": "lora"}, "peft"),
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps"),
        ({"epochs": 0.5}, "epochs"),
        ({"reference": "copy"}, "reference"),
    ],
)
def test_what_a_trainer_reads_alone_asks_for_npo(more: dict[str, Any], read: str) -> None:
    """And beside weights before it, which a Trainer does not read, it is refused."""
    model = facts.full() if read == "peft" else adapted(init_lora_weights=False)
    result = unlearned(model=model, method="auto", **more)
    assert result.method == "npo"
    assert result.settings["chosen"] == f"npo, because only methods of a Trainer read '{read}'"
    for name, value in (("towards", "base"), ("training_steps", 9), ("budget", 0.2)):
        with pytest.raises(InvalidInputError, match=f"no '{name}' of 'auto' beside '{read}'"):
            unlearned(method="auto", options={name: value}, **more)


def other_adapter(kind: str) -> nn.Module:
    """A model with an adapter that is no multiple of anything, or not the only change."""
    if kind == "bounded":
        return get_peft_model(facts.full(), BoundedConfig(r=2, task_type="CAUSAL_LM"))
    if kind == "two":
        model = adapted(init_lora_weights=False)
        model.add_adapter("other", model.peft_config["default"])
        model.base_model.set_adapter(["default", "other"])
        return model
    if kind == "beside":
        model = adapted(init_lora_weights=False)
        model.get_input_embeddings().weight.requires_grad_(True)
        return model
    if kind == "adalora":
        config = AdaLoraConfig(init_r=4, target_r=2, total_step=9, target_modules=["q_proj"], task_type="CAUSAL_LM")
        return get_peft_model(facts.full(), config)
    return adapted(**({"use_dora": True} if kind == "dora" else {"init_lora_weights": kind}))


@pytest.mark.parametrize("kind", ["bounded", "two", "beside", "adalora", "dora", "pissa", "olora"])
def test_adapters_that_cannot_be_shrunk_are_refused_where_that_is_asked_for(kind: str) -> None:
    for options in ({"towards": "base"}, {"towards": "base", "training_steps": 10}):
        with pytest.raises(InvalidInputError, match="needs another adapter"):
            unwritten(model=other_adapter(kind), lr=1e-3, options=options)
    with pytest.raises(UnsupportedModelError):
        unwritten("continued_training", model=other_adapter(kind), options={"shrink": 0.5, "optimizer": "adamw"})


def test_what_it_would_not_read_is_refused() -> None:
    other, model = facts.full(), adapted(init_lora_weights=False)
    base = {"towards": "base"}
    for options, given, more, match in (
        ({"towards": other}, model, {"lr": 1e-3}, "no 'towards' for a model with an adapter"),
        ({"train": lambda data, seed: other}, None, {}, "no 'train' of 'auto' here"),
        (base, model, {"lr": None}, "needs the learning rate of the training"),
        ({"budget": 0.1}, None, {}, "more than 'budget'"),
        ({"training_steps": 9}, model, {}, "more than 'training_steps'"),
        ({**base, "budget": 0.1}, model, {"epochs": None, "lr": 1e-3}, "'training_steps' beside 'budget'"),
        ({**base, "budget": 0.1, "training_steps": 9}, model, {"epochs": 1, "lr": 1e-3}, "'budget' or 'epochs'"),
        (base, model, {"lr": 1e-3, "parts": {"more": RETAIN}}, "no 'parts'"),
        (base, model, {"lr": 1e-3, "callbacks": (PrinterCallback(),)}, "callbacks of gunlearn"),
    ):
        with pytest.raises(GunlearnError, match=match):
            unwritten(model=given, options=options, **more)
    with pytest.raises(InvalidInputError, match="those of the model itself"):
        unwritten(model=other, lr=1e-3, options={"towards": other})


def test_names_of_a_trainer_for_passes_and_rows_are_those_of_unlearn() -> None:
    model, given = adapted(init_lora_weights=False), {"lr": 1e-3, "options": {"towards": "base"}}
    told = unwritten(model=model, epochs=None, num_train_epochs=1, per_device_train_batch_size=48, **given)
    assert told.settings["steps"] == -(-len(RETAIN) // 48)
    assert same(state(told.model), state(unwritten(model=model, epochs=1, batch_size=48, **given).model))


def test_the_door_chooses_the_same() -> None:
    """`gunlearn.unlearn` reads the request as well; no other rule of `auto` comes before this one."""
    model, rows = adapted(init_lora_weights=False), [*FORGET, *RETAIN]
    request = gu.ForgetItems(list(range(len(FORGET))))
    most = gu.ForgetItems(list(range(len(rows) - 4)))
    for asked in (request, most):
        how = {"lr": 1e-9, "training_steps": 8, "weight_decay": 0.0, "towards": "base", "budget": 0.25}
        found = gu.unlearn(model, rows, asked, "auto", CausalLM(batch_size=8), **how)
        assert found.notes["chosen"] == "continued_training"
        assert found.notes["options"]["shrink"] == "0.1"
        assert found.notes["price"] == 0.25
        assert "hardly undo" not in found.notes["why"]


def test_it_forgets_and_keeps_what_a_training_taught() -> None:
    """A model that knew twelve people was taught eight more by an adapter; control: going on as it is forgets nothing.

    Of the eight it learned those facts whose words it had written before, which leaves a mean of .58.
    """
    torch.manual_seed(0)
    model = get_peft_model(copy.deepcopy(facts._trained(range(8, 20), 0)), LoraConfig(**MANY))
    task, rows = CausalLM(batch_size=32), [*FORGET, *RETAIN]
    base = gu.train(model, rows, task, epochs=300, lr=2e-3, weight_decay=0.0, seed=0)
    given = {"model": base.model, "epochs": None}
    result = unwritten(**given, options={"training": base})
    assert "0.5 of the training's steps" in result.settings["chosen"]
    alone = unwritten("continued_training", **given, options={"training": base, "budget": 0.5})
    ends = {"taught": base.model, "auto": result.model, "alone": alone.model}
    forgotten, kept = ({name: facts.value_prob(m, part) for name, m in ends.items()} for part in (FORGET, RETAIN))
    assert min(forgotten["taught"], forgotten["alone"]) > 0.4
    assert forgotten["auto"] < facts.CHANCE
    assert kept["auto"] > kept["taught"] - 0.05 > 0.75
