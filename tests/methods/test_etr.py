"""ETR against loops in numpy, dense autograd in float64, and its controls on Cora."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, logsigmoid

import gunlearn as gu
from gunlearn.methods import run_method
from gunlearn.methods.graph.erasing import erase
from gunlearn.methods.graph.etr import ETR
from gunlearn.seed import isolated_rng
from tests.methods.cases import dense_gcn, make_data, ring, run, same_weights, trained_model, watched
from tests.methods.forgetting import beyond, classifier, cora, cora_figures

TASK = gu.NodeClassification()
NAMES = ("convs.0.bias", "convs.0.lin.weight", "convs.1.bias", "convs.1.lin.weight")


def values(model: nn.Module) -> list[Tensor]:
    found = dict(model.named_parameters())
    return [found[name].detach().double().clone().requires_grad_() for name in NAMES]


@pytest.mark.parametrize("gone", [True, False])
def test_erasing_is_the_formula_entry_by_entry(gone: bool) -> None:
    rng = np.random.default_rng(0)
    theta, g, f, k = (rng.normal(size=(7, 30)) for _ in range(4))
    f[0], k[0, 0] = 0.0, 0.0  # nothing there depends on what goes
    expected = theta.copy()
    with np.errstate(divide="ignore"):
        factors = [g**2 / f**2, g**4 / (f**2 * k**2)] if gone else [g**2 / k**2]
    taken = np.zeros(theta.shape, bool)
    for factor in factors:
        factor = np.minimum(factor, 1)
        limit = np.quantile(factor, 0.1)
        now = np.zeros(theta.shape, bool)
        for i, j in np.ndindex(theta.shape):
            if factor[i, j] <= limit and not taken[i, j]:
                expected[i, j] *= factor[i, j] / limit
                now[i, j] = True
        taken |= now
    given = torch.from_numpy(theta.copy())
    near, removed = torch.from_numpy(k), torch.from_numpy(f)
    count = erase([given], [torch.from_numpy(g)], [removed] if gone else None, [near], 0.1)
    np.testing.assert_allclose(given.numpy(), expected, rtol=1e-12)
    assert count == taken.sum() > 20
    if gone:
        assert (given[0] == torch.from_numpy(theta[0])).all()
    untouched = torch.from_numpy(theta.copy())
    assert erase([untouched], [torch.from_numpy(g)], None, [near], 0.0) == 0
    np.testing.assert_array_equal(untouched.numpy(), theta)


def dense(weights: list[Tensor], data: Any) -> Tensor:
    """The model's outputs by dense matrices, from the weights in the order of `values`."""
    return dense_gcn(dict(zip(NAMES, weights, strict=True)), data, data.edge_index)


REQUESTS = {
    "nodes": gu.ForgetNodes(count=3, seed=1),
    "edges": gu.ForgetEdges(count=5, seed=1),
    "features": gu.ForgetFeatures(count=4, seed=1),
    "nodes and features": gu.ForgetNodes(count=2, seed=1) + gu.ForgetFeatures(count=3, seed=2),
}


@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_correction_is_the_papers_four_gradients(kind: str, smoothing: float) -> None:
    model, data = classifier()[0], gu.node_split(ring(40, 20), 0.2, 0.2)  # in a ring a few nodes are far from the rest
    partition = REQUESTS[kind].resolve(data)
    train = data.train_mask.nonzero().view(-1)
    gone = train[torch.isin(train, partition.forget_nodes)]
    stay = train[~torch.isin(train, partition.forget_nodes)]
    near = stay[partition.affected_nodes(2)[stay]]
    assert 0 < near.numel() < stay.numel()

    def gradient(graph: Any, nodes: Tensor) -> list[Tensor]:
        weights = values(model)
        loss = cross_entropy(dense(weights, graph)[nodes], data.y[nodes], label_smoothing=smoothing)
        return list(torch.autograd.grad(loss, weights)) if nodes.numel() else [torch.zeros_like(w) for w in weights]

    n, u, i = train.numel(), gone.numel(), near.numel()
    terms = (
        (n, gradient(data, train)),
        (-u, gradient(data, gone)),
        (-i, gradient(data, near)),
        (i, gradient(partition.retain_data, near)),
    )
    expected = [
        w.detach() - 0.3 * sum(count * g[j] for count, g in terms) / (n - u) for j, w in enumerate(values(model))
    ]
    for rectify in ("original", "erased"):  # nothing is erased here, so both are the same
        method = ETR(erase_ratio=0.0, label_smoothing=smoothing, rectify=rectify)
        result = run_method(method, model, partition, TASK)
        for got, want, before in zip(values(result.model), expected, values(model), strict=True):
            torch.testing.assert_close(got.detach(), want, rtol=1e-4, atol=1e-6)
            assert (want - before).abs().max() > 1e-5
        assert result.notes["items"] == {"removed": u, "within_reach": i, "retained": n - u}


