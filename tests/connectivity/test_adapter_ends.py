"""LoRA adapters at the ends of a path: the path runs on the product of the factors."""

import copy

import pytest
import torch
from torch import nn

from gunlearn.connectivity import LinearPath
from gunlearn.errors import UnsupportedModelError
from tests.connectivity.cases import perceptron

peft = pytest.importorskip("peft")


def adapted(seed: int) -> nn.Module:
    """The same network with an adapter of its own on the first layer."""
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["0"], init_lora_weights=False)
    torch.manual_seed(seed)
    return peft.get_peft_model(perceptron(0), config)


def product(model: nn.Module) -> torch.Tensor:
    """`W + s B A` of the first layer."""
    layer = model.base_model.model[0]
    return layer.base_layer.weight + layer.scaling["default"] * (
        layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    )


def test_the_middle_is_the_mean_of_the_products() -> None:
    first, second = adapted(1), adapted(2)
    before = copy.deepcopy(first.state_dict())
    path = LinearPath(first, second)
    assert path.moving == ("0.weight",)  # what the adapters change
    found = path.weights(0.5)["0.weight"]
    assert torch.allclose(found, (product(first) + product(second)) / 2, atol=1e-6)
    x = torch.randn(5, 4)
    assert torch.allclose(path.model_at(0.0)(x), first.eval()(x), atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in first.state_dict().items())
    # Control: the mean of the factors has another product.
    halves = [(first.state_dict()[n] + second.state_dict()[n]) / 2 for n in before if ".lora_" in n]
    layer = first.base_model.model[0]
    wrong = layer.base_layer.weight + layer.scaling["default"] * (halves[1] @ halves[0])
    assert not torch.allclose(found, wrong, atol=1e-2)


def test_factors_that_cannot_be_merged_are_refused() -> None:
    config = peft.LoraConfig(r=2, target_modules=["0"], init_lora_weights=False)
    models = [peft.inject_adapter_in_model(config, perceptron(seed)) for seed in (0, 1)]
    with pytest.raises(UnsupportedModelError, match=r"factors.*'0\.lora_A.*merge it first"):
        LinearPath(*models)
