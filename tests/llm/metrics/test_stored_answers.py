"""Terms of stored answers, against plain enumeration of all answers."""

from itertools import product

import pytest
import torch

from gunlearn.llm.metrics.generation import Samples
from gunlearn.llm.metrics.stored_answers import AnswerSpec, step_terms, stored_answers, with_likelihoods
from gunlearn.metrics import Sampler
from tests.llm.tiny import tiny

END, STEPS, PROMPT = 2, 2, [3, 4]
SIZES = {"vocab_size": 6, "max_position_embeddings": 16}


def wide(seed):
    """A model of six tokens that is not uniform."""
    model = tiny("llama", seed, **SIZES)
    with torch.no_grad():
        model.lm_head.weight.mul_(20)
    return model


def enumerated():
    """All answers of at most two tokens, as samples of one prompt."""
    answers = [[END]] + [[a, b] for a, b in product(range(6), repeat=2) if a != END]
    tokens = torch.tensor([a + [0] * (STEPS - len(a)) for a in answers])
    mask = torch.tensor([[True] * len(a) + [False] * (STEPS - len(a)) for a in answers])
    return Samples([PROMPT], tokens[None], mask[None], torch.tensor([[END in a for a in answers]])), answers


@torch.no_grad()
def log_prob(model, answer):
    ids = torch.tensor([PROMPT + answer])
    log_p = model(input_ids=ids).logits[0].double().log_softmax(-1)
    return sum(log_p[len(PROMPT) - 1 + t, token] for t, token in enumerate(answer))


@pytest.mark.parametrize("kept", [1, 2, 6])
def test_terms_have_the_expectation_of_the_divergence(kept):
    """The control: without the drawn token's part the expectation is another unless all tokens are kept."""
    p, q = wide(0), wide(1)
    samples, answers = enumerated()
    spec = AnswerSpec(Sampler(), (END,), STEPS, kept)
    stored = with_likelihoods(p, samples, spec)
    (terms,) = step_terms(q, [PROMPT], stored, spec)
    weights = torch.stack([log_prob(p, a) for a in answers]).exp()
    assert float(weights.sum()) == pytest.approx(1)
    exact = sum(float(w * (log_prob(p, a) - log_prob(q, a))) for w, a in zip(weights, answers, strict=True))
    assert float((weights * torch.tensor(terms)).sum()) == pytest.approx(exact, rel=1e-5)
    assert exact > 0.1
    all_kept = [dict(stored[0], own=step) for step in [torch.full_like(stored[0]["own"], -50.0)]]
    (other,) = step_terms(q, [PROMPT], all_kept, spec)
    assert (other == pytest.approx(terms)) == (kept == 6)


def test_a_share_of_the_prompts_is_answered_as_among_all():
    """What several processes rely on; the control: another prompt has other answers."""
    model, prompts = wide(2), [[3, 4], [5, 1, 3], [4], [1, 5]]
    spec = AnswerSpec(Sampler(n_samples=4), (END,), 6, 3)
    whole = stored_answers(model, prompts, range(4), spec)
    some = stored_answers(model, prompts, [1, 3], spec)
    for a, b in zip((whole[1], whole[3]), some, strict=True):
        width = min(a["mask"].size(1), b["mask"].size(1))
        assert torch.equal((a["tokens"] * a["mask"])[:, :width], (b["tokens"] * b["mask"])[:, :width])
        torch.testing.assert_close(a["own"], b["own"])
    assert whole[0]["own"].shape != whole[1]["own"].shape or not torch.allclose(whole[0]["own"], whole[1]["own"])


def test_a_model_is_no_distance_from_itself():
    spec, prompts = AnswerSpec(Sampler(n_samples=3), (END,), 5, 2), [[3, 4], [5]]
    stored = stored_answers(wide(3), prompts, range(2), spec)
    assert torch.tensor(step_terms(wide(3), prompts, stored, spec)).abs().max() < 1e-5
    assert torch.tensor(step_terms(wide(4), prompts, stored, spec)).abs().max() > 1e-2  # control
