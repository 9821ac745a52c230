"""MEGU: its four terms by hand, its neighbours by dense linear algebra, its controls on Cora."""

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, kl_div
from torch_geometric.data import Data
from torch_geometric.nn import GCNConv

import gunlearn as gu
from gunlearn.errors import DivergenceError
from gunlearn.losses import NLL, Objective, Prediction, as_objective
from gunlearn.methods import run_method
from gunlearn.methods.graph.entities import forgotten_entities
from gunlearn.methods.graph.megu import MEGU, OPERATOR, Follow, gap, influenced
from gunlearn.seed import isolated_rng
from tests.methods.cases import Made, dense_adjacency, ring, same_weights
from tests.methods.forgetting import classifier, cora, cora_figures, flipped
from tests.training.callbacks import On

TASK = gu.NodeClassification()


def words() -> Data:
    """A ring whose nodes have a few of many words."""
    data = gu.node_split(ring(), 0.2, 0.2)
    data.x = (torch.rand(40, 300, generator=torch.Generator().manual_seed(0)) < 0.03).float()
    return data


@pytest.mark.parametrize("layout", ["dense", "csr"])
def test_neighbours_are_those_whose_propagated_features_turn(layout: str) -> None:
    data = words()
    entities = torch.tensor([5, 20])
    x, turned = data.x.double(), data.x.double()
    turned[entities] = 1 - turned[entities]
    a = dense_adjacency(data)
    similarity = cosine_similarity(a @ a @ x, a @ a @ turned)
    near = torch.tensor([3, 4, 6, 7, 18, 19, 21, 22])
    threshold = gap(similarity[near])
    data.x = data.x if layout == "dense" else data.x.to_sparse_csr()
    partition = gu.ForgetNodes(entities).resolve(data)
    found = influenced(partition, entities, 2)
    assert found.tolist() == near[similarity[near] <= threshold].tolist()
    assert 0 < found.numel() < near.numel()


def test_the_gap() -> None:
    assert gap(torch.tensor([0.05, 0.15, 0.62, 0.99])) == pytest.approx(0.3)  # nothing between .2 and .3
    assert gap(torch.tensor([0.85, 0.95, 1.0])) >= 1.0
    assert gap(torch.tensor([0.55, 0.95])) == pytest.approx(0.7)


REQUESTS = {
    "nodes": gu.ForgetNodes(count=3, seed=1),
    "edges": gu.ForgetEdges(count=4, seed=1),
    "features": gu.ForgetFeatures(count=3, seed=1),
}


