"""Which tokens are chosen to forget: scores by the definition, the best of them, whole words."""

import copy
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from gunlearn.errors import InvalidInputError, InvalidTypeError, UnsupportedModelError
from gunlearn.llm import PartCollator
from gunlearn.llm.data.marking import WordIndex, select_tokens
from gunlearn.llm.data.selectors import (
    ContextDelta,
    Entropy,
    GivenMask,
    NLLScore,
    ProbeDelta,
    SuffixDelta,
    TokenSelector,
)
from gunlearn.llm.data.text_items import answer_tokens
from tests.llm import facts
from tests.llm.test_data import bpe
from tests.llm.training import FORGET, UNLABELLED, same, state

SELECTORS = (ContextDelta(), ProbeDelta(), SuffixDelta(), Entropy(), NLLScore())


def auc(selector):
    batch = PartCollator()(FORGET)
    mask = answer_tokens(batch)
    return roc_auc_score(batch["target_mask"][:, 1:][mask], selector.scores(facts.full(), batch)[mask])


def test_scores_find_the_values_but_leaving_out_what_the_rest_depends_on():
    # The second phrasing has values in mid-sentence and subjects right before them.
    probe = auc(ProbeDelta())
    assert probe > 0.85
    assert auc(Entropy()) > 0.85
    assert auc(NLLScore()) > 0.85
    assert auc(SuffixDelta()) < 0.5
    # On this fixture a short context finds less than a probe: it misses values whose subject stands right before them,
    # and hits names copied from the question.
    assert 0.6 < auc(ContextDelta()) < probe


def test_a_probe_needs_fine_weights_that_can_be_trained():
    model, batch = facts.full().bfloat16(), PartCollator()(facts.rows(range(1))[:1])
    with pytest.warns(UserWarning, match=r"float32 for ProbeDelta.*bfloat16.*model\.float\(\)"):
        ProbeDelta().scores(model, batch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ProbeDelta().scores(model.float(), batch)
    with pytest.raises(UnsupportedModelError, match="trainable"):
        ProbeDelta().scores(model.requires_grad_(False), batch)


@torch.no_grad()
def log_probs(model, ids, mask=None):
    """By the definition, `[tokens - 1]`, in float64."""
    mask = None if mask is None else torch.tensor([mask])
    logits = model(input_ids=torch.tensor([ids]), attention_mask=mask).logits[0, :-1].double()
    return logits.log_softmax(-1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].numpy()


def by_hand(selector, model, row):
    ids, labels = row["input_ids"], row["labels"]
    full, out = log_probs(model, ids), np.zeros(len(ids) - 1)
    answer = [t for t in range(1, len(ids)) if labels[t] != -100]
    if isinstance(selector, ProbeDelta) and answer:
        model = copy.deepcopy(model).double()
        logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        (-sum(logits[t - 1, ids[t]] for t in answer)).backward()
        norm = sum(float(p.grad.square().sum()) for p in model.parameters()) ** 0.5
        with torch.no_grad():
            for p in model.parameters():
                p += selector.step / norm * p.grad
        after = log_probs(model, ids)
    for t in answer:
        if isinstance(selector, ContextDelta):
            short = ids[max(0, t - selector.window) : t]
            short = ([ids[0]] if t > selector.window else []) + short + [ids[t]]
            out[t - 1] = full[t - 1] - log_probs(model, short)[-1]
        elif isinstance(selector, SuffixDelta):
            holed = log_probs(model, ids, [int(s != t) for s in range(len(ids))])
            out[t - 1] = sum(full[s - 1] - holed[s - 1] for s in answer if s > t)
        elif isinstance(selector, ProbeDelta):
            out[t - 1] = full[t - 1] - after[t - 1]
        elif isinstance(selector, NLLScore):
            out[t - 1] = -full[t - 1]
        else:
            with torch.no_grad():
                p = model(input_ids=torch.tensor([ids])).logits[0, t - 1].double().softmax(-1)
            out[t - 1] = -(p * p.log()).sum()
    return out


@pytest.mark.parametrize("selector", SELECTORS, ids=lambda s: type(s).__name__)
def test_scores_are_those_of_the_definition_on_either_side_of_padding(selector):
    model, rows = facts.full(), [FORGET[1], FORGET[4], UNLABELLED]  # two lengths
    assert isinstance(selector, TokenSelector)
    for side in ("right", "left"):
        batch = PartCollator(padding_side=side)(rows)
        scores = selector.scores(model, batch)
        assert scores.shape == batch["labels"][:, 1:].shape
        assert not scores.requires_grad
        for found, row in zip(scores, rows, strict=True):
            length = len(row["input_ids"])
            at = slice(-(length - 1), None) if side == "left" else slice(0, length - 1)
            expected = by_hand(selector, model, row)
            np.testing.assert_allclose(found[at], expected, atol=2e-4, rtol=2e-3)
            assert float(found.abs().sum()) == pytest.approx(float(found[at].abs().sum()))  # nothing on padding


def test_a_label_on_the_first_token_has_nothing_to_be_predicted_from():
    ids = FORGET[0]["input_ids"][4:]
    rows = [{"input_ids": ids, "labels": ids}, FORGET[4]]  # two lengths
    for selector in SELECTORS:
        for side in ("left", "right"):
            chosen = select_tokens(facts.full(), rows, selector, 1.0, collator=PartCollator(padding_side=side))
            assert chosen[0]["target_mask"] == [False] + [True] * (len(ids) - 1)


@pytest.mark.parametrize("selector", [ContextDelta(1), ProbeDelta()], ids=lambda s: type(s).__name__)
def test_selection_leaves_model_and_rows_as_they_were_and_does_not_depend_on_the_batch(selector):
    model, rows = facts.full().train(), facts.rows(range(2))
    weights, random = state(model), torch.get_rng_state()
    storage = [p.data_ptr() for p in model.parameters()]
    before = copy.deepcopy(rows)
    chosen = select_tokens(model, rows, selector, batch_size=5)
    assert rows == before
    assert all(a is not b for a, b in zip(rows, chosen, strict=True))
    assert same(state(model), weights)
    assert storage == [p.data_ptr() for p in model.parameters()]
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), random)
    alone = select_tokens(model, rows, selector, batch_size=1, collator=PartCollator(padding_side="left"))
    assert [r["target_mask"] for r in chosen] == [r["target_mask"] for r in alone]
    assert all(sum(r["target_mask"]) == math.ceil(0.2 * sum(y != -100 for y in r["labels"])) for r in chosen)
    assert not any(m and y == -100 for r in chosen for m, y in zip(r["target_mask"], r["labels"], strict=True))


