"""SSD: which weights shrink and by how much, against dense importances."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, softplus

import gunlearn as gu
from gunlearn.errors import InvalidInputError
from gunlearn.methods import SSD, run_method
from tests.methods.cases import same_weights
from tests.methods.forgetting import IMAGES, LINKS, NODES, digits, karate, on_digits, threes


def importances(mask: Tensor) -> list[np.ndarray]:
    """Mean squared gradients of a two-layer perceptron's losses, backpropagated by hand in float64."""
    model, data = digits()
    w = {name: value.double().numpy() for name, value in model.state_dict().items()}
    x, y = data.x[mask].double().numpy(), data.y[mask].numpy()
    a = x @ w["0.weight"].T + w["0.bias"]
    h = np.maximum(a, 0)
    z = h @ w["2.weight"].T + w["2.bias"]
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(y)), y] -= 1
    q = (p @ w["2.weight"]) * (a > 0)
    return [(q**2).T @ x**2 / len(y), (q**2).mean(0), (p**2).T @ h**2 / len(y), (p**2).mean(0)]


@pytest.mark.parametrize(("alpha", "dampening"), [(2.0, 1.0), (3.0, 0.5), (1.5, 2.0)])
def test_the_formula(alpha: float, dampening: float) -> None:
    model, _ = digits()
    partition = threes()
    result = on_digits(SSD(alpha=alpha, dampening=dampening, probes=None))
    forget, everything = (
        importances(m) for m in (partition.forget_mask, partition.forget_mask | partition.retain_mask)
    )
    shrunk = 0
    for new, old, f, d in zip(result.model.parameters(), model.parameters(), forget, everything, strict=True):
        chosen = f > alpha * d
        factor = np.where(chosen, np.minimum(dampening * d / np.where(f > 0, f, 1), 1), 1)
        close = np.isclose(new.detach().numpy(), old.detach().numpy() * factor, rtol=1e-3, atol=1e-7)
        assert close.mean() > 0.999  # a weight at the threshold itself may fall on either side
        shrunk += int(chosen.sum())
    assert result.notes["dampened"] == pytest.approx(shrunk / sum(p.numel() for p in model.parameters()), rel=0.02)
    assert 0 < result.notes["dampened"] < 0.5
    # Control: with the two sets exchanged it would be another model.
    assert not any(np.allclose(f > alpha * d, d > alpha * f) for f, d in zip(forget[:1], everything[:1], strict=True))


@pytest.mark.parametrize("task", ["nodes", "edges"])
def test_the_formula_where_features_go(task: str) -> None:
    """Items that lose features are trained on before and after: among all data each counts once."""
    model, before = karate(task)
    data, kind = before.data, LINKS if task == "edges" else NODES
    nodes = data.train_mask.nonzero().view(-1)[:4].tolist() if task == "nodes" else [2, 11]
    partition = gu.ForgetFeatures(nodes).resolve(data)
    result = run_method(SSD(alpha=1.2, dampening=0.5, probes=None), model, partition, kind)
    exact = copy.deepcopy(model).double().eval()
    out = exact(data.x.double(), data.edge_index)
    if task == "nodes":
        items = data.train_mask.nonzero().view(-1)
        values = cross_entropy(out[items], data.y[items], reduction="none")
        forgotten = np.isin(items.numpy(), nodes)
    else:
        u, v = partition.retain_edge_index
        values = softplus(-(out[u] * out[v]).sum(1))
        forgotten = np.isin(u.numpy(), nodes) | np.isin(v.numpy(), nodes)
    parameters = list(exact.parameters())
    squares = [[g.square() for g in torch.autograd.grad(value, parameters, retain_graph=True)] for value in values]
    assert 0 < forgotten.sum() < 0.8 * len(forgotten)
    shrunk = differ = 0
    for i, (new, old) in enumerate(zip(result.model.parameters(), model.parameters(), strict=True)):
        each = torch.stack([square[i] for square in squares])
        f, d = each[torch.from_numpy(forgotten)].mean(0), each.mean(0)
        factor = torch.where(f > 1.2 * d, (0.5 * d / f.clamp(min=1e-300)).clamp(max=1), 1.0)
        close = torch.isclose(new.double(), old.double() * factor, rtol=1e-3, atol=1e-7)
        assert close.double().mean() > 0.99
        shrunk += int((factor < 1).sum())
        twice = torch.cat([each, each[torch.from_numpy(forgotten)]]).mean(0)  # control: counted twice
        other = torch.where(f > 1.2 * twice, (0.5 * twice / f.clamp(min=1e-300)).clamp(max=1), 1.0)
        differ += int((~torch.isclose(new.double(), old.double() * other, rtol=1e-3, atol=1e-7)).sum())
    assert shrunk > 0
    assert differ > 0.5 * shrunk


def test_probes_estimate_the_same() -> None:
    exact, few = (on_digits(SSD(alpha=2.0, probes=probes)) for probes in (None, 64))
    assert not same_weights(exact.model, few.model)
    assert few.notes["dampened"] == pytest.approx(exact.notes["dampened"], rel=0.3)
    assert same_weights(few.model, on_digits(SSD(alpha=2.0, probes=64)).model)
    assert not same_weights(few.model, on_digits(SSD(alpha=2.0, probes=64), seed=2).model)


def test_a_threshold_that_nothing_can_pass_is_refused() -> None:
    """A tenth of all items is forgotten: no importance is more than ten times that of all. No silent no-op."""
    with pytest.raises(InvalidInputError, match=r"'alpha' below 9\.\d+ where 10\.6%"):
        on_digits(SSD(mode="paper"))
    model, data = digits()
    few = gu.ForgetItems(threes().forget_mask.nonzero().view(-1)[:20]).resolve(data)
    assert run_method(SSD(mode="paper"), model, few, IMAGES).notes["dampened"] > 0
    assert SSD(mode="paper").alpha == 10
