"""The core of functional alignment against closed forms, scipy and numpy."""

import copy
import math
import warnings
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from torch import nn

from gunlearn.errors import InvalidInputError
from gunlearn.metrics import Sampler, StepTerms, align, categorical_alignment, categorical_kl, standings
from gunlearn.metrics.alignment import bootstrap

LENGTHS = torch.tensor([[1, 2], [3, 3]])


def terms(values, **kwargs):
    values = torch.as_tensor(values)
    return StepTerms(values, torch.ones_like(values, dtype=torch.bool), **kwargs)


def ragged(scale):
    """Values that depend on the step; rubbish where there is no step."""
    values = scale * torch.tensor([1.0, 10.0, 100.0]).expand(2, 2, 3)
    mask = torch.arange(3) < LENGTHS[..., None]
    return StepTerms(torch.where(mask, values, torch.nan), mask)


@dataclass
class Chain:
    """A Markov chain of Gaussian steps: what a diffusion model's reverse process is."""

    shift: float
    scale: float = 1.0


class ChainSupplier:
    """Exact divergence of each Gaussian step, as a diffusion model would supply it."""

    sampler, estimator = Sampler(n_samples=3), "rao_blackwell"
    steps, prompts = 4, torch.tensor([0.0, 1.0])

    def __init__(self):
        self.drawn = []

    def draw(self, model):
        self.drawn.append(model)
        return model

    def terms(self, samples, p, q):
        assert samples is p
        gap = (p.scale - q.scale) * self.prompts + p.shift - q.shift
        return terms((gap**2 / 2)[:, None, None].expand(2, 3, self.steps))


def test_categorical_kl_is_that_of_scipy():
    generator = torch.Generator().manual_seed(0)
    p, q = torch.randn(2, 3, 4, 7, generator=generator, dtype=torch.float64)
    expected = entropy(p.softmax(-1).numpy(), q.softmax(-1).numpy(), axis=-1)
    assert categorical_kl(p.log_softmax(-1), q.log_softmax(-1)).numpy() == pytest.approx(expected, abs=1e-12)
    assert categorical_kl(p, q).numpy() == pytest.approx(expected, abs=1e-12)  # logits will do
    assert categorical_kl(q, p).numpy() != pytest.approx(expected, abs=1e-2)  # control: the other way round
    assert (categorical_kl(p, p) == 0).all()
    assert categorical_kl(p.bfloat16(), q.bfloat16()).dtype == torch.float32


def test_what_is_excluded_by_both_counts_for_nothing_and_by_one_for_everything():
    p, q = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]]), torch.tensor([[0.25, 0.75, 0.0], [1.0, 0.0, 0.0]])
    found = categorical_kl(p.log(), q.log())
    assert found.tolist() == pytest.approx([0.5 * math.log(2) + 0.5 * math.log(2 / 3), math.inf])


def test_classifiers_in_closed_form():
    p, q = torch.tensor([[0.5, 0.5], [0.9, 0.1]]).double(), torch.tensor([[0.2, 0.8], [0.9, 0.1]]).double()
    found = categorical_alignment(p.log(), q.log())
    assert found.precision == pytest.approx(entropy(p, q, axis=1).mean())
    assert found.recall == pytest.approx(entropy(q, p, axis=1).mean())
    assert found.precision != pytest.approx(found.recall, rel=1e-2)  # so that the halves are not mixed up
    assert found.value == found.precision + found.recall
    assert found.items.tolist() == pytest.approx((entropy(p, q, axis=1) + entropy(q, p, axis=1)).tolist())
    assert (found.estimator, found.sampler, found.error) == ("closed_form", None, None)
    assert categorical_alignment(p.log(), p.log()).value == 0
    swapped = categorical_alignment(q.log(), p.log())
    assert (swapped.precision, swapped.recall) == (found.recall, found.precision)


def test_sums_per_sequence_and_means_per_token():
    sums = torch.tensor([[1.0, 11.0], [111.0, 111.0]])
    found = align(ragged(1.0), ragged(2.0))
    assert (found.precision, found.recall) == pytest.approx((float(sums.mean()), 2 * float(sums.mean())))
    assert found.items.tolist() == pytest.approx((3 * sums.mean(1)).tolist())
    token = align(ragged(1.0), ragged(2.0), per="token")
    assert token.precision == pytest.approx(float((sums / LENGTHS).mean()))
    assert (token.per, found.per) == ("token", "sequence")


def test_sampling_error_takes_both_halves_together():
    generator = torch.Generator().manual_seed(1)
    p, q = torch.randn(2, 5, 8, 1, generator=generator, dtype=torch.float64)
    expected = np.sqrt(((p + q)[..., 0].numpy().var(1, ddof=1) / 8).sum()) / 5
    assert align(terms(p), terms(q)).error == pytest.approx(expected)
    assert align(terms(p), terms(-p)).error == pytest.approx(0, abs=1e-12)  # they cancel: no independent draws
    assert align(terms(p[:, :1]), terms(q[:, :1])).error is None


