"""IMU's weights in closed form against gradients by autograd; the multiplier of a retain loss."""

import pytest
import torch

from gunlearn.errors import InvalidInputError
from gunlearn.losses import PrimalDual, influence_weights
from gunlearn.losses.influence_weights import item_weights, linear_head_influence

MASK = torch.tensor([[0, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)


def problem() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    weight = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    return hidden, weight, torch.randint(6, (3, 4), generator=generator)


@pytest.mark.parametrize("per", ["token", "item"])
def test_influence_equals_dense_gradients(per: str) -> None:
    hidden, weight, label = problem()

    def loss(w: torch.Tensor, i: int) -> torch.Tensor:
        values = torch.nn.functional.cross_entropy(hidden[i] @ w.T, label[i], reduction="none")
        return values[MASK[i]].sum() if per == "item" else values[MASK[i]]

    rows = [torch.autograd.functional.jacobian(lambda w, i=i: loss(w, i), weight).reshape(-1, 30) for i in (0, 1)]
    g = torch.cat(rows)
    expected = -g @ (g.mean(0) / (g.square().mean(0) + 0.02))
    found = linear_head_influence(hidden, hidden @ weight.T, label, MASK, 0.02, per)
    kept = MASK if per == "token" else MASK.any(1)
    torch.testing.assert_close(found[kept], expected)
    assert (found[~kept] == 0).all()
    # Control: the mask dropped.
    assert not torch.allclose(linear_head_influence(hidden, hidden @ weight.T, label, None, 0.02, per)[kept], expected)


def test_weights_have_the_mean_one_and_are_those_of_the_influence() -> None:
    hidden, weight, label = problem()
    logits = hidden @ weight.T
    dirty = logits.masked_fill(~MASK[..., None], float("nan"))
    found = influence_weights(hidden, dirty, label.masked_fill(~MASK, -100), MASK, top=0.5)
    assert found[MASK].mean().item() == pytest.approx(1)
    assert (found[~MASK] == 0).all()
    raw = item_weights(linear_head_influence(hidden, logits, label, MASK)[MASK], top=0.5)
    torch.testing.assert_close(found[MASK], raw / raw.mean())
    assert 0 < (raw > 0).sum() < len(raw)
    whole = influence_weights(hidden, logits, label, MASK, per="item")
    assert whole.shape == (3,)
    assert whole[2] == 0
    assert (influence_weights(hidden, logits, label, torch.zeros_like(MASK)) == 0).all()


def test_influence_refuses_shapes() -> None:
    hidden, weight, label = problem()
    with pytest.raises(InvalidInputError, match=r"Expected 'hidden'"):
        influence_weights(hidden[:, :3], hidden @ weight.T, label)
    with pytest.raises(InvalidInputError, match=r"Expected 'damping'"):
        influence_weights(hidden, hidden @ weight.T, label, damping=0.0)
    with pytest.raises(InvalidInputError, match=r"Expected 'per'"):
        influence_weights(hidden, hidden @ weight.T, label, per="batch")


def test_the_multiplier_rises_above_the_bound_waits_and_stays_positive() -> None:
    dual = PrimalDual(epsilon=0.2, step=10.0, warmup=1, weight=5.0)
    assert dual.update(9.0) == 5.0
    assert dual.update(0.7) == pytest.approx(10.0)
    state = dual.state_dict()
    assert dual.update(0.1) == pytest.approx(9.0)
    assert dual.update(-5.0) == 0.0
    again = PrimalDual(epsilon=0.2, step=10.0, warmup=1, weight=5.0)
    again.load_state_dict(state)
    assert again.update(0.1) == pytest.approx(9.0)
