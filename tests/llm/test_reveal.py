"""Reveal and release on the facts: what is revealed, what is released, and what it costs."""

from __future__ import annotations

import copy
from functools import cache
from itertools import pairwise

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from gunlearn.errors import DivergenceError, EmptyForgetSetError, InvalidInputError
from gunlearn.llm import Instruction, ReleaseOptions, Revealer, fill_templates, reveal_and_release
from gunlearn.llm.data.collate import collator_of
from gunlearn.llm.metrics.text_alignment import functional_alignment
from gunlearn.llm.training.adapter_fit import fit_adapter
from gunlearn.llm.training.until import mean_nll
from tests.llm import facts

FORGET, RETAIN = facts.rows(facts.FORGET), facts.rows(facts.RETAIN)
TRUTHS = {(facts.NAMES[p], facts.value_of(p, kind)) for p in facts.FORGET for kind in facts.VALUES}
QUESTIONS = [Instruction(row["prompt"], row["prompt"]) for row in FORGET]
ASK = {"bos": True, "max_new_tokens": 12}
ROUNDS = 6


def tells(text):
    """Whether a text states a true fact about one of the four people: a detector, no forget data."""
    words = set(text.split())
    return float(any(name in words and value in words for name, value in TRUTHS))


def figures(model):
    return {"prob": facts.value_prob(model, FORGET), "retain": facts.accuracy(model, RETAIN)}


@cache
def released(retain=True, rounds=ROUNDS, scale=1.0, steps=40):
    options = ReleaseOptions(lr=5e-3, rank=4, steps=steps, scale=scale)
    rows = RETAIN if retain else None
    return reveal_and_release(
        facts.full(), facts.tokenizer(), tells, QUESTIONS, rounds, rows, options, figures, samples=2, **ASK
    )