def test_weights_come_back_when_a_probe_fails():
    model = facts.full()
    weights = state(model)

    def look_behind_the_step_fails(*_):
        if not torch.is_grad_enabled():
            raise RuntimeError(f"planted, moved {not same(state(model), weights)}")

    batch = PartCollator()(facts.rows(range(1))[:1])
    ProbeDelta().scores(model, batch)  # the head has been tried
    model.model.register_forward_hook(look_behind_the_step_fails)
    with pytest.raises(RuntimeError, match="moved True"):
        ProbeDelta().scores(model, batch)
    assert same(state(model), weights)


class Table:
    """Scores given in advance, by the first token of the row."""

    def __init__(self, table):
        self.table = table

    def __repr__(self):  # the name of a test, the same in every process
        return f"Table({self.table})"

    def scores(self, model, batch):
        out = torch.zeros(batch["labels"][:, 1:].shape, dtype=torch.float64)
        for i, first in enumerate(batch["input_ids"][:, 0].tolist()):
            out[i, : len(self.table[first])] = torch.tensor(self.table[first], dtype=torch.float64)
        return out


def row_of(first, length, prompt=1):
    ids = [first, *range(10, 9 + length)]
    return {"input_ids": ids, "labels": [-100] * prompt + ids[prompt:]}


@settings(max_examples=40, deadline=None)
@given(
    scores=st.lists(st.integers(-2, 2), min_size=1, max_size=12),
    ratio=st.floats(0.01, 1),
    suffix=st.floats(0.01, 1),
)
def test_the_best_of_the_eligible_are_marked(scores, ratio, suffix):
    model, row = torch.nn.Linear(1, 1), row_of(3, len(scores) + 1)
    marked = select_tokens(model, [row], Table({3: scores}), ratio, suffix_ratio=suffix)[0]["target_mask"]
    eligible = len(scores) - math.ceil(suffix * len(scores) - 1e-9)
    order = sorted(range(eligible, len(scores)), key=lambda t: (-scores[t], t))  # among equals the earlier one
    best = order[: math.ceil(ratio * len(order) - 1e-9)]
    assert len(best) >= 1
    assert marked == [False] + [t in best for t in range(len(scores))]


