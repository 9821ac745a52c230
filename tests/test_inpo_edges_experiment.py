"""The study of INPO's controls: amplified messages, injected edges, intervals, and what is committed of it."""

import copy
import re

import numpy as np
import pytest
import torch
from scipy.stats import ttest_1samp
from torch import Tensor
from torch_geometric.data import Data

import gunlearn as gu
from experiments.inpo_edges.__main__ import CONTROLS
from experiments.inpo_edges.amplified import Amplified, first_step
from experiments.inpo_edges.controls import METHODS_OF_ROWS, OURS, PLAIN, control_table, floors, inject, interval
from gunlearn.methods import INPO, Problem
from gunlearn.tasks import LinkPrediction
from tests.conftest import REPOSITORY, committed

README = REPOSITORY / "experiments" / "inpo_edges" / "README.md"


@pytest.fixture(scope="module")
def problem() -> Problem:
    data = gu.link_split(gu.load("karate"), val_ratio=0.1, test_ratio=0.1, seed=0)
    model = gu.train(gu.GCN(data.num_features, 8, 4), data, epochs=40, lr=1e-2, seed=0).model
    partition = gu.ForgetEdges(count=6, seed=0).resolve(data)
    return Problem(model, copy.deepcopy(model), partition, LinkPrediction())


def dense(problem: Problem, pairs: Tensor, scale: Tensor, data: Data) -> Tensor:
    """The embeddings of the two-layer GCN whose message along each pair is scaled, by dense matrices."""
    n, first, second = data.num_nodes, *(layer for layer in problem.model.modules() if hasattr(layer, "lin"))
    weight, adjacency = torch.eye(n), torch.eye(n)
    adjacency[data.edge_index[1], data.edge_index[0]] = 1
    weight[pairs[1], pairs[0]] = scale
    root = adjacency.sum(1).rsqrt()
    messages = root[:, None] * adjacency * root[None] * weight
    hidden = (messages @ (data.x @ first.lin.weight.t()) + first.bias).relu()
    return messages @ (hidden @ second.lin.weight.t()) + second.bias


