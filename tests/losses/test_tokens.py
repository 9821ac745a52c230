"""Losses on sequences of tokens, three items of five, against numpy token by token, and what sets each apart."""

import math

import numpy as np
import pytest
import torch

from gunlearn.errors import InvalidInputError
from gunlearn.losses import (
    DPO,
    IHL,
    KTO,
    NPO,
    RMU,
    WGA,
    CrossEntropyUnlearning,
    FlatLogits,
    GradientAscent,
    JSDToRefusal,
    Loss,
    MaskedVocabulary,
    Prediction,
    SatImp,
    SimNPO,
    functional,
)
from tests.losses.cases import CASES, Case, item, make_prediction, with_grad

per_case = pytest.mark.parametrize("case", CASES, ids=str)
# Prompt, answer and padding; the last row has nothing to learn from.
MASK = torch.tensor([[0, 0, 1, 1, 0], [0, 1, 1, 1, 1], [0, 0, 0, 0, 0]], dtype=torch.bool)


def pair(mask: torch.Tensor = MASK, dtype: torch.dtype = torch.float64) -> tuple[Prediction, Prediction]:
    return tuple(make_prediction(seed, *mask.shape, dtype=dtype).replace(mask=mask) for seed in (0, 1))


def whole(case: Case, prediction: Prediction, i: int, mask: torch.Tensor) -> dict[str, np.ndarray]:
    """A sequence as one item: its log-likelihood is the sum over its tokens, for SimNPO their mean."""
    tokens = prediction.log_prob[i, mask[i]].detach().numpy()
    return {"log_prob": tokens.mean() if isinstance(case.loss, SimNPO) else tokens.sum()}


def by_hand(case: Case, current: Prediction, reference: Prediction, mask: torch.Tensor) -> list[float]:
    mask = case.loss.keep(mask)
    if case.loss.per_item:
        rows = [i for i in range(len(mask)) if mask[i].any()]
        return [case.oracle(whole(case, current, i, mask), whole(case, reference, i, mask)) for i in rows]
    flat = [p.replace(mask=None).map(lambda t: t[mask]) for p in (current, reference)]
    return [case.oracle(item(flat[0], i), item(flat[1], i)) for i in range(flat[0].num_items)]


@per_case
def test_values_token_by_token(case: Case) -> None:
    current, reference = pair()
    values = by_hand(case, current, reference, MASK)
    assert case(current, reference).item() == pytest.approx(sum(values) / len(values), rel=1e-9)
    # Controls: prompt and padding counted, or the wrong denominator.
    everything = by_hand(case, current, reference, torch.ones_like(MASK))
    assert case(current, reference).item() != pytest.approx(sum(everything) / len(everything))
    assert case(current, reference, count=17).item() == pytest.approx(sum(values) / 17)


@per_case
def test_a_batch_in_shares_adds_up(case: Case) -> None:
    current, reference = pair()
    current = with_grad(current)
    count = case.loss.count(MASK)
    assert count == len(by_hand(case, current, reference, MASK))
    at_once = case(current, reference)
    shares = [
        case(*(p.map(lambda t, rows=rows: t[rows]) for p in (current, reference)), count)
        for rows in (slice(0, 1), slice(1, 2), slice(2, 3))
    ]
    torch.testing.assert_close(sum(shares), at_once, rtol=1e-12, atol=0)
    assert shares[2].item() == 0  # the row without labels
    leaf = getattr(current, case.loss.reads[0])
    split, whole_ = (torch.autograd.grad(value, leaf)[0] for value in (sum(shares), at_once))
    torch.testing.assert_close(split, whole_, rtol=1e-9, atol=1e-15)
    assert (split[2] == 0).all()
    # Control: the mean of the means is something else.
    means = [case(*(p.map(lambda t, i=i: t[i : i + 1]) for p in (current, reference))) for i in (0, 1)]
    if not case.loss.per_item:
        assert (sum(means) / 2).item() != pytest.approx(at_once.item(), rel=1e-6)


def test_dpo_at_the_reference_and_its_direction() -> None:
    current, _ = pair()
    parts = {"forget": current, "alternative": make_prediction(7, 3, 2)}  # answers of another length
    assert DPO()(parts, parts).item() == pytest.approx(math.log(2))
    assert DPO(scale=2)(parts, parts).item() == pytest.approx(2 * math.log(2) / 0.1)
    leaves = {name: with_grad(p) for name, p in parts.items()}
    grads = torch.autograd.grad(DPO()(leaves, parts), [p.log_prob for p in leaves.values()])
    assert (grads[0][MASK] > 0).all()  # a step lowers the forgotten answer
    assert (grads[1][:2] < 0).all()  # and raises the other
    assert (grads[1][2] == 0).all()  # of the row that has nothing to forget, neither


