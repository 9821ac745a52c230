"""What each loss does to the logits of a batch with prompt and padding; the defects of others, by name."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from gunlearn.llm import CausalLM
from gunlearn.losses import UNDIAL, CrossEntropyUnlearning, FlatLogits, KLToReference, Prediction
from tests.losses.cases import CASES, Case

V = 130  # more than 100, so that the label -100 would be a valid index
LABELS = torch.tensor([[-100, -100, 7, 29, 4], [-100, 3, 9, -100, -100], [-100, -100, -100, -100, -100]])
ATTENTION = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0]])
COUNTS = torch.zeros(3, 5, dtype=torch.bool)
COUNTS[:, :-1] = LABELS[:, 1:] != -100  # the place that predicts a labelled token


class Fixed(nn.Module):
    """A language model that is nothing but its logits and hidden states."""

    def __init__(self, seed: int, labels: torch.Tensor = LABELS) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.labels = labels
        self.logits = nn.Parameter(torch.randn(3, 5, V, generator=generator, dtype=torch.float64))
        self.hidden = nn.Parameter(torch.randn(3, 5, 8, generator=generator, dtype=torch.float64))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: object) -> SimpleNamespace:
        return SimpleNamespace(logits=self.logits, hidden_states=(self.hidden,))

    def read(self) -> Prediction:
        batch = {
            "input_ids": self.labels.clamp_min(0),
            "labels": self.labels,
            "attention_mask": ATTENTION,
        }
        return CausalLM(("log_prob", "logits", "label", "embeddings")).decode(self, None, batch)


def grad(case: Case, current: Fixed, reference: Fixed) -> torch.Tensor:
    with torch.no_grad():
        before = reference.read()
    leaves = [current.logits, current.hidden]
    found = torch.autograd.grad(case(current.read(), before), leaves, allow_unused=True)
    return next(g for g in found if g is not None)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradient_on_the_places_that_predict_an_answer_and_nowhere_else(case: Case) -> None:
    found = (grad(case, Fixed(0), Fixed(1)) != 0).any(-1)
    counts = COUNTS.clone()
    counts[:, :-1] = case.loss.keep(counts[:, :-1])
    assert torch.equal(found, counts)
    # Control: without labels masked, every place but padding and the last gets some.
    open_ = (grad(case, Fixed(0, LABELS.abs() % V), Fixed(1, LABELS.abs() % V)) != 0).any(-1)
    assert torch.equal(open_[:, :-1], case.loss.keep(ATTENTION[:, :-1].bool()))
    assert not open_[:, -1].any()


def test_undial_lowers_no_token_by_the_label_minus_100() -> None:
    # Defect 1: a label of -100 taken as an index lowers token V - 100 of prompt and padding.
    current = Fixed(0)
    slope = grad(Case(UNDIAL(), None), current, current)
    assert (slope[~COUNTS] == 0).all()
    assert (slope[..., V - 100][~COUNTS] == 0).all()
    # At the reference itself the answer's tokens alone are pushed: p - q is positive there, negative elsewhere.
    for i, t in COUNTS.nonzero().tolist():
        assert slope[i, t].argmax() == LABELS[i, t + 1]
        assert (slope[i, t] > 0).sum() == 1


def test_kl_retain_is_a_mean_over_answer_tokens() -> None:
    # Defect 2: a sum over all rows, padding too, divided by the batch.
    current, reference = Fixed(0), Fixed(1)
    p, q = (m.logits.detach().log_softmax(-1) for m in (current, reference))
    each = (q.exp() * (q - p)).sum(-1)
    value = KLToReference()(current.read(), reference.read())
    torch.testing.assert_close(value.detach(), each[COUNTS].mean())
    assert abs(value.item() - each.sum().item() / 3) > 1


def test_pdu_reads_the_place_that_predicts_and_not_the_next() -> None:
    # Defect 3: logits not shifted against the mask of labels.
    current = Fixed(0)
    z = current.logits.detach()
    each = (z.amax(-1) - z.mean(-1)).square()
    value = FlatLogits()(current.read()).item()
    assert value == pytest.approx(each[COUNTS].mean().item())
    assert value != pytest.approx(each[LABELS != -100].mean().item())


def test_a_batch_without_any_label_is_a_zero() -> None:
    model = Fixed(0, torch.full_like(LABELS, -100))
    for loss in (FlatLogits(), CrossEntropyUnlearning(skip_first=1)):
        value = loss(model.read())
        assert value.item() == 0
        value.backward()
        assert math.isfinite(float(model.logits.grad.sum()))
        assert not model.logits.grad.any()
