"""Log-probabilities in chunks equal float64 autograd over dense logits; heads are found out and put back."""

import pytest
import torch
from torch import Tensor, nn

from gunlearn.core.modes import evaluating
from gunlearn.llm.model.head import last_linear_head, output_head, replaced_forward, token_log_prob
from tests.llm import facts
from tests.llm.tiny import tiny
from tests.llm.training import same, state

VOCAB, DIM = 11, 5


def problem(num: int = 7, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    hidden, weight, bias = (
        torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in ((num, DIM), (VOCAB, DIM), (VOCAB,))
    )
    return hidden, weight, bias, torch.randint(VOCAB, (num,), generator=draw)


def dense(hidden: Tensor, weight: Tensor, bias: Tensor | None, label: Tensor) -> Tensor:
    logits = hidden @ weight.T if bias is None else hidden @ weight.T + bias
    return (logits - logits.logsumexp(-1, keepdim=True))[torch.arange(len(label)), label]


@pytest.mark.parametrize("chunk", [1, 3 * VOCAB, 2**24])
@pytest.mark.parametrize("has_bias", [True, False])
def test_value_and_gradients_are_those_of_dense_logits(chunk: int, has_bias: bool) -> None:
    hidden, weight, bias, label = problem()
    inputs = (hidden, weight, bias) if has_bias else (hidden, weight)
    bias = bias if has_bias else None
    mine, whole = token_log_prob(hidden, weight, bias, label, chunk), dense(hidden, weight, bias, label)
    torch.testing.assert_close(mine, whole, rtol=1e-12, atol=1e-12)
    pull = torch.linspace(-1, 2, len(label), dtype=torch.float64)
    got = torch.autograd.grad(mine, inputs, pull)
    expected, other = (torch.autograd.grad(whole, inputs, x, retain_graph=True) for x in (pull, pull.abs()))
    for mine, right, wrong in zip(got, expected, other, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-12, atol=1e-12)
        assert not torch.allclose(mine, wrong)  # the tolerance tells signs apart


@pytest.mark.parametrize("trained", [(0,), (1,), (2,), (0, 1)])
def test_frozen_inputs_get_no_gradient(trained: tuple[int, ...]) -> None:
    *inputs, label = problem()
    inputs = [x.detach().requires_grad_(i in trained) for i, x in enumerate(inputs)]
    chosen = [inputs[i] for i in trained]
    got = torch.autograd.grad(token_log_prob(*inputs, label, 2 * VOCAB).sum(), chosen)
    for mine, expected in zip(got, torch.autograd.grad(dense(*inputs, label).sum(), chosen), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-12, atol=1e-12)


def test_no_tokens() -> None:
    hidden, weight, bias, label = problem(0)
    out = token_log_prob(hidden, weight, bias, label)
    gradients = torch.autograd.grad(out.sum(), (hidden, weight, bias))
    assert out.shape == (0,)
    assert [g.abs().sum().item() for g in gradients] == [0, 0, 0]


@pytest.mark.parametrize(("dtype", "autocast"), [(torch.bfloat16, False), (torch.float32, True)])
def test_half_precision_and_autocast_are_normalised_in_float32(dtype: torch.dtype, autocast: bool) -> None:
    *inputs, label = problem(dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = token_log_prob(*inputs, label)
    out.sum().backward()
    others = [x.detach().float().requires_grad_() for x in inputs]
    exact = dense(*others, label)
    exact.sum().backward()
    assert out.dtype == torch.float32
    assert (out - exact).abs().max() < 0.1
    for mine, expected in zip(inputs, others, strict=True):
        assert mine.grad.dtype == dtype
        torch.testing.assert_close(mine.grad.float(), expected.grad, rtol=0.05, atol=0.05)


def test_what_comes_behind_the_head_is_noticed() -> None:
    tokens = torch.tensor([[1, 2, 3]])
    assert last_linear_head(facts.fresh(), tokens)
    capped = tiny("gemma2", final_logit_softcapping=30.0)
    assert not last_linear_head(capped, tokens)  # logits of new weights are so small that the cap hardly shows


class Wrapped(nn.Module):
    """What `torch.compile` makes of a model, without the seconds that it takes to load."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._orig_mod = model


def test_heads_with_hooks_and_compiled_models_are_left_alone() -> None:
    model, tokens = facts.fresh(), torch.tensor([[1, 2, 3]])
    assert output_head(Wrapped(model)) is model.lm_head
    assert not last_linear_head(Wrapped(model), tokens)
    handle = model.lm_head.register_forward_hook(lambda *_: None)
    assert not last_linear_head(model, tokens)
    handle.remove()
    assert last_linear_head(model, tokens)
    assert "forward" not in model.lm_head.__dict__


def test_the_head_is_put_back_after_an_error() -> None:
    model = facts.fresh()
    expected = model(torch.tensor([[1, 2]])).logits
    with pytest.raises(ZeroDivisionError), replaced_forward(model.lm_head, lambda hidden: hidden * (1 / 0)):
        model(torch.tensor([[1, 2]]))
    assert "forward" not in output_head(model).__dict__
    assert torch.equal(model(torch.tensor([[1, 2]])).logits, expected)


def test_modes_are_put_back_after_an_error() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout()))
    model[1].eval()
    before = [module.training for module in model.modules()]
    with pytest.raises(RuntimeError, match="mat1"), evaluating(model):
        model(torch.zeros(1, 3))
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == before == [True, True, False, False]


def test_trying_a_head_leaves_the_model_as_it_was() -> None:
    model = facts.fresh().train()
    model.lm_head.eval()
    before, random = state(model), torch.get_rng_state()
    assert last_linear_head(model, torch.tensor([[1, 2, 3]]))
    assert same(state(model), before)
    assert torch.equal(torch.get_rng_state(), random)
    assert (model.training, model.lm_head.training) == (True, False)
