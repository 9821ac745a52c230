"""AUC and AP against counted pairs and ranks."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gunlearn.errors import InvalidInputError
from gunlearn.metrics import forget_separation, separation

NAN, INF = float("nan"), float("inf")


def counted_auc(positive, negative):
    """Share of pairs in the right order; ties count half."""
    wins = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
    return wins / (len(positive) * len(negative))


def counted_ap(positive, negative):
    """Precision at each threshold, weighted by the recall it adds."""
    everything, total, last = sorted({*positive, *negative}, reverse=True), 0.0, 0.0
    for threshold in everything:
        hits, all_ = sum(p >= threshold for p in positive), sum(s >= threshold for s in (*positive, *negative))
        recall = hits / len(positive)
        total += (recall - last) * hits / all_
        last = recall
    return total


scores = st.lists(st.sampled_from([-2.5, -1.0, 0.0, 0.5, 0.5000001, 1.0, 3.0, 1e30, INF, -INF]), min_size=1, max_size=8)


@given(scores, scores)
def test_separation_counts_pairs(positive, negative):
    auc, ap = separation(torch.tensor(positive, dtype=torch.float64), torch.tensor(negative, dtype=torch.float64))
    assert auc == pytest.approx(counted_auc(positive, negative), abs=1e-12)
    assert ap == pytest.approx(counted_ap(positive, negative), abs=1e-12)
    swapped, _ = separation(torch.tensor(negative, dtype=torch.float64), torch.tensor(positive, dtype=torch.float64))
    assert swapped == pytest.approx(1 - auc, abs=1e-12)


def test_numbers_of_half_precision_are_separated_too():
    generator = torch.Generator().manual_seed(0)
    positive, negative = torch.randn(300, generator=generator) + 1, torch.randn(700, generator=generator)
    auc, ap = separation(positive, negative)
    assert (type(auc), type(ap)) == (float, float)
    assert auc > 0.7  # control: positives are those that score higher
    assert separation(positive.bfloat16(), negative.bfloat16())[0] == pytest.approx(auc, abs=0.01)


def test_an_empty_side_has_no_figure():
    some, none = torch.ones(3), torch.ones(0)
    for result in (separation(some, none), separation(none, some), separation(none, none)):
        assert result == (None, None)
    assert forget_separation(some, none) == (None, None)
    assert forget_separation(none, some) == (None, None)
    assert forget_separation(some, some, draws=0) == (None, None)


@pytest.mark.parametrize("where", [0, 1])
def test_nan_is_refused(where):
    pair = [torch.rand(5), torch.rand(5)]
    pair[where][3] = NAN
    with pytest.raises(InvalidInputError, match="NaN"):
        separation(*pair)
    # Also where no draw meets it: one retained edge of a thousand.
    forget, retain = torch.rand(2), torch.rand(1000)
    (forget if where == 0 else retain)[1] = NAN
    for seed in range(5):
        with pytest.raises(InvalidInputError, match="NaN"):
            forget_separation(forget, retain, draws=1, seed=seed)


def test_forget_separation_is_the_mean_over_draws():
    data = torch.Generator().manual_seed(1)
    forget, retain = torch.randn(20, generator=data), torch.randn(90, generator=data) + 0.5
    generator, pairs = torch.Generator().manual_seed(7), []
    for _ in range(5):
        drawn = retain[torch.randperm(90, generator=generator)[:20]].tolist()
        pairs.append((counted_auc(drawn, forget.tolist()), counted_ap(drawn, forget.tolist())))
    auc, ap = forget_separation(forget, retain, draws=5, seed=7)
    assert auc == pytest.approx(np.mean([a for a, _ in pairs]), abs=1e-12)
    assert ap == pytest.approx(np.mean([p for _, p in pairs]), abs=1e-12)
    assert len({a for a, _ in pairs}) > 1  # control: the draws do differ
    # Retained edges are the positives: forgotten ones pushed down give a figure above one half.
    assert forget_separation(forget - 100, retain) == (1.0, 1.0)
    assert forget_separation(forget + 100, retain)[0] == 0.0
    # Over many draws the AUC of all pairs comes out.
    assert forget_separation(forget, retain, draws=100)[0] == pytest.approx(
        counted_auc(retain.tolist(), forget.tolist()), abs=0.02
    )


def test_draws_belong_to_their_seed():
    forget, retain = torch.rand(5), torch.rand(50)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first, same = (forget_separation(forget, retain, seed=3) for _ in range(2))
    assert first == same
    assert torch.equal(torch.get_rng_state(), state)
    assert len({forget_separation(forget, retain, seed=seed) for seed in range(6)}) > 1
    # Fewer retained than forgotten: all of them, whatever the seed.
    assert len({forget_separation(retain, forget, seed=seed) for seed in range(6)}) == 1
    assert forget_separation(retain, forget)[0] == pytest.approx(counted_auc(forget.tolist(), retain.tolist()))
