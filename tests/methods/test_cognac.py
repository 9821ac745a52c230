"""Cognac: phases, contrast and affected nodes against numpy and brute force, its controls on Cora."""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gunlearn as gu
from gunlearn.errors import EmptyForgetSetError
from gunlearn.losses import Objective, Prediction, as_objective
from gunlearn.methods import run_method
from gunlearn.methods.base import Problem
from gunlearn.methods.graph.cognac import Cognac, affected
from gunlearn.methods.graph.contrast import Contrast, Walk
from gunlearn.methods.graph.entities import forgotten_entities
from gunlearn.seed import isolated_rng
from gunlearn.tasks.graph.reading import GraphReader
from tests.methods.forgetting import classifier, cora, cora_figures, flipped
from tests.training.callbacks import On

TASK = gu.NodeClassification()


def problem(request: gu.Request) -> Problem:
    model, data = classifier()
    return Problem(copy.deepcopy(model), model, request.resolve(data), TASK)


def test_the_contrast_by_hand() -> None:
    z = np.random.default_rng(0).normal(size=(6, 3, 4))
    z[0, 2] = z[0, 0]  # on top of each other: the whole margin
    expected = np.linalg.norm(z[:, 0] - z[:, 1], axis=1) + np.maximum(
        2.0 - np.linalg.norm(z[:, 0] - z[:, 2], axis=1), 0
    )
    value = Contrast(2.0)(Prediction(torch.zeros(6), embeddings=torch.from_numpy(z)))
    assert float(value) == pytest.approx(expected.mean(), rel=1e-6)


def brute_force(model: nn.Module, data: Any, entities: list[int], num_hops: int) -> dict[int, float]:
    """Change of each nearby node's probabilities, by its id in the whole graph."""
    x = data.x.clone()
    for node in entities:
        x[node] = 1 - x[node]
    reached, edges = set(entities), data.edge_index.t().tolist()
    for _ in range(num_hops):
        reached |= {b for a, b in edges if a in reached}
    with torch.no_grad():
        then, now = (model(value, data.edge_index).softmax(1) for value in (data.x, x))
    return {node: float((now - then)[node].abs().mean()) for node in sorted(reached - set(entities))}


@pytest.mark.parametrize("num_hops", [1, 2])
def test_positions_inside_a_subset_are_mapped_to_global_ids(num_hops: int) -> None:
    given = problem(gu.ForgetNodes([24, 27]))  # their neighbours' ids are far from 0, 1, 2, ...
    entities = forgotten_entities(given.partition)
    change = brute_force(given.reference, given.partition.data, [24, 27], num_hops)
    count = int(np.ceil(0.4 * len(change)))
    expected = sorted(sorted(change, key=change.get, reverse=True)[:count])
    found = affected(given, entities, num_hops, 0.4).tolist()
    assert found == expected
    assert not set(found) & {24, 27}
    assert found != sorted(torch.tensor(list(change.values())).topk(count).indices.tolist())  # the defect's answer


def test_a_walk_ends_at_a_neighbour_or_stays() -> None:
    _, data = classifier()
    edge_index = data.edge_index[:, (data.edge_index != 11).all(0)]  # node 11 has nobody
    avoid = torch.tensor([0])
    neighbours = {n: set(edge_index[1, edge_index[0] == n].tolist()) for n in range(34)}
    two = {n: set().union(*(neighbours[m] for m in neighbours[n]), neighbours[n], {n}) - {0} | {n} for n in range(34)}
    nodes = torch.arange(34).repeat(50)
    with isolated_rng(0):
        ends = Walk(edge_index, 34, 1, avoid)(nodes)
        far = Walk(edge_index, 34, 2, avoid)(nodes)
    for node in range(34):
        found = set(ends[nodes == node].tolist())
        assert found <= neighbours[node] - {0} | {node}
        assert set(far[nodes == node].tolist()) <= two[node]
    assert (ends[nodes == 11] == 11).all()
    assert set(ends[nodes == 33].tolist()) == neighbours[33]  # all of them come up
    assert not (ends[nodes != 0] == 0).any()


def test_phases_and_their_rates() -> None:
    method = Cognac(contrast_steps=2, ascent_steps=1, descent_steps=2, epochs=10)
    assert [method.phase(e) for e in range(6)] == ["contrast", "contrast", "ascent", "descent", "descent", "contrast"]
    terms = [loss.on for step in range(4) for _, loss in method.objective_at(step).terms]
    assert terms == ["affected", "affected", "forget", "retain", "retain"]
    rates: list[float] = []
    watch = On(step_end=lambda optimizer, **_: rates.append(optimizer.param_groups[0]["lr"]))
    model, data = classifier()
    partition = gu.ForgetNodes(count=2).resolve(data)
    method = Cognac(epochs=5, contrast_steps=1, ascent_steps=1, descent_steps=3, lr=0.1, ascent_lr=0.2, descent_lr=0.3)
    run_method(method, model, partition, TASK, callbacks=[watch])
    assert rates == [0.1, 0.2, 0.3, 0.3, 0.3]


