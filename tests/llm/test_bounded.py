"""Bounded adapters: bound, exactness, peft's whole life cycle, and retention under ascent."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel, get_peft_model, inject_adapter_in_model
from torch import nn

from gunlearn.errors import DivergenceError, InvalidInputError, UnsupportedModelError
from gunlearn.llm import BoundedConfig, adapter_norms, negate_adapter
from gunlearn.llm.model.bounded_layer import BoundedLinear, bounded_delta
from gunlearn.losses import NLL, GradientAscent
from tests.llm import facts
from tests.llm.tiny import tiny
from tests.llm.training import FORGET, RETAIN, EachStep, adapted, logits, make

BOUND = 0.0625
TOKENS = torch.arange(4, 40).reshape(4, 9)


def bounded(model=None, noise=0.0, **config):
    model = get_peft_model(facts.full() if model is None else model, BoundedConfig(**config)).eval()
    stir(model, noise)
    return model


def stir(model, noise, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, BoundedLinear):
            for b in layer.bounded_B.values():
                b.data += noise * torch.randn(b.shape, generator=generator)


def ascended(phi, forget=1.0, steps=48):
    """Gradient difference on the facts, `forget` times the ascent, and norms of the change at each fourth step."""
    model, largest, frobenius = bounded(r=4, omega=10.0, bound=BOUND, phi=phi), [], []

    def measure(step, model):
        if step % 4 == 0:
            norms = adapter_norms(model).values()
            largest.append(max(n["max"] for n in norms))
            frobenius.append(math.hypot(*(n["frobenius"] for n in norms)))

    objective, options = forget * GradientAscent() + NLL(on="retain"), {"learning_rate": 5e-2, "max_grad_norm": 0.0}
    make(model=model, objective=objective, given={"callbacks": [EachStep(measure)]}, max_steps=steps, **options).train()
    return SimpleNamespace(
        largest=max(largest),
        growth=frobenius[-1] / frobenius[steps * 3 // 16 - 1] - 1,
        forget=facts.accuracy(model, FORGET),
        retain=facts.accuracy(model, RETAIN),
    )


@pytest.mark.parametrize("phi", ["sin", "tanh", "identity"])
def test_the_slope_at_the_start_is_the_products_and_only_a_has_none(phi):
    """At zero every function has slope 1, so the first step is LoRA's of the same `s * omega`; `A` waits for `B`."""
    grads = {}
    for omega in (10.0, 32.0):
        torch.manual_seed(0)
        model = bounded(r=4, omega=omega, bound=BOUND, phi=phi)
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
        named = [(name, p.grad) for name, p in model.named_parameters() if p.requires_grad]
        assert all(float(grad.abs().max()) == 0 for name, grad in named if "bounded_A" in name)
        grads[omega] = torch.cat([grad.flatten() for name, grad in named if "bounded_B" in name])
    assert float(grads[10.0].norm()) > 1e-3
    torch.testing.assert_close(grads[32.0], 3.2 * grads[10.0], rtol=1e-4, atol=1e-7)  # in proportion to s * omega


@pytest.mark.parametrize("phi", ["sin", "tanh"])
def test_no_entry_exceeds_the_bound_however_large_the_factors(phi):
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(3, 40, generator=generator) * 1e3, torch.randn(30, 3, generator=generator) * 1e3
    assert bounded_delta(a, b, 0.25, 10.0, phi).abs().max() <= 0.25
    assert bounded_delta(a, b, 0.25, 10.0, "identity").abs().max() > 1e3


def test_ascent_keeps_to_the_bound_stops_growing_and_costs_less_and_lora_of_the_same_slope_does_not():
    sine, plain = ascended("sin"), ascended("identity")
    assert sine.forget < 0.2
    assert plain.forget < 0.2
    assert sine.largest <= BOUND < 5 * BOUND < plain.largest
    assert sine.growth < 0.06 < 0.12 < plain.growth
    assert sine.retain > plain.retain + 0.1
    assert ascended("identity", forget=0.0, steps=16).retain > 0.95  # it is the ascent that does the damage


@pytest.mark.parametrize("phi", ["sin", "tanh", "identity"])
def test_gradients_agree_with_finite_differences(phi):
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(2, 4, dtype=torch.double, generator=generator, requires_grad=True)
    b = torch.randn(3, 2, dtype=torch.double, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: bounded_delta(a, b, 0.3, 1.7, phi), (a, b))


