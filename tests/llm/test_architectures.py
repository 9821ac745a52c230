"""Architectures of transformers from tiny configs, padded on either side: the numbers of their own loss."""

import functools

import pytest
import torch
from torch import Tensor, nn

from gunlearn.llm import CausalLM, PartCollator
from gunlearn.llm.model.head import last_linear_head
from gunlearn.losses import NLL, Prediction
from tests.llm.tiny import ARCHITECTURES, tiny

#: They cap or scale the logits behind the head.
OPEN = ("gemma2", "cohere", "granite")
ROWS = [
    {"input_ids": [1, 5, 9, 7, 30, 2], "labels": [-100, -100, -100, 7, 30, 2]},
    {"input_ids": [1, 8, 40, 2], "labels": [-100, -100, 40, 2]},
    {"input_ids": [1, 8, 11, 12, 13, 14, 15, 2], "labels": [-100, 8, 11, 12, 13, 14, 15, 2]},
]


@functools.cache
def built(name: str) -> nn.Module:
    model = tiny(name)
    with torch.no_grad():  # away from the tiny weights of a new model, under which everything looks alike
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def read(model: nn.Module, batch: dict[str, Tensor], reads: tuple[str, ...] = ("log_prob",)) -> Prediction:
    return CausalLM(reads).decode(model, None, batch)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("reads", [("log_prob",), ("log_prob", "logits", "label")], ids=["head", "logits"])
def test_numbers_are_those_of_the_model_itself(name: str, reads: tuple[str, ...]) -> None:
    model = built(name)
    right, left = (PartCollator(padding_side=side)(ROWS) for side in ("right", "left"))
    assert (last_linear_head(model, right["input_ids"]) is None) == (name in OPEN)
    theirs, mine = model(**right).loss, read(model, right, reads)
    torch.testing.assert_close(NLL()(mine), theirs, rtol=1e-5, atol=1e-6)
    assert (mine.logits is None) == ("logits" not in reads)
    for others in ([read(model, left, reads)], [read(model, PartCollator()([row]), reads) for row in ROWS]):
        found = torch.cat([p.log_prob[p.mask] for p in others])
        torch.testing.assert_close(found, mine.log_prob[mine.mask], rtol=0, atol=1e-5)
    gradients = [torch.autograd.grad(loss, list(model.parameters())) for loss in (NLL()(mine), theirs)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_positions_count_from_the_first_token() -> None:
    """Without them a model of absolute positions reads padding on the left as text that came before."""
    model, left = built("gpt2"), PartCollator(padding_side="left")(ROWS)
    labels = left.pop("labels")
    naive = model(**left).logits[:, :-1].log_softmax(-1)
    mask, right = labels[:, 1:] != -100, read(model, PartCollator()(ROWS))
    wrong = naive.gather(-1, labels[:, 1:].clamp_min(0)[..., None])[..., 0][mask]
    assert (wrong - right.log_prob[right.mask]).abs().max() > 0.01
