"""Fine-tuning under a fading L1 penalty against the same loss differentiated by torch, step by step."""

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy

from gunlearn.methods import FineTune, L1Sparse
from tests.methods.forgetting import class_figures, digits, on_digits, threes


@pytest.mark.parametrize("fading", [True, False])
def test_the_penalty_and_how_it_fades(fading: bool) -> None:
    start, data = digits()
    model, rows, epochs, weight = copy.deepcopy(start), threes().retain_mask, 4, 1e-3
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9, weight_decay=5e-4)
    for epoch in range(epochs):
        optimizer.zero_grad()
        norm = sum(p.abs().sum() for p in model.parameters())
        share = 1 - epoch / epochs if fading else 1.0
        (cross_entropy(model(data.x[rows]), data.y[rows]) + weight * share * norm).backward()
        optimizer.step()
    found = on_digits(L1Sparse(mode="paper", epochs=epochs, l1=weight))
    same = [torch.allclose(a, b, atol=1e-6) for a, b in zip(found.model.parameters(), model.parameters(), strict=True)]
    assert all(same) == fading  # control: a penalty that stays gives other weights


def test_it_shrinks_weights_and_forgets_more_than_finetuning() -> None:
    plain, sparse = on_digits(FineTune(epochs=100, lr=5e-3)), on_digits(L1Sparse(epochs=100, lr=5e-3, l1=2e-3))
    small = [
        float(torch.cat([p.abs().flatten() for p in r.model.parameters()]).lt(1e-2).float().mean())
        for r in (plain, sparse)
    ]
    assert small[1] > 2 * small[0]
    assert class_figures(sparse.model)["loss"] > class_figures(plain.model)["loss"]
    assert class_figures(sparse.model)["retain"] < 0.05
