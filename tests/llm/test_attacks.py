"""Relearning and quantisation: what is hidden comes back, what is unknown does not."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from gunlearn.errors import DivergenceError, EmptyForgetSetError, InvalidInputError
from gunlearn.llm.metrics import quantized, relearn, shown_rows
from gunlearn.llm.metrics.attacks import rounded
from tests.llm import facts
from tests.llm.tiny import tiny
from tests.llm.training import adapted, same, state

FORGET = facts.rows(facts.FORGET)
SHOWN = range(6)  # all of one person
HIDDEN = FORGET[6:]


def measure(model):
    assert not model.training
    return {"hidden": facts.value_prob(model, HIDDEN)}


def muffled(model):
    """What the model says is all but drowned out; undoing that takes a few numbers, which are left trainable."""
    model.requires_grad_(False)
    with torch.no_grad():
        model.model.norm.requires_grad_(True).weight.mul_(0.15)
    return model


def test_what_is_hidden_comes_back_and_what_is_unknown_does_not():
    attack = dict(chosen=SHOWN, steps=10, every=5, lr=0.1)
    hidden = relearn(muffled(facts.full()), FORGET, measure, **attack)
    unknown = relearn(muffled(facts.retrained(0)), FORGET, measure, **attack)
    assert [point["step"] for point in hidden] == [0, 5, 10]
    assert hidden[0]["hidden"] < 0.2
    assert hidden[-1]["hidden"] > 0.8
    assert unknown[-1]["hidden"] < 0.2


def test_the_attack_is_on_a_copy_and_repeatable():
    model = facts.retrained(0)
    for p in model.parameters():
        p.grad = torch.full_like(p, 1e6)  # of the caller's own training
    weights, random = state(model), torch.get_rng_state()
    attack = dict(share=0.25, steps=2, every=1, batch_size=3)
    first, second = (relearn(model, FORGET, measure, **attack) for _ in range(2))
    assert first == second
    assert same(weights, state(model))
    assert not model.training
    assert torch.equal(torch.get_rng_state(), random)
    assert relearn(facts.retrained(0), FORGET, measure, **attack) == first
    assert relearn(model, FORGET, measure, **attack, seed=1) != first
    frozen = relearn(facts.retrained(0).requires_grad_(False), FORGET, measure, **attack)
    assert frozen == first  # whoever has the weights can train them
    assert first[0]["hidden"] != first[2]["hidden"]


def test_a_share_is_so_many_rows():
    seen = set()

    class Rows(list):
        def __getitem__(self, i):
            seen.add(i)
            return super().__getitem__(i)

    relearn(facts.retrained(0), Rows(FORGET), measure, share=0.25, steps=1)
    assert len(seen) == 6 == len(FORGET) // 4
    with pytest.raises(EmptyForgetSetError):
        relearn(facts.retrained(0), [], measure)
    for bad in ({"share": 0.0}, {"steps": 0}, {"every": 0}):
        with pytest.raises(InvalidInputError, match="share in"):
            relearn(facts.retrained(0), FORGET, measure, **bad)


def test_the_attack_is_in_single_precision_and_says_what_it_showed():
    seen = []

    def look(model):
        seen.append({p.dtype for p in model.parameters()})
        return measure(model)

    attack = dict(share=0.25, steps=2, lr=1e-4)
    half = facts.retrained(0).bfloat16()
    found = relearn(half, FORGET, look, **attack)
    assert seen == [{torch.float32}] * 2
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert found == relearn(copy.deepcopy(half).float(), FORGET, measure, **attack)
    assert found.chosen == shown_rows(len(FORGET), 0.25)
    assert len(set(found.chosen)) == 6
    assert relearn(half, FORGET, measure, **attack | {"share": 1.0}, chosen=found.chosen) == found
    with pytest.raises(DivergenceError, match="step"):
        relearn(facts.retrained(0), FORGET, measure, steps=3, lr=1e37)
    long = {name: FORGET[0][name] * 20 for name in ("input_ids", "labels")}
    with pytest.raises(InvalidInputError, match="at most 128 tokens"):
        relearn(facts.retrained(0), [long], measure, steps=1)


@pytest.mark.parametrize("bits", [4, 8])
def test_rounding_is_to_the_nearest_level_of_each_channel(bits):
    weight = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))
    weight[2] = 0
    top = 2 ** (bits - 1) - 1
    found = rounded(weight, bits, dim=1)
    for row, out in zip(weight.numpy(), found.numpy(), strict=True):
        levels = np.arange(-top, top + 1) * (np.abs(row).max() / top)
        nearest = levels[np.abs(row[:, None] - levels).argmin(1)]
        assert out == pytest.approx(nearest, abs=1e-6)
    assert rounded(weight.T.contiguous(), bits, dim=0).T.numpy() == pytest.approx(found.numpy())
    assert torch.equal(rounded(weight.bfloat16(), bits, dim=1).isnan().any(), torch.tensor(False))


def test_linear_layers_are_rounded_and_embeddings_and_head_are_not():
    model = facts.full()
    found = quantized(model, 4)
    names = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    old, new = model.state_dict(), found.state_dict()
    changed = {name.removesuffix(".weight") for name in old if not torch.equal(old[name], new[name])}
    assert changed == names - {"lm_head"}
    one = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(new[one], rounded(old[one], 4, 1))
    with_head = quantized(model, 4, head=True).state_dict()
    assert not torch.equal(with_head["lm_head.weight"], old["lm_head.weight"])
    finer = quantized(model, 8).state_dict()
    assert 0 < (finer[one] - old[one]).norm() < (new[one] - old[one]).norm() / 10
    with pytest.raises(InvalidInputError, match="bits"):
        quantized(model, 5)


def test_layers_of_gpt2_hold_their_inputs_first():
    model = tiny("gpt2")
    weight = model.transformer.h[0].mlp.c_fc.weight
    found = quantized(model, 4).transformer.h[0].mlp.c_fc.weight
    assert torch.equal(found, rounded(weight, 4, 0))
    assert not torch.equal(found, rounded(weight, 4, 1))
    assert torch.equal(quantized(model, 4).transformer.wte.weight, model.transformer.wte.weight)


def test_adapters_are_merged_first():
    model = adapted(target_modules=["up_proj"], init_lora_weights=False)
    merged = copy.deepcopy(model).merge_and_unload().model.layers[0].mlp.up_proj.weight
    found = quantized(model, 4)
    assert torch.equal(found.model.layers[0].mlp.up_proj.weight, rounded(merged, 4, 1))
    assert hasattr(model, "disable_adapter")
    assert any("lora_B" in name for name, _ in model.named_parameters())  # the caller's keeps its adapter
