"""What relearning keeps in memory: activations are computed again, and freed blocks go back to the system."""

import copy
import gc

import pytest

from gunlearn.llm.metrics import attacks, freed_memory
from tests.llm.metrics.small_models import SETS, models


def relearned(again=True):
    """The curve of relearning, how often the first layer's attention ran in its two steps, and the weights."""
    model, calls = copy.deepcopy(models()["unlearned"]), []
    if not again:
        model.supports_gradient_checkpointing = False
    model.model.layers[0].self_attn.register_forward_pre_hook(lambda layer, *_: calls.append(layer.training))
    curve = attacks.relearn(model, SETS["forget"], lambda measured: {"p": 0.0}, steps=2, in_place=True)
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    assert not any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    return curve, sum(calls), weights


def test_activations_are_computed_again_and_change_nothing():
    """Without it the first attention runs once a step; the weights after two steps are the same."""
    curve, calls, weights = relearned()
    plain_curve, plain_calls, plain = relearned(again=False)
    assert (calls, plain_calls) == (4, 2)
    assert [step["step"] for step in curve] == [step["step"] for step in plain_curve] == [0, 2]
    for one, other in zip(weights, plain, strict=True):
        assert one.sub(other).abs().max() < 1e-6


def test_a_model_that_already_computes_again_stays_so():
    model = copy.deepcopy(models()["unlearned"])
    model.gradient_checkpointing_enable({"use_reentrant": False})
    attacks.relearn(model, SETS["forget"], lambda measured: {"p": 0.0}, steps=1, in_place=True)
    assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


@pytest.mark.parametrize("there", [True, False])
def test_freed_blocks_go_back_where_the_allocator_can(monkeypatch, there):
    called = []
    monkeypatch.setattr(gc, "collect", lambda: called.append("collect"))
    if there:
        monkeypatch.setattr(freed_memory.psutil, "heap_trim", lambda: called.append("trim"), raising=False)
    else:
        monkeypatch.delattr(freed_memory.psutil, "heap_trim", raising=False)
    freed_memory.give_back_freed()
    assert called == ["collect", *(["trim"] if there else [])]