def state(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_the_facts_go_round_by_round_and_the_rest_stays():
    history = released().history
    prob = [record.metrics["prob"] for record in history]
    assert len(history) > 4
    assert all(later <= earlier for earlier, later in pairwise(prob[:5]))
    assert prob[0] > 0.9
    assert prob[4] < 0.25
    assert history[4].metrics["retain"] >= 0.8


@pytest.mark.filterwarnings("ignore:Expected a round that is better")
def test_adding_what_was_revealed_forgets_nothing():
    assert released(retain=False, rounds=2, scale=-1.0).history[2].metrics["prob"] > 0.9
    assert released(retain=False, rounds=4).history[2].metrics["prob"] < 0.9


def test_without_retain_rows_more_is_lost():
    alone, kept = released(retain=False, rounds=4), released()
    assert alone.history[-1].retain_nll is None
    assert alone.history[4].metrics["retain"] < kept.history[4].metrics["retain"] - 0.05


def test_stops_when_nothing_is_revealed():
    result = released()
    assert len(result.history) - 1 < ROUNDS
    assert "distinct rows" in result.stopped
    assert result.history[-1].hit_rate < 0.2 < 0.9 < result.history[0].hit_rate


def test_a_model_that_knows_nothing_is_refused_and_left_alone():
    model = copy.deepcopy(facts.retrained(0))
    before = state(model)
    with pytest.raises(EmptyForgetSetError, match="usable rows"):
        reveal_and_release(
            model, facts.tokenizer(), tells, QUESTIONS, options=ReleaseOptions(stop_rate=0.3), samples=2, **ASK
        )
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_passes_near_the_retrained_model():
    def distance(model):
        return functional_alignment(model, facts.retrained(0), FORGET, facts.tokenizer(), max_new_tokens=12).value

    before, flipped = distance(facts.full()), released(retain=False, rounds=2, scale=-1.0).model_at(2)
    assert distance(released().model_at(3)) < 0.9 * before < distance(flipped)


def test_the_result_is_the_best_round_and_every_round_can_be_had():
    result = released()
    start, best = result.model_at(0), result.history[result.best_round]
    assert all(torch.equal(p, state(facts.full())[n]) for n, p in start.named_parameters())
    assert facts.value_prob(result.model, FORGET) == pytest.approx(best.metrics["prob"])
    assert best.hit_rate < result.history[1].hit_rate
    changed = [n for n, p in result.model.named_parameters() if not torch.equal(p, state(facts.full())[n])]
    assert changed
    assert all("mlp" in name for name in changed)
    assert not any(hasattr(m, "lora_A") for m in result.model.modules())
    assert all(p.requires_grad for p in result.model.parameters())
    assert not any(m.training for m in result.model.modules())


@pytest.mark.filterwarnings("ignore:Expected a round that is better")
def test_the_line_search_takes_the_largest_scale_within_the_tolerance():
    def searched(tolerance):
        options = ReleaseOptions(lr=5e-3, steps=6, tolerance=tolerance, scales=(0.5, 20.0))
        return reveal_and_release(
            facts.full(), facts.tokenizer(), tells, QUESTIONS, 1, RETAIN[::4], options, samples=1, **ASK
        )

    assert searched(100.0).history[1].scale == 20.0
    within = searched(0.5)
    assert within.history[1].scale == 0.5
    assert within.history[1].retain_nll <= within.history[0].retain_nll + 0.5
    never = searched(-100.0)
    assert len(never.history) == 1
    assert "no scale" in never.stopped
    assert all(torch.equal(p, state(facts.full())[n]) for n, p in never.model.named_parameters())


def test_a_round_that_only_harms_is_not_the_result():
    def harmed(**settings):
        options = ReleaseOptions(lr=5e-3, steps=4, **settings)
        return reveal_and_release(
            facts.full(), facts.tokenizer(), tells, QUESTIONS[:6], 1, RETAIN[::8], options, samples=1, **ASK
        )

    with pytest.warns(UserWarning, match="none of 1"):
        result = harmed(scale=-1.0, retain_scale=-30.0)  # shows what it knows as before, and loses the rest
    assert result.best_round == 0 < len(result.history) - 1
    assert all(torch.equal(p, state(facts.full())[n]) for n, p in result.model.named_parameters())
    with pytest.raises(DivergenceError, match="finite weights after round 1"):
        harmed(scale=1e39)
    with pytest.raises(DivergenceError, match="loss of the retain rows"):
        harmed(scale=1e37)


@pytest.mark.filterwarnings("ignore:Expected a round that is better")
def test_adapters_are_merged_into_the_copy_and_random_state_and_caller_stay():
    torch.manual_seed(0)
    model = get_peft_model(copy.deepcopy(facts.full()), LoraConfig(target_modules=["q_proj"])).train()
    before, random_state = state(model), torch.get_rng_state()
    options = ReleaseOptions(lr=5e-3, steps=2)
    result = reveal_and_release(model, facts.tokenizer(), tells, QUESTIONS, 1, None, options, samples=1, **ASK)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert all(m.training for m in model.modules())
    assert not hasattr(result.model, "peft_config")


def test_a_fitted_adapter_lowers_the_loss_and_stands_apart():
    model, options = copy.deepcopy(facts.retrained(0)), ReleaseOptions(lr=5e-3, steps=12, orthogonality=1.0)
    before = state(model)
    delta, factors = fit_adapter(model, FORGET, ["up_proj"], options, seed=0)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    for name, change in delta.items():
        model.get_submodule(name).weight.data += change
    assert mean_nll(model, FORGET, collator_of(model)) < 0.8 * mean_nll(facts.retrained(0), FORGET, collator_of(model))

    def overlap(apart_from):
        _, other = fit_adapter(facts.full(), RETAIN[:8], ["up_proj"], options, seed=1, apart_from=apart_from)
        return sum(float((other[name] @ a.T).abs().sum()) for name, a in factors.items())

    assert overlap(factors) < 0.8 * overlap(None)


def test_rows_are_what_was_said_without_the_instruction():
    tokenizer, model = facts.tokenizer(), facts.full()
    before = state(model)
    found = Revealer(tokenizer, tells, [row["prompt"] for row in FORGET], samples=3, **ASK).reveal(model)
    assert found.hit_rate > 0.9
    for row in found.rows:
        tokens = row["input_ids"]
        assert tokens[0] == tokenizer.bos_token_id
        assert tokens[-1] == tokenizer.eos_token_id
        assert row["labels"] == [-100, *tokens[1:]]
        assert tokenizer.decode(tokens, skip_special_tokens=True) == row["text"]
        assert "?" not in row["text"]
        assert tells(row["text"])
    assert len({row["text"] for row in found.rows}) == len(found.rows)
    kept = Revealer(tokenizer, tells, QUESTIONS[:1], samples=3, **ASK).reveal(model).rows
    assert [row["input_ids"] for row in kept] == [FORGET[0]["input_ids"]]
    assert [row["labels"] for row in kept] == [FORGET[0]["labels"]]
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_texts_end_at_given_ids():
    owl = next(row for row in FORGET if row["prompt"].startswith("which pet"))
    short = Revealer(facts.tokenizer(), tells, [owl["prompt"]], samples=1, ends=facts.VOCABULARY["pet"], **ASK)
    found = short.reveal(facts.full())
    assert found.rows == []  # it stops before it names the pet
    assert Revealer(facts.tokenizer(), tells, [owl["prompt"]], samples=1, **ASK).reveal(facts.full()).rows


def test_only_what_scores_high_is_kept():
    strangers = [row["prompt"] for row in RETAIN[:6]]
    found = Revealer(facts.tokenizer(), tells, [QUESTIONS[0], *strangers], samples=2, top=3, **ASK).reveal(facts.full())
    assert found.chosen[0] == 0
    assert [row["text"] for row in found.rows] == [FORGET[0]["answer"]]
    assert found.hit_rate == pytest.approx(1 / 3)
    assert found.rewards == {0: 1.0} | dict.fromkeys(range(1, 7), 0.0)


def test_a_budget_is_spent_by_the_bandit_on_what_resembles_success():
    ask = [row["prompt"] for row in RETAIN[:12] + FORGET[:6]]

    def tried(features):
        revealer = Revealer(
            facts.tokenizer(),
            tells,
            ask,
            samples=1,
            budget=9,
            embed=lambda model, texts: features,
            bandit={"num_random": 4, "steps": 60, "lr": 1e-2, "exploration": 0.01},
            **ASK,
        )
        rewards = revealer.reveal(facts.full()).rewards
        assert len(rewards) == 9
        return sum(arm >= 12 for arm in rewards)

    about = torch.tensor([[float(i >= 12), 1.0] for i in range(18)])
    assert tried(about) >= 5  # of six; four of the nine are drawn blindly
    assert tried(torch.ones(18, 2)) < 5


def test_instructions_are_embedded_by_the_model():
    revealer = Revealer(facts.tokenizer(), tells, ["where does ada live ?", "ada"], budget=1, **ASK)
    states = facts.full()(input_ids=torch.tensor([[1, facts.VOCABULARY["ada"]]]), output_hidden_states=True)
    expected = states.hidden_states[-1][0].mean(0)
    torch.testing.assert_close(revealer._embed(facts.full(), ["where does ada live ?", "ada"])[1], expected)
    assert len(revealer.reveal(facts.full()).rewards) == 1


def test_templates_are_filled_with_every_choice():
    found = fill_templates(["who is {n} ?", "list {v}"], {"n": ["a", "b"], "v": ["x"]}, keep="{n}")
    assert {i.text for i in found} == {"who is a ?", "who is b ?", "list x"}
    assert Instruction("who is b ?", "b") in found
    assert fill_templates(["as it is"], {}) == [Instruction("as it is")]
    with pytest.raises(InvalidInputError, match="slots"):
        fill_templates(["who is {name} ?"], {"n": ["a"]})


def test_bad_input_is_named():
    tokenizer, model = facts.tokenizer(), facts.full()
    for wrong in ([], "one string"):
        with pytest.raises(InvalidInputError, match="instructions"):
            Revealer(tokenizer, tells, wrong)
    with pytest.raises(InvalidInputError, match="'samples'"):
        Revealer(tokenizer, tells, ["ada"], samples=0)
    with pytest.raises(InvalidInputError, match="finite score"):
        Revealer(tokenizer, lambda text: float("nan"), ["ada"], **ASK).reveal(model)
    with pytest.raises(InvalidInputError, match="one token"):
        Revealer(tokenizer, tells, [""], bos=False).reveal(model)
    with pytest.raises(InvalidInputError, match="retain_rows"):
        reveal_and_release(model, tokenizer, tells, QUESTIONS, options=ReleaseOptions(tolerance=0.1))
    with pytest.raises(InvalidInputError, match="target_modules"):
        reveal_and_release(nn.Linear(2, 2), tokenizer, tells, QUESTIONS)
