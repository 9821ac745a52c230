"""Requests that bring their own data: what they change, what they name, and that retraining sees none of it."""

import networkx as nx
import numpy as np
import pytest
import torch
from torch_geometric.utils import to_networkx

from gunlearn.bench import Cell, GridConfig, run_grid
from gunlearn.datasets import load
from gunlearn.errors import InvalidInputError
from gunlearn.requests import ForgetNodes
from tests.bench.cases import RECIPE, row_of

NODES, LINKS = "node_classification", "link_prediction"
ATTACKS = ("mia_item_auc", "relearn_steps")


def cell(forget: str, count: int, task: str = NODES, seed: int = 1, **more: object) -> Cell:
    settings = {"dataset": "digits", "protocol": "random", "ratio": None, "region": "any", "by": "random"}
    return Cell(**{**settings, "count": count, "seed": seed, "task": task, "forget": forget, **more})


def test_flipped_labels_are_those_of_other_classes() -> None:
    plain = cell("nodes", 30)
    before, request = plain.prepare(load("digits"))
    after, wrong = cell("flipped_labels", 30).prepare(load("digits"))
    partition = wrong.resolve(after)
    assert torch.equal((before.y != after.y).nonzero().view(-1), partition.forget_nodes)
    assert torch.equal(partition.forget_nodes, request.resolve(before).forget_nodes)  # the same draw of training nodes
    assert set(after.y[partition.forget_nodes].tolist()) <= set(range(10))
    assert len(set(((after.y - before.y) % 10)[partition.forget_nodes].tolist())) > 3  # not always the next class
    again = cell("flipped_labels", 30).prepare(load("digits"))[0]
    assert torch.equal(again.y, after.y)
    assert not torch.equal(cell("flipped_labels", 30, seed=2).prepare(load("digits"))[0].y, after.y)
    assert int((load("digits").y != before.y).sum()) == 0  # a second load has the true ones


@pytest.mark.parametrize("task", [NODES, LINKS])
def test_planted_edges_join_classes_and_are_no_edges(task: str) -> None:
    whole = load("digits")
    data, request = cell("planted_edges", 25, task).prepare(whole)
    partition = request.resolve(data)
    planted = partition.forget_edge_index
    known = to_networkx(whole, to_undirected=True)
    assert not any(known.has_edge(u, v) for u, v in planted.t().tolist())
    assert (whole.y[planted[0]] != whole.y[planted[1]]).all()
    assert nx.Graph(planted.t().tolist()).number_of_edges() == 25
    base = cell("planted_edges", 25, task).split(whole)
    for name in ("edge_index", "train_pos_edge_index"):
        assert name not in base or torch.equal(partition.retain_data[name], base[name])


def test_whole_classes_go_with_all_their_training_nodes() -> None:
    data, request = cell("classes", 2).prepare(load("digits"))
    gone = request.resolve(data).is_forgotten_node
    classes = data.y[gone].unique()
    assert classes.numel() == 2
    assert torch.equal(gone, torch.isin(data.y, classes) & data.train_mask)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"forget": "flipped_labels", "task": LINKS}, "node_classification"),
        ({"forget": "classes", "task": LINKS}, "node_classification"),
        ({"forget": "classes", "count": None, "ratio": 0.1}, "number of classes"),
        ({"forget": "planted_edges", "count": 3, "by": "degree"}, "by='random'"),
        ({"forget": "classes", "by": "degree"}, "number of classes"),
        ({"forget": "planted_edges", "forget_file": "ids.csv"}, "no forget file"),
        ({"forget": "edges", "task": LINKS, "protocol": "public"}, "protocol 'public'"),
    ],
)
def test_refused_before_anything_is_read(change: dict, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        cell(**{"forget": "nodes", "count": 3, **change})


def test_refused_when_the_data_are_known() -> None:
    with pytest.raises(InvalidInputError, match="fewer classes than the 10"):
        cell("classes", 10).prepare(load("digits"))
    data = load("digits")
    data.y = torch.zeros_like(data.y)
    with pytest.raises(InvalidInputError, match="at least two classes"):
        cell("flipped_labels", 3).prepare(data)
    with pytest.raises(InvalidInputError, match="different classes"):
        cell("planted_edges", 3).prepare(data)
    weighted = load("digits")
    weighted.edge_weight = torch.ones(weighted.num_edges)
    with pytest.raises(InvalidInputError, match="edge_weight"):
        cell("planted_edges", 3).prepare(weighted)


def test_retraining_sees_no_flipped_label(tmp_path) -> None:
    """Without them the data are those of a plain request for the same nodes, and so are the retrained models."""
    settings = {"dataset": "karate", "methods": (), "task": NODES, "count": 5, "recipe": RECIPE, "threads": 1}
    plain = run_grid(GridConfig(**settings, forget="nodes"), tmp_path / "plain")
    hard = run_grid(GridConfig(**settings, forget="flipped_labels", metrics=ATTACKS), tmp_path / "hard")
    assert [row["method"] for row in hard] == ["original", "retrain", "utu"]
    assert {row["forget"] for row in hard} == {"flipped_labels"}
    for name in ("js_floor_forget", "js_floor_test", "js_floor_retain"):  # these read no label of what is forgotten
        assert row_of(hard, "retrain")[name] == row_of(plain, "retrain")[name]
    assert row_of(hard, "original")["forget_prob"] != row_of(plain, "original")["forget_prob"]
    assert all(row[name] is None for row in plain for name in ATTACKS)
    assert all(row[name] is not None for row in hard for name in ATTACKS)
    assert row_of(hard, "utu")["relearn_steps"] == 0


def test_the_seed_takes_the_split_of_its_number(tmp_path) -> None:
    path = tmp_path / "HeterophilousGraphDataset/minesweeper/raw/minesweeper.npz"
    path.parent.mkdir(parents=True)
    draw = np.random.default_rng(0)
    part = draw.integers(0, 3, size=(2, 40))
    masks = {f"{name}_masks": part == k for k, name in enumerate(("train", "val", "test"))}
    edges, features = draw.integers(0, 40, size=(90, 2)), draw.random((40, 7), dtype=np.float32)
    np.savez(path, node_features=features, node_labels=np.arange(40) % 2, edges=edges, **masks)
    settings = {"dataset": "minesweeper", "root": tmp_path, "protocol": "public", "task": NODES, "forget": "nodes"}
    grid = GridConfig(**settings, methods=(), count=3, seeds=(0, 1), recipe=RECIPE, threads=1)
    for k, one in enumerate(grid.cells()):
        data, request = one.prepare(load("minesweeper", tmp_path))
        assert np.array_equal(data.train_mask.numpy(), part[k] == 0)
        assert torch.equal(request.resolve(data).forget_nodes, ForgetNodes(count=3, seed=k).resolve(data).forget_nodes)
    assert [(row["seed"], row["error"]) for row in run_grid(grid, tmp_path / "out")] == [(0, None)] * 3 + [
        (1, None)
    ] * 3
    with pytest.raises(InvalidInputError, match="from 0 to 1"):
        run_grid(GridConfig(**settings, methods=(), count=3, seeds=(2,), recipe=RECIPE), tmp_path / "bad")
