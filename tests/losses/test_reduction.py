"""Masks, weights and averages."""

import pytest
import torch

from gunlearn.errors import InvalidInputError
from gunlearn.losses import reduce_values

NAN = float("nan")


@pytest.mark.parametrize("shape", [(5,), (5, 3)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_plain_loops(shape: tuple[int, ...], weighted: bool, masked: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    values, weights = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    keep = torch.rand(shape, generator=generator) < 0.6
    mask, weight = keep if masked else None, weights if weighted else None
    rows = list(zip(*(t.flatten().tolist() for t in (values, weights, keep)), strict=True))
    each = [v * (w if weighted else 1) if k or not masked else 0.0 for v, w, k in rows]
    count = sum(k for _, _, k in rows) if masked else len(rows)
    assert reduce_values(values, mask, weight).item() == pytest.approx(sum(each) / count)
    assert reduce_values(values, mask, weight, "sum").item() == pytest.approx(sum(each))
    assert reduce_values(values, mask, weight, "none").flatten().tolist() == pytest.approx(each)


def test_first_dimension_counts_items_even_where_sizes_agree() -> None:
    values = torch.ones(3, 3)
    weight = torch.tensor([1.0, 2.0, 3.0])
    assert reduce_values(values, weight=weight, reduction="none").tolist() == [[1] * 3, [2] * 3, [3] * 3]
    assert reduce_values(values, weight=weight[None], reduction="none").tolist() == [[1, 2, 3]] * 3
    kept = reduce_values(values, mask=torch.tensor([True, False, False]), reduction="none")
    assert kept.tolist() == [[1] * 3, [0] * 3, [0] * 3]
    assert reduce_values(values, weight=torch.tensor(2.0)).item() == 2
    assert reduce_values(values[0], weight=weight[:, None]).item() == 2


@pytest.mark.parametrize("shape", [(4,), (2, 3), (3, 3, 1, 2), (3, 3, 3)])
@pytest.mark.parametrize("values", [torch.ones(3), torch.ones(3, 3)])
def test_weights_that_do_not_fit_are_refused(values: torch.Tensor, shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInputError, match=r"Expected 'weight' to fit values of shape \(3, *3?\)"):
        reduce_values(values, weight=torch.ones(shape))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("bad", [NAN, float("inf")])
def test_masked_values_and_weights_have_no_say(bad: float, reduction: str) -> None:
    values = torch.tensor([1.0, bad, 3.0], requires_grad=True)
    weight = torch.tensor([1.0, bad, 1.0])
    mask = torch.tensor([True, False, True])
    total = reduce_values(values, mask, weight, reduction)
    (grad,) = torch.autograd.grad(total, values)
    assert total.item() == (2 if reduction == "mean" else 4)
    assert grad.tolist() == ([0.5, 0, 0.5] if reduction == "mean" else [1, 0, 1])
    assert not reduce_values(values, None, weight, reduction).isfinite()  # control: the mask dropped


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("size", [0, 3])
def test_nothing_left_is_zero_on_the_graph(size: int, reduction: str) -> None:
    values = torch.full((size,), NAN, requires_grad=True)
    total = reduce_values(values, torch.zeros(size, dtype=torch.bool), reduction=reduction)
    assert total.item() == 0
    assert total.requires_grad
    assert (torch.autograd.grad(total, values)[0] == 0).all()
    assert reduce_values(torch.zeros(0), reduction=reduction).item() == 0


def test_half_precision_does_not_overflow() -> None:
    values = torch.full((1000,), 1000.0, dtype=torch.float16)
    assert reduce_values(values, reduction="sum").item() == 1e6
    assert values.sum().isinf()  # control: half precision's own sum
