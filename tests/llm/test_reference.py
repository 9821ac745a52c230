"""The model before unlearning stays what it was, and costs a copy only where it must."""

import copy

import pytest
import torch
from torch import nn

from gunlearn.errors import InvalidInputError
from gunlearn.llm import CausalLM, PartCollator
from gunlearn.llm.model.frozen import FrozenReference
from tests.llm import facts
from tests.llm.tiny import tiny
from tests.llm.training import adapted

BATCH = PartCollator()(facts.rows(range(2)))


def biased() -> nn.Module:
    model = facts.full()
    for layer in model.model.layers:
        layer.mlp.down_proj.bias = nn.Parameter(torch.zeros(64))
    return model


def disturb(model: nn.Module) -> None:
    """What a training step does: all that is trained is another."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))


def says(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return CausalLM(("log_prob",)).decode(model.eval(), None, BATCH).log_prob


# What each model trains, and whether without its adapter it is what it was.
MODELS = {
    "plain": (facts.full, False),
    "adapter": (adapted, True),
    "adapter on the head": (lambda: adapted(target_modules=["q_proj", "lm_head"]), True),
    "whole head beside": (lambda: adapted(modules_to_save=["lm_head"]), True),
    "biases beside": (lambda: adapted(biased(), bias="all"), False),
    "norms beside": (lambda: unfrozen(adapted()), False),
    "in use": (lambda: used(adapted()), False),
}


def unfrozen(model: nn.Module) -> nn.Module:
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.requires_grad_()
    return model


def used(model: nn.Module) -> nn.Module:
    disturb(model)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_it_stays_what_it_was(name: str) -> None:
    build, silent = MODELS[name]
    model = build().train()
    before = says(copy.deepcopy(model))
    reference = FrozenReference(model, "auto", BATCH)
    assert (reference.frozen is None) == silent
    disturb(model)
    with reference.of(model) as frozen:
        p = CausalLM(("log_prob",)).decode(frozen, None, BATCH)
    assert torch.equal(p.log_prob, before)
    assert not p.log_prob.requires_grad
    assert (says(model) - before).abs().max() > 0.01  # control: the model itself has gone on
    if not silent:
        with pytest.raises(InvalidInputError, match="reference='adapter'"):
            FrozenReference(model, "adapter", BATCH)


def test_modes_and_what_is_trained_are_put_back() -> None:
    model = adapted().train()
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            parameter.requires_grad_(False)
    model.base_model.model.lm_head.eval()
    reference = FrozenReference(model, "adapter", BATCH)
    before = [p.requires_grad for p in model.parameters()], [m.training for m in model.modules()]
    with pytest.raises(ZeroDivisionError), reference.of(model):
        1 / 0  # noqa: B018
    assert ([p.requires_grad for p in model.parameters()], [m.training for m in model.modules()]) == before
    assert sum(before[0]) > 0
    # Control: peft alone lets all of the adapter be trained again.
    with model.disable_adapter():
        pass
    assert [p.requires_grad for p in model.parameters()] != before[0]


def test_a_copy_by_choice() -> None:
    model = adapted()
    reference = FrozenReference(model, "copy")
    assert reference.frozen is not model
    assert not any(p.requires_grad for p in reference.frozen.parameters())
    assert any(p.requires_grad for p in model.parameters())


def test_a_model_of_the_callers() -> None:
    other = facts.retrained(0).train()
    with FrozenReference(facts.full(), other).of(facts.full()) as frozen:
        assert frozen is other
        assert not other.training
    assert other.training
    assert all(p.requires_grad for p in other.parameters())


def test_a_reference_that_would_be_trained_along_is_refused() -> None:
    plain, base = facts.full(), facts.full()
    wrapped = adapted(base)  # in place: the base model holds the adapter
    for model, other in ((plain, plain), (wrapped, base), (wrapped, wrapped)):
        with pytest.raises(InvalidInputError, match=r"'auto' or 'adapter'"):
            FrozenReference(model, other)
    # Frozen weights may be shared.
    model, sharing = facts.full(), facts.full()
    model.model.embed_tokens.weight.requires_grad_(False)
    sharing.model.embed_tokens.weight = model.model.embed_tokens.weight
    assert FrozenReference(model, sharing).frozen is sharing


def test_what_cannot_be_meant() -> None:
    with pytest.raises(InvalidInputError, match=f"vocabulary of {len(facts.VOCABULARY)} tokens \\(got 7\\)"):
        FrozenReference(facts.full(), tiny(vocab_size=7))
    with pytest.raises(InvalidInputError, match="'reference'"):
        FrozenReference(facts.full(), "adaptor")
    with pytest.raises(InvalidInputError, match="without 'disable_adapter'"):
        FrozenReference(facts.full(), "adapter", BATCH)
    with pytest.raises(InvalidInputError, match="no batch"):
        FrozenReference(adapted(), "adapter")
