"""Functional alignment of language models: brute force over all texts of a toy, and models that know facts."""

from functools import cache
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from gunlearn.errors import InvalidInputError
from gunlearn.llm import TextAlignment, functional_alignment
from gunlearn.llm.metrics import Samples, draw_answers
from gunlearn.llm.metrics.generation import choose_tokens
from gunlearn.llm.metrics.scoring import prompt_of
from gunlearn.losses import GradientAscent
from gunlearn.metrics import Sampler, align, standings
from tests.llm import facts
from tests.llm.tiny import tiny
from tests.llm.training import FORGET, RETAIN, make

V, T, END = 5, 2, 0


class Toy(nn.Module):
    """Logits depend on the last token and its position: a shifted position or a token too many shows."""

    def __init__(self, seed, spread=1.0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.table = nn.Parameter(spread * torch.randn(6, V, V, generator=generator))

    def forward(self, input_ids, attention_mask=None, past_key_values=None, use_cache=None):
        return SimpleNamespace(logits=self.table[torch.arange(input_ids.size(1)), input_ids])


def texts():
    """Every answer of at most two tokens."""
    return [(END,), *(y for y in product(range(1, V), range(V)))]


def text_prob(model, prompt, text):
    log_p, last, prob = model.table.detach().double().log_softmax(-1), prompt[-1], 1.0
    for place, token in enumerate(text, start=len(prompt) - 1):
        prob *= float(log_p[place, last, token].exp())
        last = token
    return prob


def brute_force(p, q, prompts):
    total = 0.0
    for prompt in prompts:
        for text in texts():
            a, b = text_prob(p, prompt, text), text_prob(q, prompt, text)
            total += a * torch.tensor(a / b).log().item()
    return total / len(prompts)


PROMPTS = [[1], [2, 3], [4, 0, 2]]


def every_text(mask_of):
    """All texts as answers to each prompt, and the mask that `mask_of(text)` makes."""
    tokens = torch.tensor([list(y) + [3] * (T - len(y)) for y in texts()]).expand(len(PROMPTS), -1, -1)
    mask = torch.tensor([mask_of(y) for y in texts()]).expand(len(PROMPTS), -1, -1)
    return Samples(PROMPTS, tokens, mask, torch.ones(mask.shape[:2], dtype=torch.bool))


def expectation(p, q, estimator, mask_of=lambda y: [True] * len(y) + [False] * (T - len(y))):
    """The supplier's terms, weighed with each text's exact probability."""
    supplier = TextAlignment(PROMPTS, END, estimator=estimator, max_new_tokens=T, batch_size=7)
    per_sample = supplier.terms(every_text(mask_of), p, q).per_sample()
    prob = torch.tensor([[text_prob(p, x, y) for y in texts()] for x in PROMPTS], dtype=torch.float64)
    assert prob.sum(1).tolist() == pytest.approx([1] * 3)
    return float((prob * per_sample).sum(1).mean())


@pytest.mark.parametrize("estimator", ["rao_blackwell", "monte_carlo"])
def test_expectation_is_that_over_all_texts(estimator):
    p, q = Toy(0), Toy(1)
    exact = brute_force(p, q, PROMPTS)
    assert expectation(p, q, estimator) == pytest.approx(exact, abs=1e-6)
    assert exact > 0.5
    assert abs(brute_force(q, p, PROMPTS) - exact) > 0.01

    def without_end(y):
        return [True, len(y) > 1 and y[1] != END]  # at least one token has to stay

    assert abs(expectation(p, q, estimator, without_end) - exact) > 0.01
    assert abs(expectation(p, q, estimator, lambda y: [True] * T) - exact) > 0.01  # tokens behind the end


def test_answers_are_drawn_from_the_model():
    p, n = Toy(0, spread=1.5), 10000
    samples = draw_answers(p, PROMPTS, [END], Sampler(n_samples=n), T, batch_size=n)
    for i, prompt in enumerate(PROMPTS):
        numbers = torch.where(samples.mask[i], samples.tokens[i], V) @ torch.tensor([V + 1, 1])
        for text in texts():
            prob = text_prob(p, prompt, text)
            share = float((numbers == text[0] * (V + 1) + (*text, V)[1]).double().mean())
            assert abs(share - prob) < 5 * (prob * (1 - prob) / n) ** 0.5 + 1e-9
    cut = samples.tokens[..., 1].ne(END) & samples.mask[..., 1]
    assert torch.equal(samples.ended, ~cut)
    assert not samples.mask[samples.tokens[..., 0] == END][:, 1:].any()  # nothing behind an end


def test_both_estimators_come_to_the_brute_force_value_and_one_of_them_sooner():
    p, q = Toy(0), Toy(1)
    exact, errors = brute_force(p, q, PROMPTS) + brute_force(q, p, PROMPTS), {}
    for estimator in ("rao_blackwell", "monte_carlo"):
        found = functional_alignment(p, q, PROMPTS, END, Sampler(n_samples=300), estimator, max_new_tokens=T)
        assert abs(found.value - exact) < 4 * found.error
        assert found.estimator == estimator
        assert 0 < found.truncated < 1
        errors[estimator] = found.error
    assert errors["rao_blackwell"] < 0.7 * errors["monte_carlo"]


def test_draws_belong_to_a_sample_whatever_the_batch():
    p, sampler = Toy(0), Sampler(n_samples=6)
    one, many = (draw_answers(p, PROMPTS, [END], sampler, T, batch_size=size) for size in (1, 100))
    assert torch.equal(one.mask, many.mask)
    assert torch.equal(one.tokens[one.mask], many.tokens[many.mask])
    other = draw_answers(p, PROMPTS, [END], Sampler(n_samples=6, seed=1), T)
    assert other.tokens.shape != many.tokens.shape or not torch.equal(other.tokens, many.tokens)  # control


def test_truncated_and_tempered_choices():
    logits = torch.tensor([0.4, 0.1, 0.3, 0.2]).log().expand(4000, 4)
    uniform = torch.rand(4000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def shares(**how):
        return torch.bincount(choose_tokens(logits, uniform, Sampler(**how)), minlength=4) / 4000

    assert shares().tolist() == pytest.approx([0.4, 0.1, 0.3, 0.2], abs=0.03)
    assert shares(top_k=2).tolist() == pytest.approx([4 / 7, 0, 3 / 7, 0], abs=0.03)
    assert shares(top_p=0.75).tolist() == pytest.approx([4 / 9, 0, 3 / 9, 2 / 9], abs=0.03)
    assert shares(top_p=0.65).tolist() == pytest.approx([4 / 7, 0, 3 / 7, 0], abs=0.03)
    squared = torch.tensor([0.16, 0.01, 0.09, 0.04])
    assert shares(temperature=0.5).tolist() == pytest.approx((squared / squared.sum()).tolist(), abs=0.03)
    assert choose_tokens(logits, uniform, None).unique().tolist() == [0]
    excluded = torch.tensor([[-torch.inf, 0.0, 0.0]])
    assert choose_tokens(excluded, torch.zeros(1, dtype=torch.float64), Sampler()).tolist() == [1]


def test_greedy_answers_are_those_of_transformers():
    model, rows = facts.full(), facts.rows(range(1))
    samples = draw_answers(model, [prompt_of(row) for row in rows], [2], None, 12)
    for i, row in enumerate(rows):
        prompt = torch.tensor([prompt_of(row)])
        expected = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=12)
        assert samples.answers(i)[0] == [t for t in expected[0, prompt.size(1) :].tolist() if t != 2]


def test_log_ratios_are_those_of_the_models_own_losses():
    p, q, rows = facts.full(), facts.retrained(0), facts.rows(range(1))[:4]
    supplier = TextAlignment(rows, facts.tokenizer(), Sampler(n_samples=2), "monte_carlo", 12, batch_size=5)
    samples = supplier.draw(q)
    found = supplier.terms(samples, q, p).per_sample()
    for i, prompt in enumerate(samples.prompts):
        for j in range(2):
            text = samples.tokens[i, j][samples.mask[i, j]].tolist()
            ids = torch.tensor([prompt + text])
            labels = torch.tensor([[-100] * len(prompt) + text])
            with torch.no_grad():
                nll = [float(m(input_ids=ids, labels=labels).loss) * len(text) for m in (q, p)]
            assert float(found[i, j]) == pytest.approx(nll[1] - nll[0], abs=1e-4)


def test_a_copy_is_no_distance_away_and_the_halves_swap():
    p, q, rows = facts.full(), facts.retrained(0), facts.rows(range(1))
    few, tokenizer = Sampler(n_samples=2), facts.tokenizer()
    same = functional_alignment(q, facts.retrained(0), rows, tokenizer, few, max_new_tokens=12)
    assert same.value == 0
    assert same.interval == (0, 0)
    there = functional_alignment(p, q, rows, tokenizer, few, max_new_tokens=12)
    back = functional_alignment(q, p, rows, tokenizer, few, max_new_tokens=12)
    assert (there.precision, there.recall) == (back.recall, back.precision)
    assert there.value > 5
    assert there.precision != there.recall


@cache
def collapsed():
    """Gradient ascent on the forgotten rows until none is answered right."""
    options = {"max_steps": 25, "per_device_train_batch_size": 24, "learning_rate": 5e-4}
    trainer = make(objective=GradientAscent(), **options)
    trainer.train()
    return trainer.model.eval()


def test_perfect_forgetting_by_accuracy_is_further_away_than_none():
    full, one, other = facts.full(), facts.retrained(0), facts.retrained(1)
    forget, retain = (
        TextAlignment(rows[:24:2], facts.tokenizer(), Sampler(n_samples=4), max_new_tokens=12)
        for rows in (FORGET, RETAIN)
    )
    found = standings({"full": full, "collapsed": collapsed()}, [one, other], forget, full)
    again = standings({"other": other}, [one], forget, full)["other"]
    assert facts.accuracy(collapsed(), FORGET) == 0
    assert found["collapsed"].value > 5 * found["full"].value
    assert found["collapsed"].gain < -4
    assert found["full"].gain == 0
    for seeds in (found["full"].floor, again.value):
        assert 0 < seeds < 0.5 * found["full"].value
    assert again.gain > 0.5
    on_retain = standings({"full": full, "collapsed": collapsed()}, [one], retain)
    assert on_retain["full"].value < 0.1 * found["full"].value < on_retain["collapsed"].value


def test_nothing_of_the_caller_changes():
    model, other, rows = facts.full(), facts.retrained(0), facts.rows(range(1))
    model.train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    with pytest.warns(UserWarning, match="no divergence"):
        found = functional_alignment(model, other, rows, 2, Sampler(2, temperature=0.1), max_new_tokens=12)
    assert found.sampler.temperature == 0.1
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())
    assert "forward" not in model.lm_head.__dict__


