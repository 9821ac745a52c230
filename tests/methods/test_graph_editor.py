"""GraphEditor against a brute-force refit in numpy, and what it refuses."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.nn import SGConv

import gunlearn as gu
from gunlearn.errors import UnsupportedMethodError, UnsupportedModelError
from gunlearn.methods.linear_head.graph_editor import edited
from gunlearn.nn import LinearHead
from tests.methods.heads import dense_features, fitted, karate, small_cora, training_rows

REQUESTS = {
    "nodes": gu.ForgetNodes(count=3, seed=1),
    "edges": gu.ForgetEdges(count=6, seed=2),
    "features": gu.ForgetFeatures(count=4, columns=[0, 5], seed=3),
    "sum": gu.ForgetNodes([0]) + gu.ForgetEdges(count=3, seed=4) + gu.ForgetFeatures([7, 20]),
    "isolating": gu.ForgetNodes([0, 33]),
}
LAM = 0.3


def refit(data: Data, head: LinearHead) -> np.ndarray:
    z, y = (t.numpy() for t in training_rows(data, head))
    return np.linalg.solve(z.T @ z + LAM * np.eye(z.shape[1]), z.T @ y).T


def unlearn(head: LinearHead, data: Data, request: gu.Request) -> gu.Result:
    return gu.unlearn(head, data, request, "graph_editor", "node_classification")


def off(head: LinearHead, data: Data) -> float:
    return float(np.abs(head.lin.weight.detach().numpy() - refit(data, head)).max())


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("hops", [None, (0.5, 0.3, 0.2)], ids=["sgc", "gpr"])
def test_equals_a_refit_from_scratch(name: str, hops: tuple[float, ...] | None) -> None:
    data = karate()
    head = fitted(data, lam=LAM, loss="least_squares", weights=hops)
    assert off(head, data) < 1e-8
    result = unlearn(head, data, REQUESTS[name])
    assert off(result.model, result.data) < 1e-8
    # Controls: keeping the weights, and taking the changed rows out without adding them again.
    assert off(head, result.data) > 1e-3
    old, new = (dense_features(d, head.hops) for d in (data, result.data))
    changed = (np.abs(old - new) > 1e-12).any(1) | (data.train_mask & ~result.data.train_mask).numpy()
    gone = torch.from_numpy(changed) & data.train_mask
    z, y = training_rows(data, head)
    rows = gone[data.train_mask]
    nothing = (z[:0], y[:0])
    weight = edited(head.inverse, head.solution.t(), (z[rows], y[rows]), nothing)[1]
    assert np.abs(weight.t().numpy() - refit(result.data, head)).max() > 1e-3
    count = result.notes["rows"]
    assert count["removed"] == int(rows.sum())
    assert count["added"] == int((torch.from_numpy(changed) & result.data.train_mask).sum())


def test_goes_on_from_its_own_result() -> None:
    data, sizes = karate(), []
    head = fitted(data, lam=LAM, loss="least_squares")
    for request in (REQUESTS["nodes"], REQUESTS["edges"], REQUESTS["features"]):
        result = unlearn(head, data, request)
        head, data = result.model, result.data
        sizes.append(off(head, data))
    assert max(sizes) < 1e-8


def test_sparse_features_and_single_precision() -> None:
    data = karate()
    sparse = copy.copy(data)
    sparse.x = data.x.to_sparse_csr()
    one, other = (unlearn(fitted(d, lam=LAM, loss="least_squares"), d, REQUESTS["nodes"]).model for d in (data, sparse))
    assert torch.allclose(one.solution, other.solution, atol=1e-10)
    single = unlearn(fitted(data, lam=LAM, loss="least_squares", double=False), data, REQUESTS["nodes"]).model
    assert single.lin.weight.dtype == torch.float32
    assert torch.allclose(single.solution, one.solution, atol=1e-7)


def test_many_rows_go_in_several_solves(data_root: Path) -> None:
    data = small_cora(data_root)
    head = fitted(data, lam=LAM, loss="least_squares")
    result = unlearn(head, data, gu.ForgetNodes(ratio=0.1, seed=0))
    assert result.notes["rows"]["removed"] > 2 * 256
    again = fitted(result.data, lam=LAM, loss="least_squares")
    size = float((again.solution - head.solution).abs().max())
    assert float((again.solution - result.model.solution).abs().max()) < 1e-9 < 1e-3 < size
    assert torch.allclose(again.inverse, result.model.inverse, atol=1e-9)
    # Control: fine-tuning does not get there.
    tuned = gu.unlearn(head, data, gu.ForgetNodes(ratio=0.1, seed=0), "finetune", "node_classification", epochs=5).model
    assert float((again.lin.weight - tuned.lin.weight).detach().abs().max()) > 1e-3


def test_refusals() -> None:
    data = karate()
    head = fitted(data, lam=LAM, loss="least_squares")
    for model in (SGConv(12, 2, K=2), gu.GCN(12, 8, 2), fitted(data)):
        with pytest.raises(UnsupportedModelError, match="linear head"):
            unlearn(model, data, REQUESTS["nodes"])
    with pytest.raises(UnsupportedMethodError, match="link_prediction"):
        gu.unlearn(head, gu.link_split(data, 0.1, 0.1), gu.ForgetEdges(count=2), "graph_editor")
    head.lin.weight.data[0, 0] += 1e-3
    with pytest.raises(UnsupportedModelError, match="weights that least squares gave"):
        unlearn(head, data, REQUESTS["nodes"])
