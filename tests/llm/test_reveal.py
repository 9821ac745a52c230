"""Reveal and release on the facts: what is revealed, what is released, and what it costs."""

import warnings
from functools import cache
from itertools import pairwise

import pytest
import torch

from gunlearn.errors import DivergenceError, EmptyForgetSetError, InvalidInputError
from gunlearn.llm import Instruction, ReleaseOptions, Revealer, fill_templates, reveal_and_release
from gunlearn.llm.data.collate import collator_of
from gunlearn.llm.metrics.text_alignment import functional_alignment
from gunlearn.llm.training.adapter_fit import fit_adapter
from gunlearn.llm.training.until import mean_nll
from tests.llm import facts
from tests.llm.training import FORGET, RETAIN, adapted, same, state

pytestmark = pytest.mark.filterwarnings("ignore:Expected a round that is better")
TRUTHS = {(facts.NAMES[p], facts.value_of(p, kind)) for p in facts.FORGET for kind in facts.VALUES}
QUESTIONS = [Instruction(row["prompt"], row["prompt"]) for row in FORGET]
ASK = {"bos": True, "max_new_tokens": 12}
ROUNDS = 6
TOKENIZER = facts.tokenizer()


def tells(text):
    """Whether a text states a true fact about one of the four people: a detector, no forget data."""
    words = set(text.split())
    return float(any(name in words and value in words for name, value in TRUTHS))


def figures(model):
    return {"prob": facts.value_prob(model, FORGET), "retain": facts.accuracy(model, RETAIN)}


def told(model=None, questions=QUESTIONS, rounds=1, retain=None, metrics=None, samples=1, **options):
    """Reveal and release on the full model; `options` are those of a release."""
    model, options = facts.full() if model is None else model, ReleaseOptions(**{"lr": 5e-3} | options)
    return reveal_and_release(
        model, TOKENIZER, tells, questions, rounds, retain, options, metrics, samples=samples, **ASK
    )


@cache
def released(retain=True, rounds=ROUNDS, scale=1.0):
    rows = RETAIN if retain else None
    return told(rounds=rounds, retain=rows, metrics=figures, samples=2, lr=1e-2, rank=4, steps=20, scale=scale)


def test_the_facts_go_round_by_round_and_the_rest_stays():
    history = released().history
    prob = [record.metrics["prob"] for record in history]
    assert len(history) > 4
    assert all(later <= earlier for earlier, later in pairwise(prob[:5]))
    assert prob[0] > 0.9
    assert prob[4] < 0.25
    assert history[4].metrics["retain"] >= 0.8


def test_without_retained_rows_it_is_said_that_nothing_shows_the_damage():
    with pytest.warns(UserWarning, match="Expected retain rows"):
        told(steps=1)
    with warnings.catch_warnings():  # control: with them, not
        warnings.filterwarnings("error", "Expected retain rows")
        told(retain=RETAIN, steps=1)


def test_adding_what_was_revealed_forgets_nothing():
    before, *_, added = (record.metrics["prob"] for record in released(retain=False, rounds=2, scale=-1.0).history)
    assert added >= before
    assert released(retain=False, rounds=4).history[2].metrics["prob"] < before - 0.05


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
    model = facts.retrained(0)
    with pytest.raises(EmptyForgetSetError, match="usable rows"):
        told(model, stop_rate=0.3)
    assert same(state(model), state(facts.retrained(0)))


def test_passes_near_the_retrained_model():
    def distance(model):
        return functional_alignment(model, facts.retrained(0), FORGET[::3], TOKENIZER, max_new_tokens=12).value

    before, flipped = distance(facts.full()), released(retain=False, rounds=2, scale=-1.0).model_at(2)
    assert distance(released().model_at(3)) < 0.9 * before < distance(flipped)


def test_the_result_is_the_best_round_and_every_round_can_be_had():
    result = released()
    best, before = result.history[result.best_round], state(facts.full())
    assert same(state(result.model_at(0)), before)
    assert facts.value_prob(result.model, FORGET) == pytest.approx(best.metrics["prob"])
    assert best.hit_rate < result.history[1].hit_rate
    changed = [name for name, value in state(result.model).items() if not torch.equal(value, before[name])]
    assert changed
    assert all("mlp" in name for name in changed)
    assert not any(hasattr(m, "lora_A") for m in result.model.modules())
    assert all(p.requires_grad for p in result.model.parameters())
    assert not any(m.training for m in result.model.modules())


def test_the_line_search_takes_the_largest_scale_within_the_tolerance():
    wide, within, never = (
        told(questions=QUESTIONS[::3], retain=RETAIN[::4], steps=6, tolerance=tolerance, scales=(0.5, 20.0))
        for tolerance in (100.0, 0.5, -100.0)
    )
    assert wide.history[1].scale == 20.0
    assert within.history[1].scale == 0.5
    assert within.history[1].retain_nll <= within.history[0].retain_nll + 0.5
    assert len(never.history) == 1
    assert "no scale" in never.stopped
    assert same(state(never.model), state(facts.full()))


def test_a_round_that_only_harms_is_not_the_result():
    def harmed(**options):
        return told(questions=QUESTIONS[:6], retain=RETAIN[::8], steps=4, **options)

    with pytest.warns(UserWarning, match="none of 1"):
        result = harmed(scale=-1.0, retain_scale=-20.0)  # shows what it knows as before, and loses the rest
    assert result.best_round == 0 < len(result.history) - 1
    assert same(state(result.model), state(facts.full()))
    with pytest.raises(DivergenceError, match="finite weights after round 1"):
        harmed(scale=1e39)
    with pytest.raises(DivergenceError, match="loss of the retain rows"):
        harmed(scale=1e37)


