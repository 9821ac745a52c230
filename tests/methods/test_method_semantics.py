"""What each method is supposed to do, and what none may look at."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Data

import gunlearn as gu
from gunlearn.losses import Prediction
from gunlearn.methods import METHODS, Retrain, run_method
from tests.methods.cases import (
    ON_EDGES,
    MethodCase,
    dense_gcn,
    fresh_model,
    make_data,
    run,
    same_weights,
    trained_model,
    watched,
)

FORGET = gu.ForgetEdges(count=12, seed=3)


def dense_scores(model: nn.Module, data: Data, edge_index: Tensor) -> np.ndarray:
    """Scores of a two-layer GCN in float64, from its weights alone: `[num_edges]`."""
    z, (u, v) = dense_gcn(model.state_dict(), data, data.edge_index), edge_index
    return (z[u] * z[v]).sum(1).detach().numpy()


def log_likelihood(model: nn.Module, data: Data, edge_index: Tensor) -> float:
    """Mean log-probability that these pairs are edges."""
    return float(-np.logaddexp(0, -dense_scores(model, data, edge_index)).mean())


def test_finetuning_lowers_the_retained_loss() -> None:
    model, data = fresh_model("gcn"), make_data()
    partition = FORGET.resolve(data)
    negatives = torch.from_numpy(np.random.default_rng(0).integers(0, 64, (2, 400)))

    def loss(model: nn.Module) -> float:
        graph = partition.retain_data
        negative = np.logaddexp(0, dense_scores(model, graph, negatives)).mean()
        return (negative - log_likelihood(model, graph, partition.retain_edge_index)) / 2

    result = run("finetune", model, data, FORGET, epochs=60, lr=1e-2)
    assert loss(result.model) < loss(model) - 0.02
    assert loss(run("finetune", model, data, FORGET, epochs=0).model) == loss(model)  # control


@pytest.mark.parametrize("beta", [0.5, 5.0])
def test_npo_starts_at_its_closed_form(beta: float) -> None:
    model, data = trained_model(), make_data()
    partition = FORGET.resolve(data)
    edges = partition.forget_edge_index
    for graph in ("retain", "full"):  # model and reference read the same one
        more = {"beta": beta, "message_graph": graph, "lr": 1e-2}
        history = run("npo", model, data, FORGET, epochs=2, **more).history
        assert history[0]["npo(forget)"] == pytest.approx(2 * math.log(2) / beta, rel=1e-5)
        # The second record by hand, from the weights after one step.
        one = run("npo", model, data, FORGET, epochs=1, **more).model
        messages = data if graph == "full" else partition.retain_data
        now, then = (-np.logaddexp(0, -dense_scores(m, messages, edges)) for m in (one, model))
        by_hand = (2 / beta * np.log1p(np.exp(beta * (now - then)))).mean()
        assert history[1]["npo(forget)"] == pytest.approx(by_hand, rel=1e-4)
        assert by_hand < history[0]["npo(forget)"] - 1e-3
    # Control: a reference on the other graph would not start there.
    now, then = (-np.logaddexp(0, -dense_scores(model, graph, edges)) for graph in (partition.retain_data, data))
    assert abs((2 / beta * np.log1p(np.exp(beta * (now - then)))).mean() - 2 * math.log(2) / beta) > 1e-2


class Spy(gu.LinkPrediction):
    """Notes the graphs that are read and the pairs that are called edges, by who is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.passes: list[tuple[bool, Tensor]] = []
        self.edges: list[tuple[bool, Tensor]] = []

    def encode(self, model: nn.Module, data: Data) -> Tensor:
        self.passes.append((_learns(model), data.edge_index))
        return super().encode(model, data)

    def decode(self, model: nn.Module, outputs: Tensor, items: Any) -> Prediction:
        self.edges.append((_learns(model), items.edge_label_index[:, items.label == 1]))
        return super().decode(model, outputs, items)


def _learns(model: nn.Module) -> bool:
    return torch.is_grad_enabled() and any(p.requires_grad for p in model.parameters())


def keys(edge_index: Tensor) -> set[int]:
    """Undirected edges as numbers."""
    low, high = edge_index.sort(dim=0).values
    return set((low * 64 + high).tolist())


def union(seen: list[tuple[bool, Tensor]], learning: bool | None = None) -> set[int]:
    return set().union(*(keys(edges) for learns, edges in seen if learning in (None, learns)))


def test_retraining_never_sees_the_forgotten_edges() -> None:
    data = make_data()
    partition = FORGET.resolve(data)
    forgotten = keys(partition.forget_edge_index)
    method = Retrain(epochs=4, eval_every=2)

    spy = Spy()
    run_method(method, trained_model("sage"), partition, spy)
    assert not forgotten & (union(spy.passes) | union(spy.edges))
    assert union(spy.passes, True) == keys(partition.retain_edge_index) == union(spy.edges, True)

    spy = Spy()  # control: a planted leak is noticed
    run_method(method, trained_model("sage"), replace(partition, retain_data=data), spy)
    assert forgotten <= union(spy.passes)
    assert forgotten <= union(spy.edges)