def test_dpo_without_an_alternative_is_npo() -> None:
    current, reference = pair()
    nothing = {part: current.replace(mask=torch.zeros_like(MASK)) for part in ("alternative",)}
    value = DPO(beta=0.3, scale=2)({"forget": current, **nothing}, {"forget": reference, **nothing})
    torch.testing.assert_close(value, NPO(beta=0.3)(current, reference))


def test_dpo_refuses_parts_that_do_not_pair() -> None:
    current, reference = pair()
    other = make_prediction(3, 2, 5)
    with pytest.raises(InvalidInputError, match="one Prediction"):
        DPO()(current, reference)
    with pytest.raises(InvalidInputError, match=r"items of dpo\(forget\)"):
        DPO()({"forget": current, "alternative": other}, {"forget": reference, "alternative": other})
    with pytest.raises(InvalidInputError, match=r"'alternative'.*got 'forget'"):
        DPO()({"forget": current}, {"forget": reference})


def test_kto_reference_point_is_a_constant_mean_not_below_zero() -> None:
    current, reference = pair()
    mask = torch.tensor([[True, True], [True, False], [False, False], [True, True]])
    others = [with_grad(make_prediction(seed, 4, 2).replace(mask=mask)) for seed in (5, 6)]
    loss = KTO(beta=0.5, point="other")
    gaps = [float((others[0].log_prob - others[1].log_prob).detach()[i, mask[i]].sum()) for i in (0, 1, 3)]
    ratios = [float((current.log_prob - reference.log_prob)[i, MASK[i]].sum()) for i in (0, 1)]
    for first, second, sign in ((others[0], others[1], 1), (others[1], others[0], -1)):
        leaf = with_grad(first)
        value = loss({"forget": with_grad(current), "other": leaf}, {"forget": reference, "other": second})
        z = max(0.0, sign * sum(gaps) / 3)
        assert value.item() == pytest.approx(sum(1 - 1 / (1 + math.exp(-0.5 * (z - r))) for r in ratios) / 2)
        assert torch.autograd.grad(value, leaf.log_prob, allow_unused=True)[0] is None
    assert sum(gaps) != 0  # control: one of the two is above zero, the other cut off
    whole = dict.fromkeys(("forget", "other"), make_prediction(0, 2).replace(mask=torch.tensor([True, False])))
    assert loss(whole, whole).item() == pytest.approx(0.5)  # items of one value each


def test_kto_saturates_where_npo_does_not() -> None:
    far, near = Prediction(torch.tensor([200.0], dtype=torch.float64)), Prediction(torch.zeros(1, dtype=torch.float64))
    grads = {}
    for loss in (KTO(), NPO()):
        leaf = with_grad(far)
        grads[loss.name] = torch.autograd.grad(loss(leaf, near), leaf.log_prob)[0].item()
    assert grads["kto"] < 1e-8
    assert grads["npo"] > 1.9


@pytest.mark.parametrize("weighted", [WGA(), WGA(beta=0.2), SatImp()], ids=repr)
def test_reweighted_ascent_leaves_forgotten_tokens_alone(weighted: Loss) -> None:
    leaf = torch.tensor([0.9, 0.5, 1e-12], dtype=torch.float64).log().requires_grad_()
    grad = torch.autograd.grad(weighted(Prediction(leaf)), leaf)[0] * 3
    assert (grad[:2] > 0).all()
    assert grad[2] < 0.01 * grad[1]
    plain = torch.autograd.grad(GradientAscent()(Prediction(leaf)), leaf)[0] * 3
    assert (plain == 1).all()  # control: ascent goes on for ever


