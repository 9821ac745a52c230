"""Graph classification in a grid, on a data set of graphs that needs no files."""

import networkx as nx
import pytest
import torch
from torch_geometric.utils import to_networkx

import gunlearn as gu
from gunlearn.bench import GridConfig, Recipe, run_grid
from gunlearn.errors import InvalidInputError
from gunlearn.tasks import graph_split


def test_the_graphs_are_what_they_are_called() -> None:
    data, again = gu.load("shapes"), gu.load("shapes")
    assert torch.equal(data.edge_index, again.edge_index)
    for one in data.to_data_list()[:12]:
        graph = to_networkx(one, to_undirected=True)
        assert nx.is_connected(graph)
        assert nx.is_tree(graph) == (int(one.y) == 0)
        assert 12 <= one.num_nodes <= 23
        assert one.x.argmax(1).tolist() == [min(d, 9) for _, d in graph.degree]
    assert data.y.bincount().tolist() == [60, 60, 60]


def test_a_split_of_graphs() -> None:
    data = graph_split(gu.load("shapes"), 0.2, 0.1, seed=3)
    masks = torch.stack([data.train_mask, data.val_mask, data.test_mask]).long()
    assert masks.sum(1).tolist() == [126, 36, 18]
    assert bool((masks.sum(0) == 1).all())


@pytest.mark.parametrize(("dataset", "task"), [("karate", "graph_classification"), ("shapes", "link_prediction")])
def test_one_graph_and_many_are_not_taken_for_each_other(dataset, task, tmp_path) -> None:
    config = GridConfig(dataset, methods=("utu",), count=2, task=task)
    with pytest.raises(InvalidInputError, match="many graphs"):
        run_grid(config, tmp_path, progress=False)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_grid_forgets_graphs(tmp_path) -> None:
    config = GridConfig(
        "shapes", methods=("retrain", "utu", "finetune"), task="graph_classification", forget="graphs", count=6,
        ratio=None, seeds=(0,), recipe=Recipe(epochs=60, lr=1e-2, hidden_channels=16, eval_every=30),
    )  # fmt: skip
    rows = {row["method"]: row for row in run_grid(config, tmp_path, progress=False)}
    assert set(rows) == {"original", "retrain", "utu", "finetune"}
    assert all(row["error"] is None and row["num_forget"] == 6 for row in rows.values())
    assert rows["original"]["test_acc"] > 0.8  # the degrees tell the kinds apart
    assert rows["utu"]["js_floor_forget"] is not None
