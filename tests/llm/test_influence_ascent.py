"""Gradient ascent weighted by influence: against gradients of the head by torch, and in a Trainer."""

from typing import Any

import pytest
import torch

from gunlearn.errors import InvalidInputError
from gunlearn.llm import CausalLM, InfluenceAscent, PartCollator
from gunlearn.losses import GradientAscent
from gunlearn.losses.influence_weights import item_weights
from tests.llm import facts
from tests.llm.training import FORGET, RETAIN, make

READS = ("log_prob", "logits", "embeddings", "label")


@pytest.mark.parametrize("per", ["token", "item"])
def test_the_loss_and_its_gradient(per: str) -> None:
    """Weights are those of gradients of the output layer, and constants."""
    model, rows = facts.full(), PartCollator()(FORGET[:6])
    head = model.lm_head.weight
    plain = CausalLM(("log_prob",)).decode(model, None, rows)
    nll = -plain.log_prob[plain.mask] if per == "token" else -(plain.log_prob * plain.mask).sum(1)
    g = torch.stack([torch.autograd.grad(value, head, retain_graph=True)[0].flatten() for value in nll])
    influence = -g @ (g.mean(0) / (g.square().mean(0) + 0.01))
    weight = item_weights(influence, top=0.5)
    weight = weight / weight.mean()
    if per == "token":
        by_hand = (weight * plain.log_prob[plain.mask]).mean()
    else:
        by_hand = (weight[:, None] * plain.log_prob * plain.mask).sum() / plain.mask.sum()
    expected = torch.autograd.grad(by_hand, list(model.parameters()))
    loss = InfluenceAscent(per=per, top=0.5)(CausalLM(READS).decode(model, None, rows))
    assert float(loss) == pytest.approx(float(by_hand), rel=1e-4)
    found = torch.autograd.grad(loss, list(model.parameters()))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)
    assert float(loss) != pytest.approx(float(GradientAscent()(plain)), rel=1e-3)  # control: plain ascent


def test_a_trainer_forgets_with_it_and_reads_no_retained_row() -> None:
    class Untouchable:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: Any) -> Any:
            raise RuntimeError("a retained row was read")

    trainer = make(objective=InfluenceAscent(), given={"retain_dataset": None})
    trainer.train()
    assert facts.value_prob(trainer.model, FORGET) < 0.5 * facts.value_prob(facts.full(), FORGET)
    with pytest.raises(RuntimeError, match="retained row"):  # control: where it is given, rows are compared
        make(objective=InfluenceAscent(), given={"retain_dataset": Untouchable()}).train()
    assert facts.accuracy(trainer.model, RETAIN) > 0


@pytest.mark.parametrize("options", [{"per": "batch"}, {"top": 0.0}, {"cap": 1.5}, {"damping": 0.0}])
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=f"'{next(iter(options))}'"):
        InfluenceAscent(**options)