def test_the_layer_agrees_with_dense_algebra_and_its_gradients():
    torch.manual_seed(0)
    base = nn.Linear(5, 7).double()
    layer = BoundedLinear(copy.deepcopy(base), "default", BoundedConfig(r=2, omega=3.0))
    layer.bounded_B["default"].data.normal_()
    a, b = (p.detach().clone().requires_grad_() for p in (layer.bounded_A["default"], layer.bounded_B["default"]))
    x, target = torch.randn(4, 5, dtype=torch.double), torch.randn(4, 7, dtype=torch.double)
    dense = x @ (base.weight + torch.sin(3.0 * b @ a) / 5**0.5).T + base.bias
    (layer(x) * target).sum().backward()
    (dense * target).sum().backward()
    torch.testing.assert_close(layer(x), dense)
    torch.testing.assert_close(layer.bounded_A["default"].grad, a.grad)
    torch.testing.assert_close(layer.bounded_B["default"].grad, b.grad)


def test_no_full_matrix_is_kept_for_the_backward_pass():
    layer = BoundedLinear(nn.Linear(64, 96), "default", BoundedConfig(r=2))
    layer.base_layer.requires_grad_(False)
    layer.bounded_B["default"].data.normal_()
    kept = []

    def pack(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        layer(torch.randn(3, 64)).sum()
        inside = [t for t in kept if t.shape in ((96, 64), (64, 96)) and t is not layer.base_layer.weight]
        bounded_delta(layer.bounded_A["default"], layer.bounded_B["default"], 1.0, 1.0).sum()
    assert not inside
    assert any(t.shape == (96, 64) for t in kept)  # what a plain computation keeps


def test_negation_is_exact_and_leaves_the_model_alone():
    model = bounded(r=4, noise=0.1)
    opposite = negate_adapter(model)
    for (name, layer), other in zip(model.named_modules(), opposite.modules(), strict=True):
        if isinstance(layer, BoundedLinear):
            assert torch.equal(layer.get_delta_weight("default"), -other.get_delta_weight("default")), name
    assert torch.equal(logits(negate_adapter(opposite), TOKENS), logits(model, TOKENS))
    assert not torch.equal(logits(opposite, TOKENS), logits(model, TOKENS))


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "phi", "qwen2"])
def test_merged_saved_and_disabled_adapters_agree(name, tmp_path):
    base = tiny(name)
    before, model = logits(base, TOKENS), bounded(tiny(name), r=3, noise=0.3)
    adapted = {n for n, m in model.named_modules() if isinstance(m, BoundedLinear)}
    assert adapted
    assert all("attn" not in n and "attention" not in n for n in adapted)
    after = logits(model, TOKENS)
    assert (after - before).abs().max() > 1e-3
    with model.disable_adapter():
        assert torch.equal(logits(model, TOKENS), before)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(base, tmp_path).eval()
    assert torch.equal(logits(loaded, TOKENS), after)
    loaded.merge_adapter()
    torch.testing.assert_close(logits(loaded, TOKENS), after, rtol=0, atol=1e-5)
    loaded.unmerge_adapter()
    torch.testing.assert_close(logits(loaded, TOKENS), after, rtol=0, atol=1e-5)
    merged = model.merge_and_unload(safe_merge=True)
    assert not any(isinstance(m, BoundedLinear) for m in merged.modules())
    torch.testing.assert_close(logits(merged, TOKENS), after, rtol=0, atol=1e-5)


def test_two_adapters_are_chosen_between_and_summed():
    model = bounded(r=2, noise=0.1)
    first = logits(model, TOKENS)
    model.add_adapter("second", BoundedConfig(r=3, phi="tanh"))
    assert torch.equal(logits(model, TOKENS), first)
    model.set_adapter("second")
    stir(model, 0.1, seed=1)
    second = logits(model, TOKENS)
    model.base_model.set_adapter(["default", "second"])
    both = logits(model, TOKENS)
    assert not torch.equal(both, first)
    assert not torch.equal(both, second)
    torch.testing.assert_close(logits(model.merge_and_unload(), TOKENS), both, rtol=0, atol=1e-4)


def test_a_merge_that_is_not_finite_is_refused():
    model = bounded(r=2)
    next(m for m in model.modules() if isinstance(m, BoundedLinear)).bounded_B["default"].data.fill_(math.nan)
    with pytest.raises(DivergenceError, match="finite weights"):
        model.merge_adapter(safe_merge=True)


