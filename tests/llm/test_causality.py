"""Encoder-decoders, bidirectional models and prompt tuning are refused by every function; causal models are not."""

import copy

import pytest
import torch
import transformers as tf
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from torch import nn
from torch_geometric.data import Data

import gunlearn as gu
from gunlearn.errors import GunlearnError, InvalidTypeError, UnsupportedModelError
from gunlearn.llm import (
    DTOTrainer,
    UnlearnTrainer,
    adapter_delta,
    negate_adapter,
    quantized,
    relearn,
    reveal_and_release,
    unlearn,
)
from gunlearn.llm.metrics import (
    answer_log_probs,
    draw_answers,
    evaluate_language_models,
    functional_alignment,
    gradient_score,
    token_scores,
)
from gunlearn.llm.model.adapters import with_adapter
from gunlearn.llm.model.causality import check_language_model
from gunlearn.llm.privacy import dp_train
from gunlearn.losses import NPO
from tests.llm.tiny import ARCHITECTURES, tiny

ROW = {"input_ids": [3, 4, 5, 6], "labels": [-100, -100, 5, 6]}
ITEMS = Data(x=torch.tensor([ROW["input_ids"]] * 3), y=torch.tensor([ROW["labels"]] * 3))
SMALL = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
T5 = {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
TUNED = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 2}
REFUSED = {
    "t5": lambda: tf.T5ForConditionalGeneration(tf.T5Config(**T5)),
    "bart": lambda: tf.BartForConditionalGeneration(
        tf.BartConfig(
            vocab_size=50, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
        )
    ),
    "bert": lambda: tf.BertLMHeadModel(tf.BertConfig(**SMALL)),
    "masked bert": lambda: tf.BertForMaskedLM(tf.BertConfig(**SMALL)),
    "roberta": lambda: tf.RobertaForMaskedLM(tf.RobertaConfig(**SMALL)),
    "prompt tuning": lambda: get_peft_model(tiny(), PromptTuningConfig(**TUNED)),
    "prefix tuning": lambda: get_peft_model(tiny(), PrefixTuningConfig(**TUNED)),
    "lora on bert": lambda: get_peft_model(REFUSED["bert"](), LoraConfig(target_modules=["query"])),
    "no head": lambda: tiny().model,
}  # fmt: skip
DOORS = {
    "unlearn": lambda m: unlearn(m, None, [ROW], method="gradient_ascent", epochs=1),
    "gu.unlearn": lambda m: gu.unlearn(m, ITEMS, gu.ForgetItems([0]), "gradient_ascent", "causal_lm"),
    "gu.unlearn, own loop": lambda m: gu.unlearn(m, ITEMS, gu.ForgetItems([0]), "finetune", "causal_lm"),
    "gu.train": lambda m: gu.train(m, ITEMS, "causal_lm", epochs=1),
    "gu.influence": lambda m: gu.influence(m, ITEMS, "causal_lm"),
    "trainer": lambda m: UnlearnTrainer(m, NPO(), forget_dataset=[ROW]),
    "dto": lambda m: DTOTrainer(m, forget_dataset=[ROW | {"target_mask": [False, False, True, False]}]),
    "evaluate": lambda m: evaluate_language_models({"a": m}, None, [ROW], [ROW], generate=False, align_on=()),
    "token_scores": lambda m: token_scores(m, [ROW]),
    "answer_log_probs": lambda m: answer_log_probs(m, [[ROW]]),
    "gradient_score": lambda m: gradient_score(m, [ROW]),
    "draw_answers": lambda m: draw_answers(m, [[3, 4]], [2], max_new_tokens=2),
    "alignment": lambda m: functional_alignment(tiny(), m, [[3, 4]], 2, max_new_tokens=2),
    "relearn": lambda m: relearn(m, [ROW], lambda _: {}),
    "quantized": quantized,
    "dp": lambda m: dp_train(m, [ROW, ROW], 8.0, 0.1, steps=1),
    "release": lambda m: reveal_and_release(m, None, lambda text: 1.0, ["who?"]),
    "adapter": lambda m: with_adapter(m, "lora"),
    "delta": adapter_delta,
    "negate": negate_adapter,
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("model", ["t5", "bert", "prompt tuning"])
def test_every_function_refuses(model: str, door: str) -> None:
    with pytest.raises(UnsupportedModelError, match=r"encoder-decoder|bidirectional|tunes a prompt"):
        DOORS[door](REFUSED[model]())


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_causal_language_model_is_refused(name: str) -> None:
    with pytest.raises(UnsupportedModelError, match=r"causal language model|tunes a prompt"):
        check_language_model(REFUSED[name]())


@pytest.mark.parametrize("name", [*ARCHITECTURES, "half", "decoder bert", "lora", "mixture", "mamba"])
def test_causal_models_are_not(name: str) -> None:
    mixture = tf.MixtralConfig(**SMALL, num_key_value_heads=1)
    others = {
        "half": lambda: tiny().bfloat16(),
        "decoder bert": lambda: tf.BertLMHeadModel(tf.BertConfig(is_decoder=True, **SMALL)),
        "lora": lambda: with_adapter(tiny("gpt2"), "lora"),
        "mixture": lambda: tf.MixtralForCausalLM(mixture).bfloat16(),
        "mamba": lambda: tf.MambaForCausalLM(tf.MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1)),
    }
    model = others[name]() if name in others else tiny(name)
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    model.train()
    check_language_model(model)
    assert model.training
    assert all(torch.equal(a, b) for a, b in zip(state.values(), model.state_dict().values(), strict=True))
    assert torch.equal(random, torch.get_rng_state())


def test_a_causal_model_that_was_made_bidirectional_is_noticed() -> None:
    class Averaged(nn.Module):
        """Adds the mean of all embeddings to each: every logit reads every token."""

        def __init__(self, later: bool) -> None:
            super().__init__()
            self.embed, self.head, self.later = nn.Embedding(9, 8), nn.Linear(8, 9), later

        def forward(self, input_ids, attention_mask=None, use_cache=None):
            x = self.embed(input_ids)
            mean = x.mean(1, keepdim=True) if self.later else x.cumsum(1)
            return tf.modeling_outputs.CausalLMOutput(logits=self.head(x + mean))

    check_language_model(Averaged(False))
    with pytest.raises(UnsupportedModelError, match="bidirectional"):
        check_language_model(Averaged(True))


@pytest.mark.parametrize(("given", "error"), [("gpt2", InvalidTypeError), (nn.Linear(2, 2), UnsupportedModelError)])
def test_other_things_are_refused_in_words(given: object, error: type) -> None:
    with pytest.raises(error, match="Expected a"):
        check_language_model(given)


@pytest.mark.parametrize(
    "config", [PromptTuningConfig(**TUNED), LoraConfig(task_type="SEQ_2_SEQ_LM", target_modules=["q_proj"])]
)
def test_adapters_that_do_not_fit_are_refused(config: object) -> None:
    with pytest.raises(GunlearnError, match=r"tunes a prompt|task_type"):
        unlearn(tiny(), None, [ROW], method="gradient_ascent", peft=config, epochs=1)