def test_the_papers_rates_stand_in_a_mode_of_their_own() -> None:
    default, paper = Cognac(), Cognac(mode="paper")
    assert (paper.descent_lr, paper.ascent_lr, paper.temperature, paper.fraction) == (0.015, 0.0025, 4.0, 0.1)
    cycle = ["contrast", *["ascent", "descent"] * 10]
    assert [paper.phase(step) for step in range(42)] == cycle * 2
    assert paper.epochs == 10 * len(cycle)
    assert Cognac(mode="paper", descent_lr=0.1).descent_lr == 0.1
    assert default.descent_lr < paper.descent_lr
    assert (default.label, paper.label) == ("default", "paper")


@pytest.mark.parametrize("options", [{"batch_size": 5}, {"retain_samples": 5}])
@pytest.mark.parametrize("request_", [gu.ForgetNodes(count=2), gu.ForgetEdges(count=3, seed=1)], ids=["nodes", "edges"])
def test_a_step_reads_some_of_the_retained_nodes(options: dict[str, int], request_: gu.Request) -> None:
    model, data = classifier()
    partition = request_.resolve(data)
    retained = set(partition.retain_data.train_mask.nonzero().view(-1).tolist())
    seen: list[list[int]] = []

    class Watch(gu.NodeClassification):
        def decode(self, model: nn.Module, outputs: Tensor, items: Any) -> Prediction:
            if torch.is_grad_enabled():
                seen.append(items.index.tolist())
            return super().decode(model, outputs, items)

    steps = {"contrast_steps": 0, "ascent_steps": 0, "descent_steps": 1, "subgraph": "never"}
    run_method(Cognac(steps=12, **steps, **options), model, partition, Watch())
    assert [len(batch) for batch in seen[:2]] == [5, 5]
    assert len(seen) == 12
    assert set().union(*seen) <= retained
    assert len(set().union(*seen)) > 5
    run_method(Cognac(steps=4, **options), model, partition, TASK)  # all phases, on subgraphs where that is exact
    seen.clear()
    run_method(Cognac(epochs=1, **steps), model, partition, Watch())
    assert set(seen[0]) == retained  # control


def test_a_request_without_a_training_node_is_refused() -> None:
    model, data = classifier()
    with pytest.raises(EmptyForgetSetError, match="Expected forgotten training items"):
        gu.unlearn(model, data, gu.ForgetNodes([int(data.test_mask.nonzero()[0])]), "cognac", "node_classification")


@dataclass(frozen=True)
class Rest(Cognac):
    """Fine-tuning alone."""

    def objective_at(self, epoch: int) -> Objective:
        return as_objective(self._descent())


def test_the_forgotten_labels_become_less_likely(data_root: Any) -> None:
    model, data = cora(data_root)
    partition = gu.ForgetNodes(ratio=0.1, seed=1).resolve(data)

    def figures(model: nn.Module) -> tuple[float, float]:
        """Loss of the forgotten beside that of the retained nodes, and test accuracy."""
        lost, kept, accuracy = cora_figures(model, partition)
        return lost - kept, accuracy

    before, accuracy = figures(model)
    method, rest = (cls(epochs=24, ascent_steps=2, ascent_lr=5e-3) for cls in (Cognac, Rest))
    (gap, kept), *controls = (
        figures(run_method(one, model, partition, TASK).model) for one in (method, flipped(method), rest)
    )
    # The gap opens; not with the sign flipped, not by fine-tuning alone, and not (the gap before) by doing nothing.
    assert gap > max(before, *(control for control, _ in controls)) + 0.02
    assert kept > accuracy - 0.03


def test_a_step_reads_no_graph_that_it_does_not_need(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = classifier()
    request = gu.ForgetNodes(count=2)
    sizes: list[int] = []

    class Watch(gu.NodeClassification):
        def encode(self, model: nn.Module, data: Any) -> Any:
            if torch.is_grad_enabled():
                sizes.append(int(data.num_nodes))
            return super().encode(model, data)

    options = {"epochs": 5, "subgraph": "never"}
    parts = gu.unlearn(model, data, request, "cognac", Watch(), **options)
    read, size = list(sizes), data.num_nodes
    contrast, ascent, *descents = read[-5:]
    assert contrast > size > ascent
    assert descents == [size] * 3
    sizes.clear()
    # The control reads the joint graph at each step, with the same result.
    monkeypatch.setattr(GraphReader, "read", lambda self, items, needed=None: (self.parts.data, items, None))
    whole = gu.unlearn(model, data, request, "cognac", Watch(), **options)
    assert min(sizes[-5:]) > size
    for got, want in zip(parts.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
