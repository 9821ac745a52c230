"""Data that contradicts itself is refused or warned of by name, at every door, and nobody's data is changed."""

import copy
import re
import warnings

import pytest
import torch
import torch_geometric
from torch_geometric import EdgeIndex
from torch_geometric.data import Batch, Data, InMemoryDataset
from torch_geometric.transforms import ToSparseTensor

import gunlearn as gu
from gunlearn.errors import ChangedDataError, GunlearnError, InvalidInputError, InvalidTypeError
from gunlearn.tasks.graph.check_graph import check_graph
from tests.tasks.cases import random_graph

pytestmark = pytest.mark.filterwarnings("ignore:.*data.y has:UserWarning")

LINK, NODE = "link_prediction", "node_classification"


def labelled():
    data = random_graph(30, 120)
    data.y = torch.arange(30) % 3
    return data


def doors(task):
    model = gu.GCN(5, 8, 3)
    return {
        "train": lambda d: gu.train(model, d, task, epochs=1),
        "unlearn": lambda d: gu.unlearn(model, d, gu.ForgetEdges(count=1), "utu", task),
        "influence": lambda d: gu.influence(model, d, task, of="nodes", items=[0]),
    }


def columns_of(value, share=1.0):
    return lambda d: torch.full((int(share * d.edge_index.size(1)),), value)


def masks(train, test):
    return {"train_mask": torch.arange(30) < train, "test_mask": torch.arange(30) >= test}