def test_adapters_are_merged_into_the_copy_and_random_state_and_caller_stay():
    model = adapted().train()
    before, random_state = state(model), torch.get_rng_state()
    result = told(model, steps=2)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert same(state(model), before)
    assert all(m.training for m in model.modules())
    assert not hasattr(result.model, "peft_config")


def test_a_fitted_adapter_lowers_the_loss_and_stands_apart():
    model, options = facts.retrained(0), ReleaseOptions(lr=5e-3, steps=12, orthogonality=1.0)
    delta, factors = fit_adapter(model, FORGET, ["up_proj"], options, seed=0)
    assert same(state(model), state(facts.retrained(0)))
    for name, change in delta.items():
        model.get_submodule(name).weight.data += change
    assert mean_nll(model, FORGET, collator_of(model)) < 0.8 * mean_nll(facts.retrained(0), FORGET, collator_of(model))

    def overlap(apart_from):
        _, other = fit_adapter(facts.full(), RETAIN[:8], ["up_proj"], options, seed=1, apart_from=apart_from)
        return sum(float((other[name] @ a.T).abs().sum()) for name, a in factors.items())

    assert overlap(factors) < 0.8 * overlap(None)


def test_rows_are_what_was_said_without_the_instruction():
    model = facts.full()
    found = Revealer(TOKENIZER, tells, [row["prompt"] for row in FORGET], samples=3, **ASK).reveal(model)
    assert found.hit_rate > 0.9
    for row in found.rows:
        tokens = row["input_ids"]
        assert tokens[0] == TOKENIZER.bos_token_id
        assert tokens[-1] == TOKENIZER.eos_token_id
        assert row["labels"] == [-100, *tokens[1:]]
        assert TOKENIZER.decode(tokens, skip_special_tokens=True) == row["text"]
        assert "?" not in row["text"]
        assert tells(row["text"])
    assert len({row["text"] for row in found.rows}) == len(found.rows)
    kept = Revealer(TOKENIZER, tells, QUESTIONS[:1], samples=3, **ASK).reveal(model).rows
    assert [row["input_ids"] for row in kept] == [FORGET[0]["input_ids"]]
    assert [row["labels"] for row in kept] == [FORGET[0]["labels"]]
    assert same(state(model), state(facts.full()))


def test_texts_end_at_given_ids():
    owl = next(row for row in FORGET if row["prompt"].startswith("which pet"))
    short = Revealer(TOKENIZER, tells, [owl["prompt"]], samples=1, ends=facts.VOCABULARY["pet"], **ASK)
    found = short.reveal(facts.full())
    assert found.rows == []  # it stops before it names the pet
    assert Revealer(TOKENIZER, tells, [owl["prompt"]], samples=1, **ASK).reveal(facts.full()).rows


def test_only_what_scores_high_is_kept():
    strangers = [row["prompt"] for row in RETAIN[:6]]
    found = Revealer(TOKENIZER, tells, [QUESTIONS[0], *strangers], samples=2, top=3, **ASK).reveal(facts.full())
    assert found.chosen[0] == 0
    assert [row["text"] for row in found.rows] == [FORGET[0]["answer"]]
    assert found.hit_rate == pytest.approx(1 / 3)
    assert found.rewards == {0: 1.0} | dict.fromkeys(range(1, 7), 0.0)


def test_a_budget_is_spent_by_the_bandit_on_what_resembles_success():
    ask = [row["prompt"] for row in RETAIN[:12] + FORGET[:6]]

    def tried(features):
        bandit = {"num_random": 4, "steps": 60, "lr": 1e-2, "exploration": 0.01}
        how = {"budget": 9, "embed": lambda model, texts: features, "bandit": bandit}
        rewards = Revealer(TOKENIZER, tells, ask, samples=1, **how, **ASK).reveal(facts.full()).rewards
        assert len(rewards) == 9
        return sum(arm >= 12 for arm in rewards)

    about = torch.tensor([[float(i >= 12), 1.0] for i in range(18)])
    assert tried(about) >= 5  # of six; four of the nine are drawn blindly
    assert tried(torch.ones(18, 2)) < 5


def test_instructions_are_embedded_by_the_model():
    revealer = Revealer(TOKENIZER, tells, ["where does ada live ?", "ada"], budget=1, **ASK)
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
    model = facts.full()
    for wrong in ([], "one string"):
        with pytest.raises(InvalidInputError, match="instructions"):
            Revealer(TOKENIZER, tells, wrong)
    with pytest.raises(InvalidInputError, match="'samples'"):
        Revealer(TOKENIZER, tells, ["ada"], samples=0)
    with pytest.raises(InvalidInputError, match="finite score"):
        Revealer(TOKENIZER, lambda text: float("nan"), ["ada"], **ASK).reveal(model)
    with pytest.raises(InvalidInputError, match="one token"):
        Revealer(TOKENIZER, tells, [""], bos=False).reveal(model)
    with pytest.raises(InvalidInputError, match="retain_rows"):
        reveal_and_release(model, TOKENIZER, tells, QUESTIONS, options=ReleaseOptions(tolerance=0.1))
    model.config.model_type = "of_my_own"
    with pytest.raises(InvalidInputError, match="target_modules"):
        reveal_and_release(model, TOKENIZER, tells, QUESTIONS)
