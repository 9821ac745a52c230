"""Multiple choice, continuations and fluency, against plain counting."""

import json
import math

import pytest
import torch

from gunlearn.errors import InvalidInputError, MissingExtraError
from gunlearn.llm.metrics import choice_rows, chosen_right, continuation_rows, fluency, memory, read_choices
from gunlearn.llm.metrics.nf4_weights import has_bitsandbytes, nf4_rounded
from tests.llm.metrics.small_models import models
from tests.llm.test_data import bpe
from tests.llm.tiny import tiny

QUESTIONS = [
    {"question": "where does Ada live?", "choices": ["Oslo", "Rome", "in the city of Bern"], "answer": 1},
    {"question": "what does Bob eat?", "choices": ["bread", "a fish"], "answer": "A"},
]


@pytest.mark.parametrize("style", ["letters", "texts"])
def test_the_likeliest_choice_counts(style, tmp_path):
    """Likelihoods by hand, of prompts written here; the control: a right answer moved elsewhere changes the figure."""
    path, tokenizer = tmp_path / "q.jsonl", bpe()
    path.write_text("\n".join(map(json.dumps, QUESTIONS)))
    records = read_choices(path)
    assert [record["answer"] for record in records] == [1, 0]
    model = tiny("llama", vocab_size=len(tokenizer) + 8, max_position_embeddings=128)
    best = []
    for record in records:
        listed = "".join(f"\n{'ABC'[i]}. {text}" for i, text in enumerate(record["choices"]))
        prompt = record["question"] + (listed if style == "letters" else "") + "\nAnswer:"
        said = [f" {'ABC'[i] if style == 'letters' else text}" for i, text in enumerate(record["choices"])]
        means = []
        for text in said:
            ids = torch.tensor([tokenizer(prompt + text, add_special_tokens=False)["input_ids"]])
            start = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
            with torch.no_grad():
                log_p = model(input_ids=ids).logits[0].log_softmax(-1)
            means.append(float(log_p[start - 1 : -1].gather(1, ids[0, start:, None]).mean()))
        best.append(max(range(len(means)), key=means.__getitem__))
    for answers in (best, [1 - b if b < 2 else 0 for b in best]):
        rows = choice_rows([r | {"answer": a} for r, a in zip(records, answers, strict=True)], tokenizer, style)
        assert chosen_right(model, rows).tolist() == [answers is best] * 2


@pytest.mark.parametrize(
    "change",
    [{"answer": 3}, {"answer": "Z"}, {"answer": True}, {"choices": ["one"]}, {"choices": ["a", ""]}, {"question": 4}],
)
def test_questions_that_are_none_are_named(tmp_path, change):
    path = tmp_path / "q.jsonl"
    path.write_text("\n".join(map(json.dumps, [QUESTIONS[1], QUESTIONS[0] | change])))
    with pytest.raises(InvalidInputError, match=r"line 2 of q\.jsonl"):
        read_choices(path)
    path.write_text(json.dumps(QUESTIONS[0]))
    assert len(read_choices(path)) == 1  # control, and one question alone is no wrapper of a list


def test_continuations_are_cut_by_tokens():
    tokenizer = bpe()
    long, short = "Ada lives in the city of Oslo and " * 9, "Bob eats"
    ids = tokenizer(long, add_special_tokens=False)["input_ids"]
    rows = continuation_rows([long, short], tokenizer, prompt_tokens=10, most=6)
    assert rows[0]["input_ids"] == ids[:16]
    assert rows[0]["labels"] == [-100] * 10 + ids[10:16]
    assert rows[0]["answer"] == tokenizer.decode(ids[10:16])
    half = len(tokenizer(short, add_special_tokens=False)["input_ids"]) // 2
    assert rows[1]["labels"][:half] == [-100] * half
    with pytest.raises(InvalidInputError, match="text 2"):
        continuation_rows([long, ""], tokenizer)


def test_memory_is_the_f1_of_the_longest_common_subsequence():
    """Three of four words said are right, and three of six were to be said: 2 * .75 * .5 / 1.25."""
    found = memory(["a b x c", "b"], ["a b c d e f", "a"])
    assert found.tolist() == pytest.approx([0.6, 0.0])


def test_fluency_counts_pairs_and_triples():
    """Four words have three pairs and two triples; the control: repetition has less."""
    pairs, triples = math.log2(3), math.log2(2)
    found = fluency(["a b c d", "a a a a", "", "a"])
    assert found.tolist() == pytest.approx([(pairs * 2 / 3 + triples * 4 / 3) / 2, 0, 0, 0])


def test_nf4_needs_bitsandbytes_and_rounds_to_sixteen_values():
    """The control: int8 keeps more than sixteen values in a block."""
    model = models()["r0"]
    if not has_bitsandbytes():
        with pytest.raises(MissingExtraError, match="bitsandbytes"):
            nf4_rounded(model)
        return
    weight = nf4_rounded(model).model.layers[0].mlp.up_proj.weight
    blocks = weight.detach().reshape(-1, 64)
    assert max(len(block.unique()) for block in blocks) <= 16
    assert len(model.model.layers[0].mlp.up_proj.weight.reshape(-1, 64)[0].unique()) > 16
    assert torch.equal(nf4_rounded(model).lm_head.weight, model.lm_head.weight)
