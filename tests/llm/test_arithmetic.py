"""Adapter arithmetic: products, exact restoration, and what is refused."""

import copy

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from torch import nn

from gunlearn.errors import InvalidInputError, UnsupportedModelError
from gunlearn.llm import BoundedConfig, adapter_delta, add_delta, negate_adapter, unlearn
from tests.llm import facts
from tests.llm.tiny import tiny
from tests.llm.training import logits, same, state

MLP = ["gate_proj", "up_proj", "down_proj"]
LORA = {"target_modules": MLP, "init_lora_weights": False, "r": 3, "lora_alpha": 6}
IDS = torch.arange(4, 40).reshape(4, 9)


def adapted(base=None, config=None):
    torch.manual_seed(0)
    model = get_peft_model(facts.full() if base is None else base, config or LoraConfig(**LORA)).eval()
    if isinstance(config, BoundedConfig):
        for name, p in model.named_parameters():
            if "bounded_B" in name:
                p.data.normal_()
    return model


@pytest.mark.parametrize(
    ("base", "config"),
    [
        (facts.full, LoraConfig(**LORA)),
        (facts.full, LoraConfig(**LORA, use_rslora=True)),
        (facts.full, BoundedConfig(r=3)),
        (lambda: tiny("gpt2"), LoraConfig(**LORA | {"target_modules": ["c_fc", "mlp.c_proj"]})),
        (lambda: tiny("gpt2"), BoundedConfig(r=3)),
    ],
)
def test_adding_the_product_is_merging_the_adapter(base, config):
    model = adapted(base(), config)
    expected, plain = logits(model, IDS), base()
    delta = adapter_delta(model)
    torch.testing.assert_close(logits(add_delta(plain, delta), IDS), expected, rtol=0, atol=1e-4)
    assert (logits(plain, IDS) - expected).abs().max() > 1e-2


def test_the_product_is_what_peft_says_it_is():
    model = adapted()
    layer = model.get_submodule("base_model.model.model.layers.0.mlp.up_proj")
    product = 2.0 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    torch.testing.assert_close(adapter_delta(model)["model.layers.0.mlp.up_proj"], product.detach())
    assert len(adapter_delta(model)) == 6


def test_subtracting_and_adding_restores_the_weights():
    model = facts.full()
    before, delta = state(model), adapter_delta(adapted())
    away = add_delta(model, delta, -1.0)
    assert same(state(model), before)  # the caller's model is left alone
    torch.testing.assert_close(state(add_delta(away, delta)), before, rtol=0, atol=1e-6)
    assert any((weight - before[name]).abs().max() > 1e-3 for name, weight in state(away).items())


def test_products_are_subtracted_and_not_their_factors():
    model = adapted()
    base_delta = adapter_delta(model)
    flipped = copy.deepcopy(model)
    for layer in flipped.modules():
        if hasattr(layer, "lora_A") and "default" in layer.lora_A:
            layer.lora_A["default"].weight.data.neg_()
            layer.lora_B["default"].weight.data.neg_()
    opposite = adapter_delta(negate_adapter(model))
    for name, delta in base_delta.items():
        assert torch.equal(opposite[name], -delta)
        assert torch.equal(adapter_delta(flipped)[name], delta)  # negating both negates nothing


def test_deltas_apply_beneath_an_adapter_and_in_place():
    model = adapted()
    delta, before = adapter_delta(model), logits(model, IDS)
    assert add_delta(model, delta, -1.0, inplace=True) is model
    torch.testing.assert_close(logits(model, IDS), logits(facts.full(), IDS), rtol=0, atol=1e-4)
    negate_adapter(add_delta(model, delta, 2.0, inplace=True), inplace=True)
    torch.testing.assert_close(logits(model, IDS), logits(facts.full(), IDS), rtol=0, atol=1e-4)
    assert not torch.allclose(before, logits(model, IDS))


def test_half_precision_is_rounded_once():
    delta = adapter_delta(adapted())
    model = facts.full().bfloat16()
    name = "model.layers.0.mlp.up_proj"
    expected = (model.get_submodule(name).weight.float() + 0.3 * delta[name]).bfloat16()
    assert torch.equal(add_delta(model, delta, 0.3).get_submodule(name).weight, expected)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (LoraConfig(**LORA, modules_to_save=["lm_head"]), "modules_to_save"),
        (LoraConfig(**LORA, bias="lora_only"), "bias"),
        (LoraConfig(**LORA, lora_bias=True), "lora_bias"),
        (LoraConfig(**LORA, use_dora=True), "plain LoRA"),
        (IA3Config(target_modules=MLP, feedforward_modules=["down_proj"]), "plain LoRA"),
        (BoundedConfig(modules_to_save=["lm_head"]), "modules_to_save"),
    ],
)
def test_adapters_that_are_more_than_products_are_refused(config, why):
    model = adapted(config=config)
    with pytest.raises(UnsupportedModelError, match=why):
        adapter_delta(model)
    with pytest.raises(UnsupportedModelError, match=why):
        negate_adapter(model)


def test_missing_and_merged_adapters_are_refused():
    model = adapted()
    with pytest.raises(InvalidInputError, match="'other'"):
        adapter_delta(model, "other")
    with pytest.raises(InvalidInputError, match="adapter 'default'"):
        adapter_delta(facts.full())
    model.merge_adapter()
    with pytest.raises(InvalidInputError, match="unmerge"):
        adapter_delta(model)


def test_weights_that_do_not_fit_are_refused_before_any_changes():
    model, delta = facts.full(), adapter_delta(adapted())
    before = state(model)
    last = list(delta)[-1]
    with pytest.raises(InvalidInputError, match="shape"):
        add_delta(model, delta | {last: delta[last][:3]}, inplace=True)
    with pytest.raises(InvalidInputError, match="weight at 'nowhere'"):
        add_delta(model, delta | {"nowhere": delta[last]}, inplace=True)
    assert same(state(model), before)
    tied = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    tied["b"].weight = tied["a"].weight
    with pytest.raises(InvalidInputError, match="tied"):
        add_delta(tied, {"a": torch.zeros(3, 3)})
    tied["b"].weight = nn.Parameter(torch.zeros(3, 3, dtype=torch.int8), requires_grad=False)
    with pytest.raises(UnsupportedModelError, match="int8"):
        add_delta(tied, {"b": torch.zeros(3, 3)})


@pytest.mark.filterwarnings("ignore")
def test_a_task_vector_of_an_adapter_is_its_product_turned_round():
    """Twice the scale is twice the change of each weight; of differences of the factors it would be neither."""
    forget, retain = ([{"input_ids": ids, "labels": [-100, *ids[1:]]}] for ids in ([3, 4, 5, 6], [7, 8, 9, 6]))
    changes = []
    for scale in (0.5, 1.0):
        model = get_peft_model(tiny("llama"), LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"))
        how = {"options": {"scale": scale}, "epochs": 3, "lr": 1e-2}
        result = unlearn(model, None, forget, retain, "task_vector", **how)
        changes.append(adapter_delta(result.model))
    for name, change in changes[1].items():
        torch.testing.assert_close(change, 2 * changes[0][name])
    assert max(float(change.abs().max()) for change in changes[1].values()) > 1e-4  # control
    with pytest.raises(InvalidInputError, match="a new adapter for 'task_vector'"):
        unlearn(result.model, None, forget, retain, "task_vector", epochs=1, lr=1e-2)