def test_the_default_corrects_at_the_erased_weights() -> None:
    model, data = classifier()
    partition = REQUESTS["nodes"].resolve(data)
    erased = run_method(ETR(erase_ratio=0.2, lr=0.0), model, partition, TASK).model
    assert not same_weights(erased, model)
    kept = partition.retain_data.train_mask
    for start, rectify in ((erased, "erased"), (model, "original")):
        weights = values(start)
        loss = cross_entropy(dense(weights, partition.retain_data)[kept], data.y[kept])
        step = torch.autograd.grad(loss, weights)
        got = run_method(ETR(erase_ratio=0.2, lr=2.0, rectify=rectify), model, partition, TASK).model
        for value, before, gradient in zip(values(got), values(erased), step, strict=True):
            torch.testing.assert_close(value.detach(), before.detach() - 2 * gradient, rtol=1e-4, atol=1e-5)


def test_link_prediction_takes_the_forgotten_edges_out_of_the_gradient() -> None:
    model, data = trained_model(), make_data()
    partition = gu.ForgetEdges(count=12, seed=3).resolve(data)
    task = gu.LinkPrediction()
    with isolated_rng(5):
        items = task.parts(partition).sample(["retain"])["retain"]
    weights = values(model)
    z = dense(weights, partition.retain_data)
    pairs, sign = items.edge_label_index, 2 * items.label - 1
    loss = -logsigmoid(sign * (z[pairs[0]] * z[pairs[1]]).sum(1)).mean()
    gradient = torch.autograd.grad(loss, weights)
    result = run_method(ETR(erase_ratio=0.0), model, partition, task, seed=5)
    for got, before, g in zip(values(result.model), values(model), gradient, strict=True):
        torch.testing.assert_close(got.detach(), (before - 0.3 * g).detach(), rtol=1e-4, atol=1e-5)
    assert result.notes["items"]["removed"] == 12
    assert result.notes["items"]["retained"] == items.num_items


@pytest.mark.parametrize("mode", ["default", "paper"])
def test_it_is_a_handful_of_gradients(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    grad, gradients, passes = torch.autograd.grad, [], []
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **more: gradients.append(1) or grad(*args, **more))
    whole = watched("link_prediction", lambda _, data: passes.append(torch.is_grad_enabled() and data.num_nodes == 64))
    run(f"etr:{mode}", trained_model(), make_data(), task=whole)
    assert len(gradients) <= 4
    assert 0 < sum(passes) <= 3


def test_paper_mode_has_the_papers_numbers() -> None:
    paper = ETR(mode="paper")
    assert (paper.lr, paper.erase_ratio, paper.label_smoothing, paper.dropout) == (0.3, 0.01, 0.1, True)
    assert ETR().label_smoothing == 0.0
    assert not ETR().dropout
    data = make_data()
    dropout = [
        run(f"etr:{mode}", trained_model("sage"), data, seed=1, erase_ratio=0.0).model for mode in ("default", "paper")
    ]
    assert not same_weights(*dropout)
    buffers = dict(trained_model("sage").named_buffers())
    assert buffers
    for model in dropout:  # batch statistics are not the method's to change
        assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())


def test_erasing_forgets_and_the_correction_repairs(data_root: Any) -> None:
    model, data = cora(data_root)
    change = {"erased": [], "mirrored": [], "finetuned": [], "repaired": [], "worsened": []}
    for seed in range(3):
        partition = gu.ForgetNodes(ratio=0.1, seed=seed).resolve(data)

        def by(partition: Any = partition, **options: float) -> nn.Module:
            return run_method(ETR(**options), model, partition, TASK).model

        erased, finetuned, whole = by(erase_ratio=0.05, lr=0.0), by(erase_ratio=0.0), by(erase_ratio=0.05)
        models = (erased, beyond(model, erased), finetuned, whole, beyond(erased, whole))
        for name, other in zip(change, models, strict=True):
            change[name].append(np.subtract(cora_figures(other, partition), cora_figures(model, partition)))
    mean = {name: np.mean(found, axis=0) for name, found in change.items()}
    # The forget set's loss rises; not by the opposite edit, not by the correction alone, nor (0) by doing nothing.
    assert mean["erased"][0] > 0.01
    assert max(mean["mirrored"][0], mean["finetuned"][0], 0.0) < 0.01
    # The correction lowers what erasing did to the rest; with the other sign it adds to it.
    assert mean["repaired"][1] < mean["erased"][1] < mean["worsened"][1]