@pytest.mark.parametrize("case", ON_EDGES, ids=str)
def test_no_method_learns_from_held_out_edges(case: MethodCase) -> None:
    data = make_data()
    validation, test = keys(data.val_pos_edge_index), keys(data.test_pos_edge_index)
    assert not (validation | test) & keys(data.edge_index)
    spy = Spy()
    # Parts of the graph have node ids of their own; what they hold is tested in tests/nn/test_subgraph.py.
    whole = {"subgraph": "never"} if "subgraph" in METHODS[case.method].options() else {}
    run(case, trained_model("gcn"), data, FORGET, task=spy, **whole)
    if case.learns:
        assert bool(union(spy.edges, True)) == (case.trains or case.moves)  # the spy does see what is learned from
    assert not (validation | test) & (union(spy.edges, True) | union(spy.passes))
    assert not test & union(spy.edges)
    # Validation edges are looked at, never learned from, by what says so: an epoch, a stop criterion, a rewind.
    assert bool(validation & union(spy.edges)) == case.validates


@pytest.mark.parametrize("case", [case for case in ON_EDGES if case.trains], ids=str)
def test_what_is_learned_from(case: MethodCase) -> None:
    data = make_data()
    partition = FORGET.resolve(data)
    forgotten, retained = keys(partition.forget_edge_index), keys(partition.retain_edge_index)
    spy = Spy()
    whole = {"subgraph": "never"} if "subgraph" in METHODS[case.method].options() else {}
    run(case, trained_model("gcn"), data, FORGET, task=spy, **whole)
    read, allowed = union(spy.passes, True), retained | (forgotten if case.reads_forgotten else set())
    nearby = case.method in ("gnndelete", "gnndelete_ni") and case.variant == "paper"  # around what is forgotten alone
    assert forgotten <= read <= allowed if nearby else read == allowed
    if case.learns:
        parts = {"forget": forgotten, "retain": retained}
        assert union(spy.edges, True) == set().union(*(parts[name] for name in case.learns))


GRAPH_READERS = [c for c in ON_EDGES if "message_graph" in METHODS[c.method].options()]


@pytest.mark.parametrize(
    "case", [c for c in GRAPH_READERS if c.trains and not c.from_scratch and c.variant != "paper"], ids=str
)
def test_the_message_graph_can_be_chosen(case: MethodCase) -> None:
    data, spy = make_data(), Spy()
    run(case, trained_model("gcn"), data, FORGET, task=spy, message_graph="full")
    assert keys(FORGET.resolve(data).forget_edge_index) <= union(spy.passes, True)


@pytest.mark.parametrize("name", ["gcn", "pyg", "autoencoder"])
def test_retraining_does_not_depend_on_the_original_weights(name: str) -> None:
    data = make_data()
    one, two = trained_model(name), fresh_model(name, seed=5)
    assert not same_weights(one, two)
    results = [run("retrain", model, data, epochs=4, eval_every=2, seed=1) for model in (one, two)]
    assert same_weights(results[0].model, results[1].model)
    # Control: fine-tuning does depend on them.
    results = [run("finetune", model, data, epochs=4, seed=1) for model in (one, two)]
    assert not same_weights(results[0].model, results[1].model)


def test_retraining_keeps_the_best_epoch() -> None:
    """The recorded validation loss is that of the kept model on the retained graph, by hand."""
    data = make_data()
    retain = FORGET.resolve(data).retain_data
    result = run("retrain", trained_model("sage"), data, FORGET, epochs=20, lr=1e-2, eval_every=5, seed=1)
    assert not same_weights(result.model, trained_model("sage"))
    z = result.model(retain.x, retain.edge_index).detach()
    u, v = retain.val_pos_edge_index
    s, t = retain.val_neg_edge_index
    positive, negative = ((z[a] * z[b]).sum(1) for a, b in ((u, v), (s, t)))
    loss = torch.cat([nn.functional.softplus(-positive), nn.functional.softplus(negative)]).mean()
    assert float(loss) == pytest.approx(min(r["val_loss"] for r in result.history if "val_loss" in r), rel=1e-5)


def test_retraining_by_the_callers_function() -> None:
    data, made = make_data(), []

    def train(data: Data, seed: int) -> nn.Module:
        made.append((data, seed, fresh_model("gcn", seed).train()))
        data.x = data.x * 0  # their own business
        return made[-1][2]

    x = data.x.clone()
    result = run("retrain", trained_model("sage"), data, FORGET, seed=6, train=train)
    ((given, seed, model),), partition = made, result.partition
    assert seed == 6
    assert keys(given.edge_index) == keys(partition.retain_edge_index)
    assert result.model is model
    assert not model.training
    assert torch.equal(partition.retain_data.x, x)
    assert torch.equal(data.x, x)
    assert (result.epochs, result.seconds_per_epoch, result.history) == (None, None, [])
    assert "epochs" not in repr(result)


def test_retraining_stops_early() -> None:
    options = {"epochs": 400, "lr": 0.05, "eval_every": 1}
    result = run("retrain", trained_model(), make_data(), patience=3, **options)
    losses = [record["val_loss"] for record in result.history]
    assert result.epochs < 400
    assert min(losses[-3:]) >= min(losses[:-3])


def test_one_pass_of_the_reference_is_enough() -> None:
    """The reference is frozen: the original model in evaluation mode, on the graph that the current one reads."""

    calls: list[tuple[nn.Module, Data]] = []

    def seen(model: nn.Module, data: Data) -> None:
        if not any(p.requires_grad for p in model.parameters()):
            assert not model.training
            calls.append((model, data))

    data, model = make_data(), trained_model("pyg")
    for graph in ("full", "retain"):
        calls.clear()
        more = {"task": watched("link_prediction", seen), "message_graph": graph}
        result = run("npo", model, data, epochs=5, lr=1e-2, **more)
        ((reference, read),) = calls
        assert read is (data if graph == "full" else result.partition.retain_data)
        assert same_weights(reference, model)