def test_ceu_gradient_is_that_of_unlikelihood_and_skips() -> None:
    current, _ = pair()
    leaf = with_grad(current)
    found = torch.autograd.grad(CrossEntropyUnlearning()(leaf), leaf.logits)[0]
    prob = leaf.logits.softmax(-1).gather(-1, leaf.label.unsqueeze(-1)).squeeze(-1)
    unlikelihood = torch.autograd.grad(-(1 - prob)[MASK].log().mean(), leaf.logits)[0]
    torch.testing.assert_close(found, unlikelihood)
    skipped = torch.autograd.grad(CrossEntropyUnlearning(skip_first=1)(leaf), leaf.logits)[0]
    first = torch.tensor([[0, 0, 1, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)
    assert (skipped[first] == 0).all()
    assert (skipped[MASK & ~first] != 0).any(-1).all()
    assert CrossEntropyUnlearning(skip_first=9)(leaf).item() == 0


def test_ihl_and_flat_logits_have_their_ends() -> None:
    known = torch.full((1, 6), -30.0, dtype=torch.float64)
    known[0, 2] = 30
    label = torch.tensor([2])
    sure = Prediction(torch.zeros(1).double(), logits=known, label=label)
    other = sure.replace(label=torch.tensor([4]))
    assert IHL()(sure).item() == pytest.approx(2)
    assert IHL()(other).item() == pytest.approx(0)
    flat = sure.replace(logits=torch.full((1, 6), 3.0).double())
    assert FlatLogits()(flat).item() == 0
    assert FlatLogits()(sure).item() == pytest.approx(50**2)


def test_jsd_to_refusal_is_bounded_and_goes_round() -> None:
    current, _ = pair()
    parts = {"alternative": current, "forget": current}
    assert 0 < JSDToRefusal()(parts).item() < math.log(2)
    assert functional.js_to_label(torch.tensor([-1e4, 0.0])).tolist() == pytest.approx([math.log(2), 0], abs=1e-6)
    value = JSDToRefusal((2, 0, 3), on="forget", reduction="none")(current)
    prob = current.logits.softmax(-1)
    places = {(0, 2): 2, (0, 3): 0, (1, 1): 2, (1, 2): 0, (1, 3): 3, (1, 4): 2}  # counted from the first label
    for (i, t), token in places.items():
        one_hot = torch.nn.functional.one_hot(torch.tensor(token), 4).double()
        expected = functional.categorical_js_divergence(prob[i, t], one_hot)
        torch.testing.assert_close(value[i, t], expected)
    assert (value[~MASK] == 0).all()


@pytest.mark.parametrize("target", ["current", "reference"])
def test_masked_vocabulary_closed_form_and_no_nan(target: str) -> None:
    current, reference = pair()
    leaf = with_grad(current)
    value = MaskedVocabulary((0, 3), target=target)(leaf, reference)
    grad = torch.autograd.grad(value, leaf.logits)[0]
    assert grad.isfinite().all()
    assert (grad[MASK][:, [0, 3]] > 0).all()  # a step lowers the tokens everywhere
    if target == "current":
        rest = 1 - current.logits.softmax(-1)[..., [0, 3]].sum(-1)
        torch.testing.assert_close(value.detach(), -rest.log()[MASK].mean())


def test_a_zero_logit_raises_tokens_that_were_unlikely() -> None:
    # Why exactly zero probability is the default.
    logits = torch.tensor([[4.0, 3.0, -5.0]], dtype=torch.float64)
    steps = {}
    for mode in ("ninf", "zero_logit"):
        p = with_grad(Prediction(torch.zeros(1).double(), logits, embeddings=torch.zeros(1, 1)))
        steps[mode] = -torch.autograd.grad(MaskedVocabulary((2,), mode)(p), p.logits)[0][0, 2]
    assert steps["ninf"] < 0 < steps["zero_logit"]


def test_rmu_goes_to_one_point_per_seed() -> None:
    state = torch.get_rng_state()
    u, other = functional.control_vector(16, 0), functional.control_vector(16, 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert u.norm().item() == pytest.approx(1)
    assert (u >= 0).all()
    assert not torch.equal(u, other)
    there = Prediction(torch.zeros(3, 5), embeddings=(6.5 * u).expand(3, 5, 16), mask=MASK)
    assert RMU()(there).item() == 0
    assert RMU(seed=1)(there).item() > 0.01


@pytest.mark.parametrize("build", [NPO, SimNPO, DPO, KTO])
def test_values_of_whole_items_are_averaged_over_no_tokens(build: type[Loss]) -> None:
    for reduction in ("token_mean", "seq_mean"):
        with pytest.raises(InvalidInputError, match=rf"(?s)Expected 'reduction'.*{build.__name__}.*'{reduction}'"):
            build(reduction=reduction)
    assert build(reduction="seq_sum").per_item
    assert not NPO(per="token", reduction="token_mean").per_item