def test_forgotten_edges_are_amplified_and_retained_ones_damped_by_exact_influence(problem: Problem) -> None:
    data, forgotten = problem.partition.data, problem.partition.forget_mask
    context = Amplified(until="end", amplify=3.0).surroundings(problem)(problem.model)
    scale, pairs = context.scale, context.edge_index
    assert torch.equal(pairs, data.edge_index)
    assert (scale[forgotten] == 3).all()
    brute = gu.influence(problem.model, data, estimator="brute")[~forgotten].double()
    # The order is the reverse of the influence's; its ties (both columns of an edge) share a scale.
    kept = scale[~forgotten].double()
    assert (kept[brute.argsort()].diff() <= 1e-6).all()
    assert kept.min() < kept.max() <= 1
    with torch.no_grad(), context:
        got = problem.model(data.x, data.edge_index)
    torch.testing.assert_close(got, dense(problem, pairs, scale, data).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("amplify", [None, 3.0])
def test_gradients_of_the_first_step(problem: Problem, amplify: float | None) -> None:
    method = INPO(until="end", scale_messages=False) if amplify is None else Amplified(until="end", amplify=amplify)
    partition = problem.partition
    data = partition.retain_data if amplify is None else partition.data
    pairs, scale = data.edge_index, torch.ones(data.edge_index.size(1))
    if amplify is not None:
        context = method.surroundings(problem)(problem.model)
        pairs, scale = context.edge_index, context.scale
    z, grads = dense(problem, pairs, scale, data), []
    for edges in (partition.forget_edge_index, partition.retain_edge_index):
        likelihood = (z[edges[0]] * z[edges[1]]).sum(1).sigmoid().log().mean()
        found = torch.autograd.grad(likelihood, list(problem.model.parameters()), retain_graph=True)
        grads.append(torch.cat([grad.flatten() for grad in found]).numpy())
    forget, retain = grads
    norms = np.linalg.norm(forget), np.linalg.norm(retain)
    want = norms[0] / norms[1], forget @ retain / (norms[0] * norms[1])
    assert first_step(method, problem) == pytest.approx(want, rel=1e-3)


def test_injected_edges_join_classes_and_are_nobodys_own() -> None:
    data = gu.link_split(gu.load("karate"), val_ratio=0.1, test_ratio=0.1, seed=0)
    before = copy.deepcopy(data)
    more, edges = inject(data, 0.1, seed=3)
    number = int(0.1 * data.edge_index.size(1) / 2)
    assert edges.size(1) == number > 2
    assert (data.y[edges[0]] != data.y[edges[1]]).all()
    known = [data.edge_index, *(data[f"{p}_{s}_edge_index"] for p in ("val", "test") for s in ("pos", "neg"))]
    held = {frozenset(pair) for part in known for pair in part.t().tolist()}
    assert not held & {frozenset(pair) for pair in edges.t().tolist()}
    assert more.edge_index.size(1) == data.edge_index.size(1) + 2 * number
    assert torch.equal(data.edge_index, before.edge_index)
    assert gu.ForgetEdges(edges).resolve(more).num_forget == number
    assert torch.equal(inject(data, 0.1, seed=3)[1], edges)
    assert not torch.equal(inject(data, 0.1, seed=4)[1], edges)


@pytest.mark.parametrize("gaps", [[0.1, -0.2, 0.05], [1.0, 1.1, 0.9, 1.05]])
def test_intervals_are_those_of_a_t_test(gaps: list[float]) -> None:
    low, high = ttest_1samp(gaps, 0).confidence_interval(0.95)
    text = interval(gaps)
    mean, half = (float(part) for part in text.strip("*").split(" ± "))
    assert (mean, half) == pytest.approx(((low + high) / 2, (high - low) / 2), abs=0.0051)
    assert text.startswith("**") == (low > 0 or high < 0)
    assert interval(gaps[:1]) == f"{gaps[0]:+.2f}"


def test_the_committed_controls_are_whole() -> None:
    results = committed("inpo_edges")
    there = [name for name in CONTROLS if name in results]
    assert "controls_cora" in there
    for name in there:
        rows = results[name]
        seeds = {row["seed"] for row in rows}
        assert {(row["case"], row["seed"]) for row in rows} == {(c, s) for c in METHODS_OF_ROWS for s in seeds}
        assert len(rows) == len(METHODS_OF_ROWS) * len(seeds)
        assert control_table(rows) in README.read_text(encoding="utf-8")


def test_inpos_ideas_add_nothing_to_its_stop_rule_on_cora() -> None:
    rows = committed("inpo_edges")["controls_cora"]
    of = {name: [floors(r, "forget") for r in rows if r["case"] == name] for name in METHODS_OF_ROWS}
    for name in (
        PLAIN,
        "INPO without entropy loss",
        "INPO without all three",
        "NPO until unseen",
        "fine-tuning, INPO's steps and rate",
    ):
        assert np.mean(of[name]) < np.mean(of[OURS]) + 0.2


def said_of_gradients(results: dict) -> list[str]:
    """What the README says in words of the first step: ratios by the factor on forgotten edges, and scaling alone."""

    def mean(graph: str, case: str, figure: str, digits: int = 2) -> str:
        rows = [row for row in results[f"controls_{graph}"] if row["case"] == case]
        return f"{np.mean([row[figure] for row in rows]):.{digits}f}".replace("0.", ".", 1)

    damped = "INPO, whole graph, retained damped"
    cases = (damped, f"{damped}, forgotten x 2", f"{damped}, forgotten x 4")
    ratio = {g: [mean(g, case, "ratio") for case in cases] for g in ("cora", "citeseer", "dblp", "cs", "photo")}
    scaled = [mean(g, case, "ratio") for g in ("cora", "cora_hubs") for case in (PLAIN, OURS)]
    return [
        "Cora {} to {}; on the hubs up, {} to {}".format(*scaled),
        "from {} to {} and {} on Cora".format(*ratio["cora"]),
        "from {} to {} and {} on CiteSeer".format(*ratio["citeseer"]),
        "from {} to {} and {} on DBLP".format(*ratio["dblp"]),
        "from {} to {} and {} on CS; not on Photo ({}, {}, {})".format(*ratio["cs"], *ratio["photo"]),
        "(cosine {}, {} and {})".format(*(mean(g, cases[2], "cosine") for g in ("cora", "citeseer", "cs"))),
    ]


def test_the_answers_on_gradients_say_what_the_rows_say() -> None:
    """Control: with other ratios and cosines no sentence stands."""
    results, text = committed("inpo_edges"), re.sub(r"[\s*]+", " ", README.read_text(encoding="utf-8"))
    assert [sentence for sentence in said_of_gradients(results) if sentence not in text] == []
    changed = {
        name: [{**row, **{k: 1.5 * row[k] + 0.1 for k in ("ratio", "cosine") if row[k] is not None}} for row in rows]
        for name, rows in results.items()
        if name.startswith("controls")
    }
    assert [sentence for sentence in said_of_gradients(changed) if sentence in text] == []
