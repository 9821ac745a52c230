"""Items are distinct edits of the graph; `brute` runs the model on what the edit leaves."""

import pytest
import torch
from torch_geometric.data import Data

import gunlearn as gu
from gunlearn.attribution import resolve_items
from gunlearn.errors import InvalidInputError, InvalidTypeError
from tests.attribution.removal import GRAPHS, NODES, SIZE, Stack, built, directed, randomised, tangled, weighted


def pairs(edge_index):
    return sorted(map(tuple, edge_index.t().tolist()))


def without(data, gone):
    """By hand: the columns for which `gone(u, v)` is false, one after the other."""
    keep = [i for i, (u, v) in enumerate(data.edge_index.t().tolist()) if not gone(u, v)]
    return data.edge_index[:, keep], keep


@pytest.mark.parametrize("graph", GRAPHS)
def test_an_edge_takes_its_copies_and_in_an_undirected_graph_its_reverse(graph):
    data = GRAPHS[graph]()
    items, place = resolve_items(data, "edges")
    both = data.is_undirected()
    for column, (u, v) in enumerate(data.edge_index.t().tolist()):
        named = {(u, v), (v, u)} if both else {(u, v)}
        wanted, keep = without(data, lambda a, b, named=named: (a, b) in named)
        edited = items.edited(data, int(place[column]))
        assert edited.edge_index.equal(wanted)
        if "edge_weight" in data:
            assert edited.edge_weight.equal(data.edge_weight[keep])
        assert edited.num_nodes == NODES
    assert items.num_items == len({tuple(sorted(p)) if both else p for p in pairs(data.edge_index)})


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_node_loses_all_its_edges_and_stays(graph):
    data = GRAPHS[graph]()
    items, _ = resolve_items(data, "nodes")
    for node in range(NODES):
        edited = items.edited(data, node)
        assert edited.edge_index.equal(without(data, lambda a, b, node=node: node in (a, b))[0])
        assert edited.x.equal(data.x)
        assert edited.num_nodes == NODES
    assert items.own_row.tolist() == list(range(NODES))


@pytest.mark.parametrize("sparse", [False, True])
def test_features_become_zero(sparse):
    data = tangled()
    data.x = data.x * (torch.rand(data.x.shape, generator=torch.Generator().manual_seed(0)) < 0.5)
    dense = data.x.clone()
    if sparse:
        data.x = data.x.to_sparse_csr()
    entries = torch.stack([torch.arange(NODES), torch.arange(NODES) % SIZE])
    for asked, places in ((None, [(slice(None), i) for i in range(SIZE)]), (entries, zip(*entries, strict=True))):
        items, _ = resolve_items(data, "features", asked)
        for i, place in enumerate(places):
            wanted = dense.clone()
            wanted[place] = 0
            assert items.edited(data, i).x.to_dense().equal(wanted)
    assert data.x.to_dense().equal(dense)


def test_the_data_are_untouched_and_labels_are_no_messages():
    data = tangled()
    data.train_pos_edge_index = data.edge_index.clone()
    before = {k: v.clone() for k, v in data.to_dict().items() if isinstance(v, torch.Tensor)}
    items, _ = resolve_items(data, "edges")
    edited = items.edited(data, 0)
    assert edited.train_pos_edge_index.equal(before["train_pos_edge_index"])
    assert all(data[k].equal(v) for k, v in before.items())


def test_place_says_where_each_is_and_take_keeps_the_order_asked_for():
    data = tangled()
    asked = data.edge_index[:, [5, 0, 9]]
    asked = torch.cat([asked, asked[:, :1].flip(0)], dim=1)
    items, place = resolve_items(data, "edges", asked)
    assert items.ids[:, place].equal(asked.sort(dim=0).values)
    assert place[0] == place[3]
    order = torch.tensor([2, 0, 2, 1])
    taken = items.take(order)
    for i, j in enumerate(order.tolist()):
        assert taken.edited(data, i).edge_index.equal(items.edited(data, j).edge_index)
    assert items.take(order[:0]).num_items == 0


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("of", ["edges", "nodes", "features"])
def test_brute_is_the_model_on_the_edited_graph(graph, of):
    data, model = GRAPHS[graph](), built("gcn" if graph == "weighted" else "gat heads")
    items, place = resolve_items(data, of)

    def run(edited):
        more = () if "edge_weight" not in data else (edited.edge_weight,)
        return model(edited.x, edited.edge_index, *more).detach()

    before, distance, value = run(data), [], []
    for i in range(items.num_items):
        after = run(items.edited(data, i))
        norm = (after - before).norm(dim=1)
        distance.append(norm.sum() - (norm[i] if of == "nodes" else 0))
        value.append(after[0].sum() - before[0].sum())
    for target, wanted in (("embeddings", distance), (lambda z: z[0].sum(), value)):
        found = gu.influence(model, data, of=of, estimator="brute", target=target)
        torch.testing.assert_close(found, torch.stack(wanted)[place], rtol=1e-9, atol=1e-12)


def test_a_nodes_own_output_counts_for_a_value_and_not_for_a_distance():
    data = directed()
    data.edge_index = torch.tensor([[0], [1]])  # without it only node 1 changes
    model = randomised(Stack(*built("sage").convs))
    assert gu.influence(model, data, of="nodes", items=[1], estimator="brute").tolist() == [0.0]
    assert gu.influence(model, data, of="nodes", items=[0], estimator="brute")[0] > 0
    assert gu.influence(model, data, of="nodes", items=[1], estimator="brute", target=lambda z: z[1].sum())[0] != 0


@pytest.mark.parametrize(
    ("of", "items", "words"),
    [
        ("faces", None, "one of"),
        ("edges", torch.empty(2, 0, dtype=torch.long), "at least one"),
        ("edges", [0, 1], r"\[2, k\]"),
        ("edges", [[0], [0.5]], "integers"),
        ("edges", [[19], [19]], "edges of the graph"),
        ("nodes", [[0], [1]], r"\[k\]"),
        ("nodes", [True], "integers"),
        ("nodes", "all", "integers"),
        ("nodes", {0}, "integers"),
        ("nodes", [-1], "nodes in"),
        ("features", [SIZE], "columns in"),
        ("features", [[0], [SIZE]], "columns in"),
        ("features", [[NODES], [0]], "nodes in"),
        ("features", [[[0]]], r"\[k\]"),
    ],
)
def test_bad_items(of, items, words):
    with pytest.raises(InvalidInputError, match=words):
        resolve_items(weighted(), of, items)


def test_graphs_without_what_is_asked_for():
    with pytest.raises(InvalidInputError, match="edges"):
        resolve_items(Data(edge_index=torch.empty(2, 0, dtype=torch.long), num_nodes=3), "edges")
    with pytest.raises(InvalidInputError, match="features"):
        resolve_items(Data(edge_index=torch.tensor([[0], [1]]), num_nodes=3), "features")


@pytest.mark.parametrize("estimator", [3, None, object()])
def test_what_is_no_estimator(estimator):
    with pytest.raises(InvalidTypeError, match="an estimator's name or an Estimator"):
        gu.influence(gu.GCN(SIZE), weighted(), estimator=estimator)
