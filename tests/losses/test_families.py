"""What sets one loss apart from the others."""

from __future__ import annotations

import math

import pytest
import torch

from gunlearn.errors import InvalidInputError
from gunlearn.losses import (
    NLL,
    NPO,
    GradientAscent,
    KLToReference,
    Loss,
    MSEToReference,
    Prediction,
    TopologicalEntropy,
)
from tests.losses.cases import make_prediction, with_grad


def log_prob_grad(loss: Loss, log_prob: torch.Tensor, reference: torch.Tensor, **fields: torch.Tensor) -> torch.Tensor:
    leaf = log_prob.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss(Prediction(leaf, **fields), Prediction(reference)), leaf)
    return grad


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    return make_prediction(0, 8).log_prob, make_prediction(1, 8).log_prob


@pytest.mark.parametrize(("loss", "sign"), [(NLL(), 1), (GradientAscent(), -1), (NPO(beta=5), -1)])
def test_a_step_moves_likelihood_the_right_way(loss: Loss, sign: int, pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    # Control: the sign flipped.
    assert (-sign * log_prob_grad(loss, *pair) > 0).all()


@pytest.mark.parametrize("beta", [0.1, 5.0])
def test_npo_gradient_is_ascent_times_its_weight(beta: float, pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    p, q = pair[0].exp() ** beta, pair[1].exp() ** beta
    torch.testing.assert_close(log_prob_grad(NPO(beta), *pair), 2 * p / (p + q) / len(p))


def test_npo_adds_up_a_sequence_before_comparing() -> None:
    current, reference = make_prediction(0, 4, 3), make_prediction(1, 4, 3)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [0, 1, 0], [0, 0, 0]], dtype=torch.bool)
    ratios = [sum((current.log_prob - reference.log_prob)[i, mask[i]].tolist()) for i in range(3)]
    by_item = sum(2 / 0.5 * math.log(1 + math.exp(0.5 * r)) for r in ratios) / 3  # the empty row counts nowhere
    ratios = (current.log_prob - reference.log_prob)[mask].tolist()
    by_token = sum(2 / 0.5 * math.log(1 + math.exp(0.5 * r)) for r in ratios) / 6
    current = current.replace(mask=mask)
    assert NPO(beta=0.5)(current, reference).item() == pytest.approx(by_item)
    assert NPO(beta=0.5, per="token")(current, reference).item() == pytest.approx(by_token)
    assert by_item != pytest.approx(by_token)
    # The same without the base class in front: a direct call of `values` must leave out masked tokens, too.
    spoiled = current.replace(log_prob=current.log_prob.masked_fill(~mask, float("nan")))
    torch.testing.assert_close(
        NPO(beta=0.5).values(spoiled, reference), NPO(beta=0.5).values(current, reference), rtol=0, atol=0
    )


@pytest.mark.parametrize(
    "loss", [KLToReference(), KLToReference("reverse"), MSEToReference(), MSEToReference(field="logits")], ids=repr
)
def test_distances_vanish_at_the_reference_alone(loss: Loss) -> None:
    current, other = make_prediction(0), make_prediction(1)
    assert loss(current, current).item() == pytest.approx(0, abs=1e-15)
    assert loss(current, other).item() > 0.1


def test_kl_reads_multi_label_logits_as_bernoulli() -> None:
    current, reference = (make_prediction(seed, 4, 3, num_classes=None) for seed in (0, 1))
    per_label = [
        torch.distributions.kl_divergence(
            torch.distributions.Bernoulli(logits=reference.logits[:, j]),
            torch.distributions.Bernoulli(logits=current.logits[:, j]),
        ).mean()
        for j in range(3)
    ]
    torch.testing.assert_close(KLToReference()(current, reference), torch.stack(per_label).mean())


def test_topological_entropy_is_least_and_flat_at_the_reference() -> None:
    reference = make_prediction(1)
    loss = TopologicalEntropy()
    at = with_grad(reference)
    lowest = loss(at, reference)
    entropy = torch.distributions.Categorical(logits=reference.embeddings).entropy().mean()
    torch.testing.assert_close(lowest.detach(), entropy)
    (grad,) = torch.autograd.grad(lowest, at.embeddings)
    assert grad.abs().max() < 1e-15
    assert all(loss(make_prediction(seed), reference) > entropy for seed in (0, 2, 3))


def test_item_embeddings_of_token_sequences() -> None:
    # One embedding per item: items without tokens left drop out; equal sizes of tokens and features do not confuse.
    current, reference = (
        make_prediction(seed, 4, 3).replace(embeddings=make_prediction(seed).embeddings[:4, 0]) for seed in (0, 1)
    )
    mask = torch.tensor([[1, 0, 0], [1, 1, 1], [0, 0, 0], [0, 1, 1]], dtype=torch.bool)
    each = (current.embeddings - reference.embeddings).square().mean(1)
    torch.testing.assert_close(MSEToReference()(current.replace(mask=mask), reference), each[[0, 1, 3]].mean())


def test_broadcasting_values_are_refused() -> None:
    class Outer(NLL):
        def values(self, current: Prediction, reference: Prediction | None = None) -> torch.Tensor:
            return current.log_prob[:, None] - current.log_prob

    with pytest.raises(InvalidInputError, match=r"Expected Outer.values .* \(got \(5, 5\)\)"):
        Outer()(make_prediction(0))