@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize("read", ["original", "isolated"])
def test_the_first_loss_is_the_papers(kind: str, read: str) -> None:
    model, data = classifier()
    partition = REQUESTS[kind].resolve(data)
    tau, kappa = 1.5, 0.3
    method = MEGU(epochs=1, init="random", read=read, kappa=kappa, temperature=tau)
    result = run_method(method, model, partition, TASK, seed=4)
    with isolated_rng(4):
        operator = nn.Linear(4, 4)  # the run's first draw
    retain = partition.retain_data
    with torch.no_grad():
        before = model(data.x, data.edge_index)
        plain = model(retain.x, retain.edge_index)
        x = data.x if kind == "nodes" else retain.x
        there = before if read == "original" else model(x, retain.edge_index)
    label, v = before.argmax(1), forgotten_entities(partition)
    ends = partition.forget_edge_index.unique()
    assert (
        v.tolist()
        == {"nodes": partition.forget_nodes, "edges": ends, "features": partition.feature_nodes}[kind].tolist()
    )
    n = influenced(partition, v, 2)
    assert n.numel()
    out = [operator(z).detach() for z in (there, plain)]

    def divergence(follower: Tensor, leader: Tensor) -> float:
        return float(kl_div((follower / tau).log_softmax(1), (leader / tau).softmax(1), reduction="batchmean"))

    terms = {
        "follow(forget)": divergence(there[v], out[0][v]),
        "gradient_ascent(forget)": -float(cross_entropy(out[0][v], label[v])),
        "follow(neighbours)": divergence(out[1][n], plain[n]),
        "nll(neighbours)": float(cross_entropy(plain[n], label[n])),
    }
    for name, value in terms.items():
        assert result.history[0][name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    weights = (kappa, kappa, 1.0, 1.0)
    total = sum(w * value for w, value in zip(weights, terms.values(), strict=True))
    assert result.history[0]["loss"] == pytest.approx(total, rel=1e-4)


def test_a_leader_gets_no_gradient_from_the_divergence() -> None:
    logits, leader = torch.randn(5, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    Follow(2.0)(Prediction(torch.zeros(5), logits=logits, embeddings=leader)).backward()
    expected = ((logits / 2).softmax(1) - (leader / 2).softmax(1)) / 2 / 5
    torch.testing.assert_close(logits.grad, expected.detach())
    assert leader.grad is None


def test_no_hidden_smoothing_at_test_time() -> None:
    """Predictions after unlearning are those of the plain model with the weights that came out."""
    model, data = classifier()
    result = gu.unlearn(model, data, REQUESTS["nodes"], "megu", "node_classification", epochs=5)
    plain = copy.deepcopy(model)
    plain.load_state_dict(result.model.state_dict())  # no operator, no other state
    assert type(result.model) is type(model)
    assert not any(OPERATOR in name for name, _ in result.model.named_modules())
    retain = result.data
    assert torch.equal(plain(retain.x, retain.edge_index), result.model(retain.x, retain.edge_index))
    assert not any(getattr(module, "_forward_hooks", None) for module in result.model.modules())
    assert not same_weights(plain, model)


def test_the_operator_leaves_the_model_when_a_run_breaks() -> None:
    models = []

    def stop(model: nn.Module, **_: Any) -> None:
        assert hasattr(model, OPERATOR)
        models.append(model)
        raise KeyboardInterrupt

    model, data = classifier()
    with pytest.raises(KeyboardInterrupt):
        gu.unlearn(model, data, REQUESTS["nodes"], "megu", "node_classification", callbacks=[On(step_end=stop)])
    assert not hasattr(models[0], OPERATOR)


def test_isolated_nodes_have_no_neighbours_and_the_rest_holds() -> None:
    data = words()
    data.edge_index = data.edge_index[:, (data.edge_index != 5).all(0)]
    model = Made(  # with batch statistics
        lambda m, x, e: m.second(m.norm(m.first(x, e)).relu(), e),
        first=GCNConv(300, 8), norm=nn.BatchNorm1d(8), second=GCNConv(8, 4),
    )  # fmt: skip
    model = gu.train(model, data, "node_classification", epochs=5).model
    result = gu.unlearn(model, data, gu.ForgetNodes([5]), "megu", "node_classification", epochs=2)
    assert result.notes["neighbours"] == 0
    assert not same_weights(result.model, model)


@dataclass(frozen=True)
class Held(MEGU):
    """The neighbours' terms alone."""

    def objective(self) -> Objective:
        return as_objective(NLL(on="neighbours"))


def test_entities_are_less_likely_and_the_rest_stays(data_root: Any) -> None:
    model, data = cora(data_root)
    partition = gu.ForgetNodes(ratio=0.1, seed=1).resolve(data)
    method, held = (cls(kappa=1.0, lr=2e-3) for cls in (MEGU, Held))
    found, *controls = (
        cora_figures(run_method(one, model, partition, TASK).model, partition)
        for one in (method, flipped(method), held)
    )
    before, _, accuracy = cora_figures(model, partition)
    # What is forgotten becomes relatively less likely; not with the sign flipped, nor by holding the rest alone.
    assert found[0] > max(lost for lost, *_ in controls) + 0.02
    assert found[0] > before - 0.05
    assert found[2] > accuracy - 0.03


def test_a_model_that_comes_to_harm_is_no_result() -> None:
    model, data = classifier()
    with pytest.raises(DivergenceError, match="keep most predictions"):
        gu.unlearn(model, data, gu.ForgetNodes(count=4), "megu", "node_classification", lr=1.0, epochs=60)
    kept = gu.unlearn(model, data, gu.ForgetNodes(count=4), "megu", "node_classification", lr=1e-5, epochs=2)
    assert kept.notes["changed_predictions"] == 0.0  # control
