"""Membership attacks: scores by hand, and what they say of a model that knows and ones that never did."""

import zlib

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from gunlearn.errors import InvalidInputError
from gunlearn.llm.metrics import (
    gradient_score,
    loss_score,
    membership_auc,
    min_k_plus_score,
    min_k_score,
    privacy_leak,
    reference_score,
    token_scores,
    zlib_score,
)
from tests.llm import facts
from tests.llm.training import logits

ROWS = facts.rows(range(2))


def log_probs(model, row):
    """Log-probabilities over the vocabulary at the labelled tokens, and those tokens."""
    ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])[1:]
    log_p = logits(model, ids)[0, :-1].double().log_softmax(-1)
    return log_p[labels != -100].numpy(), labels[labels != -100].numpy()


@pytest.mark.parametrize("end", ["skip", "keep", "last"])
def test_scores_by_hand(end):
    """Each row ends with its end-of-sequence token, so that "skip" and "last" leave out the same one."""
    model, other = facts.retrained(0), facts.retrained(1)
    scores, reference = token_scores(model, ROWS, end=end), token_scores(other, ROWS)
    texts = [row["answer"] for row in ROWS]
    expected = {name: [] for name in ("loss", "zlib", "min", "plus", "reference")}
    for row, text in zip(ROWS, texts, strict=True):
        log_p, y = log_probs(model, row)
        own = log_p[np.arange(len(y)), y]
        mean = (np.exp(log_p) * log_p).sum(1)
        std = np.sqrt((np.exp(log_p) * (log_p - mean[:, None]) ** 2).sum(1))
        log_q, _ = log_probs(other, row)
        inner = slice(None, None if end == "keep" else -1)
        k = max(1, int(0.4 * len(y[inner])))
        expected["loss"].append(own.mean())
        expected["zlib"].append(own.mean() / len(zlib.compress(text.encode())))
        expected["min"].append(np.sort(own[inner])[:k].mean())
        expected["plus"].append(np.sort(((own - mean) / np.maximum(std, 1e-3))[inner])[:k].mean())
        expected["reference"].append(own.mean() - log_q[np.arange(len(y)), y].mean())
    found = {
        "loss": loss_score(scores),
        "zlib": zlib_score(scores, texts),
        "min": min_k_score(scores),
        "plus": min_k_plus_score(scores),
        "reference": reference_score(scores, reference),
    }
    for name, values in found.items():
        assert values.tolist() == pytest.approx(expected[name], rel=1e-3, abs=1e-5), name
    assert (min_k_score(scores, 1.0).tolist() == pytest.approx(found["loss"].tolist())) == (end == "keep")
    assert (min_k_score(scores, 0.01) == torch.where(scores.counted, scores.log_prob, 1).min(1).values).all()
    for share in (0.0, 1.5):
        with pytest.raises(InvalidInputError, match="share"):
            min_k_score(scores, share)
    with pytest.raises(InvalidInputError, match="text for each"):
        zlib_score(scores, texts[1:])


def gradient_by_hand(row, end):
    model, (ids, labels) = facts.retrained(0), (torch.tensor([row[name]]) for name in ("input_ids", "labels"))
    labels[:, -1] = labels[:, -1] if end == "keep" else -100
    gradients = torch.autograd.grad(model(input_ids=ids, labels=labels).loss, list(model.parameters()))
    return -float(torch.stack([g.norm() for g in gradients]).mean())


def test_gradients_are_those_of_each_row_and_leave_nothing_behind():
    model = facts.retrained(0).train()
    for end in ("keep", "last", "skip"):
        found = gradient_score(model, ROWS[:4], end=end)
        assert found.tolist() == pytest.approx([gradient_by_hand(row, end) for row in ROWS[:4]], rel=1e-4)
    assert found[1:2].tolist() == pytest.approx(gradient_score(model, ROWS[1:2]).tolist())  # others do not matter
    assert model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    frozen = facts.retrained(0).requires_grad_(False)
    assert gradient_score(frozen, ROWS[:1]).tolist() == pytest.approx(found[:1].tolist())
    assert not any(p.requires_grad for p in frozen.parameters())
    frozen.model.norm.requires_grad_(True)
    assert gradient_score(frozen, ROWS[:1]).tolist() != pytest.approx(found[:1].tolist(), rel=0.05)


def test_a_model_that_knows_is_found_out_and_retrained_ones_are_not():
    forget, unseen = facts.rows(facts.FORGET), facts.rows(facts.UNSEEN)

    def attacks(model):
        a, b = token_scores(model, forget), token_scores(model, unseen)
        return [membership_auc(score(a), score(b)) for score in (loss_score, min_k_score, min_k_plus_score)]

    assert min(attacks(facts.full())) > 0.95
    for seed in (0, 1):
        assert all(0.3 < auc < 0.7 for auc in attacks(facts.retrained(seed)))


def test_auc_is_that_of_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    members, others = torch.randn(30, generator=generator) + 1, torch.randn(20, generator=generator)
    expected = roc_auc_score([1] * 30 + [0] * 20, torch.cat([members, others]))
    assert membership_auc(members, others) == pytest.approx(expected)
    assert membership_auc(others, members) == pytest.approx(1 - expected)
    with pytest.raises(InvalidInputError, match="both sides"):
        membership_auc(members, others[:0])


def test_leak_is_relative_to_the_retrained_model():
    assert privacy_leak(0.5) == 0
    assert privacy_leak(1.0) == pytest.approx(-100)
    assert privacy_leak(0.0) == pytest.approx(100)
    assert privacy_leak(0.7, 0.4) == pytest.approx((0.3 - 0.6) / 0.6 * 100)