def test_interval_is_over_prompts():
    items = torch.arange(50, dtype=torch.float64)
    low, high = bootstrap(items, 0.9)
    chosen = np.random.default_rng(0).integers(50, size=(4000, 50))
    expected = np.quantile(items.numpy()[chosen].mean(1), [0.05, 0.95])
    assert (low, high) == pytest.approx(expected, abs=0.5)
    assert low < items.mean() < high
    wide = bootstrap(items, 0.99)
    assert wide[0] < low
    assert high < wide[1]
    values = torch.randn(6, 400, 1, generator=torch.Generator().manual_seed(0))
    same, other = align(terms(values), terms(values)), align(terms(0 * values), terms(0 * values))
    assert same.interval[0] < same.interval[1]
    assert other.interval == (0, 0)
    assert align(terms(values[:1]), terms(values[:1])).interval is None
    assert bootstrap(torch.tensor([1.0, math.inf]))[1] == math.inf


def test_only_samples_from_the_models_themselves_pass_without_a_warning():
    some = terms(torch.ones(2, 2, 1))
    for changes in ({"temperature": 0.1}, {"top_k": 5}, {"top_p": 0.9}):
        with pytest.warns(UserWarning, match="no divergence"):
            found = align(some, some, sampler=replace(Sampler(), **changes))
        assert found.sampler == Sampler(**changes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        align(some, some, sampler=Sampler())


def test_standing_beside_retrained_models():
    far, near = Chain(3.0), Chain(1.0, 2.0)
    references, supplier = [Chain(0.0), Chain(0.5)], ChainSupplier()
    original = Chain(2.0)
    found = standings({"far": far, "near": near}, references, supplier, original)

    def by_hand(a, b):  # 4 steps, both halves alike
        gaps = [(a.scale - b.scale) * x + a.shift - b.shift for x in (0.0, 1.0)]
        return 4 * sum(g * g for g in gaps) / 2

    floor, before = by_hand(*references), sum(by_hand(original, r) for r in references) / 2
    for name, model in (("far", far), ("near", near)):
        each, standing = [by_hand(model, r) for r in references], found[name]
        mean = sum(each) / 2
        assert [a.value for a in standing.alignments] == pytest.approx(each)
        assert (standing.value, standing.floor, standing.excess) == pytest.approx((mean, floor, mean - floor))
        assert (standing.precision, standing.recall) == pytest.approx((mean / 2, mean / 2))
        assert standing.gain == pytest.approx(1 - mean / before)
    assert found["far"].gain < 0 < found["near"].gain
    assert len(supplier.drawn) == 5  # each model once
    low, high = found["near"].interval
    assert low < found["near"].value < high


def test_a_retrained_model_stands_beside_the_others():
    a, b = Chain(0.0), Chain(1.0)
    found = standings({"a": a}, [a, b], ChainSupplier())["a"]
    assert len(found.alignments) == 1
    assert found.value == found.floor == pytest.approx(4)
    assert found.gain is None
    one = standings({"b": b}, [a], ChainSupplier())["b"]
    assert (one.floor, one.excess) == (None, None)
    with pytest.raises(InvalidInputError, match="to compare 'a' with"):
        standings({"a": a}, [a], ChainSupplier())
    with pytest.raises(InvalidInputError, match="agree exactly"):
        standings({"b": b}, [a, Chain(0.0)], ChainSupplier())


class Step(nn.Module):
    """A chain whose shift is a weight."""

    scale = 1.0

    def __init__(self, shift):
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(shift), requires_grad=False)


def test_a_copy_of_a_retrained_model_is_not_compared_with_it():
    a, b = Step(0.0), Step(1.0)
    found = standings({"copy": copy.deepcopy(a), "other": Step(0.5)}, [a, b], ChainSupplier())
    assert len(found["copy"].alignments) == 1
    assert found["copy"].value == found["copy"].floor == pytest.approx(4)
    assert len(found["other"].alignments) == 2


ONES = torch.ones(2, 2, 1)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: StepTerms(ONES, torch.ones(2, 2, 2, dtype=torch.bool)), "num_steps"),
        (lambda: StepTerms(ONES, torch.zeros_like(ONES, dtype=torch.bool)), "at least one step"),
        (lambda: terms(ONES * torch.nan), "NaN"),
        (lambda: align(terms(ONES), terms(ONES[:1])), "both ways"),
        (lambda: align(terms(ONES), terms(ONES), per="word"), "per"),
        (lambda: categorical_kl(torch.zeros(2, 3), torch.zeros(2, 4)), "classes alike"),
        (lambda: bootstrap(torch.arange(50.0), 1.0), "confidence"),
        (lambda: Sampler(n_samples=0), "temperature > 0"),
        (lambda: Sampler(temperature=0.0), "temperature > 0"),
        (lambda: Sampler(top_p=0.0), "temperature > 0"),
        (lambda: Sampler(top_k=-1), "temperature > 0"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(InvalidInputError, match=words):
        call()
