"""Going on from weights that were shrunk towards those before fine-tuning: both ends exact, other models refused."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch import Tensor, nn

import gunlearn as gu
from gunlearn.errors import InvalidInputError, InvalidTypeError, UnsupportedModelError
from gunlearn.llm import BoundedConfig, CausalLM, adapter_delta
from gunlearn.methods.any_task.shrunk import pretrained_weights, shrink
from gunlearn.tasks.base import Task
from tests.llm.test_continued_texts import rows
from tests.llm.tiny import tiny

DATA = rows(8, seed=1)


def went_on(model: nn.Module, **options: Any) -> nn.Module:
    """The method without a step, so that the result is the shrunk model."""
    still = {"optimizer": torch.optim.SGD, "epochs": 0}
    return gu.unlearn(model, DATA, gu.ForgetItems([0]), "continued_training", "causal_lm", **still, **options).model


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def fine_tuned(name: str = "llama_tied") -> tuple[nn.Module, nn.Module]:
    """A pretrained model and one whose weights have all moved, gains too."""
    before = tiny(name)
    after = copy.deepcopy(before)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in after.parameters():
            parameter.add_(torch.randn_like(parameter) / 10)
    return before, after


@pytest.mark.parametrize("factor", [0.0, 0.25, 0.75, 1.0])
def test_the_difference_is_shrunk(factor: float) -> None:
    """Both ends bit for bit, where the sum `b + f (a - b)` is not; tied weights move once; nobody's model changes."""
    before, after = fine_tuned()
    untouched = weights(before), weights(after)
    found = weights(went_on(after, shrink=factor, towards=before))
    for name, value in found.items():
        base, own = untouched[0][name], untouched[1][name]
        exact = {0.0: base, 1.0: own}.get(factor)
        if exact is not None:
            assert torch.equal(value, exact), name
        torch.testing.assert_close(value, (base.double() + factor * (own.double() - base.double())).float())
    for model, kept in zip((before, after), untouched, strict=True):
        assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())


def test_a_model_its_state_and_its_files_are_the_same(tmp_path: Path) -> None:
    """A folder that `save_pretrained` wrote has tied weights once; a control: other weights give another model."""
    before, after = fine_tuned()
    before.save_pretrained(tmp_path / "folder")
    save_file({name: v for name, v in weights(before).items() if name != "lm_head.weight"}, tmp_path / "one.st")
    by_other_name = {k: v for k, v in weights(before).items() if k != "model.embed_tokens.weight"}
    forms = (before.state_dict(), by_other_name, tmp_path / "folder", str(tmp_path / "one.st"))
    wanted = weights(went_on(after, shrink=0.5, towards=before))
    for form in forms:
        found = weights(went_on(after, shrink=0.5, towards=form))
        assert all(torch.equal(value, found[name]) for name, value in wanted.items())
    other = weights(went_on(after, shrink=0.5, towards=tiny("llama_tied", seed=1)))
    assert not torch.equal(other["lm_head.weight"], wanted["lm_head.weight"])


def test_frozen_weights_stay() -> None:
    before, after = fine_tuned()
    after.model.embed_tokens.weight.requires_grad_(False)
    kept = after.model.embed_tokens.weight.detach().clone()
    shrink(after, 0.0, pretrained_weights(after, before))
    assert torch.equal(after.model.embed_tokens.weight, kept)
    assert torch.equal(after.model.norm.weight, before.model.norm.weight)


@pytest.mark.parametrize("factor", [0.25, 1.0])
def test_an_adapter_is_scaled(factor: float) -> None:
    """Its product, not both of its factors; the weights that it sits on stay."""
    torch.manual_seed(0)
    model = get_peft_model(
        tiny(), LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    )
    kept, delta = weights(model), adapter_delta(model)
    result = went_on(model, shrink=factor)
    for name, change in adapter_delta(result).items():
        torch.testing.assert_close(change, factor * delta[name], rtol=1e-6, atol=0)
    for name, value in result.state_dict().items():
        assert torch.equal(value, kept[name]) or (factor < 1 and "lora_B" in name), name
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    with pytest.raises(InvalidInputError, match="no 'towards' for a model with an adapter"):
        went_on(model, shrink=0.5, towards=tiny())


def test_a_bounded_adapter_has_no_multiples() -> None:
    model = get_peft_model(tiny(), BoundedConfig(r=2, task_type="CAUSAL_LM"))
    with pytest.raises(UnsupportedModelError, match="LoRA adapter to scale"):
        went_on(model, shrink=0.5)


def test_a_task_that_cannot_scale_adapters_refuses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both factors would shrink, and the change by the square."""
    monkeypatch.setattr(CausalLM, "adapter_scaling", Task.adapter_scaling)
    model = get_peft_model(tiny(), LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    with pytest.raises(UnsupportedModelError, match="without an adapter for 'shrink' below 1"):
        went_on(model, shrink=0.5)


@pytest.mark.parametrize(
    ("towards", "error", "match"),
    [
        (lambda: tiny("llama"), UnsupportedModelError, "tied"),  # a head of its own
        (lambda: tiny("llama_tied", hidden_size=32), UnsupportedModelError, "shape"),
        (lambda: tiny("llama_tied", num_hidden_layers=1), UnsupportedModelError, "got no 'model.layers.1"),
        (lambda: tiny("llama_tied", num_hidden_layers=3), UnsupportedModelError, r"got \d+ others"),
        (lambda: tiny("gpt2"), UnsupportedModelError, "same architecture"),
        (lambda: {"model.norm.weight": 1}, InvalidTypeError, "got dict"),
        (lambda: "no/such.safetensors", InvalidInputError, "no/such.safetensors"),
        (lambda: __file__, InvalidInputError, "Expected safetensors"),
    ],
)
def test_other_weights_are_refused(towards: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        went_on(fine_tuned()[1], shrink=0.5, towards=towards())


def test_weights_that_are_not_finite_are_refused() -> None:
    before, after = fine_tuned()
    before.model.norm.weight.data[0] = torch.nan
    with pytest.raises(InvalidInputError, match=r"model\.norm\.weight"):
        went_on(after, shrink=0.5, towards=before)