def test_rows_without_labels_get_no_targets_and_other_columns_stay():
    rows = [row_of(3, 4), {**row_of(4, 4, prompt=4), "answer": "?"}, row_of(5, 2, prompt=1)]
    chosen = select_tokens(torch.nn.Linear(1, 1), rows, Table({3: [1, 3, 2], 4: [9, 9, 9], 5: [-5.0]}), 0.3)
    assert [r["target_mask"] for r in chosen] == [[False, False, True, False], [False] * 4, [False, True]]
    assert chosen[1]["answer"] == "?"


def test_a_given_mask_is_the_choice_whatever_the_ratio():
    rows = [{**row_of(3, 5, prompt=2), "names": [True, True, True, True, False]}]
    chosen = select_tokens(torch.nn.Linear(1, 1), rows, GivenMask("names"), ratio=0.2)
    assert chosen[0]["target_mask"] == [False, False, True, True, False]  # of the answer alone
    with pytest.raises(InvalidInputError, match="column 'names'"):
        select_tokens(torch.nn.Linear(1, 1), [row_of(3, 5)], GivenMask("names"))


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"ratio": 0.0}, InvalidInputError, "ratio"),
        ({"ratio": 1.5}, InvalidInputError, "at most 1"),
        ({"suffix_ratio": -1}, InvalidInputError, "suffix_ratio"),
        ({"selector": None}, InvalidTypeError, "scores"),
        ({"selector": Table({3: [float("nan")] * 4})}, InvalidInputError, "NaN"),
        ({"whole_word": "gpt2"}, InvalidTypeError, "tokenizer"),
    ],
    ids=str,
)
def test_bad_input(change, error, match):
    arguments = {"selector": Table({3: [1.0] * 4})} | change
    with pytest.raises(error, match=match):
        select_tokens(torch.nn.Linear(1, 1), [row_of(3, 5)], **arguments)
    with pytest.raises(InvalidInputError, match="window"):
        ContextDelta(0)


TEXT = "Basil Mahfouz wrote (in 1989) unforgettable tales of Reykjavik, didn't he?\nKuwait City 1956-08"


def subword(kind):
    if kind == "bytes":
        return bpe()
    if kind == "wordpiece":
        inner, trainer = Tokenizer(models.WordPiece(unk_token="[UNK]")), trainers.WordPieceTrainer
        inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    else:
        inner, trainer = Tokenizer(models.BPE()), trainers.BpeTrainer
        inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
        inner.decoder = decoders.Metaspace()
    options = {"show_progress": False, "vocab_size": 60, "special_tokens": ["[UNK]", "[SEP]"]}
    inner.train_from_iterator([TEXT, "a b c d e f g h i j k l m n o p q r s t u v w x y z"], trainer(**options))
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="[SEP]")


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece", "wordpiece"])
def test_whole_words_by_the_offsets_in_the_text(kind):
    tokenizer = subword(kind)
    encoded = tokenizer(TEXT, return_offsets_mapping=True)
    ids, spans = encoded["input_ids"], encoded["offset_mapping"]
    words = WordIndex(tokenizer).words([*ids, tokenizer.eos_token_id])
    assert words[-1] not in words[:-1]  # the special token is no part of the last word
    together = {}
    for word, (start, end) in zip(words, spans, strict=False):
        together.setdefault(word, set()).update(range(start, end))
    texts = {"".join(TEXT[i] for i in sorted(span)).strip() for span in together.values()}
    assert {"Basil", "Mahfouz", "wrote", "1989", "unforgettable", "Reykjavik", ",", "Kuwait", "1956"} <= texts
    assert len(ids) > len(texts)  # some words do have several pieces

    # A hit on one piece marks the word, in the answer alone.
    pieces = max(([i for i, w in enumerate(words) if w == word] for word in set(words)), key=len)
    assert len(pieces) > 2
    prompt = pieces[1]  # the first piece belongs to the prompt
    row = {"input_ids": ids, "labels": [-100] * prompt + ids[prompt:]}
    scores = [float(t + 1 == pieces[2]) for t in range(len(ids) - 1)]
    model, table = torch.nn.Linear(1, 1), Table({ids[0]: scores})
    whole = select_tokens(model, [row], table, ratio=1e-3, whole_word=tokenizer)[0]["target_mask"]
    assert [i for i, m in enumerate(whole) if m] == pieces[1:]
    one = select_tokens(model, [row], table, ratio=1e-3)[0]["target_mask"]
    assert [i for i, m in enumerate(one) if m] == [pieces[2]]  # the control: pieces without words


def test_a_tokenizer_of_words_has_a_word_per_token():
    row = facts.rows(range(1))[0]
    assert WordIndex(facts.tokenizer()).words(row["input_ids"]) == list(range(len(row["input_ids"])))
