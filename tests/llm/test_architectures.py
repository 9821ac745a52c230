"""Architectures of transformers from tiny configs, padded on either side: the numbers of their own loss."""

from __future__ import annotations

import functools

import pytest
import torch
import transformers as tf
from torch import nn

from gunlearn.llm import CausalLM, PartCollator
from gunlearn.llm.model.head import last_linear_head
from gunlearn.losses import NLL

SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = SIZES | {"num_key_value_heads": 1}
# With the logits as the head leaves them, or capped and scaled behind it.
ARCHITECTURES = {
    "gpt2": (tf.GPT2LMHeadModel, tf.GPT2Config, {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}, True),
    "llama": (tf.LlamaForCausalLM, tf.LlamaConfig, GROUPED, True),
    "llama_tied": (tf.LlamaForCausalLM, tf.LlamaConfig, GROUPED | {"tie_word_embeddings": True}, True),
    "qwen2": (tf.Qwen2ForCausalLM, tf.Qwen2Config, GROUPED, True),
    "qwen3": (tf.Qwen3ForCausalLM, tf.Qwen3Config, GROUPED | {"head_dim": 8}, True),
    "phi": (tf.PhiForCausalLM, tf.PhiConfig, SIZES, True),
    "gpt_neox": (tf.GPTNeoXForCausalLM, tf.GPTNeoXConfig, SIZES, True),
    "gemma2": (tf.Gemma2ForCausalLM, tf.Gemma2Config, GROUPED | {"head_dim": 8, "final_logit_softcapping": 2.0}, False),
    "cohere": (tf.CohereForCausalLM, tf.CohereConfig, SIZES | {"logit_scale": 0.3}, False),
    "granite": (tf.GraniteForCausalLM, tf.GraniteConfig, GROUPED | {"logits_scaling": 3.0}, False),
}
ROWS = [
    {"input_ids": [1, 5, 9, 7, 30, 2], "labels": [-100, -100, -100, 7, 30, 2]},
    {"input_ids": [1, 8, 40, 2], "labels": [-100, -100, 40, 2]},
    {"input_ids": [1, 8, 11, 12, 13, 14, 15, 2], "labels": [-100, 8, 11, 12, 13, 14, 15, 2]},
]


@functools.cache
def built(name: str) -> nn.Module:
    model, config, sizes, _ = ARCHITECTURES[name]
    torch.manual_seed(0)
    model = model(config(**{"vocab_size": 50, "pad_token_id": 0, **sizes})).eval()
    with torch.no_grad():  # away from the tiny weights of a new model, under which everything looks alike
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_numbers_are_those_of_the_model_itself(name: str) -> None:
    model, closed = built(name), ARCHITECTURES[name][3]
    right, left = (PartCollator(padding_side=side)(ROWS) for side in ("right", "left"))
    assert (last_linear_head(model, right["input_ids"]) is not None) == closed
    theirs = model(**right).loss
    mine = CausalLM(("log_prob",)).decode(model, None, right)
    torch.testing.assert_close(NLL()(mine), theirs, rtol=1e-5, atol=1e-6)
    other = CausalLM(("log_prob",)).decode(model, None, left)
    torch.testing.assert_close(other.log_prob[other.mask], mine.log_prob[mine.mask], rtol=0, atol=1e-5)
    alone = [CausalLM(("log_prob",)).decode(model, None, PartCollator()([row])) for row in ROWS]
    torch.testing.assert_close(
        torch.cat([p.log_prob[p.mask] for p in alone]), mine.log_prob[mine.mask], rtol=0, atol=1e-5
    )
    gradients = [torch.autograd.grad(loss, list(model.parameters())) for loss in (NLL()(mine), theirs)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_positions_count_from_the_first_token() -> None:
    """Without them a model of absolute positions reads padding on the left as text that came before."""
    model, left = built("gpt2"), PartCollator(padding_side="left")(ROWS)
    labels = left.pop("labels")
    naive = model(**left).logits[:, :-1].log_softmax(-1)
    mask, right = labels[:, 1:] != -100, CausalLM(("log_prob",)).decode(model, None, PartCollator()(ROWS))
    wrong = naive.gather(-1, labels[:, 1:].clamp_min(0)[..., None])[..., 0][mask]
    assert (wrong - right.log_prob[right.mask]).abs().max() > 0.01


def test_padding_with_the_end_of_sequence_token() -> None:
    model = built("llama")
    one, other = (CausalLM(("log_prob",)).decode(model, None, PartCollator(pad)(ROWS)).log_prob for pad in (0, 2))
    assert torch.equal(one, other)
    # Control: a mask made by looking for the token takes the answers' own ends for padding.
    given = PartCollator(2)(ROWS)
    given["labels"] = given["labels"].masked_fill(given["input_ids"] == 2, -100)
    assert (CausalLM(("log_prob",)).decode(model, None, given).log_prob - other).abs().max() > 0.01