def test_adapters_are_float32_beside_a_bfloat16_base():
    model = bounded(facts.full().bfloat16(), r=2, noise=0.1)
    layers = [m for m in model.modules() if isinstance(m, BoundedLinear)]
    factors = [p for layer in layers for p in (*layer.bounded_A.values(), *layer.bounded_B.values())]
    assert {p.dtype for p in factors} == {torch.float32}
    out = model(input_ids=TOKENS).logits
    assert out.dtype == torch.bfloat16
    out.float().square().mean().backward()
    assert all(torch.isfinite(layer.bounded_B["default"].grad).all() for layer in layers)
    assert model.merge_and_unload().model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16


class FeedForward(nn.Module):
    """The names that diffusers gives to a gated feed-forward block."""

    def __init__(self):
        super().__init__()
        gate = nn.Module()
        gate.proj = nn.Linear(8, 32)
        self.ff = nn.Module()
        self.ff.net = nn.ModuleList([gate, nn.Dropout(0.0), nn.Linear(16, 8)])

    def forward(self, x):
        value, gate = self.ff.net[0].proj(x).chunk(2, -1)
        return self.ff.net[2](value * nn.functional.gelu(gate))


def test_works_on_any_module():
    torch.manual_seed(0)
    base, x, targets = FeedForward().eval(), torch.randn(2, 5, 8), ["ff.net.0.proj", "ff.net.2"]
    config = BoundedConfig(r=2, bound=0.1, target_modules=targets)
    before, model = base(x), inject_adapter_in_model(config, copy.deepcopy(base)).eval()
    assert torch.equal(model(x), before)
    assert set(adapter_norms(model)) == set(targets)
    model = get_peft_model(copy.deepcopy(base), config).eval()
    stir(model, 5.0)
    after = model(x)
    assert (after - before).abs().max() > 1e-2
    assert all(0.05 < norm["max"] <= 0.1 for norm in adapter_norms(model).values())
    torch.testing.assert_close(model.merge_and_unload()(x), after, rtol=0, atol=1e-5)


def test_norms_agree_with_dense_algebra():
    model = bounded(r=4, omega=20.0, noise=0.3)
    norms = adapter_norms(model)
    layer = model.get_submodule("base_model.model.model.layers.1.mlp.down_proj")
    angle = 20.0 * (layer.bounded_B["default"] @ layer.bounded_A["default"]).detach()
    delta, found = torch.sin(angle) / 128**0.5, norms["model.layers.1.mlp.down_proj"]
    assert len(norms) == 6
    assert found["bound"] == pytest.approx(1 / 128**0.5)
    assert found["max"] == pytest.approx(float(delta.abs().max()))
    assert found["frobenius"] == pytest.approx(float(delta.norm()), rel=1e-5)
    assert found["beyond"] == pytest.approx(float((angle.abs() > math.pi / 2).double().mean()))
    assert 0 < found["beyond"] < 1
    assert adapter_norms(bounded(r=4, phi="identity"))["model.layers.0.mlp.up_proj"]["bound"] == math.inf
    with pytest.raises(InvalidInputError, match="bounded adapter"):
        adapter_norms(adapted())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_trains_with_the_adapter_off_as_reference(checkpointing):
    model, options = bounded(r=2, bound=0.05), {"max_steps": 3, "learning_rate": 1e-2}
    trainer = make(model=model, given={"reference": "adapter"}, gradient_checkpointing=checkpointing, **options)
    assert trainer.reference.frozen is None
    trainer.train()
    with model.disable_adapter():
        assert torch.equal(logits(model, TOKENS), logits(facts.full(), TOKENS))
    assert all(0 < n["max"] <= 0.05 for n in adapter_norms(model).values())


@pytest.mark.parametrize(
    "wrong", [{"r": 0}, {"omega": 0.0}, {"bound": -1.0}, {"alpha": math.inf}, {"phi": "cos"}, {"dropout": 1.0}]
)
def test_bad_settings_are_named(wrong):
    with pytest.raises(InvalidInputError, match=next(iter(wrong))):
        BoundedConfig(**wrong)


def test_unknown_architectures_and_layers_are_named():
    with pytest.raises(InvalidInputError, match="target_modules"):
        get_peft_model(FeedForward(), BoundedConfig())
    with pytest.raises(UnsupportedModelError, match="Embedding"):
        get_peft_model(facts.full(), BoundedConfig(target_modules=["embed_tokens"]))