CONTRADICTIONS = [
    (LINK, {"edge_index": lambda d: d.edge_index.float()}, "edge_index of dtype torch.int64"),
    (LINK, {"edge_index": lambda d: d.edge_index.int()}, r"data\.edge_index\.long\(\)"),
    (LINK, {"edge_index": lambda d: d.edge_index.t()}, r"data\.edge_index\.t\(\)"),
    (LINK, {"edge_index": lambda d: d.edge_index - 1}, r"node ids of data\.edge_index in \[0, 29\] \(got -1\)"),
    (LINK, {"edge_index": lambda d: d.edge_index + 1}, r"in \[0, 29\] \(got 30\)"),
    (LINK, {"edge_index": None, "train_pos_edge_index": torch.tensor([[0], [1]])}, "beside 'train_pos_edge_index'"),
    (LINK, {"x": lambda d: d.x[:20]}, "num_nodes|node ids"),
    (LINK, {"x": lambda d: d.x.log()}, r"data\.x to be finite"),
    (LINK, {"x": lambda d: d.x.numpy()}, r"data\.x to be a tensor"),
    (LINK, {"num_nodes": 40}, r"rows of data\.x, 30 \(got 40\)"),
    (LINK, {"edge_weight": columns_of(1.0, 0.5)}, "data.edge_weight with an entry .* each undirected edge once"),
    (LINK, {"edge_attr": columns_of(1.0, 2)}, "data.edge_attr with an entry"),
    (LINK, {"edge_weight": columns_of(float("nan"))}, r"data\.edge_weight to be finite"),
    (LINK, {"edge_type": columns_of(1.0)}, "data.edge_type"),
    (LINK, {"edge_type": columns_of(-1)}, "data.edge_type"),
    (LINK, {"node_type": torch.zeros(20, dtype=torch.long)}, "data.node_type"),
    (LINK, {"node_type": ["user"] * 20}, "data.node_type"),
    (LINK, {"test_pos_edge_index": torch.tensor([[0], [99]])}, "data.test_pos_edge_index"),
    (LINK, {"test_pos_edge_index": lambda d: d.edge_index[:, :4]}, r"held-out .* \(got 4 of 4 .*'test_pos_edge_index'"),
    (LINK, {"val_pos_edge_index": lambda d: d.edge_index[:, :4]}, "held-out .* 'val_pos_edge_index'"),
    (LINK, {"batch": torch.arange(30) // 15}, "inside the graphs of a batch"),
    (LINK, {"train_mask": torch.ones(20, dtype=torch.bool)}, r"data\.train_mask with an entry .* 30 nodes .*got 20"),
    (LINK, {"test_mask": [True] * 31}, r"data\.test_mask .*got 31"),
    (LINK, {"val_edge_mask": torch.ones(30, dtype=torch.bool)}, r"data\.val_edge_mask .* columns of edge_index"),
    (LINK, {"forgotten_mask": torch.arange(30) == 3}, "no edges of forgotten nodes"),
    (NODE, {"val_pos_edge_index": torch.zeros(3, 2)}, "data.val_pos_edge_index"),
    (NODE, {"y": lambda d: d.y.float()}, r"integer labels data\.y .* data\.y\.long\(\)"),
    (NODE, {"y": lambda d: d.y[:20]}, r"integer labels data\.y of shape \[30\] \(got \(20,\)"),
    (NODE, {"y": lambda d: torch.eye(3)[d.y]}, r"data\.y"),
    (NODE, {"train_mask": torch.ones(20, dtype=torch.bool)}, "data.train_mask"),
    (NODE, {"train_mask": torch.arange(30)}, "data.train_mask"),
    (NODE, {"train_mask": torch.ones(30, 10, dtype=torch.bool)}, r"data\.train_mask.*choose one of 10 splits"),
    (NODE, masks(20, 15), "5 items in both 'data.train_mask' and 'data.test_mask'"),
]


@pytest.mark.parametrize(("task", "change", "message"), CONTRADICTIONS)
def test_contradictions_are_refused_at_every_door(task, change, message):
    data = labelled()
    for name, value in change.items():
        data[name] = value(data) if callable(value) else value
    before = {name: (value, copy.deepcopy(value)) for name, value in data}
    for call in doors(task).values():
        with pytest.raises(InvalidInputError, match=message):
            call(data)
    for name, (own, value) in before.items():
        assert data[name] is own
        assert not torch.is_tensor(own) or torch.equal(own.nan_to_num(), value.nan_to_num())


def test_evaluate_looks_at_the_data_again():
    data = gu.link_split(labelled(), 0.1, 0.1)
    result = gu.unlearn(gu.GCN(5, 8, 3), data, gu.ForgetEdges(count=1), "utu")
    data.test_pos_edge_index = data.train_pos_edge_index
    with pytest.raises(ChangedDataError, match="test_pos_edge_index"):
        gu.evaluate(result)


WARNED = [
    (LINK, {"edge_time": columns_of(1.0, 0.5)}, "data.edge_time has .* entries"),
    (LINK, {"y": lambda d: d.y[:20]}, "data.y has 20 entries for 30 nodes"),
    (NODE, {**masks(20, 20), "val_mask": torch.arange(30) < 3}, "3 items are both in 'data.train_mask'"),
    (LINK, {"test_neg_edge_index": lambda d: d.edge_index[:, :4], "test_pos_edge_index": torch.tensor([[0], [0]])},
     "most pairs of 'test_neg_edge_index' are edges"),
    (LINK, {"edge_type": columns_of(0), "test_pos_edge_index": lambda d: d.edge_index[:, :4]}, "held-out"),
]  # fmt: skip


@pytest.mark.parametrize(("task", "change", "message"), WARNED)
def test_what_is_likely_wrong_is_warned_of(task, change, message):
    data = labelled()
    for name, value in change.items():
        data[name] = value(data) if callable(value) else value
    for call in doors(task).values():
        with pytest.warns(UserWarning, match=message):
            call(data)


def test_a_reverse_relation_of_held_out_edges_is_warned_of():
    buys, knows = torch.tensor([[0, 1, 2, 3], [6, 7, 8, 9]]), torch.tensor([[0, 1, 2], [1, 2, 0]])
    message = torch.cat([buys[:, :3], buys.flip(0), knows], dim=1)  # the last one's reverse is still there
    data = Data(x=torch.randn(10, 5), edge_index=message, edge_type=torch.tensor([0] * 3 + [1] * 4 + [2] * 3))
    data.node_type = (torch.arange(10) >= 6).long()
    data.test_pos_edge_index = torch.tensor([[3, 1], [9, 0]])
    with pytest.warns(
        UserWarning, match="got 1 of 2 pairs of 'test_pos_edge_index'"
    ):  # 1-0 is not 0-1: both know each other
        gu.tasks.as_task(LINK).check_data(data)


def test_edge_index_of_pyg_is_read_and_stays_the_callers():
    data, model = labelled(), gu.GCN(5, 8, 3)
    special = copy.copy(data)
    special.edge_index = EdgeIndex(data.edge_index, sparse_size=(30, 30))
    request = gu.ForgetEdges([(int(data.edge_index[0, 0]), int(data.edge_index[1, 0]))])
    a, b = (gu.unlearn(model, d, request, "finetune", epochs=2).model.state_dict() for d in (data, special))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert torch.equal(gu.influence(model, data), gu.influence(model, special))
    assert isinstance(special.edge_index, EdgeIndex)


def test_edges_held_out_are_not_drawn_to_be_forgotten():
    data = gu.link_split(labelled(), 0.2, 0.2)
    whole = copy.copy(data)
    whole.edge_index = labelled().edge_index
    with pytest.raises(InvalidInputError, match=r"draw with \d+ held-out edges of 'data.(val|test)_pos_edge_index'"):
        gu.ForgetEdges(ratio=0.9).resolve(whole)
    assert gu.ForgetEdges(ratio=0.9).resolve(data).num_forget


def test_right_data_are_read_without_a_word():
    links, nodes = gu.link_split(labelled(), 0.1, 0.1), gu.node_split(labelled(), 0.2, 0.2)
    weighted = labelled()
    weighted.train_mask, weighted.test_mask = torch.ones(weighted.num_edges).bool(), torch.ones(30, 4).bool()
    weighted.edge_pairs, weighted.edge_ids = weighted.edge_index.t()[:9], torch.arange(0, 20, 3)
    weighted.edge_weight, weighted.edge_attr = torch.ones(weighted.num_edges), torch.ones(weighted.num_edges, 2)
    batch = Batch.from_data_list([Data(x=d.x, edge_index=d.edge_index) for d in (labelled(), labelled())])
    tied = Data(x=torch.randn(30, 5), edge_index=torch.arange(30).repeat(2, 1), name=["p"] * 30)
    official = gu.link_split(labelled(), 0.1, 0.1, protocol="inpo")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for data in (links, official, gu.load("karate"), weighted, batch, tied, gu.unlearn(
            gu.GCN(5, 8, 3), links, gu.ForgetNodes([3]), "utu").data):  # fmt: skip
            assert gu.tasks.as_task(LINK).check_data(data) is data
        for data in (nodes, labelled(), random_graph(30, 60)):
            assert gu.tasks.as_task(NODE).check_data(data) is data


def test_items_are_checked_as_graphs_are():
    x, y = torch.randn(30, 5), torch.arange(30) % 2
    wrong = [
        (Data(x=x.log(), y=y), "finite"),
        (Data(x=x, y=y, **masks(20, 15)), "5 items in both"),
        (Data(x=x, y=y, test_mask=torch.ones(20, dtype=torch.bool)), "test_mask"),
    ]
    for data, message in wrong:
        for call in (
            lambda d: gu.train(torch.nn.Linear(5, 2), d, "image_classification", epochs=1),
            lambda d: gu.unlearn(torch.nn.Linear(5, 2), d, gu.ForgetItems(count=2), "finetune", "image_classification"),
        ):
            with pytest.raises(GunlearnError, match=message):
                call(data)


def test_sparse_features_have_two_dimensions() -> None:
    x = torch.ones(4, 3, 1).to_sparse_csr(dense_dim=1)
    with pytest.raises(
        InvalidInputError, match=r"CSR features data\.x \[num_nodes, num_features\] \(got \(4, 3, 1\)\)"
    ):
        check_graph(Data(x=x, edge_index=torch.tensor([[0], [1]])))


@pytest.mark.parametrize("layout", ["transform", "coo", "csc"])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_advice_for_adj_t_works_for_each_kind_of_matrix(layout, weighted):
    """A directed graph, so that a transposed one shows; the advice is run as it is written."""
    torch.manual_seed(0)
    pairs = torch.tensor([[0, 1, 2, 4, 3], [1, 2, 0, 3, 1]])
    graph = Data(x=torch.randn(5, 2), edge_index=pairs, edge_weight=torch.rand(5) if weighted else None)
    data = ToSparseTensor(attr="edge_weight")(graph.clone())
    if layout != "transform":
        data.adj_t = getattr(data.adj_t, f"to_sparse_{layout}")()
    with pytest.raises(InvalidInputError, match="'adj_t' in its place") as refused:
        gu.link_split(data)
    code = re.search(r"set (data.edge_index, weight = .*?), (data.edge_weight = weight) where", str(refused.value))
    names = {"data": data, "torch_geometric": torch_geometric}
    exec(code[1], names)
    if weighted:
        exec(code[2], names)
    del data.adj_t
    check_graph(data)
    order, own = (torch.argsort(index[0] * 5 + index[1]) for index in (data.edge_index, pairs))
    assert torch.equal(data.edge_index[:, order], pairs[:, own])
    assert not weighted or torch.equal(data.edge_weight[order], graph.edge_weight[own])


class OneGraph(InMemoryDataset):
    """A data set as Planetoid is one: of a single graph."""

    def __init__(self, *graphs: Data) -> None:
        super().__init__()
        self.data, self.slices = self.collate(list(graphs))


SEVERAL = {
    "a data set of one graph": (lambda: OneGraph(labelled()), r"\(got OneGraph\); pass its graph, data\[0\]"),
    "a data set of graphs": (lambda: OneGraph(labelled(), labelled()), r"data\[0\], or where each .*Batch.from_data"),
    "what a split returns": (
        lambda: (labelled(),) * 3,
        r"\(got tuple\); pass the graph that was trained on, data\[0\]",
    ),
    "a list of one graph": (lambda: [labelled()], r"\(got list\); pass its graph, data\[0\]"),
    "a list of something else": (lambda: [3], r"\(got list\)$"),  # the control
    "nothing": (lambda: [], r"\(got list\)$"),
}


@pytest.mark.parametrize("what", SEVERAL)
def test_a_data_set_in_place_of_its_graph_is_told_what_to_pass(what: str) -> None:
    make, words = SEVERAL[what]
    given = make()
    for run in (*doors(NODE).values(), gu.ForgetNodes([3]).resolve, gu.node_split, gu.link_split):
        with pytest.raises(InvalidTypeError, match=words):
            run(given)
