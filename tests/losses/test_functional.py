"""The pure functions against closed forms and independent libraries."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from gunlearn.errors import InvalidInputError
from gunlearn.losses import functional


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("offset", [0.0, 1e-4])
@pytest.mark.parametrize("beta", [0.1, 5.0])
def test_npo_is_stable_at_extreme_ratios(beta: float, offset: float) -> None:
    log_ratio = torch.tensor([-1000.0, -100.0, 0.0, 100.0, 1000.0], requires_grad=True)
    values = functional.npo(log_ratio, torch.zeros(5), beta, offset)
    (grad,) = torch.autograd.grad(values.sum(), log_ratio)
    assert values.isfinite().all()
    assert grad.isfinite().all()
    assert ((grad >= 0) & (grad <= 2)).all()
    # softplus(x) -> x on the right; on the left what the offset alone leaves.
    assert values[-1].item() == pytest.approx(2000.0)
    assert values[0].item() == pytest.approx(2 / beta * math.log1p(offset**beta), rel=1e-4, abs=1e-30)
    # Control: the direct power overflows here.
    assert not torch.log(1 + (log_ratio.exp() + offset) ** beta).isfinite().all()


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("shape", [(7,), (7, 4), (7, 3, 4)])
def test_kl_equals_torch_distributions(shape: tuple[int, ...], direction: str) -> None:
    kind = torch.distributions.Bernoulli if len(shape) == 1 else torch.distributions.Categorical
    current, reference = normal(*shape), normal(*shape, seed=1)
    p, q = kind(logits=current), kind(logits=reference)
    oracle = torch.distributions.kl_divergence(*((q, p) if direction == "forward" else (p, q)))
    value = functional.kl_divergence(current, reference, direction)
    assert value.shape == shape[: max(1, len(shape) - 1)]
    torch.testing.assert_close(value, oracle)
    assert (functional.kl_divergence(current, current, direction) == 0).all()


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_kl_at_the_edges(direction: str) -> None:
    far = torch.tensor([-1000.0, 1000.0, 0.0], requires_grad=True)
    value = functional.kl_divergence(far, torch.zeros(3), direction)
    (grad,) = torch.autograd.grad(value.sum(), far)
    assert value.isfinite().all()
    assert grad.isfinite().all()
    # A class that both exclude counts nothing; one that only the target has costs infinity.
    cut = torch.tensor([[0.0, 1.0, -math.inf]], requires_grad=True)
    both = functional.kl_divergence(cut, torch.tensor([[1.0, 0.0, -math.inf]]), direction)
    (grad,) = torch.autograd.grad(both.sum(), cut)
    torch.testing.assert_close(both, functional.kl_divergence(cut[:, :2], torch.tensor([[1.0, 0.0]]), direction))
    assert grad.isfinite().all()
    one = functional.kl_divergence(cut.detach(), torch.zeros(1, 3), direction)
    assert one.isinf().all() == (direction == "forward")


probabilities = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20)


@given(probabilities, st.randoms(use_true_random=False))
def test_js_equals_scipy(values: list[float], random: object) -> None:
    others = random.sample(values, len(values))
    p, q = np.array(values), np.array(others)
    oracle = jensenshannon(np.stack((p, 1 - p)), np.stack((q, 1 - q)), axis=0) ** 2
    value = functional.js_divergence(torch.tensor(p), torch.tensor(q)).numpy()
    np.testing.assert_allclose(value, np.nan_to_num(oracle), rtol=1e-6, atol=1e-14)
    assert ((value >= 0) & (value <= math.log(2))).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_js_at_its_ends(dtype: torch.dtype) -> None:
    prob = torch.tensor([0.0, 1e-6, 0.3, 0.5, 0.999, 1.0], dtype=dtype)
    assert (functional.js_divergence(prob, prob) == 0).all()
    far = functional.js_divergence(torch.tensor([0.0, 1.0], dtype=dtype), torch.tensor([1.0, 0.0], dtype=dtype))
    torch.testing.assert_close(far, torch.full_like(far, math.log(2)))
    assert functional.js_divergence(torch.tensor([1 + 1e-7]), torch.tensor([-1e-7])).isfinite().all()
    assert functional.js_divergence(torch.tensor([float("nan")]), torch.tensor([0.5])).isnan().all()


X = normal(4)
BROADCAST = (normal(4, 3), normal(4, 1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: functional.kl_divergence(*BROADCAST), r"one shape, current \(4, 3\) \(got \(4, 1\)"),
        (lambda: functional.topological_entropy(*BROADCAST), r"one shape, current \(4, 3\) \(got \(4, 1\)"),
        (lambda: functional.mse(*BROADCAST), r"one shape, current \(4, 3\) \(got \(4, 1\)"),
        (lambda: functional.js_divergence(*BROADCAST), r"one shape, current \(4, 3\) \(got \(4, 1\)"),
        (lambda: functional.npo(*BROADCAST, beta=1), r"one shape, current \(4, 3\) \(got \(4, 1\)"),
        (lambda: functional.npo(X, X, beta=0), "'beta' to be a positive"),
        (lambda: functional.npo(X, X, 1, ratio_offset=-1), r"'ratio_offset' to be a finite \(>= 0\) number \(got -1\)"),
        (lambda: functional.kl_divergence(X, X, "sideways"), "'direction' to be one of 'forward', 'reverse'"),
        (lambda: functional.kl_divergence(X[:, None], X[:, None]), "at least two classes"),
        (lambda: functional.reduce_values(X, reduction="max"), "'reduction' to be one of"),
        (lambda: functional.topological_entropy(X, X), r"'embeddings' \[num_items, ..., dim\]"),
    ],
)
def test_wrong_arguments_are_refused(call: Callable[[], torch.Tensor], message: str) -> None:
    with pytest.raises(InvalidInputError, match=f"Expected .*{message}"):
        call()
