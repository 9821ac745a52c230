"""What sets one loss apart from the others."""

import pytest
import torch

from gunlearn.errors import InvalidInputError
from gunlearn.losses import NLL, NPO, KLToReference, MSEToReference, Prediction
from tests.losses.cases import make_prediction, with_grad


@pytest.mark.parametrize("beta", [0.1, 5.0])
def test_npo_gradient_is_ascent_times_its_weight(beta: float) -> None:
    current, reference = with_grad(make_prediction(0, 8)), make_prediction(1, 8)
    (grad,) = torch.autograd.grad(NPO(beta)(current, reference), current.log_prob)
    p, q = current.log_prob.exp() ** beta, reference.log_prob.exp() ** beta
    torch.testing.assert_close(grad, (2 * p / (p + q) / 8).detach())


def test_npo_leaves_out_masked_tokens_without_the_base_class_too() -> None:
    current, reference = make_prediction(0, 4, 3), make_prediction(1, 4, 3)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [0, 1, 0], [0, 0, 0]], dtype=torch.bool)
    current = current.replace(mask=mask)
    spoiled = current.replace(log_prob=current.log_prob.masked_fill(~mask, float("nan")))
    values = [NPO(beta=0.5).values(prediction, reference) for prediction in (spoiled, current)]
    torch.testing.assert_close(*values, rtol=0, atol=0)


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