def test_prompts_of_rows():
    row = facts.row(0, "city", 0)
    assert facts.tokenizer().decode(prompt_of(row)) == "<bos> " + row["prompt"]
    assert prompt_of(facts.padded(row)) == prompt_of(row)
    assert prompt_of([4, 5]) == [4, 5]
    with pytest.raises(InvalidInputError, match="prompt before the first label"):
        prompt_of({"input_ids": [1, 2], "labels": [1, 2]})


def test_bad_input():
    rows = facts.rows(range(1))
    with pytest.raises(InvalidInputError, match="eos_token_id"):
        TextAlignment(rows, SimpleNamespace(eos_token_id=None))
    with pytest.raises(InvalidInputError, match="estimator"):
        TextAlignment(rows, 2, estimator="median")
    with pytest.raises(InvalidInputError, match="context of 128 tokens"):
        draw_answers(facts.full(), [[1] * 8], [2], None, 124)
    with pytest.raises(InvalidInputError, match="Expected prompts"):
        draw_answers(facts.full(), [], [2])
    with pytest.raises(InvalidInputError, match="vocabulary"):
        functional_alignment(facts.full(), tiny(), rows, 2, Sampler(1), max_new_tokens=4)
    broken = Toy(0)
    broken.table.data.fill_(torch.nan)
    supplier = TextAlignment(PROMPTS, END, Sampler(2), max_new_tokens=T)
    with pytest.raises(InvalidInputError, match="the model is broken"):
        align(*[supplier.terms(supplier.draw(Toy(0)), Toy(0), broken)] * 2)
